//! What stands before every signer: a bounded, fair queue, and what lets its requests in one by one.
//!
//! A client of Istio that is turned away comes back at once, and all of them together faster than before. So a request is
//! turned away only if the queue is full ([`GateError::QueueFull`]); otherwise it waits for its turn until its deadline,
//! whatever holds the signer up: its concurrency, its rate, or a backend that asks for a pause. Namespaces take
//! turns, so that one with thousands of requests delays the first of another by one turn; the queue's last
//! room goes to those who have less of it.
//!
//! A signer that is away ([`Outcome::Away`]) several times in a row is not asked for a while (`breaker`). Who comes
//! meanwhile is told so at once; who waits already goes on waiting, because most outages are shorter than a deadline.
//!
//! Promises: a place is a guard and comes back however the request ends; nobody who may be let in waits; nobody waits
//! beyond its deadline; changed limits count at once and for those that wait too. Left to others: what a signer's answer
//! means ([`super::SignerError::outcome`]), and what may be asked of it (`policy`).

mod breaker;
mod bucket;
mod error;
mod keeper;
mod queue;
mod state;

#[cfg(test)]
mod tests;

use std::{fmt, sync::Arc, time::Duration};

use ensign_pki::SignerName;
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, oneshot},
    task::JoinSet,
    time::{Instant, timeout_at},
};

use self::{
    breaker::Admitted,
    keeper::{current, keep},
    queue::Place,
    state::{Arrival, News, State, Turn},
};
pub use self::{
    error::{GateError, Obstacle},
    keeper::GateParts,
};
use crate::{
    metrics::GateSeries,
    policy::{Rate, SignerLimits},
};

/// The gate of one signer.
pub struct Gate {
    shared: Arc<Shared>,
    /// Lives as long as the gate: a drain still needs it.
    _keeper: JoinSet<()>,
}

/// The right to ask the signer once. Dropping it says that nothing was learned about the signer.
#[derive(Debug)]
#[must_use = "the place is free again as soon as this is dropped"]
pub struct Pass {
    shared: Arc<Shared>,
    /// Taken when it is over.
    admitted: Option<Admitted>,
}

/// What became of a request that was let in, as far as it tells something about the signer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It was answered, be it with a refusal.
    Answered,
    /// Nobody was there to answer: unreachable, not ready. The text is for the log.
    Away(String),
}

struct Shared {
    signer: SignerName,
    state: Mutex<State>,
    /// Tells the keeper that it has to look before it planned to.
    earlier: Notify,
}

/// One who waits. Dropping it leaves the queue, or gives back what had just been granted.
struct Waiting<'a> {
    shared: &'a Arc<Shared>,
    place: Place,
    since: Instant,
    turn: oneshot::Receiver<Turn>,
    over: bool,
}

// === impl Gate ===

impl Gate {
    /// Nobody in, nobody waiting, the limits of a policy that says nothing. Needs a runtime: a task of its own watches
    /// the clock and what others say until the gate is dropped.
    pub fn new(signer: &SignerName, mut parts: GateParts) -> Self {
        let now = Instant::now();
        let mut state = State::new(now);
        if let Some(live) = current(&mut parts.replicas) {
            state.set_replicas(live, now);
        }
        if let Some(Some(end)) = current(&mut parts.pushback) {
            state.pause_until(end, now);
        }
        let shared = Arc::new(Shared {
            signer: signer.clone(),
            state: Mutex::new(state),
            earlier: Notify::new(),
        });
        let mut keeper = JoinSet::new();
        keeper.spawn(keep(Arc::clone(&shared), parts));
        Self {
            shared,
            _keeper: keeper,
        }
    }

