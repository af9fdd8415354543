//! Whether it makes sense to ask the signer at all: a circuit breaker.
//!
//! Several failures of the kind "away", one after the other, open it: nobody is let in until the cool-down is over.
//! Then one request goes as a probe. An answer, by whomever and to whichever request, closes it; a failed probe opens
//! it again for longer. It can only ever delay: a signer that came back is asked again after one cool-down at most,
//! whatever became of the probe.
//!
//! - A probe that was dropped (its client went away) gives its place to the next request at once.
//! - A probe that is still under way after [`PATIENCE`] has been taken by somebody: the breaker closes on trial, and the
//!   next failure opens it again.
//! - One event at the backend fails all requests that are under way with it. It counts once: a failure counts only if its
//!   request was let in after the failure before it. So a connection that broke under 200 requests opens nothing.
//!
//! It owns no timer: [`Breaker::next`] says when to look again.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

/// The state of one signer's breaker.
#[derive(Debug)]
pub(super) struct Breaker {
    circuit: Circuit,
    /// How long it stays open when it opens next.
    cool_down: Duration,
    /// What the last failure said.
    why: Arc<str>,
    /// Numbers requests as they are let in.
    next: u64,
    /// Failures of requests below this number are old news.
    news: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Circuit {
    Closed { failures: u32 },
    Open { until: Instant },
    HalfOpen { probe: Option<Instant> },
}

/// A request that was let in, for the breaker to know it again.
#[derive(Debug)]
pub(super) struct Admitted {
    number: u64,
    probe: bool,
}

/// What changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    /// Nobody is let in for so long.
    Opened(Duration),
    /// The signer answered.
    Closed,
}

// === impl Breaker ===

impl Breaker {
    pub(super) fn new() -> Self {
        Self {
            circuit: Circuit::Closed { failures: 0 },
            cool_down: COOL_DOWN_FIRST,
            why: "".into(),
            next: 0,
            news: 0,
        }
    }

    /// Notices what time has changed.
    pub(super) fn look(&mut self, now: Instant) {
        match self.circuit {
            Circuit::Open { until } if until <= now => self.circuit = Circuit::HalfOpen { probe: None },
            Circuit::HalfOpen { probe: Some(since) } if since + PATIENCE <= now => {
                self.circuit = Circuit::Closed {
                    failures: THRESHOLD - 1,
                };
            }
            Circuit::Closed { .. } | Circuit::Open { .. } | Circuit::HalfOpen { .. } => {}
        }
    }

    /// When to look again.
    pub(super) fn next(&self) -> Option<Instant> {
        match self.circuit {
            Circuit::Open { until } => Some(until),
            Circuit::HalfOpen { probe } => probe.map(|since| since + PATIENCE),
            Circuit::Closed { .. } => None,
        }
    }

    /// Whether one request may go.
    pub(super) fn lets_in(&self) -> bool {
        match self.circuit {
            Circuit::Closed { .. } => true,
            Circuit::Open { .. } => false,
            Circuit::HalfOpen { probe } => probe.is_none(),
        }
    }

    /// Whether requests are let in without further ado.
    pub(super) fn is_closed(&self) -> bool {
        matches!(self.circuit, Circuit::Closed { .. })
    }

    /// Lets one in, of which [`Breaker::lets_in`] was true.
    pub(super) fn let_in(&mut self, now: Instant) -> Admitted {
        let number = self.next;
        self.next += 1;
        let probe = matches!(self.circuit, Circuit::HalfOpen { .. });
        if probe {
            self.circuit = Circuit::HalfOpen { probe: Some(now) };
        }
        Admitted { number, probe }
    }

    /// One that was let in was answered, be it with a refusal: somebody is there.
    pub(super) fn answered(&mut self) -> Option<Change> {
        let was = std::mem::replace(&mut self.circuit, Circuit::Closed { failures: 0 });
        self.cool_down = COOL_DOWN_FIRST;
        (!matches!(was, Circuit::Closed { .. })).then_some(Change::Closed)
    }

    /// One that was let in found nobody.
    pub(super) fn failed(&mut self, admitted: &Admitted, why: &str, now: Instant) -> Option<Change> {
        if admitted.number < self.news {
            return None;
        }
        self.news = self.next;
        self.why = why.into();
        let failures = match self.circuit {
            Circuit::Closed { failures } => failures + 1,
            Circuit::Open { .. } | Circuit::HalfOpen { .. } => THRESHOLD,
        };
        if failures < THRESHOLD {
            self.circuit = Circuit::Closed { failures };
            return None;
        }
        let cool_down = self.cool_down;
        self.circuit = Circuit::Open { until: now + cool_down };
        self.cool_down = (cool_down * 2).min(COOL_DOWN_MAX);
        Some(Change::Opened(cool_down))
    }

