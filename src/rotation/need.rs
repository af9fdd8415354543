//! What an entry needs now, and how urgent that is.
//!
//! Pure: [`Entry::need`] says whether a request should go out now and in which place, or when to look again; who goes first among many
//! is [`queue`](super::queue)'s. Renewal times are kept on both clocks: the wall clock is what NotAfter means, and the monotonic one
//! still fires when the wall clock was set back.

use std::time::{Duration, SystemTime};

use ensign_pki::{KeyType, Validity};
use tokio::time::Instant;

use super::entry::{Entry, Now, Stage};
use super::issue::Work;
use super::slow_keys;

/// Less than this share of its life left, and a certificate's renewal overtakes routine ones.
const NEAR_EXPIRY: f64 = 0.1;

/// How urgent a request is; the first is the most urgent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Class {
    WaitingEnvoy,
    NearExpiry,
    Routine,
    WarmUp,
}

/// The place in the queue; the smallest goes first. Within a class what failed before yields to what did not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank {
    pub(super) class: Class,
    pub(super) failed: bool,
    order: Duration,
}

impl Rank {
    /// The place that it had if it had not failed before.
    pub(super) fn as_if_new(self) -> Self {
        Self { failed: false, ..self }
    }
}

/// What an entry needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    /// Nothing until something happens to it.
    Nothing,
    /// A look after this time.
    Later(Duration),
    /// A request.
    Request(Rank),
}

/// A planned renewal, on both clocks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Renewal {
    pub(super) wall: SystemTime,
    mono: Instant,
}

impl Renewal {
    pub(super) fn at(wall: SystemTime, now: Now) -> Self {
        Self {
            wall,
            mono: now.mono + now.until(wall),
        }
    }

    /// Zero when due on either clock.
    fn wait(&self, now: Now) -> Duration {
        now.until(self.wall).min(self.mono.saturating_duration_since(now.mono))
    }
}

impl Entry {
    /// What the entry needs now.
    pub(super) fn need(&self, now: Now) -> Need {
        if self.in_flight.is_some() {
            return Need::Nothing;
        }
        let Some((class, order, wait)) = self.want(now) else {
            return Need::Nothing;
        };
        let quiet = self
            .quiet_until
            .map_or(Duration::ZERO, |until| until.saturating_duration_since(now.mono));
        let wait = wait.max(quiet);
        if wait.is_zero() {
            Need::Request(Rank {
                class,
                failed: self.failures > 0,
                order,
            })
        } else {
            Need::Later(wait)
        }
    }

    /// How far a job for it goes now.
    pub(super) fn work(&self, key_type: KeyType, now: Now) -> Work {
        let ready = self
            .attempt
            .as_ref()
            .is_some_and(|attempt| attempt.may_be_sent(now.mono));
        if slow_keys::are_slow(key_type) && !ready {
            Work::Key
        } else {
            Work::Request
        }
    }

    /// How urgent, in which order within its class, and after which wait; none if nobody wants anything.
    fn want(&self, now: Now) -> Option<(Class, Duration, Duration)> {
        let waited = Duration::MAX.saturating_sub(now.mono.saturating_duration_since(self.wanted_since));
        let waiting = Some((Class::WaitingEnvoy, waited, Duration::ZERO));
        match &self.stage {
            Stage::Empty { fresh: true, .. } | Stage::Adopted { fresh: true, .. } if self.consumers > 0 => waiting,
            Stage::Empty { hold, .. } if self.consumers > 0 => {
                let wait = hold.map_or(Duration::ZERO, |hold| hold.saturating_duration_since(now.mono));
                Some((Class::WaitingEnvoy, waited, wait))
            }
            Stage::Empty { .. } => {
                let from = self.warm_from?;
                Some((Class::WarmUp, waited, from.saturating_duration_since(now.mono)))
            }
            Stage::Adopted { claim, renewal, .. } => self.want_renewal(&claim.validity, renewal, now),
            Stage::Served { validity, renewal, .. } => self.want_renewal(validity, renewal, now),
        }
    }

    fn want_renewal(&self, validity: &Validity, renewal: &Renewal, now: Now) -> Option<(Class, Duration, Duration)> {
        if self.consumers == 0 && self.warm_from.is_none() {
            return None; // about to be forgotten
        }
        let left = now.until(validity.not_after);
        if left.is_zero() && self.consumers > 0 {
            return Some((Class::WaitingEnvoy, Duration::ZERO, Duration::ZERO));
        }
        let life = validity
            .not_after
            .duration_since(validity.not_before)
            .unwrap_or_default();
        let wait = if left.is_zero() {
            Duration::ZERO
        } else {
            renewal.wait(now)
        };
        let left = self.refusal.left(now).map_or(left, |in_use| in_use.min(left));
        if left < life.mul_f64(NEAR_EXPIRY) {
            return Some((Class::NearExpiry, left, wait));
        }
        let overdue = now.wall.duration_since(renewal.wall).unwrap_or_default();
        Some((Class::Routine, Duration::MAX.saturating_sub(overdue), wait))
    }
}
