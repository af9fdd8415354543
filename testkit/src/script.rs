//! Scripts of outcomes: what a fake does with its next request, and with all after that.
//!
//! Shared by `FakeRa` and by the RA's tests, whose scripted signer implements the RA's own trait there.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use tokio::sync::watch;

use crate::Fault;

/// What a scripted signer does with a request, for tests that implement the RA's trait with it.
#[derive(Clone, Debug)]
pub enum ScriptedOutcome {
    /// Issues what was asked for.
    Issue,
    /// Issues something wrong.
    IssueWrong(Fault),
    /// Issues once the gate opens.
    IssueAfter(Gate),
    /// The approver said no.
    Denied(String),
    /// The signer gave up on the request.
    Failed(String),
    /// The request's object was deleted.
    Gone,
    /// No answer within the deadline, as the signer itself reports it.
    TimedOut,
    /// The signer cannot be reached.
    Unavailable,
    /// Never answers.
    Hang,
}

/// A queue of outcomes, and what follows when it is empty. Clones share it.
#[derive(Clone, Debug)]
pub struct Script<O>(Arc<Mutex<Lines<O>>>);

#[derive(Debug)]
struct Lines<O> {
    queue: VecDeque<O>,
    default: O,
}

impl<O: Clone> Script<O> {
    /// Nothing queued.
    pub fn new(default: O) -> Self {
        Self(Arc::new(Mutex::new(Lines {
            queue: VecDeque::new(),
            default,
        })))
    }

    /// Queues one outcome behind those already queued.
    pub fn push(&self, outcome: O) {
        self.0.lock().unwrap().queue.push_back(outcome);
    }

    /// What happens whenever the queue is empty.
    pub fn set_default(&self, outcome: O) {
        self.0.lock().unwrap().default = outcome;
    }

    /// Takes the next outcome.
    pub fn next(&self) -> O {
        let mut lines = self.0.lock().unwrap();
        lines.queue.pop_front().unwrap_or_else(|| lines.default.clone())
    }

    /// How many are still queued.
    pub fn queued(&self) -> usize {
        self.0.lock().unwrap().queue.len()
    }
}

/// A closed door that a test opens once. Clones share it.
#[derive(Clone, Debug)]
pub struct Gate(watch::Sender<bool>);

impl Default for Gate {
    fn default() -> Self {
        Self(watch::Sender::new(false))
    }
}

impl Gate {
    /// Closed.
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets all pass, now and later.
    pub fn open(&self) {
        self.0.send_replace(true);
    }

    /// Passes once the gate is open.
    pub async fn wait(&self) {
        let _ = self.0.subscribe().wait_for(|open| *open).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_queue_comes_first_and_the_default_for_ever() {
        let script = Script::new(0);
        script.push(1);
        script.clone().push(2);
        assert_eq!(
            [script.next(), script.next(), script.next(), script.next()],
            [1, 2, 0, 0]
        );
    }

    #[tokio::test]
    async fn an_open_gate_lets_pass() {
        let gate = Gate::new();
        gate.clone().open();
        gate.wait().await;
    }
}
