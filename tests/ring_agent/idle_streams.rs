//! Ten thousand requests for unknown names on one stream leave nothing behind.
//!
//! Measured on the program as a process of its own: the memory of this one is full of the tests' own doings.

use std::process::Stdio;
use std::time::Duration;

use ensign_proto::SECRET_TYPE_URL;
use ensign_proto::envoy::service::discovery::v3::DiscoveryRequest;
use ensign_testkit::{FakeEnvoy, eventually, patience};

use crate::node::Node;

const REQUESTS: usize = 10_000;

/// What the process may grow by: pages that the allocator keeps. Each request has 4 kB of names, so keeping one in ten
/// would show.
const SLACK_KB: u64 = 3 * 1024;

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_unknown_names_costs_no_memory() {
    let node = Node::prepared(&["a"], &[]).await;
    let mut agent = tokio::process::Command::new(env!("CARGO_BIN_EXE_ensign-agent"))
        .args(&node.flags()[1..])
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let path = node.socket("a");
    let envoy = eventually("the socket", async || FakeEnvoy::connect(&path).await).await;
    let mut stream = envoy.subscribe(&["unknown"]).await;
    ask(&mut stream, 1000).await;
    let pid = agent.id().unwrap();
    let before = resident_kb(pid).await;
    ask(&mut stream, REQUESTS).await;
    let after = resident_kb(pid).await;
    assert!(after <= before + SLACK_KB, "{before} kB before, {after} kB after");
    agent.kill().await.unwrap();
}

/// Sends so many requests, and waits until the last was read.
async fn ask(stream: &mut ensign_testkit::fake_envoy::SotwStream, count: usize) {
    for number in 0..count {
        let names = (0..100).map(|name| format!("file-root:/{number:020}/{name:020}"));
        stream
            .send(DiscoveryRequest {
                type_url: SECRET_TYPE_URL.to_owned(),
                resource_names: names.collect(),
                ..DiscoveryRequest::default()
            })
            .await;
    }
    // The answer to this one comes after all of them were read.
    stream.rename(&["ROOTCA"], "").await;
    stream.next_secret(patience()).await;
    stream.rename(&["unknown"], "").await;
    stream.expect_silence(Duration::from_millis(200)).await;
}

async fn resident_kb(pid: u32) -> u64 {
    let status = tokio::fs::read_to_string(format!("/proc/{pid}/status")).await.unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}
