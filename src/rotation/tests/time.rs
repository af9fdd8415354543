//! The schedule at work: a day of a busy node, and clocks that jump.

use std::collections::HashMap;
use std::time::Duration;

use super::fake::{Do, Node, config, pass};
use crate::rotation::{Held, RotationConfig, Schedule};

const HOUR: u64 = 3600;

#[tokio::test(start_paused = true)]
async fn a_day_of_two_hundred_and_fifty_workloads() {
    let node = Node::start(config());
    *node.sign.life.lock() = Duration::from_secs(4 * HOUR);
    node.sign.otherwise(Do::After(Duration::from_millis(200)));
    let mut streams = Vec::new();
    for number in 0..250 {
        let uid = node.add(&format!("web-{number}"));
        streams.push(node.handle.subscribe(&uid, None, Held::Nothing).unwrap());
    }
    pass(60).await;
    assert_eq!(node.sign.count(), 250, "one each");
    for _ in 0..24 * 6 {
        pass(600).await;
        let now = node.now();
        for stream in &streams {
            assert!(
                stream.state().certificate.unwrap().not_after > now + Duration::from_secs(HOUR),
                "always fresh"
            );
        }
    }
    assert!(node.sign.in_flight.lock().1 <= 16, "the bound holds");
    let seen = node.sign.seen.lock().clone();
    let mut last: HashMap<&str, Duration> = HashMap::new();
    let mut per_slice: HashMap<u64, usize> = HashMap::new();
    for request in &seen {
        if let Some(before) = last.insert(&request.account, request.at) {
            // Half of four hours is left, give or take a tenth of them: 96 to 144 minutes. No drift.
            let gap = (request.at - before).as_secs();
            assert!((96 * 60 - 5..=144 * 60 + 40).contains(&gap), "{gap} s between two");
            *per_slice.entry(request.at.as_secs() / 300).or_default() += 1;
        }
    }
    assert!(
        (2_500..=3_200).contains(&seen.len()),
        "{} requests in a day",
        seen.len()
    );
    // Issued together, but never again renewed together: evenly spread it would be 10 in 5 minutes.
    let busiest = per_slice
        .iter()
        .filter(|(slice, _)| **slice > 12 * 12)
        .map(|(_, count)| *count)
        .max();
    assert!(
        busiest.unwrap() <= 40,
        "{busiest:?} in the busiest 5 minutes of the second half"
    );
}

#[tokio::test(start_paused = true)]
async fn with_a_ratio_near_one_only_the_floor_stands_between_renewals() {
    let schedule = Schedule::new(0.999, 0.0001).unwrap();
    let node = Node::start(RotationConfig {
        schedule,
        fetch_floor: Duration::from_millis(500),
        ..config()
    });
    *node.sign.life.lock() = Duration::from_mins(10);
    let uid = node.add("web");
    let _stream = node.handle.subscribe(&uid, None, Held::Nothing).unwrap();
    pass(120).await;
    let times: Vec<_> = node.sign.of("web").iter().map(|seen| seen.at).collect();
    assert!((100..=240).contains(&times.len()), "{} rotations", times.len());
    assert!(
        times
            .windows(2)
            .all(|pair| pair[1] - pair[0] >= Duration::from_millis(500)),
        "the floor holds"
    );
}

#[tokio::test(start_paused = true)]
async fn near_expiry_goes_before_routine() {
    let node = Node::start(RotationConfig {
        max_in_flight: 1,
        ..config()
    });
    let mut streams = Vec::new();
    // All are due while the authority is away; "late" has the least left.
    for number in 0..10 {
        if number == 7 {
            *node.sign.life.lock() = Duration::from_secs(14 * HOUR);
        }
        let account = if number == 7 {
            "late".to_owned()
        } else {
            format!("web-{number}")
        };
        let uid = node.add(&account);
        streams.push(node.handle.subscribe(&uid, None, Held::Nothing).unwrap());
        pass(1).await;
        *node.sign.life.lock() = Duration::from_hours(24);
    }
    // A machine that slept wakes with everything due at once.
    node.clock.step(13 * 3600 + 1800);
    let before = node.sign.count();
    node.sign.otherwise(Do::After(Duration::from_secs(1)));
    pass(60).await;
    assert_eq!(node.sign.seen.lock()[before].account, "late");
}

