//! All entries and all decisions about them, without I/O: the worker asks [`Core::step`] what to do and reports back with
//! [`Core::finish`]; handles change workloads, which is [`workloads`]' part, and subscriptions.
//!
//! Promises: at most one request per entry, at most `max_in_flight` slots taken, and at most half of them by requests
//! that failed before; a single slot goes to such a request only when no other wants it. A request gives its slot back
//! after [`SLOT_TIME`] and goes on without it, so requests that hang cannot keep others waiting; each entry having one at
//! most bounds their number. Keys that are slow to make are made without a slot, one at a time, the most urgent first.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use ensign_pki::Bundle;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::bundles::{self, Bundles, Scope};
use super::entry::{Entry, EntryKey, InFlight, Need, Now, Rank, Renewal, SLOT_TIME, Stage};
use super::issue::{Done, IssueError, Issued, Job, Outcome, Work};
use super::queue::Queue;
use super::snapshot::LastError;
use super::{
    CertificateSecret, EntrySnapshot, EntryState, Held, RotationConfig, SubscribeError, Workload, WorkloadUid, backoff,
};
use crate::csr_client::{RequestId, SignerName};

/// The longest sleep: a clock that was stepped, or a machine that slept, is noticed after so long.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// The shortest time between two requests of one entry, whatever the floor: an authority whose certificates end at once
/// must not be asked in a loop.
const LEAST_PAUSE: Duration = Duration::from_millis(100);

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

    // === The worker's side ===

    /// Brings everything up to date and says what to do next.
    pub(super) fn step(&mut self, now: Now) -> Step {
        self.forget_idle(now);
        self.offer_what_is_valid(now);
        let mut sleep = LOOK_AGAIN;
        let (mut queue, mut keys) = (Queue::default(), Queue::default());
        let (mut taken, mut taken_by_retries, mut making_keys) = (0, 0, 0);
        for (key, entry) in &self.entries {
            match entry.need(now) {
                Need::Nothing => {}
                Need::Later(wait) => sleep = sleep.min(wait),
                Need::Request(rank) => match entry.work(key.key_type, now) {
                    Work::Request => queue.push(rank, entry.quiet_until, key),
                    // What failed has no share of its own here: it would wait for as long as others come.
                    Work::Key => keys.push(Rank { failed: false, ..rank }, None, key),
                },
            }
            if let Some(left) = entry.left(now).filter(|left| !left.is_zero()) {
                sleep = sleep.min(left); // What expires is withdrawn then, not when something else happens.
            }
            let Some(request) = &entry.in_flight else { continue };
            making_keys += usize::from(request.work == Work::Key);
            if let Some(left) = request.slot_left(now) {
                taken += 1;
                taken_by_retries += usize::from(request.retry);
                sleep = sleep.min(left);
            }
        }
        let due = queue.len();
        let queue = queue.turns(self.config.max_in_flight.max(1), taken, taken_by_retries);
        let left_over = due - queue.len();
        let keys = keys.turns(1, making_keys, 0);
        let jobs = queue
            .into_iter()
            .map(|due| (due, Work::Request))
            .chain(keys.into_iter().map(|due| (due, Work::Key)))
            .filter_map(|((rank, key), work)| self.dispatch(&key, rank, work, now))
            .collect();
        // A slot taken just now is given back by time too.
        let sleep = if left_over > 0 { sleep.min(SLOT_TIME) } else { sleep };
        Step { jobs, sleep }
    }

    fn dispatch(&mut self, key: &EntryKey, rank: Rank, work: Work, now: Now) -> Option<(Job, CancellationToken)> {
        let pin = self.bundles.pinned(key.signer.as_ref()).cloned();
        let request_id = RequestId::from_bits(self.random.u64(..));
        self.next += 1;
        let ticket = self.next;
        let entry = self.entries.get_mut(key)?;
        let cancel = CancellationToken::new();
        entry.in_flight = Some(InFlight {
            ticket,
            work,
            since: now.mono,
            retry: rank.failed,
            _cancel: cancel.clone().drop_guard(),
        });
        let resume = entry.attempt.take().filter(|attempt| attempt.may_be_sent(now.mono));
        let request_id = resume.as_ref().map_or(request_id, |attempt| attempt.request_id.clone());
        if work == Work::Request {
            self.counters.requests += 1;
            self.counters.retries += u64::from(rank.failed);
        }
        let job = Job {
            ticket,
            entry: key.clone(),
            id: entry.id.clone(),
            token: Arc::clone(&entry.token),
            ttl: self.config.ttl,
            pin,
            work,
            resume,
            request_id,
            deadline: self.config.request_deadline,
        };
        Some((job, cancel))
    }

    /// Takes a request's outcome. One for an entry that is gone is dropped, and its key with it.
    pub(super) fn finish(&mut self, outcome: Outcome, now: Now) {
        let Outcome {
            ticket,
            entry: key,
            request_id,
            took,
            result,
            attempt,
        } = outcome;
        let Some(entry) = self.entries.get_mut(&key) else {
            return;
        };
        if entry.in_flight.as_ref().is_none_or(|request| request.ticket != ticket) {
            return;
        }
        entry.in_flight = None;
        self.counters.latency += took;
        match result {
            Ok(Done::Key(attempt)) => entry.attempt = Some(attempt),
            Ok(Done::Certificate(issued)) => self.accept(&key, issued, &request_id, now),
            Err(error) => {
                entry.attempt = attempt;
                self.back_off(&key, &error, &request_id, now);
            }
        }
    }

    /// Swaps a verified certificate in and offers it.
    fn accept(&mut self, key: &EntryKey, issued: Issued, request_id: &RequestId, now: Now) {
        let Issued { svid, roots, anchors } = issued;
        let signer = key.signer.as_ref();
        if self
            .bundles
            .pinned(signer)
            .is_some_and(|pin| !bundles::overlap(&anchors, pin))
        {
            // The pin changed while the request was on its way.
            return self.back_off(key, &IssueError::OutsidePin, request_id, now);
        }
        if let Some(entry) = self.entries.get_mut(key) {
            entry.learn_roots(roots, svid.validity().not_after);
        }
        let Some((scope, bundle)) = self.bundle_for(key, now) else {
            return;
        };
        let (draw, floor) = (self.random.f64(), self.config.fetch_floor);
        let Some(entry) = self.entries.get_mut(key) else {
            return;
        };
        let validity = svid.validity().clone();
        let renew_at = self.config.schedule.renew_at(&validity, now.wall, floor, draw);
        let first = matches!(entry.stage, Stage::Empty { .. });
        tracing::info!(
            workload = %key.workload, id = %entry.id, signer = signer.map(SignerName::as_str),
            request_id = %request_id, serial = %validity.serial, first, "certificate issued"
        );
        let secret = CertificateSecret {
            version: entry.versions.of_certificate(&validity, renew_at),
            svid,
            roots_needed: entry.versions.of_bundle(&bundle),
            anchors,
            not_after: validity.not_after,
            encoded: OnceLock::new(),
        };
        // Never later than the renewal itself, or a floor above the lifetime would let the certificate expire.
        let until_renewal = renew_at.duration_since(now.wall).unwrap_or_default();
        entry.quiet_until = Some(now.mono + floor.min(until_renewal).max(LEAST_PAUSE));
        entry.failures = 0;
        entry.last_error = None;
        entry.attempt = None;
        entry.replaced();
        entry.stage = Stage::Served {
            secret: Arc::new(secret),
            validity,
            renewal: Renewal::at(renew_at, now),
        };
        if first {
            self.counters.issued += 1;
        } else {
            self.counters.rotated += 1;
        }
        self.offer_bundle(&scope, &bundle, now);
    }

    fn back_off(&mut self, key: &EntryKey, error: &IssueError, request_id: &RequestId, now: Now) {
        let draw = self.random.f64();
        let Some(entry) = self.entries.get_mut(key) else {
            return;
        };
        entry.failures = entry.failures.saturating_add(1);
        // Once it expired there is nothing left to be in time for.
        let left = entry.least_left(now).filter(|left| !left.is_zero());
        let wait = backoff::wait(error.retry(), entry.failures, left, draw);
        entry.quiet_until = Some(now.mono + wait);
        let message = ensign_daemon::logging::chain(error);
        tracing::warn!(
            workload = %key.workload, id = %entry.id, signer = key.signer.as_ref().map(SignerName::as_str),
            request_id = %request_id, reason = error.reason(), error = %message,
            attempts = entry.failures, retry_in_seconds = wait.as_secs_f64(), "certificate not issued"
        );
        entry.last_error = Some(LastError {
            reason: error.reason(),
            message,
            request_id: error.request_id().cloned(),
            at: now.wall,
        });
        *self.counters.failures.entry(error.reason()).or_default() += 1;
    }

    /// Works the bundle out anew that the entry shares. The entry's own roots come first: they must be in it.
    fn bundle_for(&mut self, key: &EntryKey, now: Now) -> Option<(Scope, Bundle)> {
        let own = self.entries.get(key)?;
        let shares = |other: &&Entry| other.scope == own.scope && other.generation != own.generation;
        let all = std::iter::once(own).chain(self.entries.values().filter(shares));
        let bundle = self
            .bundles
            .refresh(&own.scope, all.flat_map(|entry| entry.roots(now)))?;
        Some((own.scope.clone(), bundle.clone()))
    }

    /// Offers a bundle to all entries that share it, each with its certificate in one state.
    fn offer_bundle(&mut self, scope: &Scope, bundle: &Bundle, now: Now) {
        for entry in self.entries.values_mut().filter(|entry| entry.scope == *scope) {
            if matches!(entry.stage, Stage::Served { .. }) {
                entry.bundle = Some(entry.bundle_secret(bundle));
                entry.offer(now);
            }
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
            self.drop_entries(|_| false);
        }
    }

    // === Views ===

    pub(super) fn snapshot(&self, now: Now) -> Vec<EntrySnapshot> {
        let mut all: Vec<_> = self
            .entries
            .iter()
            .map(|(key, entry)| entry.snapshot(key, now))
            .collect();
        all.sort_unstable_by(|a, b| (&a.workload, &a.signer).cmp(&(&b.workload, &b.signer)));
        all
    }

    pub(super) fn outage_budget(&self, now: Now) -> Option<Duration> {
        self.entries.values().filter_map(|entry| entry.least_left(now)).min()
    }

    pub(super) fn counters(&self) -> Counters {
        self.counters.clone()
    }

    pub(super) fn load(&self, now: Now) -> Load {
        let mut load = Load::default();
        for entry in self.entries.values() {
            match entry.in_flight.as_ref().map(|request| request.work) {
                Some(Work::Request) => load.in_flight += 1,
                Some(Work::Key) => load.queued += 1,
                None => load.queued += usize::from(matches!(entry.need(now), Need::Request(_))),
            }
        }
        load
    }
}
