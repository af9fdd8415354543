//! An authority that answers wrongly: nothing of it reaches an Envoy, and each way of being wrong has its name.

use std::collections::HashMap;
use std::time::Duration;

use ensign_testkit::fake_envoy::SotwStream;
use ensign_testkit::fake_ra::RaOutcome;
use ensign_testkit::{Fault, Gate, patience};

use crate::node::Node;

/// Each fault and the reason that operators see.
const REASONS: [(Fault, &str); 15] = [
    (Fault::OtherKey, "wrong_key"),
    (Fault::OtherSan, "wrong_san"),
    (Fault::ExtraSan, "wrong_san"),
    (Fault::CaLeaf, "ca_leaf"),
    (Fault::MissingServerAuth, "missing_eku"),
    (Fault::MissingClientAuth, "missing_eku"),
    (Fault::Expired, "expired"),
    (Fault::NotYetValid, "not_yet_valid"),
    // Its root came along with nobody, so it cannot be told from one that was left out; the message names the issuer.
    (Fault::ForeignChain, "incomplete_chain"),
    (Fault::ForeignRoot, "outside_pin"),
    (Fault::Empty, "malformed_reply"),
    (Fault::RootOnly, "no_leaf"),
    (Fault::LeafNotFirst, "misordered_chain"),
    (Fault::MissingIntermediate, "incomplete_chain"),
    (Fault::Garbage, "empty_chain"),
];

/// A workload's name for each fault.
fn names() -> Vec<String> {
    REASONS
        .iter()
        .map(|(fault, _)| format!("{fault:?}").to_lowercase())
        .collect()
}

fn gates(names: &[String]) -> HashMap<&String, Gate> {
    names.iter().map(|name| (name, Gate::new())).collect()
}

/// One wrong answer; the next is right, and waits for the gate.
fn wrong_once(node: &Node, name: &str, fault: Fault, gate: &Gate) {
    let script = node.script(name);
    script.push(RaOutcome::IssueWrong(fault));
    script.set_default(RaOutcome::IssueAfter(gate.clone()));
}

fn all(names: &[String]) -> Vec<&str> {
    names.iter().map(String::as_str).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_first_answer_is_rejected_by_name_and_the_next_good_one_is_served_at_once() {
    assert_eq!(Fault::ALL, REASONS.map(|(fault, _)| fault), "each fault once");
    let names = names();
    let node = Node::start(&all(&names), &["--pinned-bundles=={}/mesh-root.pem"]).await;
    let gates = gates(&names);
    let mut streams = HashMap::new();
    for (name, (fault, _)) in names.iter().zip(REASONS) {
        wrong_once(&node, name, fault, &gates[name]);
        streams.insert(name, node.envoy(name).await.subscribe(&["default"]).await);
    }
    for (name, (_, reason)) in names.iter().zip(REASONS) {
        node.until(name, "/lastError/reason", reason).await;
        assert_eq!(node.pushes(name, "default").await, 0.0, "{name}");
        let counted = node.metrics().await;
        assert!(
            counted.sum("ensign_agent_request_failures_total", &[("reason", reason)]) >= Some(1.0),
            "{reason}"
        );
        gates[name].open();
        let stream = streams.get_mut(name).unwrap();
        stream.next_secret(patience()).await;
        assert_eq!(node.pushes(name, "default").await, 1.0, "{name}");
        node.until(name, "/lastError", serde_json::Value::Null).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_answer_to_a_renewal_leaves_the_old_certificate_in_place() {
    let names = names();
    let pin = "--pinned-bundles=={}/mesh-root.pem";
    let soon = [
        pin,
        "--secret-grace-period-ratio=0.99",
        "--secret-grace-period-ratio-jitter=0.001",
    ];
    let node = Node::start(&all(&names), &soon).await;
    let gates = gates(&names);
    let mut streams: HashMap<&String, (SotwStream, serde_json::Value)> = HashMap::new();
    for (name, (fault, _)) in names.iter().zip(REASONS) {
        // A hundredth of it passes before the renewal: seconds.
        node.script(name).push(RaOutcome::IssueFor(Duration::from_mins(8)));
        wrong_once(&node, name, fault, &gates[name]);
        let mut stream = node.envoy(name).await.subscribe(&["default"]).await;
        stream.next_secret(patience()).await;
        let serial = node.certificate(name).await["serial"].clone();
        streams.insert(name, (stream, serial));
    }
    for (name, (_, reason)) in names.iter().zip(REASONS) {
        let status = node.until(name, "/lastError/reason", reason).await;
        let (stream, serial) = streams.get_mut(name).unwrap();
        assert_eq!(&status["serial"], serial, "{name} keeps its certificate");
        assert_eq!(node.pushes(name, "default").await, 1.0, "{name}");
        gates[name].open();
        stream.next_secret(patience()).await;
        let status = node.until(name, "/lastError", serde_json::Value::Null).await;
        assert_ne!(&status["serial"], serial, "{name} has a new certificate");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signers_final_no_is_asked_again_for_ever() {
    use tonic::Code;
    let codes = [
        (Code::Unauthenticated, "unauthenticated"),
        (Code::FailedPrecondition, "failed_precondition"),
        (Code::ResourceExhausted, "resource_exhausted"),
        (Code::Unavailable, "unavailable"),
        (Code::Internal, "internal"),
    ];
    let names = codes.map(|(_, reason)| reason.replace('_', "-"));
    let node = Node::start(&all(&names), &[]).await;
    for (name, (code, reason)) in names.iter().zip(codes) {
        let no = RaOutcome::Refuse(code, "no".to_owned());
        node.script(name).push(no.clone());
        node.script(name).push(no);
        let mut stream = node.envoy(name).await.subscribe(&["default"]).await;
        node.until(name, "/lastError/reason", reason).await;
        stream.next_secret(patience()).await;
        assert_eq!(node.requests(name).len(), 3, "{name}");
    }
}
