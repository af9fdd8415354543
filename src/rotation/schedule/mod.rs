//! When to renew: pure arithmetic on the times of one certificate.
//!
//! The span counted is from `max(NotBefore, receipt)` to the earliest NotAfter of the chain, so a backdated short
//! certificate is not due on arrival. The share of it that must be left is `ratio ± jitter`, drawn once for each
//! certificate; a draw at every check would let the earliest edge win. The result always lies before NotAfter.

use std::time::{Duration, SystemTime};

use ensign_pki::Validity;

/// The least share of a lifetime that is kept for renewing, whatever ratio and jitter say.
const LEAST_RATIO: f64 = 0.02;

/// The rule by which renewals are planned.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Schedule {
    ratio: f64,
    jitter: f64,
}

/// Why a rule is refused.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
pub enum ScheduleError {
    /// The ratio is out of range.
    #[error("the grace period ratio is {0}, expected a number above 0 and at most 1")]
    Ratio(f64),
    /// The jitter is out of range.
    #[error(
        "the grace period jitter is {0}, expected a number above 0 and below 1: without any, certificates that were issued together renew together for ever"
    )]
    Jitter(f64),
}

impl Default for Schedule {
    fn default() -> Self {
        Self {
            ratio: 0.5,
            jitter: 0.1,
        }
    }
}

impl Schedule {
    /// `ratio` of the lifetime must be left at renewal, give or take `jitter` (both are shares of the lifetime).
    pub fn new(ratio: f64, jitter: f64) -> Result<Self, ScheduleError> {
        if !(ratio > 0.0 && ratio <= 1.0) {
            return Err(ScheduleError::Ratio(ratio));
        }
        if !(jitter > 0.0 && jitter < 1.0) {
            return Err(ScheduleError::Jitter(jitter));
        }
        Ok(Self { ratio, jitter })
    }

    /// When to renew a certificate that came at `receipt`. `draw` is its one random number, in `[0, 1)`; `floor` is the
    /// shortest time between two fetches.
    pub fn renew_at(&self, validity: &Validity, receipt: SystemTime, floor: Duration, draw: f64) -> SystemTime {
        let start = validity.not_before.max(receipt);
        let Ok(life) = validity.not_after.duration_since(start) else {
            return start;
        };
        let ratio = (self.ratio + self.jitter * (2.0 * draw - 1.0)).clamp(LEAST_RATIO, 1.0);
        // A floor longer than the certificate must not outlive it.
        let earliest = start + floor.min(life / 2);
        (validity.not_after - life.mul_f64(ratio)).max(earliest)
    }
}

#[cfg(test)]
mod tests;
