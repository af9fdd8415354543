//! After a restart: what an Envoy still holds costs nothing, what cannot be believed costs one request.

use ensign_pki::{Bundle, SignerName};
use test_case::test_case;

use super::fake::{Do, Node, config, pass, workload};
use crate::rotation::{Held, Phase, Workload};

const HOUR: u64 = 3600;

/// The versions of certificate and bundle that an Envoy got from a node that ran for an hour.
async fn held(node: &Node) -> (String, String) {
    let uid = node.add("web");
    let mut stream = node.handle.subscribe(&uid, None, Held::Nothing).unwrap();
    stream.changed().await.unwrap();
    pass(HOUR).await;
    let state = stream.state();
    (
        state.certificate.unwrap().version.clone(),
        state.bundle.unwrap().version.clone(),
    )
}

/// A workload whose signer is fixed, that signer, and the version of the certificate that its Envoy got from this node.
async fn of_fixed_signer(node: &Node) -> (Workload, Option<SignerName>, String) {
    let mut fixed = workload("web");
    let signer: Option<SignerName> = Some("foo".parse().unwrap());
    fixed.signers = [signer.clone()].into();
    node.handle.put(fixed.clone());
    let mut stream = node
        .handle
        .subscribe(&fixed.uid, signer.clone(), Held::Nothing)
        .unwrap();
    stream.changed().await.unwrap();
    let version = stream.state().certificate.unwrap().version.clone();
    (fixed, signer, version)
}

#[tokio::test(start_paused = true)]
async fn a_held_certificate_costs_nothing_until_its_renewal_is_due() {
    let before = Node::start(config());
    let (certificate, bundle) = held(&before).await;
    let was = before.handle.snapshot()[0].clone();
    let node = before.restart(config());
    drop(before);
    let uid = node.add("web");
    let roots = node.handle.subscribe(&uid, None, Held::Bundle(bundle)).unwrap();
    pass(20).await;
    let mut stream = node
        .handle
        .subscribe(&uid, None, Held::Certificate(certificate.clone()))
        .unwrap();
    pass(6 * HOUR).await;
    assert_eq!(node.sign.count(), 1, "only the one from before");
    let entry = node.handle.snapshot()[0].clone();
    assert_eq!(
        (entry.phase, entry.adopted, &entry.serial),
        (Phase::Adopted, true, &was.serial)
    );
    let seconds = |time: Option<std::time::SystemTime>| {
        time.unwrap()
            .duration_since(std::time::SystemTime::UNIX_EPOCH)
            .unwrap()
            .as_secs()
    };
    assert_eq!(seconds(entry.renew_at), seconds(was.renew_at));
    assert!(node.handle.outage_budget().is_some());
    assert!(
        stream.state().certificate.is_none() && roots.state().bundle.is_none(),
        "held without an answer"
    );
    stream.changed().await.unwrap();
    let renewed = stream.state();
    assert_ne!(renewed.certificate.unwrap().version, certificate);
    assert!(renewed.bundle.is_some());
    assert_eq!(node.sign.count(), 2);
    assert!(!node.handle.snapshot()[0].adopted);
}

