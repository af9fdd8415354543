//! Workloads that a kubelet brings, against the whole agent in this process.

use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};

use ensign_testkit::fake_envoy::certificate;
use ensign_testkit::fake_ra::RaOutcome;
use ensign_testkit::{eventually, patience};
use tonic::Code;

use crate::csi_node::{A_WHILE, Node, envoy, id};
use ensign_testkit::kubelet::Pod;

#[tokio::test(flavor = "multi_thread")]
async fn a_published_volume_is_a_socket_that_answers_and_an_unpublished_one_is_nothing() {
    let node = Node::start().await;
    assert_eq!(node.kubelet.name().await, "csi.ensign.mesh");
    let pod = Pod::new("httpbin");
    node.kubelet.publish(&pod).await.unwrap();
    let socket = std::fs::symlink_metadata(node.socket(&pod)).unwrap();
    assert!(socket.file_type().is_socket());
    assert_eq!(socket.mode() & 0o7777, 0o666);
    assert!(node.certificate(&pod).await.contains("BEGIN CERTIFICATE"));
    let requests = node.ra.requests_of(&id("httpbin"));
    assert_eq!(requests.len(), 1);
    assert_eq!(requests[0].authorization.as_deref(), Some("Bearer token.of.httpbin"));
    assert!(node.state().contains("httpbin") && !node.state().contains("token.of"));

    node.kubelet.unpublish(&pod).await.unwrap();
    assert!(std::fs::symlink_metadata(node.kubelet.mount(&pod)).is_err());
    assert!(!node.state().contains("httpbin"));
    let metrics = node.metrics().await;
    assert!(
        metrics
            .samples()
            .iter()
            .all(|sample| !format!("{sample:?}").contains("httpbin"))
    );
    assert_eq!(metrics.sum("ensign_agent_csi_volumes", &[]), Some(0.0));
    node.kubelet.unpublish(&pod).await.unwrap();
}

