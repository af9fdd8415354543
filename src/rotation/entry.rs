//! One entry: the certificate of one (workload, signer, key type).
//!
//! Holds state and answers questions about it; decides nothing that concerns two entries and does no I/O. What it needs next is
//! [`need`](super::need)'s to say.

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use ensign_pki::{Bundle, KeyType, SpiffeId, Validity};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::DropGuard;

use super::bundles::Scope;
use super::issue::{Attempt, Work};
use super::need::Renewal;
use super::refusal::{self, Refusal};
use super::snapshot::{EntrySnapshot, LastError, Phase};
use super::version::{Claim, Versions};
use super::{BundleSecret, CertificateSecret, EntryState, Held, Workload, WorkloadUid};
use crate::csr_client::{SignerName, TokenSource};

/// How long a request holds its slot. An authority that answers at all answers faster.
pub(super) const SLOT_TIME: Duration = Duration::from_secs(5);

/// How many certificates back a root is still kept.
const RECENT: usize = 3;

/// What names an entry.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct EntryKey {
    pub(super) workload: WorkloadUid,
    pub(super) signer: Option<SignerName>,
    pub(super) key_type: KeyType,
}

/// One moment on both clocks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Now {
    pub(super) wall: SystemTime,
    pub(super) mono: Instant,
}

impl Now {
    /// How long until this wall time; zero once it passed.
    pub(super) fn until(self, wall: SystemTime) -> Duration {
        wall.duration_since(self.wall).unwrap_or_default()
    }
}

/// What the entry has.
#[derive(Debug)]
pub(super) enum Stage {
    /// Nothing was issued. `fresh`: some subscriber needs an answer; else a held bundle waits until `hold` for the
    /// claim of its sibling.
    Empty { fresh: bool, hold: Option<Instant> },
    /// An Envoy holds a certificate from before our start. `fresh`: another subscriber needs an answer.
    Adopted {
        claim: Claim,
        renewal: Renewal,
        fresh: bool,
    },
    /// We have a certificate.
    Served {
        secret: Arc<CertificateSecret>,
        validity: Validity,
        renewal: Renewal,
    },
}

/// The one request in flight. Dropping it cancels the request.
#[derive(Debug)]
pub(super) struct InFlight {
    pub(super) ticket: u64,
    pub(super) work: Work,
    pub(super) since: Instant,
    pub(super) retry: bool,
    pub(super) _cancel: DropGuard,
}

impl InFlight {
    /// For how long the request still holds its slot; none once it gave it back, or while only its key is made.
    pub(super) fn slot_left(&self, now: Now) -> Option<Duration> {
        if self.work == Work::Key {
            return None;
        }
        let left = (self.since + SLOT_TIME).saturating_duration_since(now.mono);
        (!left.is_zero()).then_some(left)
    }
}

/// One entry.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) id: SpiffeId,
    pub(super) token: Arc<dyn TokenSource>,
    pub(super) versions: Versions,
    pub(super) generation: u64,
    pub(super) stage: Stage,
    /// With whom the bundle is shared.
    pub(super) scope: Scope,
    /// The roots that came with the last certificates, and until when each is valid; the newest first.
    recent: VecDeque<(Bundle, SystemTime)>,
    pub(super) bundle: Option<Arc<BundleSecret>>,
    pub(super) publish: watch::Sender<EntryState>,
    pub(super) consumers: usize,
    /// Fixed or default signer: warmed up from this moment on, and never forgotten.
    pub(super) warm_from: Option<Instant>,
    /// Since when nobody has subscribed, or the entry's beginning.
    pub(super) idle_since: Instant,
    pub(super) wanted_since: Instant,
    pub(super) in_flight: Option<InFlight>,
    /// Key and CSR of a request that may still succeed.
    pub(super) attempt: Option<Attempt>,
    pub(super) failures: u32,
    /// No request before: the floor after a success, backoff after a failure.
    pub(super) quiet_until: Option<Instant>,
    pub(super) last_error: Option<LastError>,
    pub(super) refusal: Refusal,
}

