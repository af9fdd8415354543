//! What a client's refusal of a certificate means for its entry's times.
//!
//! A client that refuses a certificate uses the one before, so the schedule of the refused one is of no use to it. Another, with
//! a new key, is due as after a failure that a person must mend, and ever sooner as the one in use nears its end. Once that
//! has ended, or if there was none, only the slow wait counts: who refuses all that it gets costs no more than a workload whose requests are
//! refused.

use std::time::{Duration, SystemTime};

use super::backoff;
use super::entry::Now;
use super::snapshot::LastError;
use crate::csr_client::Retry;

/// Whether the certificate on offer was refused, and what its refuser has.
#[derive(Debug, Default)]
pub(super) struct Refusal {
    refused: bool,
    /// The end of the last certificate before it that nobody refused.
    in_use_until: Option<SystemTime>,
}

impl Refusal {
    /// Somebody refuses. False if somebody did before.
    pub(super) fn begin(&mut self) -> bool {
        !std::mem::replace(&mut self.refused, true)
    }

    /// The certificate on offer, if there is one, gets a successor. Unless it was refused, it is in use until that comes.
    pub(super) fn end(&mut self, not_after: Option<SystemTime>) {
        if !std::mem::take(&mut self.refused) {
            self.in_use_until = not_after;
        }
    }

    /// What is left of what the refuser has; none if there is no refuser, or nothing left.
    pub(super) fn left(&self, now: Now) -> Option<Duration> {
        let left = now.until(self.in_use_until.filter(|_| self.refused)?);
        (!left.is_zero()).then_some(left)
    }

    /// How long until another certificate is due.
    pub(super) fn wait(&self, draw: f64, now: Now) -> Duration {
        backoff::wait(Retry::SlowCap, 1, self.left(now), draw)
    }
}

/// How a refusal is told.
pub(super) fn error(why: &str, now: Now) -> LastError {
    LastError {
        reason: "refused_by_envoy",
        message: format!("a client refused the certificate and keeps the one before: {why}"),
        request_id: None,
        at: now.wall,
    }
}