/// `serviceAccountTokenInSecrets` of the CSIDriver (KEP-5538, Kubernetes 1.35).
#[tokio::test(flavor = "multi_thread")]
async fn a_token_among_the_secrets_is_the_pods_token_all_the_same() {
    let mut node = Node::start().await;
    node.kubelet.tokens_in_secrets = true;
    let pod = Pod::new("httpbin");
    node.kubelet.publish(&pod).await.unwrap();
    node.certificate(&pod).await;
    let asked = || node.ra.requests_of(&id("httpbin"));
    assert_eq!(asked()[0].authorization.as_deref(), Some("Bearer token.of.httpbin"));
    assert!(!node.state().contains("token.of"));
    // A cluster that is upgraded sends the other form from then on.
    node.kubelet.tokens_in_secrets = false;
    node.kubelet.publish(&pod).await.unwrap();
    node.kubelet.unpublish(&pod).await.unwrap();
    node.kubelet
        .publish(&pod.clone().with_token("another.tok.en"))
        .await
        .unwrap();
    node.certificate(&pod).await;
    assert_eq!(asked()[1].authorization.as_deref(), Some("Bearer another.tok.en"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fixed_signer_is_asked_before_any_envoy_comes_and_the_publish_waits_for_none() {
    let node = Node::start().await;
    let pod = Pod::new("httpbin").with("signer", "foo");
    // An authority that never answers.
    node.ra.script_of(&id("httpbin")).set_default(RaOutcome::Hang);
    node.kubelet.publish(&pod).await.unwrap();
    let request = eventually("the request", async || {
        node.ra.requests_of(&id("httpbin")).pop().ok_or("none yet")
    });
    assert_eq!(request.await.cert_signer.as_deref(), Some("foo"));
}

#[tokio::test(flavor = "multi_thread")]
async fn volumes_of_one_pod_share_one_certificate_and_the_last_takes_it_along() {
    let node = Node::start().await;
    let first = Pod::new("httpbin");
    let second = Pod {
        volume: "second".to_owned(),
        ..first.clone()
    };
    for pod in [&first, &second] {
        node.kubelet.publish(pod).await.unwrap();
    }
    assert_eq!(node.certificate(&first).await, node.certificate(&second).await);
    assert_eq!(node.ra.requests_of(&id("httpbin")).len(), 1);
    node.kubelet.unpublish(&first).await.unwrap();
    node.certificate(&second).await;
    assert_eq!(node.ra.requests_of(&id("httpbin")).len(), 1, "the other one keeps it");
    node.kubelet.unpublish(&second).await.unwrap();
    node.kubelet.publish(&first).await.unwrap();
    node.certificate(&first).await;
    assert_eq!(node.ra.requests_of(&id("httpbin")).len(), 2, "a new life, a new key");
}

/// One key and one request for each pod, signer and kind of key, however its sockets come to the signer.
#[tokio::test(flavor = "multi_thread")]
async fn a_signer_that_a_volume_names_and_one_that_an_envoy_wishes_are_the_same() {
    let node = Node::start().await;
    let fixed = Pod::new("httpbin").with("signer", "foo");
    let open = Pod {
        volume: "second".to_owned(),
        ..Pod::new("httpbin")
    };
    for pod in [&fixed, &open] {
        node.kubelet.publish(pod).await.unwrap();
    }
    let of = async |pod: &Pod, wish: &str| {
        let envoy = envoy(&node.socket(pod)).await.with_cert_signer(wish);
        let mut stream = envoy.subscribe(&["default"]).await;
        certificate(&stream.next_secret(patience()).await).unwrap().0
    };
    // What the volume names stands above a wish.
    let held = of(&fixed, "bar").await;
    assert_eq!(of(&open, "foo").await, held);
    let signers = || {
        let requests = node.ra.requests_of(&id("httpbin"));
        let signers: Vec<_> = requests.into_iter().map(|request| request.cert_signer).collect();
        signers
    };
    assert_eq!(signers(), [Some("foo".to_owned())]);
    assert_ne!(of(&open, "bar").await, held);
    // The volume that named it goes: whoever still uses it keeps it.
    let envoy = envoy(&node.socket(&open)).await.with_cert_signer("foo");
    let mut stream = envoy.subscribe(&["default"]).await;
    assert_eq!(certificate(&stream.next_secret(patience()).await).unwrap().0, held);
    node.kubelet.unpublish(&fixed).await.unwrap();
    stream.expect_silence(A_WHILE).await;
    assert_eq!(of(&open, "foo").await, held);
    assert_eq!(signers().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_reaches_kubelet_with_cause_and_fix() {
    let node = Node::start().await;
    let refusal = node
        .kubelet
        .publish(&Pod::new("a").with("sginer", "foo"))
        .await
        .unwrap_err();
    assert_eq!(refusal.code(), Code::InvalidArgument);
    for word in ["sginer", "signer, keyType and socketName", "volumeAttributes"] {
        assert!(refusal.message().contains(word), "{refusal:?}");
    }
    let labels = [("method", "NodePublishVolume"), ("outcome", "unknown_attribute")];
    assert_eq!(
        node.metrics().await.sum("ensign_agent_csi_calls_total", &labels),
        Some(1.0)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_agent_is_ready_when_kubelet_says_so() {
    let mut node = Node::start().await;
    assert_eq!(node.ready().await.0, 200);
    node.kubelet.notify(false, "no room in CSINode").await;
    let (status, body) = node.ready().await;
    assert!(status == 503 && body.contains("no room in CSINode"), "{status} {body}");
    node.pause().await;
    node.resume().await;
    let (status, body) = node.ready().await;
    assert!(status == 503 && body.contains("csi-registration"), "{status} {body}");
    node.kubelet.register().await;
    assert_eq!(node.ready().await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_successor_binds_every_socket_before_kubelet_calls_and_asks_for_nothing() {
    let mut node = Node::start().await;
    let pods: Vec<_> = (0..20).map(|n| Pod::new(&format!("p{n}"))).collect();
    for pod in &pods {
        node.kubelet.publish(pod).await.unwrap();
    }
    let holder = envoy(&node.socket(&pods[0])).await;
    let mut stream = holder.subscribe(&["default"]).await;
    stream.next_secret(patience()).await;
    let version = stream.held_version().to_owned();
    let folder = std::fs::metadata(node.kubelet.mount(&pods[0])).unwrap().ino();
    node.pause().await;
    node.resume().await;
    assert_eq!(std::fs::metadata(node.kubelet.mount(&pods[0])).unwrap().ino(), folder);
    for pod in &pods {
        envoy(&node.socket(pod)).await;
    }
    // The one that held a certificate comes back with it.
    let again = envoy(&node.socket(&pods[0])).await;
    let mut held = again.subscribe_holding(&["default"], &version).await;
    // A fresh one waits until kubelet brings the token.
    let mut fresh = envoy(&node.socket(&pods[1])).await.subscribe(&["default"]).await;
    node.kubelet.register().await;
    node.kubelet.publish(&pods[1]).await.unwrap();
    fresh.next_secret(patience()).await;
    held.expect_silence(A_WHILE).await;
    assert_eq!(node.ra.requests_of(&id("p0")).len(), 1, "adopted");
    assert_eq!(node.ra.requests_of(&id("p1")).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_state_a_successor_is_healed_by_kubelet() {
    let mut node = Node::start().await;
    let pod = Pod::new("httpbin");
    node.kubelet.publish(&pod).await.unwrap();
    let folder = std::fs::metadata(node.kubelet.mount(&pod)).unwrap().ino();
    node.pause().await;
    std::fs::write(node.folder.path().join("state/csi.json"), "{\"version\":").unwrap();
    node.resume().await;
    node.kubelet.register().await;
    node.kubelet.publish(&pod).await.unwrap();
    node.certificate(&pod).await;
    assert_eq!(std::fs::metadata(node.kubelet.mount(&pod)).unwrap().ino(), folder);
    node.kubelet.unpublish(&pod).await.unwrap();
    assert!(std::fs::symlink_metadata(node.kubelet.mount(&pod)).is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_that_went_while_no_agent_ran_is_unpublished_all_the_same() {
    let mut node = Node::start().await;
    let (stays, goes) = (Pod::new("stays"), Pod::new("goes"));
    for pod in [&stays, &goes] {
        node.kubelet.publish(pod).await.unwrap();
    }
    node.pause().await;
    std::fs::remove_dir_all(node.kubelet.folder.join("pods").join(&goes.uid)).unwrap();
    node.resume().await;
    node.kubelet.unpublish(&goes).await.unwrap();
    node.kubelet.unpublish(&stays).await.unwrap();
    assert!(std::fs::symlink_metadata(node.kubelet.mount(&stays)).is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_socket_comes_back_in_the_same_folder() {
    let node = Node::start().await;
    let pod = Pod::new("httpbin");
    node.kubelet.publish(&pod).await.unwrap();
    let folder = std::fs::metadata(node.kubelet.mount(&pod)).unwrap().ino();
    std::fs::remove_file(node.socket(&pod)).unwrap();
    node.certificate(&pod).await;
    std::fs::remove_file(node.kubelet.folder.join("plugins_registry/csi.ensign.mesh-reg.sock")).unwrap();
    node.kubelet.register().await;
    assert_eq!(std::fs::metadata(node.kubelet.mount(&pod)).unwrap().ino(), folder);
}

/// It may be the last: kubelet would go on calling a driver that has been uninstalled.
#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_ends_without_volumes_leaves_nothing_and_one_with_volumes_everything() {
    let mut node = Node::start().await;
    let pod = Pod::new("httpbin");
    node.kubelet.publish(&pod).await.unwrap();
    let sockets = [
        "plugins_registry/csi.ensign.mesh-reg.sock",
        "plugins/csi.ensign.mesh/csi.sock",
    ];
    let sockets = sockets.map(|path| node.kubelet.folder.join(path));
    let there = || sockets.each_ref().map(|path| std::fs::symlink_metadata(path).is_ok());
    node.pause().await;
    assert_eq!(there(), [true; 2]);
    assert!(node.state().contains("httpbin"));
    node.resume().await;
    node.kubelet.unpublish(&pod).await.unwrap();

    // A successor's are its own.
    node.resume().await;
    node.pause().await;
    assert_eq!(there(), [true; 2]);
    node.kubelet.register().await;
    node.pause().await;
    assert_eq!(there(), [false; 2]);
    assert_eq!(node.state(), "");
    node.resume().await;
    node.kubelet.register().await;
    node.kubelet.publish(&pod).await.unwrap();
    node.certificate(&pod).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn five_hundred_volumes_come_and_go() {
    let node = Node::start().await;
    let pods: Vec<_> = (0..500).map(|n| Pod::new(&format!("p{n}"))).collect();
    for pod in &pods {
        node.kubelet.publish(pod).await.unwrap();
    }
    assert_eq!(node.metrics().await.sum("ensign_agent_csi_volumes", &[]), Some(500.0));
    node.certificate(&pods[499]).await;
    for pod in &pods {
        node.kubelet.unpublish(pod).await.unwrap();
    }
    let left = std::fs::read_dir(node.kubelet.folder.join("pods")).unwrap().count();
    assert_eq!(left, 500, "kubelet's own folders are kubelet's");
    for pod in &pods {
        assert!(std::fs::symlink_metadata(node.kubelet.mount(pod)).is_err());
    }
    assert_eq!(node.metrics().await.sum("ensign_agent_csi_volumes", &[]), Some(0.0));
}
