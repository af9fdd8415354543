//! How fast requests may be let in: a token bucket that holds one second's worth.
//!
//! In any span of time at most one second's worth more is taken than the rate gives; a rate below one a second still
//! gives a whole token. It owns no timer: it says when the next token is there.

use std::time::Duration;

use tokio::time::Instant;

/// Tokens for one signer at one replica.
#[derive(Debug)]
pub(super) struct TokenBucket {
    /// `None`: no limit.
    per_second: Option<f64>,
    tokens: f64,
    filled: Instant,
}

// === impl TokenBucket ===

impl TokenBucket {
    /// Without a limit.
    pub(super) fn unlimited(now: Instant) -> Self {
        Self {
            per_second: None,
            tokens: 0.0,
            filled: now,
        }
    }

    /// Another rate from now on. What was saved under the old one is kept, up to the new burst; the first rate begins
    /// with a full bucket.
    pub(super) fn set_rate(&mut self, per_second: Option<f64>, now: Instant) {
        self.fill(now);
        if self.per_second.is_none() {
            self.tokens = f64::INFINITY;
        }
        self.per_second = per_second;
        self.tokens = self.tokens.min(per_second.map_or(0.0, burst));
    }

    /// Whether there is a token.
    pub(super) fn has_token(&mut self, now: Instant) -> bool {
        self.fill(now);
        self.per_second.is_none() || self.tokens >= ONE
    }

    /// Takes the token that there is.
    pub(super) fn take(&mut self) {
        if self.per_second.is_some() {
            self.tokens -= 1.0;
        }
    }

    /// When there will be a token; `None` if there is one now.
    pub(super) fn next(&mut self, now: Instant) -> Option<Instant> {
        if self.has_token(now) {
            return None;
        }
        let missing = 1.0 - self.tokens;
        let wait = Duration::try_from_secs_f64(missing / self.per_second?).ok()?;
        now.checked_add(wait)
    }

    fn fill(&mut self, now: Instant) {
        let since = now.saturating_duration_since(self.filled);
        self.filled = self.filled.max(now);
        if let Some(per_second) = self.per_second {
            self.tokens = (self.tokens + since.as_secs_f64() * per_second).min(burst(per_second));
        }
    }
}

fn burst(per_second: f64) -> f64 {
    per_second.max(1.0)
}

/// A token, less what fractions and whole nanoseconds lose: who waits for a whole token must not wake too early for ever.
/// What is missing stays owed, so that the rate holds.
const ONE: f64 = 0.999;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bucket(per_second: f64, now: Instant) -> TokenBucket {
        let mut bucket = TokenBucket::unlimited(now);
        bucket.set_rate(Some(per_second), now);
        bucket
    }

    /// Takes all that there is.
    fn drain(bucket: &mut TokenBucket, now: Instant) -> u32 {
        let mut taken = 0;
        while bucket.has_token(now) {
            bucket.take();
            taken += 1;
        }
        taken
    }

    #[test]
    fn it_holds_a_second_and_refills_at_its_rate() {
        let now = Instant::now();
        let mut bucket = bucket(10.0, now);
        assert_eq!(drain(&mut bucket, now), 10);
        assert_eq!(bucket.next(now), Some(now + Duration::from_millis(100)));
        assert_eq!(drain(&mut bucket, now + Duration::from_millis(250)), 2);
        assert_eq!(drain(&mut bucket, now + Duration::from_secs(60)), 10);
    }

    #[test]
    fn less_than_one_a_second_is_one_now_and_then() {
        let now = Instant::now();
        let mut bucket = bucket(0.1, now);
        assert_eq!(drain(&mut bucket, now), 1);
        assert_eq!(drain(&mut bucket, now + Duration::from_secs(9)), 0);
        assert_eq!(
            bucket.next(now + Duration::from_secs(9)),
            Some(now + Duration::from_secs(10))
        );
        assert_eq!(drain(&mut bucket, now + Duration::from_secs(10)), 1);
    }

    #[test]
    fn without_a_rate_there_is_no_limit() {
        let now = Instant::now();
        let mut bucket = bucket(1.0, now);
        drain(&mut bucket, now);
        bucket.set_rate(None, now);
        for _ in 0..1000 {
            assert!(bucket.has_token(now));
            bucket.take();
        }
    }

    #[test]
    fn a_new_rate_does_not_refill_what_was_taken() {
        let now = Instant::now();
        let mut bucket = bucket(10.0, now);
        drain(&mut bucket, now);
        bucket.set_rate(Some(100.0), now);
        assert_eq!(drain(&mut bucket, now), 0);
        assert_eq!(drain(&mut bucket, now + Duration::from_millis(100)), 10);
        // And what was saved does not outlast a smaller burst.
        let later = now + Duration::from_secs(60);
        bucket.set_rate(Some(5.0), later);
        assert_eq!(drain(&mut bucket, later), 5);
    }

    proptest! {
        /// Whoever waits for the moment that `next` names is served then, and no more is taken than the rate gives.
        #[test]
        fn next_is_neither_early_nor_is_the_rate_exceeded(
            per_second in 0.001f64..5000.0,
            pauses in proptest::collection::vec(0u64..3_000_000, 1..60),
        ) {
            let begin = Instant::now();
            let mut now = begin;
            let mut bucket = bucket(per_second, now);
            let mut taken = f64::from(drain(&mut bucket, now));
            for pause in pauses {
                now += Duration::from_micros(pause);
                taken += f64::from(drain(&mut bucket, now));
                let next = bucket.next(now).unwrap();
                prop_assert!(next > now);
                now = next;
                let more = drain(&mut bucket, now);
                prop_assert!(more >= 1, "woken too early");
                taken += f64::from(more);
                let seconds = (now - begin).as_secs_f64();
                prop_assert!(taken <= burst(per_second) + seconds * per_second + 0.01, "{taken} in {seconds}");
            }
        }
    }
}
