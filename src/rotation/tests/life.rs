//! Workloads and entries come, live and go.

use std::time::Duration;

use ensign_pki::KeyType;

use super::fake::{Do, Node, config, pass, workload};
use crate::rotation::{EntryEnded, Held, Phase, RotationConfig, SignerName, SubscribeError};

fn signer(name: &str) -> SignerName {
    name.parse().unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_waiting_envoy_gets_its_certificate_and_its_bundle_in_one_state() {
    let node = Node::start(config());
    let uid = node.add("web");
    let mut stream = node.handle.subscribe(&uid, None, Held::Nothing).unwrap();
    assert!(stream.state().certificate.is_none() && stream.state().bundle.is_none());
    stream.changed().await.unwrap();
    let state = stream.state();
    let (certificate, bundle) = (state.certificate.unwrap(), state.bundle.unwrap());
    assert!(certificate.is_rooted_in(&bundle));
    let entry = &node.handle.snapshot()[0];
    assert_eq!((entry.phase, entry.consumers, entry.adopted), (Phase::Active, 1, false));
    assert_eq!(node.handle.outage_budget(), Some(Duration::from_hours(24)));
}

#[tokio::test(start_paused = true)]
async fn all_subscribers_of_an_entry_share_one_request() {
    let node = Node::start(config());
    node.sign.otherwise(Do::After(Duration::from_secs(1)));
    let uid = node.add("web");
    let mut streams: Vec<_> = (0..20)
        .map(|_| node.handle.subscribe(&uid, None, Held::Nothing).unwrap())
        .collect();
    for stream in &mut streams {
        stream.changed().await.unwrap();
    }
    assert_eq!(node.sign.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn each_renewal_has_a_key_of_its_own() {
    let node = Node::start(config());
    let uid = node.add("web");
    let _stream = node.handle.subscribe(&uid, None, Held::Nothing).unwrap();
    pass(3 * 24 * 3600).await;
    let mut csrs: Vec<_> = node.sign.seen.lock().iter().map(|seen| seen.csr_pem.clone()).collect();
    let count = csrs.len();
    csrs.sort();
    csrs.dedup();
    assert!(
        count >= 5 && csrs.len() == count,
        "{count} requests, {} CSRs",
        csrs.len()
    );
}

#[tokio::test(start_paused = true)]
async fn removal_ends_streams_and_drops_what_is_in_flight() {
    let node = Node::start(config());
    node.sign.otherwise(Do::Hang);
    let uid = node.add("web");
    let mut stream = node.handle.subscribe(&uid, None, Held::Nothing).unwrap();
    pass(1).await;
    assert_eq!(node.sign.in_flight.lock().0, 1);
    node.handle.remove(&uid);
    assert_eq!(stream.changed().await, Err(EntryEnded));
    pass(1).await;
    assert_eq!(node.sign.in_flight.lock().0, 0);
    assert!(node.handle.snapshot().is_empty());
    let again = node.handle.subscribe(&uid, None, Held::Nothing);
    assert!(matches!(again, Err(SubscribeError::UnknownWorkload(_))));
    drop(stream);
}

#[tokio::test(start_paused = true)]
async fn a_changed_token_keeps_the_entry_and_a_changed_key_type_ends_it() {
    let node = Node::start(config());
    let uid = node.add("web");
    let mut stream = node.handle.subscribe(&uid, None, Held::Nothing).unwrap();
    stream.changed().await.unwrap();
    node.handle.put(workload("web"));
    pass(60).await;
    assert_eq!((node.sign.count(), node.handle.snapshot().len()), (1, 1));
    let mut changed = workload("web");
    changed.key_type = KeyType::P384;
    node.handle.put(changed);
    assert_eq!(stream.changed().await, Err(EntryEnded));
    drop(stream);
    let mut stream = node.handle.subscribe(&uid, None, Held::Nothing).unwrap();
    stream.changed().await.unwrap();
    assert_eq!(node.handle.snapshot()[0].key_type, KeyType::P384);
}

#[tokio::test(start_paused = true)]
async fn signers_per_workload_are_bounded_and_forgotten_after_a_while() {
    let node = Node::start(config());
    let uid = node.add("web");
    let wish = |name: &str| node.handle.subscribe(&uid, Some(signer(name)), Held::Nothing);
    let streams: Vec<_> = ["a", "b", "c", "d"].map(|name| wish(name).unwrap()).into();
    assert!(matches!(wish("e"), Err(SubscribeError::TooManySigners { most: 4, .. })));
    assert!(wish("a").is_ok());
    drop(streams);
    pass(120).await;
    assert!(node.handle.snapshot().is_empty());
    assert!(wish("e").is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_fixed_signer_is_warmed_up_and_shared_with_whoever_wishes_it() {
    let node = Node::start(RotationConfig {
        default_signer: Some(signer("bar")),
        ..config()
    });
    pass(60).await; // beyond the time in which an Envoy may come back with a certificate
    let mut fixed = workload("web");
    fixed.signers = [Some(signer("foo"))].into();
    node.handle.put(fixed.clone());
    node.add("plain");
    pass(1).await;
    let asked = || {
        let seen = node.sign.seen.lock();
        let mut signers: Vec<_> = seen.iter().map(|seen| seen.signer.clone().unwrap()).collect();
        signers.sort();
        signers
    };
    assert_eq!(asked(), [signer("bar"), signer("foo")]);
    let stream = node
        .handle
        .subscribe(&fixed.uid, Some(signer("foo")), Held::Nothing)
        .unwrap();
    assert!(stream.state().certificate.is_some(), "warmed up");
    // Another socket of it leaves the signer to its client, which wishes the same.
    let mut both = fixed.clone();
    both.signers.insert(None);
    node.handle.put(both.clone());
    pass(1).await;
    assert_eq!(asked().len(), 3, "what it gets without a wish is warmed up, too");
    let wish = node
        .handle
        .subscribe(&fixed.uid, Some(signer("foo")), Held::Nothing)
        .unwrap();
    assert!(wish.state().certificate.is_some(), "one certificate for both");
    drop((stream, wish));
    pass(3600).await;
    assert_eq!(
        node.handle.snapshot().len(),
        3,
        "warmed entries stay without subscribers"
    );

    // A socket less: what is fixed nowhere any more is forgotten, what no socket leads to goes at once.
    both.signers = [None].into();
    node.handle.put(both);
    pass(120).await;
    assert_eq!(node.handle.snapshot().len(), 2);
    fixed.signers = [Some(signer("baz"))].into();
    node.handle.put(fixed);
    let left = node.handle.snapshot();
    assert_eq!(left.len(), 2);
    assert_eq!(left[1].signer, Some(signer("baz")));
    pass(60).await;
    assert_eq!(asked().len(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_waiting_envoy_overtakes_warm_ups() {
    let node = Node::start(RotationConfig {
        max_in_flight: 2,
        ..config()
    });
    node.sign.otherwise(Do::After(Duration::from_secs(1)));
    pass(60).await;
    for number in 0..20 {
        let mut warm = workload(&format!("warm-{number}"));
        warm.signers = [Some(signer("foo"))].into();
        node.handle.put(warm);
    }
    let uid = node.add("web");
    pass(2).await;
    let mut stream = node.handle.subscribe(&uid, None, Held::Nothing).unwrap();
    stream.changed().await.unwrap();
    let place = node
        .sign
        .seen
        .lock()
        .iter()
        .position(|seen| seen.account == "web")
        .unwrap();
    assert!(place <= 8, "served in place {place}");
    assert_eq!(node.sign.in_flight.lock().1, 2, "the bound holds");
}

#[tokio::test(start_paused = true)]
async fn a_thousand_workloads_come_and_go_and_leave_nothing() {
    let node = Node::start(config());
    for number in 0..1000 {
        let uid = node.add(&format!("web-{number}"));
        let stream = node.handle.subscribe(&uid, None, Held::Nothing).unwrap();
        node.handle.remove(&uid);
        drop(stream);
    }
    pass(1).await;
    assert!(node.handle.snapshot().is_empty());
    assert_eq!(node.handle.counters().1.in_flight, 0);
}
