//! Clients that refuse a certificate: they get another in time, and cost little if they refuse all.

use std::time::Duration;

use super::fake::{Node, config, pass};
use crate::rotation::{EntryState, Held, Subscription};

const HOUR: u64 = 3600;

fn version(state: &EntryState) -> String {
    state.certificate.as_ref().unwrap().version.clone()
}

/// A client that has taken a first certificate, and is offered a second one.
async fn renewed(node: &Node) -> (Subscription, Subscription) {
    let uid = node.add("web");
    let mut stream = node.handle.subscribe(&uid, None, Held::Nothing).unwrap();
    let other = node.handle.subscribe(&uid, None, Held::Nothing).unwrap();
    stream.changed().await.unwrap();
    stream.changed().await.unwrap();
    (stream, other)
}

#[tokio::test(start_paused = true)]
async fn a_refused_renewal_gets_a_successor_before_the_one_in_use_ends() {
    let node = Node::start(config());
    let (mut stream, other) = renewed(&node).await;
    let in_use_until = node.now() + Duration::from_hours(8);
    let refused = version(&stream.state());
    stream.feedback().refused(&refused, "bad chain");
    let entry = &node.handle.snapshot()[0];
    let error = entry.last_error.as_ref().unwrap();
    assert_eq!(error.reason, "refused_by_envoy");
    assert!(error.message.contains("bad chain"));
    assert!(entry.renew_at.unwrap() < node.now() + Duration::from_mins(7));
    assert!(
        node.handle.outage_budget().unwrap() < Duration::from_hours(14),
        "of the one in use"
    );
    assert_eq!(version(&other.state()), refused, "others keep it");
    stream.changed().await.unwrap();
    assert_ne!(version(&stream.state()), refused);
    assert!(node.now() < in_use_until);
    assert!(node.handle.snapshot()[0].last_error.is_none());
    let seen = node.sign.of("web");
    assert_eq!(seen.len(), 3);
    assert_ne!(seen[1].csr_pem, seen[2].csr_pem, "a new key");
    // Taken: back to the usual times.
    pass(8 * HOUR).await;
    assert_eq!(node.sign.count(), 3);
}

#[tokio::test(start_paused = true)]
async fn only_the_certificate_on_offer_can_be_refused_and_only_once() {
    let node = Node::start(config());
    let uid = node.add("web");
    let mut stream = node.handle.subscribe(&uid, None, Held::Nothing).unwrap();
    stream.changed().await.unwrap();
    let first = version(&stream.state());
    stream.changed().await.unwrap();
    stream.feedback().refused(&first, "late");
    stream.feedback().refused("c1.of.nobody", "wrong");
    assert!(node.handle.snapshot()[0].last_error.is_none());
    let second = version(&stream.state());
    stream.feedback().refused(&second, "meant");
    let due = node.handle.snapshot()[0].renew_at;
    pass(60).await;
    stream.feedback().refused(&second, "again");
    assert_eq!(node.handle.snapshot()[0].renew_at, due);
    let feedback = stream.feedback();
    drop(stream);
    feedback.refused(&second, "after the end");
}

/// How often a client is asked for that refuses all from its second certificate on, or from its first.
async fn requests_of_a_refuser(node: &Node, takes_one: bool, hours: u64) -> usize {
    let uid = node.add("web");
    let mut stream = node.handle.subscribe(&uid, None, Held::Nothing).unwrap();
    let end = node.now() + Duration::from_hours(hours);
    let mut takes = takes_one;
    while node.now() < end {
        tokio::select! {
            changed = stream.changed() => changed.unwrap(),
            () = pass(HOUR) => continue,
        }
        if !std::mem::take(&mut takes) && stream.state().certificate.is_some() {
            stream.feedback().refused(&version(&stream.state()), "no");
        }
    }
    node.sign.count()
}

#[tokio::test(start_paused = true)]
async fn who_refuses_all_costs_no_more_than_a_refused_request() {
    let node = Node::start(config());
    let requests = requests_of_a_refuser(&node, false, 24).await;
    assert!((24 * 10..=24 * 15 + 1).contains(&requests), "{requests} in a day");
}

#[tokio::test(start_paused = true)]
async fn a_successor_comes_ever_sooner_as_the_one_in_use_nears_its_end_and_slowly_after_it() {
    let node = Node::start(config());
    requests_of_a_refuser(&node, true, 48).await;
    let times: Vec<_> = node.sign.of("web").iter().map(|seen| seen.at.as_secs()).collect();
    let within = |from: u64, to: u64| times.iter().filter(|at| (from..to).contains(*at)).count();
    assert!(within(24 * HOUR - 60, 24 * HOUR) >= 3, "tight at the end");
    assert!(
        times.windows(2).all(|pair| pair[1] - pair[0] >= 9),
        "never below the floor"
    );
    assert!(within(25 * HOUR, 26 * HOUR) <= 16, "slowly afterwards");
}
