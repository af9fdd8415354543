//! What a real Envoy sent to an agent of ours, replayed byte for byte, and how the recording is made.
//!
//! The recording is `envoy-1.40.jsonl`: Envoy's messages whole (the 61 kB node once, in `envoy-1.40.node`), of our answers
//! only their shape: name, version and nonce, never a secret. Made anew, where an Envoy is (`make setup`, or ENSIGN_ENVOY), with
//! `cargo test --test ring_agent -- --ignored records`.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ensign_proto::envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse};
use ensign_testbed::envoy::{Envoy, EnvoySpec};
use ensign_testkit::fake_envoy::{Received, SotwStream};
use ensign_testkit::tap::{Tap, Tapped};
use ensign_testkit::{FakeEnvoy, TestCa, eventually, patience};
use prost::Message as _;
use serde_json::{Value, json};

use crate::node::Node;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/ring_agent")
        .join(name)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "writes the recording; needs an Envoy"]
async fn records_a_real_envoy() {
    let mut node = Node::start(&["a"], &["--pinned-bundles=={}/mesh-root.pem"]).await;
    let path = node.folder.path().join("tap.sock");
    let tap = Tap::start(&path, node.socket("a")).unwrap();
    let spec = EnvoySpec::new("recorded", "foo", "a", &path).serving();
    let envoy = Envoy::start(spec, node.folder.path()).await.unwrap();
    envoy.ready().await.unwrap();
    // A restart of the agent: Envoy comes back with what it holds.
    node.restart().await;
    node.until("a", "/adopted", true).await;
    // A fresh Envoy beside it: one certificate for both.
    let mut fresh = node.envoy("a").await.subscribe(&["default"]).await;
    fresh.next_secret(patience()).await;
    // A new root: both are pushed, and the certificate is damaged on its way.
    let other = TestCa::new("other");
    let root = other.root_pem();
    node.ra.set_ca(other);
    tap.spoil();
    tokio::fs::write(node.folder.path().join("mesh-root.pem"), root)
        .await
        .unwrap();
    eventually("a refusal", async || {
        let refused = |tapped: &Tapped| tapped.from_envoy && request(tapped).error_detail.is_some();
        if tap.messages().iter().any(refused) {
            Ok(())
        } else {
            Err("none")
        }
    })
    .await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (lines, envoys_node) = recording(&tap.messages());
    std::fs::write(fixture("envoy-1.40.node"), envoys_node).unwrap();
    std::fs::write(fixture("envoy-1.40.jsonl"), lines).unwrap();
}

fn request(tapped: &Tapped) -> DiscoveryRequest {
    DiscoveryRequest::decode(tapped.message.as_slice()).unwrap()
}

/// The recording and the node.
fn recording(messages: &[Tapped]) -> (String, Vec<u8>) {
    let mut node = Vec::new();
    let mut lines = String::new();
    for tapped in messages {
        let mut line = json!({"connection": tapped.connection, "stream": tapped.stream});
        if tapped.from_envoy {
            let mut request = request(tapped);
            assert_eq!(request.encode_to_vec(), tapped.message, "nothing that we do not know");
            if !request.node.is_empty() {
                line["node"] = json!(true);
                node = std::mem::take(&mut request.node).to_vec();
            }
            line["request"] = json!(STANDARD.encode(request.encode_to_vec()));
        } else {
            let response = DiscoveryResponse::decode(tapped.message.as_slice()).unwrap();
            let received = Received::from(response);
            line["answer"] =
                json!({"name": received.only().name, "version": received.version, "nonce": received.nonce});
        }
        lines += &format!("{line}\n");
    }
    (lines, node)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_real_envoy_sent_is_answered_as_it_was() {
    let envoys_node = std::fs::read(fixture("envoy-1.40.node")).unwrap();
    assert!(envoys_node.len() > 50_000);
    let text = std::fs::read_to_string(fixture("envoy-1.40.jsonl")).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let node = Node::start(&["a"], &["--pinned-bundles=={}/mesh-root.pem"]).await;
    let envoy: FakeEnvoy = node.envoy("a").await;
    let mut streams: HashMap<(u64, u64), SotwStream> = HashMap::new();
    // What was said then, and what is said now: nonces and versions are of their time.
    let mut now: HashMap<String, String> = HashMap::new();
    let mut answered = HashSet::new();
    let (mut answers, mut refusals) = (0, 0);
    for line in &lines {
        let key = (line["connection"].as_u64().unwrap(), line["stream"].as_u64().unwrap());
        let stream = streams.entry(key).or_insert_with(|| envoy.open());
        if let Some(request) = line["request"].as_str() {
            let bytes = STANDARD.decode(request).unwrap();
            let mut request = DiscoveryRequest::decode(bytes.as_slice()).unwrap();
            if line["node"] == true {
                request.node = envoys_node.clone().into();
            }
            refusals += u32::from(request.error_detail.is_some());
            for field in [&mut request.response_nonce, &mut request.version_info] {
                if let Some(current) = now.get(field.as_str()) {
                    field.clone_from(current);
                }
            }
            stream.send(request).await;
        } else {
            if !answered.insert(key) {
                // Then, a second answer on one stream came of a new root.
                let other = TestCa::new("other");
                let root = other.root_pem();
                node.ra.set_ca(other);
                tokio::fs::write(node.folder.path().join("mesh-root.pem"), root)
                    .await
                    .unwrap();
            }
            let received = stream.next(patience()).await.unwrap();
            let then = &line["answer"];
            assert_eq!(then["name"], received.only().name, "{line}");
            now.insert(then["nonce"].as_str().unwrap().to_owned(), received.nonce.clone());
            now.insert(then["version"].as_str().unwrap().to_owned(), received.version.clone());
            answers += 1;
        }
    }
    assert!(answers >= 5 && refusals >= 1, "{answers} answers, {refusals} refusals");
    eventually("the refusal to be counted", async || {
        let seen = node.metrics().await.sum("ensign_agent_sds_nacks_total", &[]);
        if seen == Some(f64::from(refusals)) {
            Ok(())
        } else {
            Err(format!("{seen:?}"))
        }
    })
    .await;
}
