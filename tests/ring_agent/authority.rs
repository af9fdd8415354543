//! How the authority is known: its name, its roots, the tokens shown to it; all of it may change while the agent runs.

use std::os::unix::fs::symlink;
use std::path::Path;

use ensign_testkit::fake_ra::RaOutcome;
use ensign_testkit::{TestCa, patience};
use tokio::fs;
use tonic::Code;

use crate::node::Node;

#[tokio::test(flavor = "multi_thread")]
async fn the_name_that_its_certificate_must_bear_can_be_set() {
    let mut node = Node::prepared(&["a"], &["--istiod-san=elsewhere.example"]).await;
    node.resume().await;
    let mut stream = node.envoy("a").await.subscribe(&["default"]).await;
    let status = node.until("a", "/lastError/reason", "connect").await;
    let message = status["lastError"]["message"].as_str().unwrap();
    assert!(message.contains("elsewhere.example"), "{message}");
    assert!(node.requests("a").is_empty(), "nothing was sent to who is not proven");
    node.ra.serve_wrong_name();
    stream.next_secret(patience()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn roots_that_are_swapped_as_kubelet_does_are_taken_up() {
    let mut node = Node::prepared(&["a"], &["--ca-root-ca={}/roots/root.pem"]).await;
    let roots = node.folder.path().join("roots");
    fs::create_dir(&roots).await.unwrap();
    version(&roots, "..1", &TestCa::root_only("somebody else").root_pem()).await;
    symlink("..1", roots.join("..data")).unwrap();
    symlink("..data/root.pem", roots.join("root.pem")).unwrap();
    node.resume().await;
    let mut stream = node.envoy("a").await.subscribe(&["default"]).await;
    node.until("a", "/lastError/reason", "connect").await;

    version(&roots, "..2", &node.ra.serving_root_pem()).await;
    symlink("..2", roots.join("..new")).unwrap();
    fs::rename(roots.join("..new"), roots.join("..data")).await.unwrap();
    fs::remove_dir_all(roots.join("..1")).await.unwrap();
    stream.next_secret(patience()).await;

    // What cannot be read changes nothing.
    version(&roots, "..3", "no certificate").await;
    symlink("..3", roots.join("..new")).unwrap();
    fs::rename(roots.join("..new"), roots.join("..data")).await.unwrap();
    let mut other = node
        .envoy("a")
        .await
        .with_cert_signer("foo")
        .subscribe(&["default"])
        .await;
    other.next_secret(patience()).await;
}

async fn version(folder: &Path, name: &str, pem: &str) {
    fs::create_dir(folder.join(name)).await.unwrap();
    fs::write(folder.join(name).join("root.pem"), pem).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_replaced_between_two_tries_is_the_one_shown() {
    let node = Node::start(&["a"], &[]).await;
    let expired = RaOutcome::Refuse(Code::Unauthenticated, "expired".to_owned());
    node.script("a").set_default(expired);
    let mut stream = node.envoy("a").await.subscribe(&["default"]).await;
    node.until("a", "/lastError/reason", "unauthenticated").await;
    fs::write(node.folder.path().join("token"), "a.newer.token")
        .await
        .unwrap();
    node.script("a").set_default(RaOutcome::Issue);
    stream.next_secret(patience()).await;
    let requests = node.requests("a");
    let shown = |request: &ensign_testkit::fake_ra::Recorded| request.authorization.clone().unwrap();
    assert_eq!(shown(&requests[0]), "Bearer a.test.token");
    assert_eq!(shown(requests.last().unwrap()), "Bearer a.newer.token");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_missing_is_named_and_looked_for_again() {
    let mut node = Node::prepared(&["a"], &[]).await;
    let token = node.folder.path().join("token");
    fs::remove_file(&token).await.unwrap();
    node.resume().await;
    let mut stream = node.envoy("a").await.subscribe(&["default"]).await;
    let status = node.until("a", "/lastError/reason", "token").await;
    assert!(
        status["lastError"]["message"].as_str().unwrap().contains("token"),
        "{status}"
    );
    assert!(node.requests("a").is_empty());
    fs::write(&token, "a.late.token").await.unwrap();
    stream.next_secret(patience()).await;
}
