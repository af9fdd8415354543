//! How long a certificate may live: default, floor and cap of a signer.
//!
//! A request is never refused for its lifetime: nothing asked gives the default, too much is cut to the cap, too little
//! is raised to the floor, and each change is named so that it can be logged and counted.

use std::time::Duration;

/// Default, floor and cap of certificate lifetimes. Held to `min <= default <= max` by [`TtlBounds::new`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TtlBounds {
    default: Duration,
    min: Duration,
    max: Duration,
}

/// What became of the lifetime that a request asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TtlChange {
    /// Granted as asked.
    Unchanged,
    /// Nothing (or less) was asked: the default.
    Defaulted,
    /// More than the cap was asked: the cap.
    Clamped,
    /// Less than the floor was asked: the floor.
    Raised,
}

// === impl TtlBounds ===

impl TtlBounds {
    /// Bounds, or the sentence that says why these are none.
    pub(super) fn new(default: Duration, min: Duration, max: Duration) -> Result<Self, String> {
        if min.is_zero() {
            return Err("ttl.min is 0: expected a positive duration".to_owned());
        }
        if min > max {
            return Err(format!("ttl.min {min:?} is above ttl.max {max:?}"));
        }
        if !(min..=max).contains(&default) {
            return Err(format!(
                "ttl.default {default:?} is outside of ttl.min {min:?} to ttl.max {max:?}"
            ));
        }
        Ok(Self { default, min, max })
    }

    /// The lifetime for a request that asks for so many seconds, and how it differs from what was asked.
    pub fn grant(&self, asked_seconds: i64) -> (Duration, TtlChange) {
        let asked = match u64::try_from(asked_seconds) {
            Ok(0) | Err(_) => return (self.default, TtlChange::Defaulted),
            // Whole seconds: no multiplication that could wrap (istiod's does at 2^62).
            Ok(seconds) => Duration::from_secs(seconds),
        };
        if asked > self.max {
            (self.max, TtlChange::Clamped)
        } else if asked < self.min {
            (self.min, TtlChange::Raised)
        } else {
            (asked, TtlChange::Unchanged)
        }
    }

    /// The longest lifetime that these bounds grant.
    pub fn max(&self) -> Duration {
        self.max
    }
}

// === impl TtlChange ===

impl TtlChange {
    /// The word for logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unchanged => "unchanged",
            Self::Defaulted => "defaulted",
            Self::Clamped => "clamped",
            Self::Raised => "raised",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use test_case::test_case;

    const HOUR: u64 = 3600;

    #[test_case(0, 24 * HOUR, TtlChange::Defaulted; "nothing asked")]
    #[test_case(-1, 24 * HOUR, TtlChange::Defaulted; "negative")]
    #[test_case(i64::MIN, 24 * HOUR, TtlChange::Defaulted; "most negative")]
    #[test_case(1, 600, TtlChange::Raised; "one second")]
    #[test_case(599, 600, TtlChange::Raised; "just below the floor")]
    #[test_case(600, 600, TtlChange::Unchanged; "the floor")]
    #[test_case(86_400, 24 * HOUR, TtlChange::Unchanged; "a day")]
    #[test_case(2160 * 3600, 2160 * HOUR, TtlChange::Unchanged; "the cap")]
    #[test_case(2160 * 3600 + 1, 2160 * HOUR, TtlChange::Clamped; "just above the cap")]
    #[test_case(9_223_372_037, 2160 * HOUR, TtlChange::Clamped; "wraps in nanoseconds")]
    #[test_case(18_446_744_074, 2160 * HOUR, TtlChange::Clamped; "wraps to 290 ms")]
    #[test_case(1 << 62, 2160 * HOUR, TtlChange::Clamped; "wraps to zero")]
    #[test_case(i64::MAX, 2160 * HOUR, TtlChange::Clamped; "most")]
    fn every_wish_has_an_answer(asked: i64, seconds: u64, change: TtlChange) {
        let bounds = TtlBounds::new(
            Duration::from_secs(24 * HOUR),
            Duration::from_secs(600),
            Duration::from_secs(2160 * HOUR),
        )
        .unwrap();
        assert_eq!(bounds.grant(asked), (Duration::from_secs(seconds), change));
    }

    #[test_case(60, 0, 60; "no floor")]
    #[test_case(60, 120, 60; "floor above cap")]
    #[test_case(60, 120, 240; "default below floor")]
    #[test_case(300, 120, 240; "default above cap")]
    fn bounds_that_contradict_themselves_are_refused(default: u64, min: u64, max: u64) {
        let seconds = Duration::from_secs;
        assert!(TtlBounds::new(seconds(default), seconds(min), seconds(max)).is_err());
    }
}