    /// Waits for this request's turn, at most until `deadline`. Dropping the future leaves the queue.
    pub async fn enter(&self, namespace: &str, deadline: Instant) -> Result<Pass, GateError> {
        let since = Instant::now();
        if deadline <= since {
            return Err(GateError::Deadline {
                waited: Duration::ZERO,
                obstacle: Obstacle::Nothing,
            });
        }
        match self.shared.change(|state, now| state.arrive(namespace, now))? {
            Arrival::In(admitted) => Ok(self.shared.pass(admitted)),
            Arrival::Waits(place, turn) => {
                let waiting = Waiting {
                    shared: &self.shared,
                    place,
                    since,
                    turn,
                    over: false,
                };
                waiting.until(deadline).await
            }
        }
    }

    /// Counts in those series, if it has none yet.
    pub fn count(&self, series: impl FnOnce() -> GateSeries) {
        self.shared.change(|state, _| state.count(series));
    }

    /// Lets nobody in until then: the backend said so (429 or 503 with Retry-After). The latest end counts. A wait of
    /// more than a minute is not believed; the backend may ask again.
    pub fn pause_until(&self, end: Instant) {
        self.shared.change(|state, now| state.pause_until(end, now));
    }

    /// New limits, in effect at once. Those who wait or are in stay, also if they are more than may be now.
    pub fn set_limits(&self, limits: SignerLimits) {
        self.shared.change(|state, now| state.set_limits(limits, now));
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Gate").field(&self.shared).finish()
    }
}

// === impl Pass ===

impl Pass {
    /// It is over, and this was learned about the signer.
    pub fn finish(mut self, outcome: Outcome) {
        self.end(Some(outcome));
    }

    fn end(&mut self, outcome: Option<Outcome>) {
        if let Some(admitted) = self.admitted.take() {
            self.shared.change(|state, now| state.left(&admitted, outcome, now));
        }
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.end(None);
    }
}

// === impl Waiting ===

impl Waiting<'_> {
    async fn until(mut self, deadline: Instant) -> Result<Pass, GateError> {
        let Ok(turn) = timeout_at(deadline, &mut self.turn).await else {
            return Err(GateError::Deadline {
                waited: self.since.elapsed(),
                obstacle: self.shared.change(State::obstacle).unwrap_or(Obstacle::Nothing),
            });
        };
        self.over = true;
        match turn {
            Ok(Turn::In(admitted)) => Ok(self.shared.pass(admitted)),
            Ok(Turn::Out { queue }) => Err(GateError::QueueFull { queue }),
            // A waiter is only ever dropped by whoever leaves the queue, and that is us.
            Err(_) => Err(GateError::QueueFull { queue: 0 }),
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if self.over {
            return;
        }
        self.shared.change(|state, now| {
            if !state.leave(&self.place)
                && let Ok(Turn::In(admitted)) = self.turn.try_recv()
            {
                state.left(&admitted, None, now);
            }
        });
    }
}

// === impl Shared ===

impl Shared {
    /// The one way to change anything: up to date before, everybody let in who may be after, and told to the keeper if
    /// the next moment that counts is earlier than it expects.
    fn change<T>(&self, act: impl FnOnce(&mut State, Instant) -> T) -> T {
        let mut state = self.state.lock();
        // Under the lock, so that time never goes back between two changes.
        let now = Instant::now();
        state.advance(now);
        let outcome = act(&mut state, now);
        state.advance(now);
        let (earlier, news) = (state.plan_earlier(now), state.take_news());
        drop(state);
        if earlier {
            self.earlier.notify_one();
        }
        for news in news {
            self.log(news);
        }
        outcome
    }

    fn pass(self: &Arc<Self>, admitted: Admitted) -> Pass {
        Pass {
            shared: Arc::clone(self),
            admitted: Some(admitted),
        }
    }

    fn log(&self, news: News) {
        let signer = &self.signer;
        match news {
            News::Paused { pause } => {
                tracing::warn!(%signer, ?pause, "signer's backend asked for a pause");
            }
            News::CircuitOpened { cool_down, why } => {
                tracing::warn!(%signer, ?cool_down, %why, "signer is away, not asked for a while");
            }
            News::CircuitClosed => tracing::info!(%signer, "signer is back"),
        }
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("signer", &self.signer)
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}
