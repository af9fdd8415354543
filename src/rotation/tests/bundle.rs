//! Bundles: one per signer, added to at once, taken from late, pinned on request.

use std::sync::Arc;

use ensign_pki::{Bundle, crypto, hex};
use prometheus_client::registry::Registry;

use super::fake::{Do, FakeCa, Node, config, pass};
use crate::rotation::{Held, RootSnapshot, RotationCollector, Subscription};

const DAY: u64 = 24 * 3600;

/// Bundles are shared by the workloads of a named signer.
fn subscribe(node: &Node, account: &str) -> Subscription {
    let signer = Some("foo".parse().unwrap());
    node.handle
        .subscribe(&node.add(account), signer, Held::Nothing)
        .unwrap()
}

fn roots_of(stream: &Subscription) -> usize {
    stream.state().bundle.unwrap().bundle.len()
}

#[tokio::test(start_paused = true)]
async fn ordered_root_rotation_never_leaves_a_leaf_without_its_root() {
    let node = Node::start(config());
    let streams: Vec<_> = ["a", "b", "c"].map(|account| subscribe(&node, account)).into();
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

/// What tells an operator which node lacks a new root before the CA is switched.
#[tokio::test(start_paused = true)]
async fn each_root_that_is_offered_is_seen_once_for_each_signer() {
    let node = Node::start(config());
    assert!(node.handle.roots().is_empty());
    let _streams: Vec<_> = ["a", "b"].map(|account| subscribe(&node, account)).into();
    let by_default = node.add("c");
    let _by_default = node.handle.subscribe(&by_default, None, Held::Nothing).unwrap();
    pass(60).await;
    let seen = || -> Vec<_> {
        let roots = node.handle.roots();
        let told = |root: &RootSnapshot| (root.signer.as_ref().map(ToString::to_string), root.sha256.clone());
        roots.iter().map(told).collect()
    };
    let old = Bundle::parse_pem(&node.sign.ca.lock().1[0]).unwrap();
    let sha256 = |bundle: &Bundle| hex::encode(&crypto::sha256(bundle.iter().next().unwrap().der()));
    assert_eq!(seen(), [(None, sha256(&old)), (Some("foo".to_owned()), sha256(&old))]);
    let not_after = node.handle.roots().first().unwrap().not_after;
    assert_eq!(not_after, old.iter().next().unwrap().not_after());

    let new = Bundle::parse_pem(&FakeCa::new().root_pem).unwrap();
    node.handle.pin(Some("foo".parse().unwrap()), new.clone());
    let mut metrics = Registry::default();
    metrics.register_collector(Box::new(RotationCollector::new(
        node.handle.clone(),
        Arc::clone(&node.clock) as _,
    )));
    assert_eq!(seen(), [(None, sha256(&old)), (Some("foo".to_owned()), sha256(&new))]);
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &metrics).unwrap();
    let series = format!(
        "ensign_agent_root_expiry_seconds{{signer=\"foo\",sha256=\"{}\"}}",
        sha256(&new)
    );
    assert!(text.contains(&series), "{text}");
}

#[tokio::test(start_paused = true)]
async fn a_new_root_reaches_all_entries_at_once_and_a_lagging_reply_takes_none_away() {
    let node = Node::start(config());
    let first = subscribe(&node, "first");
    pass(60).await;
    let old = node.sign.ca.lock().clone();
    let new = FakeCa::new();
    node.sign.ca.lock().1.push(new.root_pem.clone());
    let second = subscribe(&node, "second");
    pass(60).await;
    assert_eq!((roots_of(&first), roots_of(&second)), (2, 2));
    let certificate = first.state().certificate.unwrap().version.clone();
    *node.sign.ca.lock() = old;
    let third = subscribe(&node, "third");
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

/// The authority's policy may give each account a default signer of its own.
#[tokio::test(start_paused = true)]
async fn without_a_signers_name_accounts_do_not_share_bundles() {
    let node = Node::start(config());
    let foo = node.handle.subscribe(&node.add("foo"), None, Held::Nothing).unwrap();
    pass(60).await;
    let other = Arc::new(FakeCa::new());
    let roots = vec![other.root_pem.clone()];
    *node.sign.ca.lock() = (other, roots);
    let bar = node.handle.subscribe(&node.add("bar"), None, Held::Nothing).unwrap();
    pass(60).await;
    assert_eq!((roots_of(&foo), roots_of(&bar)), (1, 1));
    assert_ne!(foo.state().bundle.unwrap().bundle, bar.state().bundle.unwrap().bundle);
}

#[tokio::test(start_paused = true)]
async fn authorities_that_answer_in_turn_with_old_and_new_roots_make_no_bundle_flap() {
    let node = Node::start(config());
    let old = node.sign.ca.lock().1.clone();
    let both = vec![old[0].clone(), FakeCa::new().root_pem];
    let stream = subscribe(&node, "web");
    let mut counts = Vec::new();
    for hour in 0..6 * 24 {
        let renewals = node.sign.count();
        node.sign.ca.lock().1 = if renewals.is_multiple_of(2) {
            old.clone()
        } else {
            both.clone()
        };
        pass(DAY / 24).await;
        if hour > 24 {
            counts.push(roots_of(&stream));
        }
    }
    assert!(node.sign.count() > 8);
    assert!(counts.iter().all(|count| *count == 2), "{counts:?}");
    node.sign.ca.lock().1 = old;
    pass(3 * DAY).await;
    assert_eq!(roots_of(&stream), 1, "and goes in the end");
}

#[tokio::test(start_paused = true)]
async fn a_certificate_needs_the_root_in_which_it_ends_and_no_other() {
    let node = Node::start(config());
    let stream = subscribe(&node, "web");
    pass(60).await;
    let old = stream.state().bundle.unwrap();
    node.sign.ca.lock().1.push(FakeCa::new().root_pem);
    pass(DAY).await;
    let state = stream.state();
    assert_eq!(roots_of(&stream), 2);
    assert!(state.certificate.unwrap().is_rooted_in(&old));
}

#[tokio::test(start_paused = true)]
async fn a_new_pin_renews_a_certificate_whose_own_root_lies_outside() {
    let node = Node::start(config());
    let old = node.sign.ca.lock().1[0].clone();
    let new = Arc::new(FakeCa::new());
    let both = vec![old, new.root_pem.clone()];
    node.sign.ca.lock().1 = both.clone();
    let stream = subscribe(&node, "web");
    pass(60).await;
    let first = stream.state().certificate.unwrap().version.clone();
    let pin = Bundle::parse_pem(&new.root_pem).unwrap();
    *node.sign.ca.lock() = (new, both);
    node.handle.pin(Some("foo".parse().unwrap()), pin);
    pass(60).await;
    assert_ne!(stream.state().certificate.unwrap().version, first);
}
