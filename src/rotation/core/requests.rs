//! Requests: which go out now, and what an answer or a failure means for its entry and for all that share its bundle.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use ensign_pki::Bundle;
use tokio_util::sync::CancellationToken;

use super::{Core, Step};
use crate::csr_client::{RequestId, SignerName};
use crate::rotation::bundles::{self, Scope};
use crate::rotation::entry::{Entry, EntryKey, InFlight, Now, SLOT_TIME, Stage};
use crate::rotation::issue::{Done, IssueError, Issued, Job, Outcome, Work};
use crate::rotation::need::{Need, Rank, Renewal};
use crate::rotation::queue::Queue;
use crate::rotation::snapshot::LastError;
use crate::rotation::{CertificateSecret, backoff};

/// The longest sleep: a clock that was stepped, or a machine that slept, is noticed after so long.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// The shortest time between two requests of one entry, whatever the floor: an authority whose certificates end at once
/// must not be asked in a loop.
const LEAST_PAUSE: Duration = Duration::from_millis(100);

impl Core {
    /// Brings everything up to date and says what to do next.
    pub(in super::super) fn step(&mut self, now: Now) -> Step {
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
                    Work::Key => keys.push(rank.as_if_new(), None, key),
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
    pub(in super::super) fn finish(&mut self, outcome: Outcome, now: Now) {
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
}
