//! Bundles: one per signer, added to at once, taken from late, pinned on request.

use std::sync::Arc;

use ensign_pki::Bundle;

use super::fake::{Do, FakeCa, Node, config, pass};
use crate::rotation::{Held, Subscription};

const DAY: u64 = 24 * 3600;

fn roots_of(stream: &Subscription) -> usize {
    stream.state().bundle.unwrap().bundle.len()
}

#[tokio::test(start_paused = true)]
async fn ordered_root_rotation_never_leaves_a_leaf_without_its_root() {
    let node = Node::start(config());
    let streams: Vec<_> = ["a", "b", "c"]
        .map(|account| node.handle.subscribe(&node.add(account), None, Held::Nothing).unwrap())
        .into();
    pass(60).await;
    let old = node.sign.ca.lock().clone();
    let new = Arc::new(FakeCa::new());
    let both = vec![old.1[0].clone(), new.root_pem.clone()];
    let all_rooted = || {
        for leaf in &streams {
            for peer in &streams {
                let (leaf, peer) = (leaf.state(), peer.state());
                assert!(leaf.certificate.unwrap().is_rooted_in(&peer.bundle.unwrap()));
            }
        }
    };
    for (ca, roots, expected) in [
        (Arc::clone(&old.0), both.clone(), 2),
        (Arc::clone(&new), both.clone(), 2),
        (Arc::clone(&new), vec![new.root_pem.clone()], 1),
    ] {
        *node.sign.ca.lock() = (ca, roots);
        for _ in 0..24 {
            pass(DAY / 24).await;
            all_rooted();
        }
        assert!(streams.iter().all(|stream| roots_of(stream) == expected));
    }
}

#[tokio::test(start_paused = true)]
async fn a_new_root_reaches_all_entries_at_once_and_a_lagging_reply_takes_none_away() {
    let node = Node::start(config());
    let first = node.handle.subscribe(&node.add("first"), None, Held::Nothing).unwrap();
    pass(60).await;
    let old = node.sign.ca.lock().clone();
    let new = FakeCa::new();
    node.sign.ca.lock().1.push(new.root_pem.clone());
    let second = node.handle.subscribe(&node.add("second"), None, Held::Nothing).unwrap();
    pass(60).await;
    assert_eq!((roots_of(&first), roots_of(&second)), (2, 2));
    let certificate = first.state().certificate.unwrap().version.clone();
    *node.sign.ca.lock() = old;
    let third = node.handle.subscribe(&node.add("third"), None, Held::Nothing).unwrap();
    pass(60).await;
    assert_eq!((roots_of(&first), roots_of(&third)), (2, 2));
    assert_eq!(
        first.state().certificate.unwrap().version,
        certificate,
        "the bundle alone changed"
    );
}

#[tokio::test(start_paused = true)]
async fn signers_do_not_share_bundles() {
    let node = Node::start(config());
    let uid = node.add("web");
    let foo = node
        .handle
        .subscribe(&uid, Some("foo".parse().unwrap()), Held::Nothing)
        .unwrap();
    pass(60).await;
    let other = Arc::new(FakeCa::new());
    let roots = vec![other.root_pem.clone()];
    *node.sign.ca.lock() = (other, roots);
    let bar = node
        .handle
        .subscribe(&uid, Some("bar".parse().unwrap()), Held::Nothing)
        .unwrap();
    pass(60).await;
    assert_eq!((roots_of(&foo), roots_of(&bar)), (1, 1));
    assert_ne!(foo.state().bundle.unwrap().bundle, bar.state().bundle.unwrap().bundle);
}

#[tokio::test(start_paused = true)]
async fn a_pin_is_what_is_offered_and_what_replies_are_checked_against() {
    let node = Node::start(config());
    let own = node.sign.ca.lock().1[0].clone();
    let more = FakeCa::new();
    let pin = Bundle::parse_pem(&format!("{own}{}", more.root_pem)).unwrap();
    node.handle.pin(None, pin.clone());
    let stream = node.handle.subscribe(&node.add("web"), None, Held::Nothing).unwrap();
    pass(60).await;
    assert_eq!(stream.state().bundle.unwrap().bundle, pin);
    // A reply from elsewhere is foreign.
    let foreign = Arc::new(FakeCa::new());
    let roots = vec![foreign.root_pem.clone()];
    *node.sign.ca.lock() = (foreign, roots);
    let other = node.handle.subscribe(&node.add("other"), None, Held::Nothing).unwrap();
    pass(60).await;
    assert!(other.state().certificate.is_none());
    let snapshot = node.handle.snapshot();
    let entry = snapshot
        .iter()
        .find(|entry| entry.workload.as_str() == "test/other")
        .unwrap();
    assert_eq!(entry.last_error.as_ref().unwrap().reason, "outside_pin");
}

#[tokio::test(start_paused = true)]
async fn with_a_pin_the_reply_needs_no_root_and_a_new_pin_renews_what_lies_outside() {
    let node = Node::start(config());
    node.sign.otherwise(Do::NoRoot);
    node.handle
        .pin(None, Bundle::parse_pem(&node.sign.ca.lock().1[0]).unwrap());
    let stream = node.handle.subscribe(&node.add("web"), None, Held::Nothing).unwrap();
    pass(60).await;
    let first = stream.state().certificate.unwrap().version.clone();
    let new = Arc::new(FakeCa::new());
    let roots = vec![new.root_pem.clone()];
    node.handle.pin(None, Bundle::parse_pem(&new.root_pem).unwrap());
    *node.sign.ca.lock() = (new, roots);
    pass(60).await;
    assert_ne!(stream.state().certificate.unwrap().version, first);
}
