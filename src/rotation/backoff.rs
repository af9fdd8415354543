//! How long to wait after a failure: pure, one entry's failures only.
//!
//! Exponential and jittered, capped, for ever. What a person must change first waits at the slow cap. The wait tightens
//! as the certificate nears its end, but never below a second, so that an authority in trouble is not hammered.

use std::time::Duration;

use crate::csr_client::Retry;

/// The first wait.
const FIRST: Duration = Duration::from_millis(500);
/// The longest wait after failures that pass by themselves.
const CAP: Duration = Duration::from_mins(1);
/// The wait after failures that a person must mend.
const SLOW_CAP: Duration = Duration::from_mins(5);
/// How often a refused token is tried again soon. Kubelet replaces a token within a minute or so of its pod's start;
/// after that a refusal is meant.
const SOON_TRIES: u32 = 6;
/// Tightening never goes below this.
const LEAST: Duration = Duration::from_secs(1);
/// How many tries should still fit into what is left of a certificate.
const TRIES_LEFT: u32 = 8;
/// A wait is multiplied by `1 ± SPREAD`.
const SPREAD: f64 = 0.2;

/// The wait after the `failures`-th failure in a row (1 is the first). `left` is what is left of the certificate that is
/// offered meanwhile; `draw` is a random number in `[0, 1)`.
pub(super) fn wait(retry: Retry, failures: u32, left: Option<Duration>, draw: f64) -> Duration {
    let exponential = |cap: Duration| FIRST.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(cap);
    let base = match retry {
        Retry::Later => exponential(CAP),
        Retry::Soon if failures <= SOON_TRIES => exponential(CAP),
        Retry::Soon | Retry::SlowCap => SLOW_CAP,
    };
    let tight = left.map_or(base, |left| base.min((left / TRIES_LEFT).max(LEAST)));
    tight.mul_f64(1.0 + SPREAD * (2.0 * draw - 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use test_case::test_case;

    fn middle(retry: Retry, failures: u32, left: Option<u64>) -> u128 {
        wait(retry, failures, left.map(Duration::from_secs), 0.5).as_millis()
    }

    #[test_case(Retry::Later, 1, 500)]
    #[test_case(Retry::Later, 2, 1_000)]
    #[test_case(Retry::Later, 7, 32_000)]
    #[test_case(Retry::Later, 8, 60_000)]
    #[test_case(Retry::Later, u32::MAX, 60_000; "for ever")]
    #[test_case(Retry::Soon, 1, 500; "a new token soon")]
    #[test_case(Retry::Soon, 6, 16_000; "a new token still soon")]
    #[test_case(Retry::Soon, 7, 300_000; "then slowly")]
    #[test_case(Retry::SlowCap, 1, 300_000; "a refusal slowly from the start")]
    fn waits(retry: Retry, failures: u32, milliseconds: u128) {
        assert_eq!(middle(retry, failures, None), milliseconds);
    }

    #[test]
    fn waits_tighten_near_the_end_but_not_below_a_second() {
        assert_eq!(middle(Retry::SlowCap, 1, Some(80)), 10_000);
        assert_eq!(middle(Retry::Later, 9, Some(80)), 10_000);
        assert_eq!(middle(Retry::Later, 9, Some(3)), 1_000);
        assert_eq!(middle(Retry::Later, 9, Some(100_000)), 60_000);
    }

    proptest! {
        #[test]
        fn every_wait_is_jittered_within_its_band(failures in 1_u32..1000, draw in 0.0_f64..1.0) {
            let waited = wait(Retry::Later, failures, None, draw).as_secs_f64();
            let middle = wait(Retry::Later, failures, None, 0.5).as_secs_f64();
            prop_assert!(waited >= middle * 0.799 && waited <= middle * 1.201);
        }
    }
}
