//! Failures: what is kept, what is retried, and who is not delayed.

use std::time::Duration;

use test_case::test_case;
use tonic::Code;

use super::fake::{Do, Node, config, pass};
use crate::csr_client::Replica;
use crate::rotation::{Held, Phase, RotationConfig};

const HOUR: u64 = 3600;

#[tokio::test(start_paused = true)]
async fn a_certificate_outlives_failed_renewals_until_it_expires_and_comes_back_after() {
    let node = Node::start(config());
    let uid = node.add("web");
    let mut stream = node.handle.subscribe(&uid, None, Held::Nothing).unwrap();
    stream.changed().await.unwrap();
    let first = stream.state().certificate.unwrap().version.clone();
    node.sign.otherwise(Do::Refuse(Code::Unavailable));
    pass(23 * HOUR).await;
    assert_eq!(stream.state().certificate.unwrap().version, first);
    let entry = &node.handle.snapshot()[0];
    assert_eq!(entry.last_error.as_ref().unwrap().reason, "unavailable");
    assert!(matches!(entry.phase, Phase::BackingOff), "{:?}", entry.phase);
    assert!(!stream.changed_now(), "nothing was withdrawn");
    pass(2 * HOUR).await;
    assert!(stream.state().certificate.is_none(), "expired");
    assert!(stream.state().bundle.is_some());
    assert_eq!(node.handle.snapshot()[0].phase, Phase::Expired);
    assert_eq!(node.handle.outage_budget(), Some(Duration::ZERO));
    node.sign.otherwise(Do::Issue);
    pass(120).await;
    assert!(
        stream
            .state()
            .certificate
            .is_some_and(|certificate| certificate.version != first)
    );
    assert!(node.handle.snapshot()[0].last_error.is_none());
}

#[tokio::test(start_paused = true)]
async fn retries_tighten_near_the_end() {
    let node = Node::start(config());
    let uid = node.add("web");
    let mut stream = node.handle.subscribe(&uid, None, Held::Nothing).unwrap();
    stream.changed().await.unwrap();
    node.sign.otherwise(Do::Refuse(Code::PermissionDenied));
    pass(24 * HOUR).await;
    let times: Vec<_> = node.sign.of("web").iter().map(|seen| seen.at.as_secs()).collect();
    let gaps = |from: u64, to: u64| {
        let within: Vec<_> = times.iter().filter(|at| (from..to).contains(*at)).collect();
        within.windows(2).map(|pair| pair[1] - pair[0]).collect::<Vec<_>>()
    };
    assert!(
        gaps(15 * HOUR, 22 * HOUR).iter().all(|gap| (239..=361).contains(gap)),
        "slow at first"
    );
    assert!(
        gaps(24 * HOUR - 300, 24 * HOUR - 20).iter().all(|gap| *gap < 60),
        "tight at the end"
    );
}

