//! What an Envoy says it holds after the agent's restart: believed if it can be ours, worth one request if not.

use std::time::Duration;

use ensign_testkit::fake_envoy::{FakeEnvoy, SotwStream};
use ensign_testkit::fake_ra::RaOutcome;
use ensign_testkit::{TestCa, patience};
use serde_json::Value;

use crate::node::Node;

/// Silence cannot be waited for as an event; what would come, comes in a fraction of this.
const A_WHILE: Duration = Duration::from_secs(1);

/// Subscribes and accepts; the version that the Envoy holds then.
async fn holding(envoy: &FakeEnvoy, name: &str) -> (SotwStream, String) {
    let mut stream = envoy.subscribe(&[name]).await;
    stream.next_secret(patience()).await;
    let version = stream.held_version().to_owned();
    (stream, version)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_certificate_is_adopted_without_a_request_and_renewed_when_due() {
    let ratio = [
        "--secret-grace-period-ratio=0.9",
        "--secret-grace-period-ratio-jitter=0.001",
    ];
    let mut node = Node::start(&["a"], &ratio).await;
    node.script("a").push(RaOutcome::IssueFor(Duration::from_mins(2)));
    let envoy = node.envoy("a").await;
    let (_, certificate) = holding(&envoy, "default").await;
    let (_, bundle) = holding(&envoy, "ROOTCA").await;
    let before = node.certificate("a").await;
    node.restart().await;

    let envoy = node.envoy("a").await;
    let mut default = envoy.subscribe_holding(&["default"], &certificate).await;
    let mut roots = envoy.subscribe_holding(&["ROOTCA"], &bundle).await;
    let status = node.until("a", "/adopted", true).await;
    for field in ["serial", "notBefore", "notAfter", "renewAt"] {
        assert_eq!(status[field], before[field], "{field}");
    }
    default.expect_silence(A_WHILE).await;
    roots.expect_silence(Duration::ZERO).await;
    assert_eq!(node.requests("a").len(), 1, "no request for what is held");
    let metrics = node.metrics().await;
    let adopted = [("workload", "fixed/a"), ("adopted", "true")];
    assert!(metrics.sum("istio_agent_cert_expiry_seconds", &adopted) > Some(0.0));
    assert!(metrics.sum("ensign_agent_outage_budget_seconds", &[]) > Some(0.0));

    // Its renewal happens although nobody asks.
    roots.next_secret(patience()).await;
    default.next_secret(patience()).await;
    let renewed = node.until("a", "/adopted", false).await;
    assert_ne!(renewed["serial"], before["serial"]);
    assert_eq!(node.requests("a").len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_ours_costs_one_request_each() {
    let names = [
        "garbage",
        "oversized",
        "expired",
        "due",
        "foreign",
        "lasting",
        "digest",
        "other",
    ];
    let mut node = Node::start(&names, &[]).await;
    let (_, theirs) = holding(&node.envoy("other").await, "default").await;
    let mut claims = Vec::new();
    for name in &names[..7] {
        let (_, version) = holding(&node.envoy(name).await, "default").await;
        claims.push((*name, forged(name, &version, &theirs)));
    }
    node.restart().await;
    for (name, claim) in claims {
        let envoy = node.envoy(name).await;
        let mut stream = envoy.subscribe_holding(&["default"], &claim).await;
        stream.next_secret(patience()).await;
        assert_eq!(node.certificate(name).await["adopted"], false, "{name}");
        assert_eq!(
            node.requests(name).len(),
            2,
            "{name}: one before the restart and one after it"
        );
    }
}

/// A version that must not be believed, made from one that would be.
fn forged(how: &str, version: &str, theirs: &str) -> String {
    let fields: Vec<&str> = version.split('.').collect();
    let [kind, begin, end, renewal, serial, digest] = fields[..] else {
        panic!("a certificate's version has six fields: {version}")
    };
    let begin: u64 = begin.parse().unwrap();
    let (end, renewal): (u64, u64) = (end.parse().unwrap(), renewal.parse().unwrap());
    let join = |begin: u64, end: u64, renewal: u64| format!("{kind}.{begin}.{end}.{renewal}.{serial}.{digest}");
    match how {
        "garbage" => "v1\u{0}\u{1F525}".to_owned(),
        "oversized" => format!("{version}{}", "0".repeat(100_000)),
        "expired" => join(begin - 200_000, end - 200_000, renewal - 200_000),
        "due" => join(begin, end, begin + 60),
        "foreign" => theirs.to_owned(),
        "lasting" => join(begin, end + 1_000_000, renewal),
        _ => version.replace(digest, &"0".repeat(digest.len())),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fresh_envoy_beside_an_adopted_one_costs_one_request_whose_result_goes_to_both() {
    let mut node = Node::start(&["a"], &[]).await;
    let envoy = node.envoy("a").await;
    let (_, certificate) = holding(&envoy, "default").await;
    let (_, bundle) = holding(&envoy, "ROOTCA").await;
    node.restart().await;
    let old = node.envoy("a").await;
    let mut old_roots = old.subscribe_holding(&["ROOTCA"], &bundle).await;
    let mut old_default = old.subscribe_holding(&["default"], &certificate).await;
    node.until("a", "/adopted", true).await;

    let fresh = node.envoy("a").await;
    let mut fresh_roots = fresh.subscribe(&["ROOTCA"]).await;
    let mut fresh_default = fresh.subscribe(&["default"]).await;
    for stream in [&mut fresh_roots, &mut fresh_default, &mut old_roots, &mut old_default] {
        stream.next_secret(patience()).await;
    }
    assert_eq!(fresh_default.held_version(), old_default.held_version());
    assert_ne!(old_default.held_version(), certificate);
    assert_eq!(
        node.requests("a").len(),
        2,
        "one before the restart and one for the fresh Envoy"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_refusal_the_version_names_what_the_envoy_still_holds() {
    let mut node = Node::start(&["a"], &["--pinned-bundles=={}/mesh-root.pem"]).await;
    let envoy = node.envoy("a").await;
    let mut stream = envoy.subscribe(&["default"]).await;
    stream.next_secret(patience()).await;
    let held = stream.held_version().to_owned();
    let before = node.certificate("a").await;
    // Another root: the certificate is renewed at once.
    let other = TestCa::new("other");
    let root = other.root_pem();
    node.ra.set_ca(other);
    tokio::fs::write(node.folder.path().join("mesh-root.pem"), root)
        .await
        .unwrap();
    let second = stream.next(patience()).await.unwrap();
    stream.nack(&second, "the peer does not like it").await;
    stream.expect_silence(A_WHILE).await;
    assert_eq!(stream.held_version(), held);
    let nacks = [("workload", "fixed/a"), ("name", "default")];
    assert_eq!(
        node.metrics().await.sum("ensign_agent_sds_nacks_total", &nacks),
        Some(1.0)
    );
    // The same stream asks anew: what it refused is not sent under any version.
    stream.send(stream.request("")).await;
    stream.expect_silence(A_WHILE).await;

    node.restart().await;
    let mut again = node.envoy("a").await.subscribe_holding(&["default"], &held).await;
    let status = node.until("a", "/adopted", true).await;
    assert_eq!(
        status["serial"], before["serial"],
        "what it holds, not what it was sent"
    );
    again.expect_silence(A_WHILE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_incremental_envoys_initial_versions_are_judged_the_same_way() {
    let mut node = Node::start(&["good", "bad"], &[]).await;
    let mut versions = Vec::new();
    for name in ["good", "bad"] {
        let mut stream = node
            .envoy(name)
            .await
            .subscribe_delta(&["default", "ROOTCA"], &[])
            .await;
        let mut held = Vec::new();
        for _ in 0..2 {
            let received = stream.next(patience()).await.unwrap();
            stream.ack(&received).await;
            held.extend(received.versions);
        }
        versions.push(held);
    }
    node.restart().await;
    let held: Vec<_> = versions[0]
        .iter()
        .map(|(name, version)| (name.as_str(), version.as_str()))
        .collect();
    let mut good = node
        .envoy("good")
        .await
        .subscribe_delta(&["default", "ROOTCA"], &held)
        .await;
    node.until("good", "/adopted", true).await;
    good.expect_silence(A_WHILE).await;
    assert_eq!(node.requests("good").len(), 1);

    // The other's claim is the first one's.
    let mut bad = node
        .envoy("bad")
        .await
        .subscribe_delta(&["default", "ROOTCA"], &held)
        .await;
    for _ in 0..2 {
        let received = bad.next(patience()).await.unwrap();
        bad.ack(&received).await;
    }
    assert_eq!(node.requests("bad").len(), 2);
    assert_eq!(node.certificate("bad").await["lastError"], Value::Null);
}