    /// One that was let in ended without telling anything about the signer.
    pub(super) fn ended(&mut self, admitted: &Admitted) {
        // A probe of before was overtaken by another state; the place that it held is no longer its own to give back.
        if admitted.probe && admitted.number >= self.news && matches!(self.circuit, Circuit::HalfOpen { .. }) {
            self.circuit = Circuit::HalfOpen { probe: None };
        }
    }

    /// What the last failure said.
    pub(super) fn why(&self) -> Arc<str> {
        Arc::clone(&self.why)
    }

    /// As a number for metrics: 0 closed, 1 half-open, 2 open.
    pub(super) fn level(&self) -> usize {
        match self.circuit {
            Circuit::Closed { .. } => 0,
            Circuit::HalfOpen { .. } => 1,
            Circuit::Open { .. } => 2,
        }
    }
}

/// Failures in a row that open it. Envoy's outlier detection has the same default.
pub(super) const THRESHOLD: u32 = 5;
/// About what a leader change of an API server or a restart of a controller takes.
pub(super) const COOL_DOWN_FIRST: Duration = Duration::from_secs(5);
/// What an outage may be made longer by, at most.
pub(super) const COOL_DOWN_MAX: Duration = Duration::from_secs(30);
/// A backend that is away fails sooner than this; one that works on a request may take much longer.
pub(super) const PATIENCE: Duration = COOL_DOWN_FIRST;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn fail_in_a_row(breaker: &mut Breaker, times: u32, now: Instant) {
        for _ in 0..times {
            assert!(breaker.lets_in());
            let admitted = breaker.let_in(now);
            breaker.failed(&admitted, "nobody", now);
        }
    }

    impl Breaker {
        pub(in super::super) fn let_in_so_far(&self) -> u64 {
            self.next
        }
    }

    fn opened(now: Instant) -> Breaker {
        let mut breaker = Breaker::new();
        fail_in_a_row(&mut breaker, THRESHOLD, now);
        assert_eq!(breaker.level(), 2);
        breaker
    }

    /// The probe, at the end of the cool-down.
    fn probe(breaker: &mut Breaker, now: &mut Instant) -> Admitted {
        *now = breaker.next().unwrap();
        breaker.look(*now);
        assert!(breaker.lets_in());
        breaker.let_in(*now)
    }

    #[test]
    fn failures_in_a_row_open_it_and_an_answer_between_them_does_not() {
        let now = Instant::now();
        let mut breaker = Breaker::new();
        fail_in_a_row(&mut breaker, THRESHOLD - 1, now);
        breaker.let_in(now);
        assert_eq!(breaker.answered(), None);
        fail_in_a_row(&mut breaker, THRESHOLD - 1, now);
        assert!(breaker.lets_in());
        fail_in_a_row(&mut breaker, 1, now);
        assert!(!breaker.lets_in() && &*breaker.why() == "nobody");
    }

    #[test]
    fn one_event_that_fails_many_counts_once() {
        let now = Instant::now();
        let mut breaker = Breaker::new();
        for _ in 0..THRESHOLD - 1 {
            let together: Vec<_> = (0..200).map(|_| breaker.let_in(now)).collect();
            for admitted in &together {
                assert_eq!(breaker.failed(admitted, "reset", now), None);
            }
        }
        assert!(breaker.lets_in());
        fail_in_a_row(&mut breaker, 1, now);
        assert!(!breaker.lets_in());
    }

    #[test]
    fn one_probe_goes_and_its_answer_closes() {
        let mut now = Instant::now();
        let mut breaker = opened(now);
        breaker.look(now + COOL_DOWN_FIRST - Duration::from_nanos(1));
        assert!(!breaker.lets_in());
        let _probe = probe(&mut breaker, &mut now);
        assert!(!breaker.lets_in());
        assert_eq!(breaker.answered(), Some(Change::Closed));
        assert!(breaker.lets_in() && breaker.next().is_none());
    }

    #[test]
    fn failed_probes_lengthen_the_cool_down_to_its_cap_and_an_answer_forgets_that() {
        let mut now = Instant::now();
        let mut breaker = opened(now);
        let mut seen = Vec::new();
        for _ in 0..4 {
            let probe = probe(&mut breaker, &mut now);
            match breaker.failed(&probe, "nobody", now) {
                Some(Change::Opened(cool_down)) => seen.push(cool_down.as_secs()),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(seen, [10, 20, 30, 30]);
        breaker.answered();
        fail_in_a_row(&mut breaker, THRESHOLD, now);
        assert_eq!(breaker.next(), Some(now + COOL_DOWN_FIRST));
    }

    #[test]
    fn failures_of_before_it_opened_do_not_open_it_again() {
        let mut now = Instant::now();
        let mut breaker = Breaker::new();
        let slow: Vec<_> = (0..10).map(|_| breaker.let_in(now)).collect();
        fail_in_a_row(&mut breaker, THRESHOLD, now);
        probe(&mut breaker, &mut now);
        breaker.answered();
        for admitted in &slow {
            assert_eq!(breaker.failed(admitted, "nobody", now), None);
        }
        assert!(breaker.is_closed());
    }

    #[test]
    fn an_answer_to_a_request_of_before_closes_it_too() {
        let now = Instant::now();
        let mut breaker = Breaker::new();
        breaker.let_in(now);
        fail_in_a_row(&mut breaker, THRESHOLD, now);
        assert_eq!(breaker.answered(), Some(Change::Closed));
        assert!(breaker.lets_in());
    }

    #[test]
    fn a_dropped_probe_makes_room_for_the_next_at_once() {
        let mut now = Instant::now();
        let mut breaker = opened(now);
        let dropped = probe(&mut breaker, &mut now);
        breaker.ended(&dropped);
        assert!(breaker.lets_in());
        breaker.let_in(now);
        // The first is long gone: its end must not free the place of the second.
        assert!(!breaker.lets_in());
    }

    #[test]
    fn a_probe_that_is_worked_on_closes_it_on_trial() {
        let mut now = Instant::now();
        let mut breaker = opened(now);
        let slow = probe(&mut breaker, &mut now);
        now = breaker.next().unwrap();
        breaker.look(now);
        assert!(breaker.is_closed());
        assert_eq!(
            breaker.failed(&slow, "nobody", now),
            Some(Change::Opened(2 * COOL_DOWN_FIRST))
        );
    }

    #[derive(Debug, Clone, Copy)]
    enum End {
        Answered,
        Failed,
        Dropped,
    }

    fn ends() -> impl Strategy<Value = Vec<(usize, u64, End)>> {
        let end = prop_oneof![1 => Just(End::Answered), 4 => Just(End::Failed), 1 => Just(End::Dropped)];
        proptest::collection::vec((any::<usize>(), 0u64..8000, end), 0..200)
    }

    proptest! {
        /// Whatever happened: once the signer is back, a request is let in within a cool-down and the patience for a
        /// probe, and the first answer lets everybody in.
        #[test]
        fn it_never_delays_for_longer_than_promised(ends in ends()) {
            let mut now = Instant::now();
            let mut breaker = Breaker::new();
            let mut under_way = Vec::new();
            for (pick, pause, end) in ends {
                now += Duration::from_millis(pause);
                breaker.look(now);
                while breaker.lets_in() && under_way.len() < 5 {
                    under_way.push(breaker.let_in(now));
                }
                prop_assert!(breaker.next().is_none_or(|next| next <= now + COOL_DOWN_MAX));
                if under_way.is_empty() {
                    continue;
                }
                let admitted = under_way.swap_remove(pick % under_way.len());
                match end {
                    End::Answered => _ = breaker.answered(),
                    End::Failed => _ = breaker.failed(&admitted, "nobody", now),
                    End::Dropped => breaker.ended(&admitted),
                }
                prop_assert!(!matches!(end, End::Answered) || breaker.lets_in());
            }
            let recovered = now;
            breaker.look(now);
            while !breaker.lets_in() {
                let next = breaker.next().expect("a moment to look again");
                prop_assert!(next > now);
                now = next;
                breaker.look(now);
            }
            prop_assert!(now <= recovered + COOL_DOWN_MAX, "{:?}", now - recovered);
            breaker.let_in(now);
            breaker.answered();
            now += SECOND;
            breaker.look(now);
            prop_assert!(breaker.is_closed());
        }
    }
}
