//! Two agents on one node while it is upgraded: what kubelet asks in every phase, and who serves whom.
//!
//! "Late" calls come over connections that kubelet made before the younger agent took its socket over: they reach the older
//! one after the younger one has read the state.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use ensign_testkit::fake_envoy::SotwStream;
use ensign_testkit::metrics::get;
use ensign_testkit::{FakeEnvoy, eventually, patience};
use test_case::test_case;
use tokio_util::sync::CancellationToken;

use crate::csi_node::{A_WHILE, Node, envoy, id};
use ensign_testkit::kubelet::Pod;

/// How far the upgrade has got when kubelet calls.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Phase {
    /// The younger agent has taken the sockets over.
    Bound,
    /// As before, but the call goes to the older one.
    Late,
    /// Kubelet has taken the younger one up.
    Registered,
    /// The older one was told to stop.
    Stopping,
    /// It was told to stop, and the call goes to it.
    LateAndStopping,
    /// It is gone.
    Alone,
}

fn inode(path: &Path) -> u64 {
    std::fs::symlink_metadata(path).unwrap().ino()
}

/// Kubelet's three calls in one phase; then the older agent ends, and the younger one is all that is left.
#[test_case(Phase::Bound)]
#[test_case(Phase::Late)]
#[test_case(Phase::Registered)]
#[test_case(Phase::Stopping)]
#[test_case(Phase::LateAndStopping)]
#[test_case(Phase::Alone)]
#[tokio::test(flavor = "multi_thread")]
async fn each_call_in_each_phase_is_right_and_none_is_lost(phase: Phase) {
    let mut node = Node::start().await;
    let (new, again, gone) = (Pod::new("new"), Pod::new("again"), Pod::new("gone"));
    for pod in [&again, &gone] {
        node.kubelet.publish(pod).await.unwrap();
    }
    let folder = inode(&node.kubelet.mount(&again));
    let older = inode(&node.socket(&again));
    let late = node.kubelet.dial().await;
    node.resume().await;
    assert_ne!(inode(&node.socket(&again)), older, "taken over");
    if matches!(phase, Phase::Registered | Phase::Stopping | Phase::Alone) {
        node.kubelet.register().await;
        assert_eq!(node.ready().await.0, 200);
    }
    match phase {
        Phase::Stopping | Phase::LateAndStopping => node.stopping(),
        Phase::Alone => node.pause().await,
        Phase::Bound | Phase::Late | Phase::Registered => {}
    }

    // An error is one after which kubelet keeps what there is and asks again, whoever answers then.
    let over = async || match phase {
        Phase::Late | Phase::LateAndStopping => late.clone(),
        _ => node.kubelet.dial().await,
    };
    let kept = |outcome: Result<(), tonic::Status>| match outcome {
        Ok(()) => true,
        Err(status) => {
            assert_eq!(
                (phase, status.code()),
                (Phase::LateAndStopping, tonic::Code::Unavailable),
                "{status:?}"
            );
            false
        }
    };
    if !kept(node.kubelet.publish_over(over().await, &new).await) {
        node.kubelet.publish(&new).await.unwrap();
    }
    let renewed = again.clone().with_token("renewed.tok.en");
    if !kept(node.kubelet.publish_over(over().await, &renewed).await) {
        node.kubelet.publish(&renewed).await.unwrap();
    }
    if !kept(node.kubelet.unpublish_over(over().await, &gone).await) {
        node.kubelet.unpublish(&gone).await.unwrap();
    }
    assert_eq!(inode(&node.kubelet.mount(&again)), folder);
    assert!(std::fs::symlink_metadata(node.kubelet.mount(&gone)).is_err());

    match phase {
        Phase::Stopping | Phase::LateAndStopping => node.stopped().await,
        Phase::Alone => {}
        Phase::Bound | Phase::Late | Phase::Registered => node.pause().await,
    }
    // The younger one knows all of it, and so will the one after it.
    for turn in ["the younger one", "its successor"] {
        eventually(turn, async || match node.volumes().await {
            Some(2.0) => Ok(()),
            other => Err(format!("{other:?} volumes")),
        })
        .await;
        for pod in [&new, &again] {
            // Both are served before kubelet comes again, and get what they want when it does.
            envoy(&node.socket(pod)).await;
            node.kubelet.publish(pod).await.unwrap();
            node.certificate(pod).await;
        }
        assert_eq!(inode(&node.kubelet.mount(&again)), folder);
        assert!(std::fs::symlink_metadata(node.kubelet.mount(&gone)).is_err());
        eventually("the state", async || {
            let state = node.state();
            let knows = |pod: &str| state.contains(&format!("0d5a7e1c-{pod}"));
            if [knows("new"), knows("again"), knows("gone")] == [true, true, false] {
                Ok(())
            } else {
                Err(state)
            }
        })
        .await;
        if turn == "the younger one" {
            node.resume().await;
            node.pause().await;
        }
    }
    for pod in [&new, &again] {
        node.kubelet.unpublish(pod).await.unwrap();
    }
    assert_eq!(node.volumes().await, Some(0.0));
}

