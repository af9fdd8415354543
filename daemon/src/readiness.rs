//! What still has to happen before this process is ready, by name.
//!
//! A part takes a [`Gate`] with the reason why it is shut and opens it when it is done; `/readyz`
//! lists the gates that are shut. A gate may shut again. Once draining begins the process is unready
//! for good. A gate whose owner is gone stays as it was: a crashed part must never look ready.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use parking_lot::Mutex;

/// All gates of one process. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Readiness {
    shared: Arc<Shared>,
}

/// One named condition; made shut.
#[derive(Debug)]
pub struct Gate {
    name: &'static str,
    shared: Arc<Shared>,
}

/// One reason why the process is not ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pending {
    /// The gate's name, such as `ca-roots`.
    pub name: &'static str,
    /// What is missing, for people.
    pub reason: String,
}

#[derive(Debug, Default)]
struct Shared {
    /// `Some(reason)` while shut.
    gates: Mutex<BTreeMap<&'static str, Option<String>>>,
    draining: AtomicBool,
}

// === impl Readiness ===

impl Readiness {
    /// No gates: ready.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a gate that is shut for `reason`.
    pub fn gate(&self, name: &'static str, reason: impl Into<String>) -> Gate {
        let gate = Gate {
            name,
            shared: Arc::clone(&self.shared),
        };
        gate.shut(reason);
        gate
    }

    /// Unready from now on: the process is about to stop.
    pub fn begin_drain(&self) {
        self.shared.draining.store(true, Ordering::Release);
    }

    /// Everything that keeps the process from being ready; empty means ready.
    pub fn pending(&self) -> Vec<Pending> {
        let mut pending = Vec::new();
        if self.shared.draining.load(Ordering::Acquire) {
            pending.push(Pending {
                name: "draining",
                reason: "the process is stopping".to_owned(),
            });
        }
        let gates = self.shared.gates.lock();
        pending.extend(
            gates
                .iter()
                .filter_map(|(&name, reason)| reason.clone().map(|reason| Pending { name, reason })),
        );
        pending
    }
}

// === impl Gate ===

impl Gate {
    /// This part is ready.
    pub fn open(&self) {
        self.shared.gates.lock().insert(self.name, None);
    }

    /// This part is not, or no longer, ready.
    pub fn shut(&self, reason: impl Into<String>) {
        self.shared.gates.lock().insert(self.name, Some(reason.into()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_what_is_missing_until_all_gates_are_open() {
        let readiness = Readiness::new();
        let sockets = readiness.gate("sockets", "no socket is bound yet");
        let roots = readiness.gate("ca-roots", "no roots yet");
        sockets.open();
        assert_eq!(
            readiness.pending(),
            [Pending {
                name: "ca-roots",
                reason: "no roots yet".to_owned()
            }]
        );
        roots.open();
        assert!(readiness.pending().is_empty());
        roots.shut("roots are gone");
        assert_eq!(readiness.pending().len(), 1);
    }

    #[test]
    fn a_dropped_gate_stays_shut_and_draining_is_final() {
        let readiness = Readiness::new();
        drop(readiness.gate("worker", "not started"));
        assert_eq!(readiness.pending().len(), 1);
        readiness.begin_drain();
        assert_eq!(readiness.pending()[0].name, "draining");
    }
}
