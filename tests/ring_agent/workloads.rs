//! Workloads that come, change and go while the agent runs.

use ensign_testkit::fake_envoy::Silence;
use ensign_testkit::{FakeRa, TestCa, eventually, patience};

use crate::agent::{Agent, bind, list, prepared, replace};

#[tokio::test(flavor = "multi_thread")]
async fn the_first_secrets_arrive_and_the_token_goes_along() {
    let agent = Agent::start(&["httpbin"]).await;
    let envoy = agent.envoy("httpbin").await;
    let mut default = envoy.subscribe(&["default"]).await;
    let mut roots = envoy.subscribe(&["ROOTCA"]).await;
    // The leaf waits until its root is accepted on the same connection.
    let bundle = roots.next_secret(patience()).await;
    assert!(ensign_testkit::fake_envoy::trusted_ca(&bundle).is_some());
    let secret = default.next_secret(patience()).await;
    let (chain, key) = ensign_testkit::fake_envoy::certificate(&secret).unwrap();
    assert!(chain.contains("BEGIN CERTIFICATE") && key.contains("PRIVATE KEY"));
    let requests = agent.ra.requests();
    assert_eq!(requests.len(), 1);
    assert_eq!(requests[0].authorization.as_deref(), Some("Bearer a.test.token"));
    assert_eq!(requests[0].validity_duration, 24 * 3600);
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workload_is_added_changed_and_removed_live() {
    let agent = Agent::start(&["a"]).await;
    let before = agent.certificate("a").await;
    agent.list(&["a", "b"]).await;
    agent.certificate("b").await;
    assert_eq!(
        agent.certificate("a").await,
        before,
        "its neighbour changes nothing for it"
    );

    // Another signer: the entry is another, and its request names the signer. Its socket is bound anew, and who is on the old
    // one is told to come back.
    agent.list(&["a", "b@bar"]).await;
    eventually("a request to bar", async || {
        let mut stream = agent.envoy("b").await.subscribe(&["default"]).await;
        if let Err(Silence::Ended(_)) = stream.next(patience()).await {
            return Err("told to come back");
        }
        let requests = agent.ra.requests();
        let to_bar = requests
            .iter()
            .any(|request| request.cert_signer.as_deref() == Some("bar"));
        if to_bar { Ok(()) } else { Err("none") }
    })
    .await;

    let mut stream = agent.envoy("b").await.subscribe(&["default"]).await;
    stream.next_secret(patience()).await;
    agent.list(&["a"]).await;
    let end = stream.next(patience()).await;
    assert!(matches!(end, Err(Silence::Ended(_))), "{end:?}");
    agent.serves(&["a"]).await;
    assert_eq!(agent.sockets().await, 1);
    let metrics = agent.metrics().await;
    let of_b = |sample: &&ensign_testkit::metrics::Sample| sample.labels.values().any(|value| value == "fixed/b");
    assert_eq!(metrics.samples().iter().find(of_b), None);
    assert_eq!(agent.certificate("a").await, before);
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_file_keeps_what_was_served() {
    let agent = Agent::start(&["a"]).await;
    let before = agent.certificate("a").await;
    let loaded = [("file", "workloads file")];
    assert_eq!(
        agent.metrics().await.sum("ensign_agent_file_loaded", &loaded),
        Some(1.0)
    );
    let folder = agent.folder.path();
    replace(folder, &format!("{}  unknown: field\n", list(folder, &["a", "b"]))).await;
    eventually("the refusal", async || {
        let seen = agent.metrics().await.sum("ensign_agent_file_loaded", &loaded);
        if seen == Some(0.0) {
            Ok(())
        } else {
            Err(format!("{seen:?}"))
        }
    })
    .await;
    agent.serves(&["a"]).await;
    assert_eq!(agent.certificate("a").await, before);
    assert_eq!(agent.page("/readyz").await.status, 200);
    agent.list(&["a", "b"]).await;
    agent.serves(&["a", "b"]).await;
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_path_stops_the_start_but_later_hurts_only_its_workload() {
    let ra = FakeRa::start(TestCa::new("mesh")).await;
    let folder = prepared(&ra, &["a", "b"]).await;
    tokio::fs::create_dir(folder.path().join("b.sock")).await.unwrap();
    let error = format!("{:#}", bind(&ra, folder.path()).await.unwrap_err());
    assert!(
        error.contains("fixed/b") && error.contains("b.sock") && error.contains("directory"),
        "{error}"
    );
    assert!(
        !tokio::fs::try_exists(folder.path().join("a.sock")).await.unwrap(),
        "what was bound is taken back"
    );

    let agent = Agent::start(&["a"]).await;
    tokio::fs::create_dir(agent.socket("b")).await.unwrap();
    agent.list(&["a", "b", "c"]).await;
    agent.certificate("c").await;
    agent.serves(&["a", "c"]).await;
    tokio::fs::remove_dir(agent.socket("b")).await.unwrap();
    agent.certificate("b").await;
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_or_wrong_workloads_file_stops_the_start() {
    let ra = FakeRa::start(TestCa::new("mesh")).await;
    let folder = prepared(&ra, &[]).await;
    replace(folder.path(), "apiVersion: ensign.mesh/v1\nworkloads:\n- name: A_\n").await;
    let error = format!("{:#}", bind(&ra, folder.path()).await.unwrap_err());
    assert!(error.contains("workloads.yaml"), "{error}");
    tokio::fs::remove_file(folder.path().join("workloads.yaml"))
        .await
        .unwrap();
    let error = format!("{:#}", bind(&ra, folder.path()).await.unwrap_err());
    assert!(
        error.contains("workloads.yaml") && error.contains("No such file"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_times_added_and_removed_leaves_nothing() {
    let agent = Agent::start(&["stays"]).await;
    agent.certificate("stays").await;
    // Twenty files of fifty: each workload is added, served and removed.
    let names: Vec<_> = (0..50).map(|n| format!("w{n}")).collect();
    let mut all: Vec<&str> = names.iter().map(String::as_str).collect();
    all.push("stays");
    all.sort_unstable();
    let mut baseline = None;
    for _ in 0..20 {
        agent.list(&all).await;
        agent.serves(&all).await;
        agent.certificate("w0").await;
        agent.certificate("w49").await;
        agent.list(&["stays"]).await;
        agent.serves(&["stays"]).await;
        // The first round warms up what stays: connections, buffers, families.
        if baseline.is_none() {
            baseline = Some((settled(None).await, series(&agent).await));
        }
    }
    let (descriptors, before) = baseline.unwrap();
    settled(Some(descriptors)).await;
    assert_eq!(series(&agent).await, before);
    assert_eq!(agent.sockets().await, 1);
    agent.stop().await;
}

/// Open descriptors of this process, once they are no more than `most` (the clients close in their own time).
async fn settled(most: Option<usize>) -> usize {
    eventually("descriptors to be closed", async || {
        let seen = std::fs::read_dir("/proc/self/fd")
            .unwrap()
            .filter(is_unix_socket)
            .count();
        match most {
            Some(most) if seen > most => Err(format!("{seen} open, expected {most}")),
            _ => Ok(seen),
        }
    })
    .await
}

/// Only sockets: other tests of this binary run in other processes or threads and open files of their own.
fn is_unix_socket(entry: &std::io::Result<std::fs::DirEntry>) -> bool {
    let link = entry
        .as_ref()
        .ok()
        .and_then(|entry| std::fs::read_link(entry.path()).ok());
    link.is_some_and(|target| target.to_string_lossy().starts_with("socket:"))
}

async fn series(agent: &Agent) -> usize {
    agent.metrics().await.samples().len()
}