/// Pods whose signer is fixed, and their Envoys, each with a certificate.
async fn held(node: &Node) -> Vec<(Pod, FakeEnvoy, SotwStream)> {
    let mut held = Vec::new();
    for n in 0..10 {
        let pod = Pod::new(&format!("p{n}")).with("signer", "foo");
        node.kubelet.publish(&pod).await.unwrap();
        let client = envoy(&node.socket(&pod)).await;
        let mut stream = client.subscribe(&["default"]).await;
        stream.next_secret(patience()).await;
        held.push((pod, client, stream));
    }
    held
}

/// The older agent ends, and its Envoys come to the younger one with what they hold, which costs no request.
async fn all_pass(node: &mut Node, held: Vec<(Pod, FakeEnvoy, SotwStream)>) {
    node.stopping();
    let mut left = Vec::new();
    for (pod, client, mut stream) in held {
        let version = stream.held_version().to_owned();
        let end = stream.next(patience()).await;
        assert!(format!("{end:?}").contains("Unavailable"), "{end:?}");
        drop(client);
        left.push((pod, version));
    }
    node.stopped().await;
    let mut back = Vec::new();
    for (pod, version) in &left {
        let client = envoy(&node.socket(pod)).await;
        let stream = client.subscribe_holding(&["default"], version).await;
        back.push((client, stream));
    }
    back[0].1.expect_silence(A_WHILE).await;
    for (pod, _) in &left {
        assert_eq!(node.ra.requests_of(&id(&pod.account)).len(), 1, "{}", pod.name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_younger_one_fetches_nothing_for_envoys_of_the_older_one() {
    // Short, so that whatever would be fetched too early is fetched within this test.
    let mut node = Node::start_with(&["--adoption-window=100ms"]).await;
    let mut held = held(&node).await;
    node.resume().await;
    node.kubelet.register().await;
    // Kubelet looks at every pod, so that the younger agent could ask for them all.
    for (pod, ..) in &held {
        node.kubelet.publish(pod).await.unwrap();
    }
    // The streams stay with the older one, which has nothing new to say.
    held[0].2.expect_silence(A_WHILE).await;
    for (pod, ..) in &held {
        assert_eq!(node.ra.requests_of(&id(&pod.account)).len(), 1, "{}", pod.name);
    }
    // What is new is fetched at once, and a newcomer gets what he needs.
    let new = Pod::new("new").with("signer", "foo");
    node.kubelet.publish(&new).await.unwrap();
    node.certificate(&new).await;
    node.certificate(&held[1].0).await;
    assert_eq!(node.ra.requests_of(&id("p1")).len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn envoys_pass_from_one_agent_to_the_other_and_cost_no_request() {
    let mut node = Node::start().await;
    let held = held(&node).await;
    node.resume().await;
    node.kubelet.register().await;
    for (pod, ..) in &held {
        node.kubelet.publish(pod).await.unwrap();
    }
    all_pass(&mut node, held).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn if_the_younger_one_ends_first_the_older_one_takes_everything_back() {
    let mut node = Node::start().await;
    let (first, second, gone) = (Pod::new("first"), Pod::new("second"), Pod::new("gone"));
    for pod in [&first, &gone] {
        node.kubelet.publish(pod).await.unwrap();
    }
    node.resume().await;
    node.kubelet.publish(&second).await.unwrap();
    node.kubelet.unpublish(&gone).await.unwrap();
    node.pause_youngest().await;
    // Of its own accord: sockets, kubelet's calls, and then kubelet's next look brings what it missed.
    node.certificate(&first).await;
    node.kubelet.register().await;
    for pod in [&first, &second] {
        eventually("the call", async || node.kubelet.publish(pod).await).await;
        node.certificate(pod).await;
    }
    eventually("what the younger one cleared", async || {
        let state = node.state();
        if state.contains("0d5a7e1c-gone") {
            Err(state)
        } else {
            Ok(())
        }
    })
    .await;
    assert_eq!(node.volumes().await, Some(2.0));
    for pod in [&first, &second] {
        node.kubelet.unpublish(pod).await.unwrap();
    }
    assert_eq!(node.volumes().await, Some(0.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_cannot_serve_a_pod_leaves_kubelet_to_the_older_one() {
    let mut node = Node::start().await;
    let (pod, new) = (Pod::new("pod"), Pod::new("new"));
    node.kubelet.publish(&pod).await.unwrap();
    let endpoint = node.kubelet.folder.join("plugins/csi.ensign.mesh/csi.sock");
    let older = inode(&endpoint);
    // Something that the younger one cannot bind over, there in one step: the older one would fill a gap.
    let foreign = node.socket(&pod).with_file_name("foreign");
    std::fs::write(&foreign, "foreign").unwrap();
    std::fs::rename(&foreign, node.socket(&pod)).unwrap();
    node.resume().await;
    let (status, body) = node.ready().await;
    assert!(
        status == 503 && body.contains("1 sockets of pods are not bound"),
        "{status} {body}"
    );
    assert_eq!(inode(&endpoint), older);
    node.kubelet.publish(&new).await.unwrap();
    node.certificate(&new).await;

    std::fs::remove_file(node.socket(&pod)).unwrap();
    eventually("the takeover", async || {
        if inode(&endpoint) == older {
            Err("not yet")
        } else {
            Ok(())
        }
    })
    .await;
    node.kubelet.register().await;
    assert_eq!(node.ready().await.0, 200);
    node.pause().await;
    for pod in [&pod, &new] {
        node.kubelet.publish(pod).await.unwrap();
        node.certificate(pod).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_younger_one_unpublishes_the_older_one_forgets() {
    let mut node = Node::start().await;
    let pod = Pod::new("pod");
    node.kubelet.publish(&pod).await.unwrap();
    node.certificate(&pod).await;
    let older = node.oldest();
    node.resume().await;
    node.kubelet.unpublish(&pod).await.unwrap();
    // Its key, its streams, its series.
    eventually("the older one to forget it", async || {
        let text = get(older, "/metrics", None).await.unwrap().body;
        if text.contains("0d5a7e1c-pod") {
            Err(text)
        } else {
            Ok(())
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn five_hundred_volumes_pass_from_one_agent_to_the_other() {
    let mut node = Node::start().await;
    let pods: Vec<_> = (0..500).map(|n| Pod::new(&format!("p{n}"))).collect();
    for pod in &pods {
        node.kubelet.publish(pod).await.unwrap();
    }
    node.resume().await;
    node.pause().await;
    for pod in &pods {
        envoy(&node.socket(pod)).await;
    }
    node.kubelet.publish(&pods[499]).await.unwrap();
    node.certificate(&pods[499]).await;
    assert_eq!(node.volumes().await, Some(500.0));
}

/// A pod that waits for the driver, and a node whose pods are there before any agent is.
#[tokio::test(flavor = "multi_thread")]
async fn a_cold_node_serves_its_pods_whichever_comes_first() {
    let mut node = Node::without_agent(&[]).await;
    let (before, after) = (Pod::new("before"), Pod::new("after"));
    // Kubelet's folders of a pod are there, its driver is not; and what a node's reboot left of an agent before.
    std::fs::create_dir_all(node.kubelet.mount(&before)).unwrap();
    drop(std::os::unix::net::UnixListener::bind(node.socket(&before)).unwrap());
    FakeEnvoy::connect(node.socket(&before)).await.unwrap_err();
    node.resume().await;
    assert_eq!(node.ready().await.0, 503);
    node.kubelet.register().await;
    assert_eq!(node.ready().await.0, 200);
    for pod in [&before, &after] {
        node.kubelet.publish(pod).await.unwrap();
        node.certificate(pod).await;
    }
}

/// Somebody empties the folder of the state on a living node; then the node is upgraded as always.
#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_after_the_state_was_wiped_refuses_nobody_and_asks_for_nothing() {
    let mut node = Node::start().await;
    let held = held(&node).await;
    let state = node.folder.path().join("state");
    // Everything but the folder, which is a mount.
    for entry in std::fs::read_dir(&state).unwrap() {
        std::fs::remove_file(entry.unwrap().path()).unwrap();
    }
    eventually("the state to be there again", async || {
        if node.state().contains("0d5a7e1c-p9") && state.join("csi.lock").exists() {
            Ok(())
        } else {
            Err(node.state())
        }
    })
    .await;
    let knocking = CancellationToken::new();
    let knock = tokio::spawn({
        let (socket, knocking) = (node.socket(&held[0].0), knocking.clone());
        async move {
            let mut knocks = 0_u32;
            while !knocking.is_cancelled() {
                if let Err(error) = tokio::net::UnixStream::connect(&socket).await {
                    return Err(format!("after {knocks} knocks: {error}"));
                }
                knocks += 1;
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            Ok(())
        }
    });
    node.resume().await;
    assert_eq!(node.volumes().await, Some(10.0), "it knows them all");
    node.kubelet.register().await;
    assert_eq!(node.ready().await.0, 200);
    all_pass(&mut node, held).await;
    knocking.cancel();
    knock.await.unwrap().unwrap();
}