#[tokio::test(start_paused = true)]
async fn a_suspended_machine_renews_within_half_a_minute_of_waking() {
    let node = Node::start(config());
    let uid = node.add("web");
    let stream = node.handle.subscribe(&uid, None, Held::Nothing).unwrap();
    pass(HOUR).await;
    // Suspended for 15 hours: the wall clock moved, timers did not.
    node.clock.step(15 * 3600);
    pass(31).await;
    assert_eq!(node.sign.count(), 2);
    assert!(stream.state().certificate.unwrap().not_after > node.now() + Duration::from_secs(23 * HOUR));
}

#[tokio::test(start_paused = true)]
async fn a_clock_set_back_does_not_put_the_renewal_off() {
    let node = Node::start(config());
    let uid = node.add("web");
    let stream = node.handle.subscribe(&uid, None, Held::Nothing).unwrap();
    pass(HOUR).await;
    node.clock.step(-6 * 3600);
    pass(31).await;
    assert!(stream.state().certificate.is_some(), "still offered");
    assert_eq!(node.sign.count(), 1, "and not renewed for it");
    pass(14 * HOUR).await;
    assert_eq!(node.sign.count(), 2, "renewed when due by elapsed time");
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_ran_ahead_and_is_corrected_brings_the_certificate_back() {
    let node = Node::start(config());
    let uid = node.add("web");
    let mut stream = node.handle.subscribe(&uid, None, Held::Nothing).unwrap();
    stream.changed().await.unwrap();
    node.sign.otherwise(Do::Refuse(tonic::Code::Unavailable));
    node.clock.step(48 * 3600);
    pass(31).await;
    assert!(stream.state().certificate.is_none(), "expired as far as we know");
    node.clock.step(-48 * 3600);
    pass(31).await;
    assert!(stream.state().certificate.is_some(), "not expired after all");
}

#[tokio::test(start_paused = true)]
async fn the_certificate_is_renewed_before_it_ends_even_if_shorter_than_the_floor() {
    let node = Node::start(RotationConfig {
        fetch_floor: Duration::from_hours(1),
        ..config()
    });
    *node.sign.life.lock() = Duration::from_mins(10);
    let uid = node.add("web");
    let mut stream = node.handle.subscribe(&uid, None, Held::Nothing).unwrap();
    stream.changed().await.unwrap();
    for _ in 0..60 {
        pass(60).await;
        assert!(stream.state().certificate.unwrap().not_after > node.now());
    }
}

#[tokio::test(start_paused = true)]
async fn what_has_just_expired_is_offered_to_nobody() {
    let node = Node::start(config());
    *node.sign.life.lock() = Duration::from_mins(10);
    let uid = node.add("web");
    let mut stream = node.handle.subscribe(&uid, None, Held::Nothing).unwrap();
    stream.changed().await.unwrap();
    node.sign.otherwise(Do::Hang);
    let expires = stream.state().certificate.unwrap().not_after;
    tokio::time::sleep(expires.duration_since(node.now()).unwrap() + Duration::from_millis(2)).await;
    assert!(
        stream.state().certificate.is_none(),
        "withdrawn at its end, not half a minute later"
    );
    node.clock.step(-60);
    pass(31).await;
    assert!(stream.state().certificate.is_some());
    node.clock.step(60);
    let newcomer = node.handle.subscribe(&uid, None, Held::Nothing).unwrap();
    assert!(newcomer.state().certificate.is_none(), "a newcomer gets none");
}

#[tokio::test(start_paused = true)]
async fn without_a_floor_a_ratio_of_one_is_no_hot_loop() {
    let node = Node::start(RotationConfig {
        schedule: Schedule::new(1.0, 1e-9).unwrap(),
        fetch_floor: Duration::ZERO,
        ..config()
    });
    node.sign.otherwise(Do::After(Duration::from_millis(1)));
    let uid = node.add("web");
    let _stream = node.handle.subscribe(&uid, None, Held::Nothing).unwrap();
    pass(2).await;
    assert!(node.sign.count() <= 25, "{} requests in two seconds", node.sign.count());
}
