//! All entries and all decisions about them, without I/O: the worker asks [`Core::step`] what to do and reports back with
//! [`Core::finish`] ([`requests`]); handles change workloads ([`workloads`]) and subscriptions; metrics and status look ([`views`]).
//!
//! Promises: at most one request per entry, at most `max_in_flight` slots taken, and at most half of them by requests
//! that failed before; a single slot goes to such a request only when no other wants it. A request gives its slot back
//! after [`SLOT_TIME`](super::entry::SLOT_TIME) and goes on without it, so requests that hang cannot keep others waiting; each entry
//! having one at most bounds their number. Keys that are slow to make are made without a slot, one at a time, the most urgent first.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use ensign_pki::Bundle;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::bundles::{self, Bundles};
use super::entry::{Entry, EntryKey, Now, Stage};
use super::issue::Job;
use super::need::Renewal;
use super::{EntryState, Held, RotationConfig, SubscribeError, Workload, WorkloadUid};
use crate::csr_client::SignerName;

mod requests;
mod views;
mod workloads;

/// What happened so far, for the metrics.
#[derive(Debug, Clone, Default)]
pub(super) struct Counters {
    pub(super) requests: u64,
    pub(super) retries: u64,
    pub(super) latency: Duration,
    /// First certificates of an entry.
    pub(super) issued: u64,
    /// Certificates that followed another.
    pub(super) rotated: u64,
    pub(super) adopted: u64,
    pub(super) failures: BTreeMap<&'static str, u64>,
}

/// How many requests there are now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Load {
    /// Without an answer yet.
    pub(super) in_flight: usize,
    /// Due, and waiting for a slot or for their key.
    pub(super) queued: usize,
}

/// The entries.
pub(super) struct Core {
    config: RotationConfig,
    random: fastrand::Rng,
    /// Set when the worker starts: workloads known by then may have Envoys that come back to them.
    running: bool,
    /// Set while an older agent serves beside us: its Envoys have not come to us yet.
    beside_another: bool,
    workloads: HashMap<WorkloadUid, Workload>,
    entries: HashMap<EntryKey, Entry>,
    bundles: Bundles,
    counters: Counters,
    /// Gives out tickets and generations.
    next: u64,
}

/// What the worker shall do.
pub(super) struct Step {
    pub(super) jobs: Vec<(Job, CancellationToken)>,
    /// Look again after this long, at the latest.
    pub(super) sleep: Duration,
}

impl Core {
    pub(super) fn new(config: RotationConfig, random: fastrand::Rng) -> Self {
        Self {
            config,
            random,
            running: false,
            beside_another: false,
            workloads: HashMap::new(),
            entries: HashMap::new(),
            bundles: Bundles::default(),
            counters: Counters::default(),
            next: 0,
        }
    }

    fn drop_entries(&mut self, gone: impl Fn(&EntryKey) -> bool) {
        self.entries.retain(|key, _| !gone(key));
        self.forget_unused_bundles();
    }

    fn forget_unused_bundles(&mut self) {
        self.bundles
            .retain(&self.entries.values().map(|entry| &entry.scope).collect());
    }

    // === Subscriptions ===

    pub(super) fn subscribe(
        &mut self,
        uid: &WorkloadUid,
        wish: Option<SignerName>,
        held: &Held,
        now: Now,
    ) -> Result<(EntryKey, u64, watch::Receiver<EntryState>), SubscribeError> {
        let workload = self
            .workloads
            .get(uid)
            .cloned()
            .ok_or_else(|| SubscribeError::UnknownWorkload(uid.clone()))?;
        let signer = wish.or_else(|| self.config.default_signer.clone());
        let key = EntryKey {
            workload: uid.clone(),
            signer,
            key_type: workload.key_type,
        };
        let most = self.config.max_signers;
        if !self.entries.contains_key(&key) && self.entries.keys().filter(|key| &key.workload == uid).count() >= most {
            return Err(SubscribeError::TooManySigners {
                workload: uid.clone(),
                signer: key.signer,
                most,
            });
        }
        let (ttl, window) = (self.config.ttl, self.config.adoption_window);
        let pin = self.bundles.pinned(key.signer.as_ref()).cloned();
        let entry = self.ensure_entry(&key, &workload, now);
        let adopted_before = matches!(entry.stage, Stage::Adopted { .. });
        entry.consumers += 1;
        entry.judge(held, ttl, window, now);
        if entry.bundle.is_none() {
            entry.bundle = pin.map(|pin| entry.bundle_secret(&pin));
        }
        // A newcomer must not find what expired since the worker looked.
        entry.offer(now);
        let adopted = !adopted_before && matches!(entry.stage, Stage::Adopted { .. });
        let (generation, receiver) = (entry.generation, entry.publish.subscribe());
        if adopted {
            self.counters.adopted += 1;
            tracing::info!(workload = %uid, signer = key.signer.as_ref().map(SignerName::as_str), "certificate adopted");
        }
        Ok((key, generation, receiver))
    }

    /// A subscription ended.
    pub(super) fn release(&mut self, key: &EntryKey, generation: u64, now: Now) {
        if let Some(entry) = self.entries.get_mut(key).filter(|entry| entry.generation == generation) {
            entry.release(now);
        }
    }

    /// A client refused this version of the entry's certificate.
    pub(super) fn refused(&mut self, key: &EntryKey, generation: u64, version: &str, why: &str, now: Now) {
        let draw = self.random.f64();
        if let Some(entry) = self.entries.get_mut(key).filter(|entry| entry.generation == generation) {
            entry.refuse(version, why, draw, now);
        }
    }

    /// Pins a signer's bundle.
    pub(super) fn pin(&mut self, signer: Option<&SignerName>, bundle: &Bundle, now: Now) {
        self.bundles.pin(signer.cloned(), bundle.clone());
        for (_, entry) in self.entries.iter_mut().filter(|(key, _)| key.signer.as_ref() == signer) {
            if let Stage::Served { secret, renewal, .. } = &mut entry.stage
                && !bundles::overlap(&secret.anchors, bundle)
            {
                *renewal = Renewal::at(now.wall, now);
            }
        }
        for (_, entry) in self.entries.iter_mut().filter(|(key, _)| key.signer.as_ref() == signer) {
            entry.bundle = Some(entry.bundle_secret(bundle));
            entry.offer(now);
        }
    }

    /// An expired certificate is no longer offered; one that a corrected clock finds valid again is.
    fn offer_what_is_valid(&mut self, now: Now) {
        for entry in self
            .entries
            .values()
            .filter(|entry| matches!(entry.stage, Stage::Served { .. }))
        {
            entry.offer(now);
        }
    }

    fn forget_idle(&mut self, now: Now) {
        let forget_after = self.config.forget_after;
        let idle = |entry: &Entry| {
            entry.consumers == 0 && entry.warm_from.is_none() && now.mono >= entry.idle_since + forget_after
        };
        if self.entries.values().any(idle) {
            self.entries.retain(|_, entry| !idle(entry));
            self.forget_unused_bundles();
        }
    }
}
