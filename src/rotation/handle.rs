//! The way into rotation for everyone else: workloads come and go here, and subscriptions begin.
//!
//! Calls are short and never wait: they change the entries under a lock that is never held over I/O, and wake the
//! worker. A [`Subscription`] keeps its entry wanted; dropping it ends the interest.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use ensign_pki::{Bundle, SharedClock};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::core::{Core, Counters, Load};
use super::entry::{EntryKey, Now};
use super::{EntryEnded, EntrySnapshot, EntryState, Held, RootSnapshot, Workload, WorkloadUid};
use crate::csr_client::SignerName;

/// What handles and the worker share.
pub(super) struct Shared {
    core: Mutex<Core>,
    clock: SharedClock,
    pub(super) wake: Notify,
}

impl Shared {
    pub(super) fn new(core: Core, clock: SharedClock) -> Self {
        Self {
            core: Mutex::new(core),
            clock,
            wake: Notify::new(),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Core> {
        self.core.lock()
    }

    pub(super) fn now(&self) -> Now {
        Now {
            wall: self.clock.now(),
            mono: Instant::now(),
        }
    }
}

/// The way into rotation. Clones share everything.
#[derive(Clone)]
pub struct Handle {
    pub(super) shared: Arc<Shared>,
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").finish_non_exhaustive()
    }
}

/// Why nobody can subscribe.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubscribeError {
    /// The workload is gone, or was never there.
    #[error("workload {0} is unknown: it was removed, or its source never reported it")]
    UnknownWorkload(WorkloadUid),
    /// It has entries for as many signers as it may have.
    #[error(
        "workload {workload} asks for signer {signer:?}, but already uses {most} signers, the most that one workload may: let go of one and try again in a minute"
    )]
    TooManySigners {
        /// The workload.
        workload: WorkloadUid,
        /// The signer that was one too many.
        signer: Option<SignerName>,
        /// The bound.
        most: usize,
    },
}

impl Handle {
    /// A workload appeared or changed. A new token source is taken up; for a new identity or kind of key its entries end, and for
    /// other signers those that no socket of it leads to any more, and their subscribers with them.
    pub fn put(&self, workload: Workload) {
        self.act(|core, now| core.put(workload, now));
    }

    /// A workload is gone. Its entries, keys and series end at once, and what is in flight for it is dropped.
    pub fn remove(&self, uid: &WorkloadUid) {
        self.act(|core, _| core.remove(uid));
    }

    /// An older agent serves beside us. Until [`Handle::alone`], the Envoys of workloads that return are with it, and nothing is
    /// fetched for them unless one asks.
    pub fn beside_another(&self) {
        self.act(|core, _| core.beside_another());
    }

    /// The older agent is gone, its Envoys come back within the adoption window.
    pub fn alone(&self) {
        self.act(Core::alone);
    }

    /// Subscribes to the workload's entry for the signer in force: the wish, which is the socket's where that is fixed, else the
    /// default.
    #[expect(clippy::needless_pass_by_value, reason = "callers have no more use for it")]
    pub fn subscribe(
        &self,
        workload: &WorkloadUid,
        wish: Option<SignerName>,
        held: Held,
    ) -> Result<Subscription, SubscribeError> {
        let (key, generation, receiver) = self.act(|core, now| core.subscribe(workload, wish, &held, now))?;
        let interest = Interest {
            handle: self.clone(),
            key,
            generation,
        };
        Ok(Subscription {
            receiver,
            interest: Arc::new(interest),
        })
    }

    /// Pins a signer's bundle (none: of the authority's default signer), or replaces the pin.
    ///
    /// Every entry of the signer offers the pin; a certificate of ours whose roots lie outside it is renewed soon.
    #[expect(clippy::needless_pass_by_value, reason = "callers have no more use for it")]
    pub fn pin(&self, signer: Option<SignerName>, bundle: Bundle) {
        self.act(|core, now| core.pin(signer.as_ref(), &bundle, now));
    }

    /// Every entry as it is now, sorted by workload and signer.
    pub fn snapshot(&self) -> Vec<EntrySnapshot> {
        self.shared.lock().snapshot(self.shared.now())
    }

    /// Each root that some workload of this node is offered, once for each signer.
    pub fn roots(&self) -> BTreeSet<RootSnapshot> {
        self.shared.lock().roots()
    }

    /// How long until the first certificate on this node dies if nothing can be renewed; zero if one has; none if there
    /// are no certificates.
    pub fn outage_budget(&self) -> Option<Duration> {
        self.shared.lock().outage_budget(self.shared.now())
    }

    /// What happened so far, and how many requests there are now.
    pub(super) fn counters(&self) -> (Counters, Load) {
        let core = self.shared.lock();
        (core.counters(), core.load(self.shared.now()))
    }

    fn act<T>(&self, act: impl FnOnce(&mut Core, Now) -> T) -> T {
        let now = self.shared.now();
        let result = act(&mut self.shared.lock(), now);
        self.shared.wake.notify_one();
        result
    }
}

/// Interest in one entry, and a view of what it offers.
#[derive(Debug)]
pub struct Subscription {
    receiver: watch::Receiver<EntryState>,
    interest: Arc<Interest>,
}

impl Subscription {
    /// What the entry offers now.
    pub fn state(&self) -> EntryState {
        self.receiver.borrow().clone()
    }

    /// Waits until the entry offers something else than when this last returned (or the subscription began).
    ///
    /// Dropping the future loses nothing.
    pub async fn changed(&mut self) -> Result<(), EntryEnded> {
        self.receiver.changed().await.map_err(|_| EntryEnded)
    }

    /// The way to say what became of what the entry offered. Says nothing of interest: it may outlive the subscription.
    pub fn feedback(&self) -> Feedback {
        Feedback {
            interest: Arc::downgrade(&self.interest),
        }
    }
}

/// Where a subscriber tells that its client does not take what the entry offers.
#[derive(Debug, Clone)]
pub struct Feedback {
    interest: Weak<Interest>,
}

impl Feedback {
    /// The client refused the certificate of this version and keeps the one before. `why` is its own text, fit for a log.
    ///
    /// If that version is still on offer, its successor is due soon: as after a failed renewal, and before the certificate ends
    /// that the client still uses. Nothing is withdrawn from those who took it.
    pub fn refused(&self, version: &str, why: &str) {
        if let Some(interest) = self.interest.upgrade() {
            let Interest { key, generation, .. } = &*interest;
            interest
                .handle
                .act(|core, now| core.refused(key, *generation, version, why, now));
        }
    }
}

#[cfg(test)]
impl Subscription {
    /// Whether [`Subscription::changed`] would return at once.
    pub(super) fn changed_now(&self) -> bool {
        self.receiver.has_changed().unwrap_or(true)
    }
}

/// Counts as one consumer of an entry while it lives.
struct Interest {
    handle: Handle,
    key: EntryKey,
    generation: u64,
}

impl fmt::Debug for Interest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.key.fmt(f)
    }
}

impl Drop for Interest {
    fn drop(&mut self) {
        let shared = &self.handle.shared;
        let now = shared.now();
        shared.lock().release(&self.key, self.generation, now);
        // The worker looks again within 30 s anyway, which is soon enough to forget an entry.
    }
}