#[tokio::test(start_paused = true)]
async fn beside_an_older_agent_nothing_is_fetched_for_what_returns_until_it_is_gone() {
    let before = Node::start(config());
    let (mut fixed, signer, version) = of_fixed_signer(&before).await;

    let node = before.restart(config());
    let count = node.sign.count();
    node.handle.beside_another();
    fixed.returning = true;
    let (held, unused) = (fixed.clone(), {
        let mut other = workload("unused");
        other.signers.clone_from(&fixed.signers);
        other.returning = true;
        other
    });
    for workload in [&held, &unused] {
        node.handle.put(workload.clone());
    }
    for _ in 0..10 {
        // Kubelet brings tokens.
        pass(60).await;
        node.handle.put(held.clone());
    }
    // What is new is fetched at once, and whoever asks gets an answer.
    let mut new = workload("new");
    new.signers.clone_from(&fixed.signers);
    node.handle.put(new);
    let mut asks = node.handle.subscribe(&node.add("asks"), None, Held::Nothing).unwrap();
    asks.changed().await.unwrap();
    assert_eq!(node.sign.count(), count + 2, "for these two alone");

    node.handle.alone();
    pass(40).await;
    let _back = node
        .handle
        .subscribe(&held.uid, signer, Held::Certificate(version))
        .unwrap();
    pass(60).await;
    assert_eq!(node.sign.count(), count + 3, "the one to which nobody came back");
    assert_eq!(node.handle.snapshot().iter().filter(|entry| entry.adopted).count(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_fresh_envoy_beside_an_adopted_one_costs_one_request() {
    let before = Node::start(config());
    let (certificate, bundle) = held(&before).await;
    let node = before.restart(config());
    let uid = node.add("web");
    let holds = node
        .handle
        .subscribe(&uid, None, Held::Certificate(certificate))
        .unwrap();
    let _holds = node.handle.subscribe(&uid, None, Held::Bundle(bundle)).unwrap();
    pass(60).await;
    let fresh: Vec<_> = (0..2)
        .map(|_| node.handle.subscribe(&uid, None, Held::Nothing).unwrap())
        .collect();
    pass(60).await;
    assert_eq!(node.sign.count(), 2);
    let version = fresh[0].state().certificate.unwrap().version.clone();
    assert_eq!(
        holds.state().certificate.unwrap().version,
        version,
        "the result goes to all"
    );
}

#[tokio::test(start_paused = true)]
async fn a_held_bundle_whose_sibling_does_not_come_leads_to_one_issue() {
    let before = Node::start(config());
    let (_, bundle) = held(&before).await;
    let node = before.restart(config());
    let uid = node.add("web");
    let _stream = node.handle.subscribe(&uid, None, Held::Bundle(bundle)).unwrap();
    pass(40).await;
    assert_eq!(node.sign.count(), 1);
    pass(10).await;
    assert_eq!(node.sign.count(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_warm_up_waits_for_a_reconnecting_envoy() {
    let before = Node::start(config());
    let (fixed, signer, version) = of_fixed_signer(&before).await;
    let node = before.restart(config());
    node.handle.put(fixed.clone());
    pass(30).await;
    let _stream = node
        .handle
        .subscribe(&fixed.uid, signer, Held::Certificate(version))
        .unwrap();
    pass(HOUR).await;
    assert_eq!(node.sign.of("web").len(), 1, "no wave of requests after a restart");
}

#[test_case("" ; "empty")]
#[test_case("7" ; "another agent's")]
#[test_case("c1.1.2.3" ; "too few fields")]
#[tokio::test(start_paused = true)]
async fn nonsense_leads_to_one_issue(version: &str) {
    one_issue(version.to_owned()).await;
}

async fn one_issue(version: String) {
    let node = Node::start(config());
    let uid = node.add("web");
    let _stream = node.handle.subscribe(&uid, None, Held::Certificate(version)).unwrap();
    pass(HOUR).await;
    assert_eq!(node.sign.count(), 1);
    assert!(!node.handle.snapshot()[0].adopted);
}

#[tokio::test(start_paused = true)]
async fn an_oversized_version_leads_to_one_issue() {
    one_issue("c1.".repeat(100_000)).await;
}

#[tokio::test(start_paused = true)]
async fn a_version_of_another_workload_or_past_its_renewal_is_not_adopted() {
    let before = Node::start(config());
    let (version, _) = held(&before).await;
    let node = before.restart(config());
    let other = node.add("other");
    let _stream = node
        .handle
        .subscribe(&other, None, Held::Certificate(version.clone()))
        .unwrap();
    pass(1).await;
    assert_eq!(node.sign.of("other").len(), 1, "foreign");
    pass(20 * HOUR).await;
    let uid = node.add("web");
    let stream = node.handle.subscribe(&uid, None, Held::Certificate(version)).unwrap();
    pass(1).await;
    assert!(stream.state().certificate.is_some(), "due: issued at once");
}

#[tokio::test(start_paused = true)]
async fn a_certificate_of_another_identity_is_not_adopted() {
    let before = Node::start(config());
    let (version, _) = held(&before).await;
    let node = before.restart(config());
    // The operator gave the workload another account while the agent was down.
    let mut changed = workload("other");
    changed.uid = workload("web").uid;
    node.handle.put(changed.clone());
    let _stream = node
        .handle
        .subscribe(&changed.uid, None, Held::Certificate(version))
        .unwrap();
    pass(1).await;
    assert_eq!(node.sign.of("other").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_workload_that_comes_after_the_start_is_warmed_up_at_once() {
    let node = Node::start(config());
    pass(1).await;
    let mut fixed = workload("web");
    fixed.signers = [Some("foo".parse().unwrap())].into();
    node.handle.put(fixed);
    pass(1).await;
    assert_eq!(
        node.sign.count(),
        1,
        "its socket did not exist before: nobody can come back to it"
    );
}

#[tokio::test(start_paused = true)]
async fn a_newcomer_that_left_unserved_spoils_no_adoption() {
    let before = Node::start(config());
    let (version, _) = held(&before).await;
    let node = before.restart(config());
    node.sign.otherwise(Do::Refuse(tonic::Code::Unavailable));
    let uid = node.add("web");
    let newcomer = node.handle.subscribe(&uid, None, Held::Nothing).unwrap();
    pass(1).await;
    drop(newcomer);
    let _stream = node.handle.subscribe(&uid, None, Held::Certificate(version)).unwrap();
    assert!(node.handle.snapshot()[0].adopted);
}

#[tokio::test(start_paused = true)]
async fn a_new_pin_reaches_an_envoy_whose_certificate_was_adopted() {
    let before = Node::start(config());
    let (certificate, bundle) = held(&before).await;
    let node = before.restart(config());
    let uid = node.add("web");
    let _stream = node
        .handle
        .subscribe(&uid, None, Held::Certificate(certificate))
        .unwrap();
    let roots = node.handle.subscribe(&uid, None, Held::Bundle(bundle)).unwrap();
    pass(60).await;
    let pin = Bundle::parse_pem(&node.sign.ca.lock().1[0]).unwrap();
    node.handle.pin(None, pin.clone());
    assert_eq!(roots.state().bundle.unwrap().bundle, pin);
    assert_eq!(node.sign.count(), 1, "and costs no request");
}