impl Entry {
    pub(super) fn new(
        key: &EntryKey,
        workload: &Workload,
        generation: u64,
        warm_from: Option<Instant>,
        now: Now,
    ) -> Self {
        Self {
            id: workload.id.clone(),
            token: Arc::clone(&workload.token),
            versions: Versions::new(&key.workload, key.signer.as_ref(), key.key_type, &workload.id),
            generation,
            stage: Stage::Empty {
                fresh: false,
                hold: None,
            },
            scope: Scope::new(key.signer.as_ref(), &workload.id),
            recent: VecDeque::with_capacity(RECENT),
            bundle: None,
            publish: watch::Sender::new(EntryState::default()),
            consumers: 0,
            warm_from,
            idle_since: now.mono,
            wanted_since: now.mono,
            in_flight: None,
            attempt: None,
            failures: 0,
            quiet_until: None,
            last_error: None,
            refusal: Refusal::default(),
        }
    }

    /// Takes note of what a new subscriber holds.
    pub(super) fn judge(&mut self, held: &Held, ttl: Duration, window: Duration, now: Now) {
        let claim = match held {
            Held::Nothing | Held::Bundle(_) => None,
            Held::Certificate(version) => self.versions.claim(version, ttl, now.wall),
        };
        let our_bundle = matches!(held, Held::Bundle(version) if self.versions.is_our_bundle(version));
        let needs_answer = claim.is_none() && !our_bundle;
        match &mut self.stage {
            Stage::Served { .. } | Stage::Empty { fresh: true, .. } => {}
            Stage::Adopted { fresh, .. } if needs_answer => *fresh = true,
            Stage::Adopted {
                claim: adopted,
                renewal,
                ..
            } => {
                // Two Envoys may hold two certificates: what falls due first counts.
                if let Some(claim) = claim.filter(|claim| claim.renew_at < adopted.renew_at) {
                    *renewal = Renewal::at(claim.renew_at, now);
                    *adopted = claim;
                }
            }
            Stage::Empty { fresh, .. } if needs_answer => {
                self.wanted_since = now.mono;
                *fresh = true;
            }
            Stage::Empty { fresh: false, hold } => match claim {
                Some(claim) => {
                    let renewal = Renewal::at(claim.renew_at, now);
                    self.stage = Stage::Adopted {
                        claim,
                        renewal,
                        fresh: false,
                    };
                }
                None => {
                    hold.get_or_insert(now.mono + window);
                }
            },
        }
    }

    /// A subscriber left.
    pub(super) fn release(&mut self, now: Now) {
        self.consumers = self.consumers.saturating_sub(1);
        self.idle_since = now.mono;
        if self.consumers == 0
            && let Stage::Empty { fresh, .. } | Stage::Adopted { fresh, .. } = &mut self.stage
        {
            // Nobody needs an answer any more; whoever comes next tells anew what it holds.
            *fresh = false;
        }
    }

    /// What is left of the certificate that is offered or held; none if there is none.
    pub(super) fn left(&self, now: Now) -> Option<Duration> {
        self.validity().map(|validity| now.until(validity.not_after))
    }

    /// The same, or what is left of the one before if a client keeps that and it ends sooner.
    pub(super) fn least_left(&self, now: Now) -> Option<Duration> {
        self.left(now).into_iter().chain(self.refusal.left(now)).min()
    }

    /// A client refused this version of the certificate. Unless it is an older one, or this was said before, another is due
    /// soon; those who took it keep it until then.
    pub(super) fn refuse(&mut self, version: &str, why: &str, draw: f64, now: Now) {
        let Stage::Served { secret, renewal, .. } = &mut self.stage else {
            return;
        };
        if secret.version != version || !self.refusal.begin() {
            return;
        }
        let wait = self.refusal.wait(draw, now);
        let soon = Renewal::at(now.wall + wait, now);
        if soon.wall < renewal.wall {
            *renewal = soon;
        }
        self.last_error = Some(refusal::error(why, now));
    }

