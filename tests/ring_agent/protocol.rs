//! SDS on a real socket, right and odd: what each request is answered with, and what it does to its neighbours.

use std::time::Duration;

use ensign_proto::SECRET_TYPE_URL;
use ensign_proto::envoy::service::discovery::v3::DiscoveryRequest;
use ensign_testkit::fake_envoy::{Received, Silence, SotwStream, certificate, trusted_ca};
use ensign_testkit::patience;
use tonic::Code;

use crate::node::Node;

/// Silence cannot be waited for as an event; what would come, comes in a fraction of this.
const A_WHILE: Duration = Duration::from_millis(500);

async fn node() -> Node {
    Node::start(&["a"], &[]).await
}

async fn answer(stream: &mut SotwStream) -> Received {
    stream.next(patience()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_counted_and_not_answered() {
    let node = node().await;
    let mut stream = node.envoy("a").await.subscribe(&["default"]).await;
    let first = answer(&mut stream).await;
    stream.nack(&first, "bad key").await;
    stream.nack(&first, "bad key, said twice").await;
    stream.expect_silence(A_WHILE).await;
    let metrics = node.metrics().await;
    let labels = [("workload", "fixed/a"), ("name", "default")];
    assert!(metrics.sum("ensign_agent_sds_nacks_total", &labels) >= Some(1.0));
    assert_eq!(node.pushes("a", "default").await, 1.0);
    node.until("a", "/lastError/reason", "refused_by_envoy").await;
    // Another stream is another matter: it has refused nothing.
    let second = answer(&mut node.envoy("a").await.subscribe(&["default"]).await).await;
    assert_eq!(second.version, first.version);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_refused_is_not_sent_to_those_who_come_back() {
    let node = node().await;
    let envoy = node.envoy("a").await;
    let mut stream = envoy.subscribe(&["default"]).await;
    let first = answer(&mut stream).await;
    stream.nack(&first, "bad key").await;
    node.until("a", "/lastError/reason", "refused_by_envoy").await;
    drop(stream);
    let mut back = envoy.subscribe_holding(&["default"], "one from before").await;
    back.expect_silence(A_WHILE).await;
    let fresh = answer(&mut envoy.subscribe(&["default"]).await).await;
    assert_eq!(fresh.version, first.version);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_nonce_is_ignored_and_an_unknown_one_after_a_reconnect_is_not() {
    let node = node().await;
    let envoy = node.envoy("a").await;
    let mut stream = envoy.subscribe(&["default"]).await;
    let first = answer(&mut stream).await;
    stream.ack(&first).await;
    stream.send(stream.request("not-a-nonce-of-ours")).await;
    stream.expect_silence(A_WHILE).await;
    let stale = node.metrics().await.sum("istio_agent_pilot_xds_expired_nonce", &[]);
    assert_eq!(stale, Some(1.0));

    let mut again = envoy.open();
    again
        .send(DiscoveryRequest {
            node: envoy.node(),
            version_info: first.version.clone(),
            resource_names: vec!["default".to_owned()],
            type_url: SECRET_TYPE_URL.to_owned(),
            response_nonce: first.nonce.clone(),
            ..DiscoveryRequest::default()
        })
        .await;
    let second = answer(&mut again).await;
    assert_eq!(second.version, first.version);
    assert_ne!(second.nonce, first.nonce);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_stream_may_ask_for_both_twice_and_for_none() {
    let node = node().await;
    let mut stream = node
        .envoy("a")
        .await
        .subscribe(&["default", "ROOTCA", "default", "ROOTCA", "default"])
        .await;
    let roots = answer(&mut stream).await;
    assert!(trusted_ca(roots.secret("ROOTCA").unwrap()).is_some(), "roots first");
    stream.ack(&roots).await;
    let leaf = answer(&mut stream).await;
    assert!(certificate(leaf.secret("default").unwrap()).is_some());
    stream.ack(&leaf).await;
    stream.rename(&[], &leaf.nonce).await;
    stream.expect_silence(A_WHILE).await;
    // It comes back on the same stream.
    stream.rename(&["default"], &leaf.nonce).await;
    assert_eq!(answer(&mut stream).await.version, leaf.version);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_foreign_names_is_held_and_reads_no_file() {
    let node = node().await;
    let envoy = node.envoy("a").await;
    let secret = node.folder.path().join("token");
    let path = format!("file-root:{}", secret.display());
    let both = format!("file-cert:{0}~{0}", secret.display());
    let mut held = envoy
        .subscribe(&[
            "file-cert:~",
            "file-root:",
            "file-root:system",
            &path,
            &both,
            "kubernetes://x",
            "",
        ])
        .await;
    let mut mixed = envoy
        .subscribe(&["file-cert:~", &path, "default", "ROOTCA", "unknown"])
        .await;
    for name in ["ROOTCA", "default"] {
        let received = answer(&mut mixed).await;
        assert_eq!(received.only().name, name);
        mixed.ack(&received).await;
    }
    held.expect_silence(A_WHILE).await;
    mixed.expect_silence(Duration::ZERO).await;
    // It may still come to its senses.
    held.rename(&["ROOTCA"], "").await;
    assert_eq!(answer(&mut held).await.only().name, "ROOTCA");
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_names_are_read_and_more_than_that_are_refused() {
    let node = node().await;
    let envoy = node.envoy("a").await;
    let names: Vec<String> = (0..10_000).map(|number| format!("name-{number}")).collect();
    let mut all: Vec<&str> = names.iter().map(String::as_str).collect();
    all.push("default");
    let mut many = envoy.subscribe(&all).await;
    assert_eq!(answer(&mut many).await.only().name, "default");

    let short: Vec<&str> = std::iter::repeat_n("x", 20_000).collect();
    let mut more = envoy.subscribe(&short).await;
    let end = more.next(patience()).await;
    assert!(
        matches!(&end, Err(Silence::Ended(status)) if status.code() != Code::Ok),
        "{end:?}"
    );
    let received = answer(&mut envoy.subscribe(&["default"]).await).await;
    assert_eq!(received.only().name, "default", "its neighbours are unharmed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_streams_on_one_connection_get_one_certificate() {
    let node = node().await;
    let envoy = node.envoy("a").await;
    let mut streams = Vec::new();
    for number in 0..100 {
        let name = if number % 2 == 0 { "default" } else { "ROOTCA" };
        streams.push((name, envoy.subscribe(&[name]).await));
    }
    let mut versions = std::collections::BTreeSet::new();
    for (name, stream) in &mut streams {
        let received = answer(stream).await;
        assert_eq!(received.only().name, *name);
        stream.ack(&received).await;
        versions.insert(received.version);
    }
    assert_eq!(versions.len(), 2);
    assert_eq!(node.requests("a").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn incremental_streams_follow_the_same_rules() {
    let node = node().await;
    let envoy = node.envoy("a").await;
    let mut stream = envoy.subscribe_delta(&["default", "file-cert:~", "default"], &[]).await;
    let leaf = stream.next(patience()).await.unwrap();
    assert_eq!(leaf.only().name, "default");
    stream.nack(&leaf, "no").await;
    stream.expect_silence(A_WHILE).await;
    stream.change(&["ROOTCA"], &["default"]).await;
    let roots = stream.next(patience()).await.unwrap();
    assert_eq!(roots.only().name, "ROOTCA");
    stream.ack(&roots).await;
    stream.change(&[], &["ROOTCA", "never-subscribed"]).await;
    stream.expect_silence(A_WHILE).await;
    stream.change(&["ROOTCA"], &[]).await;
    assert_eq!(stream.next(patience()).await.unwrap().only().name, "ROOTCA");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_is_answered_once() {
    let node = node().await;
    let envoy = node.envoy("a").await;
    let both = envoy.fetch(&["ROOTCA", "default"]).await.unwrap();
    assert!(both.secret("ROOTCA").is_some() && both.secret("default").is_some());
    let one = envoy.fetch(&["default", "file-root:system"]).await.unwrap();
    assert_eq!(one.only().name, "default");
    let versions = (both.version, one.version);
    assert!(!versions.0.is_empty() && !versions.1.is_empty(), "{versions:?}");
    assert_eq!(node.requests("a").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_of_another_type_ends_its_stream_only() {
    let node = node().await;
    let envoy = node.envoy("a").await;
    let mut neighbour = envoy.subscribe(&["default"]).await;
    let received = answer(&mut neighbour).await;
    neighbour.ack(&received).await;
    let mut wrong = envoy.open();
    wrong
        .send(DiscoveryRequest {
            node: envoy.node(),
            type_url: "type.googleapis.com/envoy.config.cluster.v3.Cluster".to_owned(),
            ..DiscoveryRequest::default()
        })
        .await;
    let end = wrong.next(patience()).await;
    assert!(
        matches!(&end, Err(Silence::Ended(status)) if status.code() == Code::InvalidArgument),
        "{end:?}"
    );
    neighbour.send(neighbour.request("")).await;
    assert_eq!(answer(&mut neighbour).await.version, received.version);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_signer_of_the_node_metadata_is_the_streams_signer() {
    let node = node().await;
    let mut foo = node
        .envoy("a")
        .await
        .with_cert_signer("foo")
        .subscribe(&["default"])
        .await;
    let mut none = node.envoy("a").await.subscribe(&["default"]).await;
    let (foo, none) = (answer(&mut foo).await, answer(&mut none).await);
    assert_ne!(foo.version, none.version, "one key for each signer");
    let mut signers: Vec<_> = node
        .requests("a")
        .into_iter()
        .map(|request| request.cert_signer)
        .collect();
    signers.sort();
    assert_eq!(signers, [Some(String::new()), Some("foo".to_owned())]);
    let slashes = node
        .envoy("a")
        .await
        .with_cert_signer("../foo/bar")
        .subscribe(&["default"])
        .await;
    let mut slashes = slashes;
    let end = slashes.next(patience()).await;
    assert!(
        matches!(&end, Err(Silence::Ended(status)) if status.code() == Code::InvalidArgument),
        "{end:?}"
    );
}