#[test_case(Code::Unavailable, true)]
#[test_case(Code::DeadlineExceeded, true)]
#[test_case(Code::Unauthenticated, true)]
#[test_case(Code::FailedPrecondition, false)]
#[test_case(Code::InvalidArgument, false)]
#[tokio::test(start_paused = true)]
async fn what_may_still_succeed_is_resumed_with_the_same_csr(code: Code, same: bool) {
    let node = Node::start(config());
    let uid = node.add("web");
    node.sign.otherwise(Do::Refuse(code));
    let mut stream = node.handle.subscribe(&uid, None, Held::Nothing).unwrap();
    pass(1).await;
    node.sign.otherwise(Do::Issue);
    stream.changed().await.unwrap();
    let seen = node.sign.of("web");
    assert!(seen.len() >= 2);
    assert_eq!(seen[0].csr_pem == seen.last().unwrap().csr_pem, same);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_hangs_meets_its_deadline_and_begins_anew_after_the_resume_window() {
    let node = Node::start(config());
    let uid = node.add("web");
    node.sign.otherwise(Do::Hang);
    let _stream = node.handle.subscribe(&uid, None, Held::Nothing).unwrap();
    pass(900).await;
    let seen = node.sign.of("web");
    assert_eq!(node.sign.in_flight.lock().1, 1, "one at a time");
    assert_eq!(seen[0].csr_pem, seen[1].csr_pem);
    assert!(seen[1].at.as_secs() >= 60);
    for pair in seen.windows(2) {
        let fresh = pair[1].csr_pem != pair[0].csr_pem;
        let first_of_csr = seen.iter().find(|seen| seen.csr_pem == pair[0].csr_pem).unwrap();
        assert_eq!(fresh, (pair[1].at - first_of_csr.at).as_secs() >= 300);
    }
}

#[tokio::test(start_paused = true)]
async fn workloads_that_hang_or_fail_delay_no_other() {
    let node = Node::start(RotationConfig {
        max_in_flight: 8,
        ..config()
    });
    let mut streams = Vec::new();
    for number in 0..64 {
        let account = format!("hung-{number}");
        node.sign.script(
            &account,
            if number % 2 == 0 {
                Do::Hang
            } else {
                Do::Refuse(Code::Unavailable)
            },
        );
        streams.push(node.handle.subscribe(&node.add(&account), None, Held::Nothing).unwrap());
    }
    pass(120).await;
    // Now that all of them are retries, a newcomer finds a slot at once.
    let uid = node.add("web");
    let stream = node.handle.subscribe(&uid, None, Held::Nothing).unwrap();
    pass(1).await;
    assert!(stream.changed_now(), "served within a second");
}

#[tokio::test(start_paused = true)]
async fn a_refused_token_is_tried_soon_and_then_slowly() {
    let node = Node::start(config());
    let uid = node.add("web");
    node.sign.otherwise(Do::Refuse(Code::Unauthenticated));
    let _stream = node.handle.subscribe(&uid, None, Held::Nothing).unwrap();
    pass(60).await;
    let soon = node.sign.count();
    assert!((6..=8).contains(&soon), "{soon} in the first minute");
    pass(HOUR).await;
    assert!(node.sign.count() - soon <= 16, "slowly afterwards");
}

#[test_case(Do::OtherKey, "wrong_key")]
#[test_case(Do::OtherSan, "wrong_san")]
#[test_case(Do::CaLeaf, "ca_leaf")]
#[test_case(Do::ExpiredLeaf, "expired")]
#[test_case(Do::ForeignRoot, "foreign_root")]
#[test_case(Do::NoRoot, "no_roots")]
#[test_case(Do::Empty, "empty_chain")]
#[tokio::test(start_paused = true)]
async fn a_wrong_answer_is_rejected_with_its_reason_and_never_offered(what: Do, reason: &str) {
    let node = Node::start(config());
    let uid = node.add("web");
    let mut stream = node.handle.subscribe(&uid, None, Held::Nothing).unwrap();
    stream.changed().await.unwrap();
    let first = stream.state().certificate.unwrap().version.clone();
    node.sign.otherwise(what);
    pass(16 * HOUR).await;
    let entry = &node.handle.snapshot()[0];
    let error = entry.last_error.as_ref().unwrap();
    let seen = if error.reason == "incomplete_chain" {
        "foreign_root"
    } else {
        error.reason
    };
    assert_eq!(seen, reason, "{}", error.message);
    assert_eq!(stream.state().certificate.unwrap().version, first);
    assert!(!stream.changed_now());
    // Each that answered so was left, and only those.
    let wrong: Vec<_> = (1..node.sign.count() as u64).map(Replica).collect();
    assert_eq!(*node.sign.left.lock(), wrong);
}

#[tokio::test(start_paused = true)]
async fn once_expired_a_refused_certificate_is_asked_for_slowly_again() {
    let node = Node::start(config());
    let uid = node.add("web");
    let mut stream = node.handle.subscribe(&uid, None, Held::Nothing).unwrap();
    stream.changed().await.unwrap();
    node.sign.otherwise(Do::Refuse(Code::PermissionDenied));
    pass(25 * HOUR).await;
    let before = node.sign.count();
    pass(HOUR).await;
    let seen = node.sign.count() - before;
    assert!((8..=20).contains(&seen), "{seen} requests in an hour");
}

#[test_case(1, false; "one slot and a renewal that never failed")]
#[test_case(2, true; "two slots and a renewal that failed once")]
#[tokio::test(start_paused = true)]
async fn envoys_that_wait_for_an_authority_that_hangs_starve_no_renewal(max_in_flight: usize, fails_once: bool) {
    let node = Node::start(RotationConfig {
        max_in_flight,
        ..config()
    });
    *node.sign.life.lock() = Duration::from_hours(1);
    let uid = node.add("web");
    let mut stream = node.handle.subscribe(&uid, None, Held::Nothing).unwrap();
    stream.changed().await.unwrap();
    if fails_once {
        node.sign.script("web", Do::Refuse(Code::Unavailable));
    }
    let mut hung = Vec::new();
    for number in 0..60 {
        let account = format!("hung-{number}");
        node.sign.script(&account, Do::Hang);
        hung.push(node.handle.subscribe(&node.add(&account), None, Held::Nothing).unwrap());
    }
    while fails_once && node.sign.of("web").len() < 2 {
        pass(1).await;
    }
    node.sign.script("web", Do::Issue);
    for _ in 0..3 * HOUR {
        pass(1).await;
        // Renewed at its end is too late: an expired one overtakes all, which would hide that it had starved until then.
        let not_after = stream.state().certificate.unwrap().not_after;
        assert!(not_after > node.now() + Duration::from_mins(10), "its renewal starves");
    }
}