    /// A new certificate takes the place of what is offered.
    pub(super) fn replaced(&mut self) {
        let not_after = self.validity().map(|validity| validity.not_after);
        self.refusal.end(not_after);
    }

    pub(super) fn validity(&self) -> Option<&Validity> {
        match &self.stage {
            Stage::Empty { .. } => None,
            Stage::Adopted { claim, .. } => Some(&claim.validity),
            Stage::Served { validity, .. } => Some(validity),
        }
    }

    /// Remembers the roots that came with a new certificate.
    pub(super) fn learn_roots(&mut self, roots: Bundle, not_after: SystemTime) {
        self.recent.truncate(RECENT - 1);
        self.recent.push_front((roots, not_after));
    }

    /// The roots that came with the last certificates that are unexpired.
    pub(super) fn roots(&self, now: Now) -> impl Iterator<Item = &Bundle> {
        self.recent
            .iter()
            .filter(move |(_, not_after)| *not_after > now.wall)
            .map(|(roots, _)| roots)
    }

    /// The bundle secret for these roots: the one we have, if it holds the same.
    pub(super) fn bundle_secret(&self, bundle: &Bundle) -> Arc<BundleSecret> {
        match &self.bundle {
            Some(secret) if secret.bundle == *bundle => Arc::clone(secret),
            Some(_) | None => Arc::new(BundleSecret {
                version: self.versions.of_bundle(bundle),
                bundle: bundle.clone(),
                encoded: OnceLock::new(),
            }),
        }
    }

    /// Offers what there is now. Subscribers wake only if that is something new.
    pub(super) fn offer(&self, now: Now) {
        let state = match &self.stage {
            Stage::Empty { .. } => EntryState::default(),
            // There is a bundle if the signer is pinned, and then it is the operator's word.
            Stage::Adopted { .. } => EntryState {
                certificate: None,
                bundle: self.bundle.clone(),
            },
            Stage::Served { secret, validity, .. } => EntryState {
                certificate: (validity.not_after > now.wall).then(|| Arc::clone(secret)),
                bundle: self.bundle.clone(),
            },
        };
        self.publish.send_if_modified(|offered| {
            let news = !offered.same(&state);
            if news {
                *offered = state;
            }
            news
        });
    }

    fn phase(&self, now: Now) -> Phase {
        let expired = self.left(now).is_some_and(|left| left.is_zero());
        match &self.stage {
            Stage::Empty { .. } if self.in_flight.is_some() => Phase::Issuing,
            Stage::Adopted { .. } | Stage::Served { .. } if self.in_flight.is_some() && !expired => Phase::Renewing,
            Stage::Adopted { .. } | Stage::Served { .. } if expired => Phase::Expired,
            Stage::Empty { .. } | Stage::Adopted { .. } | Stage::Served { .. } if self.failures > 0 => {
                Phase::BackingOff
            }
            Stage::Empty { .. } => Phase::Waiting,
            Stage::Adopted { .. } => Phase::Adopted,
            Stage::Served { .. } => Phase::Active,
        }
    }

    pub(super) fn snapshot(&self, key: &EntryKey, now: Now) -> EntrySnapshot {
        let validity = self.validity();
        let renew_at = match &self.stage {
            Stage::Empty { .. } => None,
            Stage::Adopted { renewal, .. } | Stage::Served { renewal, .. } => Some(renewal.wall),
        };
        EntrySnapshot {
            workload: key.workload.clone(),
            id: self.id.clone(),
            signer: key.signer.clone(),
            key_type: key.key_type,
            phase: self.phase(now),
            adopted: matches!(self.stage, Stage::Adopted { .. }),
            serial: validity.map(|validity| validity.serial.clone()),
            not_before: validity.map(|validity| validity.not_before),
            not_after: validity.map(|validity| validity.not_after),
            renew_at,
            retry_in: self
                .quiet_until
                .filter(|_| self.failures > 0)
                .map(|at| at.saturating_duration_since(now.mono)),
            last_error: self.last_error.clone(),
            attempts: self.failures,
            consumers: self.consumers,
        }
    }
}
