//! Tables and properties of the renewal rule.

use super::*;
use proptest::prelude::*;
use test_case::test_case;

const HOUR: u64 = 3600;

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000 + seconds)
}

fn validity(not_before: u64, not_after: u64) -> Validity {
    Validity {
        not_before: at(not_before),
        not_after: at(not_after),
        serial: "01".into(),
    }
}

// `draw` 0.5 is the middle of the band: no jitter.
#[test_case(0.5, 24, 12 * HOUR; "half")]
#[test_case(0.25, 24, 18 * HOUR; "a quarter left")]
#[test_case(0.75, 24, 6 * HOUR; "three quarters left")]
#[test_case(1.0, 24, 10; "ratio one is due after the floor")]
#[test_case(0.5, 1, HOUR / 2; "short life")]
fn without_jitter(ratio: f64, hours: u64, expected: u64) {
    let schedule = Schedule::new(ratio, 0.1).unwrap();
    let renew = schedule.renew_at(&validity(0, hours * HOUR), at(0), Duration::from_secs(10), 0.5);
    assert_eq!(renew, at(expected));
}

#[test]
fn the_span_begins_at_receipt_for_a_backdated_certificate() {
    // 10 minutes, backdated by 8: what is left is 2 minutes, half of it is 1.
    let renew = Schedule::default().renew_at(&validity(0, 600), at(480), Duration::ZERO, 0.5);
    assert_eq!(renew, at(540));
}

#[test]
fn the_span_begins_at_not_before_for_a_certificate_of_the_future() {
    let renew = Schedule::default().renew_at(&validity(100, 300), at(0), Duration::ZERO, 0.5);
    assert_eq!(renew, at(200));
}

#[test]
fn an_expired_certificate_is_due_at_once() {
    assert_eq!(
        Schedule::default().renew_at(&validity(0, 100), at(500), Duration::ZERO, 0.5),
        at(500)
    );
}

#[test]
fn jitter_uses_the_whole_band() {
    let schedule = Schedule::default();
    let day = validity(0, 24 * HOUR);
    let renew = |draw| {
        schedule
            .renew_at(&day, at(0), Duration::ZERO, draw)
            .duration_since(at(0))
            .unwrap()
            .as_secs()
    };
    let tenth = 24 * HOUR / 10;
    assert_eq!(renew(0.0), 12 * HOUR + tenth);
    assert_eq!(renew(0.999_999_999), 12 * HOUR - tenth);
}

#[test_case(0.0, 0.1; "ratio zero")]
#[test_case(1.1, 0.1; "ratio above one")]
#[test_case(f64::NAN, 0.1; "ratio is not a number")]
#[test_case(0.5, 0.0; "no jitter")]
#[test_case(0.5, 1.0; "all jitter")]
fn senseless_rules_are_refused(ratio: f64, jitter: f64) {
    assert!(Schedule::new(ratio, jitter).is_err());
}

proptest! {
    #[test]
    fn renewal_lies_between_receipt_and_the_end(
        ratio in 0.001_f64..=1.0, jitter in 0.001_f64..0.999, draw in 0.0_f64..1.0,
        backdate in 0_u64..1000, life in 2_u64..10_000_000, floor in 0_u64..100_000,
    ) {
        let schedule = Schedule::new(ratio, jitter).unwrap();
        let validity = validity(1000 - backdate, 1000 + life);
        let renew = schedule.renew_at(&validity, at(1000), Duration::from_secs(floor), draw);
        prop_assert!(renew >= at(1000));
        prop_assert!(renew < validity.not_after);
    }

    #[test]
    fn the_floor_holds_while_the_certificate_outlives_it_twice(draw in 0.0_f64..1.0, life in 100_u64..100_000) {
        let schedule = Schedule::new(0.999, 0.1).unwrap();
        let renew = schedule.renew_at(&validity(0, life), at(0), Duration::from_secs(50), draw);
        prop_assert!(renew >= at(50));
    }
}
