//! A peer that takes more than its share: bounded, dropped, and nobody else's trouble.

use std::io::ErrorKind;
use std::time::Duration;

use ensign_agent::config::Config;
use ensign_agent::sds::Amounts;
use ensign_proto::SECRET_TYPE_URL;
use ensign_proto::envoy::service::discovery::v3::DiscoveryRequest;
use ensign_testkit::fake_envoy::{HalfwayEnvoy, Silence, StalledEnvoy};
use ensign_testkit::kubelet::Pod;
use ensign_testkit::{eventually, patience};
use tokio::net::UnixStream;
use tonic::Code;

use crate::csi_node::{self, envoy};
use crate::node::Node;

/// Times that a test can wait for.
fn hasty(config: &mut Config) {
    config.sds.idle_timeout = Duration::from_secs(2);
    config.sds.keep_alive_interval = Duration::from_secs(1);
    config.sds.keep_alive_timeout = Duration::from_secs(1);
}

/// Open connections and streams of this workload's socket, by its metrics.
async fn open(node: &Node, name: &str) -> (f64, f64) {
    let uid = format!("fixed/{name}");
    let (metrics, labels) = (node.metrics().await, [("workload", uid.as_str())]);
    let of = |series| metrics.sum(series, &labels).unwrap();
    (of("ensign_agent_sds_connections"), of("ensign_agent_sds_streams"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_never_reads_is_dropped() {
    let node = Node::start_adjusted(&["a"], &[], hasty).await;
    let mut well = node.envoy("a").await.subscribe(&["default"]).await;
    well.next_secret(patience()).await;
    let envoy = node.envoy("a").await;
    let _stalled = StalledEnvoy::connect(&node.socket("a"), &envoy.node(), &["default", "ROOTCA"])
        .await
        .unwrap();
    drop(envoy);
    // It still holds its socket and answers nothing.
    eventually("the stalled connection to be dropped", async || {
        match open(&node, "a").await {
            (1.0, 1.0) => Ok(()),
            seen => Err(format!("{seen:?}")),
        }
    })
    .await;
    well.send(well.request("")).await;
    well.next_secret(patience()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_above_one_mebibyte_ends_its_stream_and_no_other() {
    let node = Node::start(&["a"], &[]).await;
    let envoy = node.envoy("a").await;
    let mut neighbour = envoy.subscribe(&["default"]).await;
    neighbour.next_secret(patience()).await;
    let mut large = envoy.open();
    large
        .send(DiscoveryRequest {
            node: vec![0x7a; 1024 * 1024 + 1].into(),
            type_url: SECRET_TYPE_URL.to_owned(),
            resource_names: vec!["default".to_owned()],
            ..DiscoveryRequest::default()
        })
        .await;
    let end = large.next(patience()).await;
    assert!(
        matches!(&end, Err(Silence::Ended(status)) if status.code() == Code::ResourceExhausted),
        "{end:?}"
    );
    neighbour.send(neighbour.request("")).await;
    neighbour.next_secret(patience()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_silent_connections_are_bounded_and_harm_no_other_socket() {
    let node = Node::start_adjusted(&["greedy", "well"], &[], hasty).await;
    let mut kept = Vec::new();
    let mut most: f64 = 0.0;
    for number in 0..10_000 {
        // One that the agent has closed at once is gone with the next reading; this side keeps what it can.
        let stream = loop {
            match UnixStream::connect(node.socket("greedy")).await {
                Ok(stream) => break stream,
                // The kernel's own queue before the agent is full: this side is faster than a busy machine lets it accept.
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                Err(error) => panic!("connection {number}: {error}"),
            }
        };
        if kept.len() < 500 {
            kept.push(stream);
        }
        if number % 1000 == 0 {
            most = most.max(open(&node, "greedy").await.0);
        }
    }
    most = most.max(open(&node, "greedy").await.0);
    assert!(most <= 64.0, "{most} at once");
    let mut well = node.envoy("well").await.subscribe(&["default"]).await;
    well.next_secret(patience()).await;
    let refused = [("workload", "fixed/greedy")];
    assert!(
        node.metrics()
            .await
            .sum("ensign_agent_sds_refused_connections_total", &refused)
            > Some(0.0)
    );
    // Those that stay silent are closed, and then the workload itself gets in.
    eventually("room again", async || match open(&node, "greedy").await {
        (0.0, 0.0) => Ok(()),
        seen => Err(format!("{seen:?}")),
    })
    .await;
    let mut late = node.envoy("greedy").await.subscribe(&["default"]).await;
    late.next_secret(patience()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_streams_of_one_peer_are_bounded_and_end_with_it() {
    let node = Node::start(&["greedy", "well"], &[]).await;
    let before = open(&node, "greedy").await;
    assert_eq!(before, (0.0, 0.0));
    let mut envoys = Vec::new();
    for _ in 0..5 {
        let envoy = node.envoy("greedy").await.with_node(Vec::new());
        for _ in 0..220 {
            envoys.push(envoy.subscribe(&["unknown"]).await);
        }
    }
    eventually("the limit", async || match open(&node, "greedy").await {
        (_, 1024.0) => Ok(()),
        seen => Err(format!("{seen:?}")),
    })
    .await;
    node.envoy("well")
        .await
        .subscribe(&["default"])
        .await
        .next_secret(patience())
        .await;
    drop(envoys);
    eventually("the end", async || match open(&node, "greedy").await {
        (_, 0.0) => Ok(()),
        seen => Err(format!("{seen:?}")),
    })
    .await;
}

/// Little enough for a test to exhaust.
fn a_small_pool(config: &mut Config) {
    config.sds.shared = Amounts {
        connections: 4,
        streams: 16,
        partial: 0,
    };
}

#[tokio::test(flavor = "multi_thread")]
async fn greedy_sockets_share_what_there_is_and_others_do_not_notice() {
    let node = Node::start_adjusted(&["first", "second", "well"], &[], a_small_pool).await;
    let mut kept = Vec::new();
    for name in ["first", "second"] {
        let envoy = node.envoy(name).await.with_node(Vec::new());
        for _ in 0..40 {
            kept.push(envoy.subscribe(&["unknown"]).await);
        }
    }
    // Eight of each one's own, and sixteen from the pool.
    let both = async || {
        let (first, second) = (open(&node, "first").await, open(&node, "second").await);
        (first.0 + second.0, first.1 + second.1)
    };
    eventually("the pool to be empty", async || match both().await {
        (2.0, 32.0) => Ok(()),
        seen => Err(format!("{seen:?}")),
    })
    .await;
    // One more of each one's own, and the four of the pool.
    let mut silent = Vec::new();
    for name in ["first", "second"] {
        for _ in 0..20 {
            silent.push(UnixStream::connect(node.socket(name)).await.unwrap());
        }
    }
    eventually("connections to be refused", async || match both().await.0 {
        8.0 => Ok(()),
        seen => Err(format!("{seen}")),
    })
    .await;
    // A socket that asks for no more than its own is served: an Envoy, and another in a hot restart.
    for _ in 0..2 {
        let envoy = node.envoy("well").await;
        for name in ["default", "ROOTCA", "default", "ROOTCA"] {
            let mut stream = envoy.subscribe(&[name]).await;
            stream.next_secret(patience()).await;
            kept.push(stream);
        }
    }
    assert_eq!(open(&node, "well").await, (2.0, 8.0));
    drop((kept, silent));
    eventually("all of it back", async || match both().await {
        (0.0, 0.0) => Ok(()),
        seen => Err(format!("{seen:?}")),
    })
    .await;
}

/// Nothing for requests that are received in part but what each pod has of its own.
fn no_pool_for_requests(config: &mut Config) {
    config.sds.shared.partial = 0;
}

/// A pod may have four volumes, of as many kinds of keys as it likes: what it may take is the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_pod_with_many_sockets_may_take_no_more_than_one_with_one() {
    let node = csi_node::Node::start_adjusted(no_pool_for_requests).await;
    let well = Pod::new("well");
    node.kubelet.publish(&well).await.unwrap();
    let (mut greedy, mut volumes) = (Vec::new(), Vec::new());
    for name in ["first", "second"] {
        let mut sockets = Vec::new();
        for number in 0..4 {
            let key_type = if number % 2 == 0 { "P-256" } else { "P-384" };
            let volume = Pod {
                volume: format!("v{number}"),
                ..Pod::new(name).with("keyType", key_type)
            };
            node.kubelet.publish(&volume).await.unwrap();
            // As long as an Envoy's first one, and of two of those there is room for each pod.
            let socket = node.socket(&volume);
            sockets.push(HalfwayEnvoy::connect(&socket, 4, 60_000).await.unwrap());
            volumes.push(volume);
        }
        greedy.push(sockets);
    }
    let ended = || {
        let of_pod = |sockets: &Vec<HalfwayEnvoy>| sockets.iter().map(HalfwayEnvoy::ended).sum::<usize>();
        greedy.iter().map(of_pod).collect::<Vec<_>>()
    };
    eventually("all but two for each pod to be ended", async || match ended()[..] {
        [14, 14] => Ok(()),
        ref seen => Err(format!("{seen:?}")),
    })
    .await;
    // Whole requests of Envoys, from a pod that took nothing.
    let neighbour = envoy(&node.socket(&well)).await;
    let mut streams = [
        neighbour.subscribe(&["default"]).await,
        neighbour.subscribe(&["ROOTCA"]).await,
    ];
    for stream in &mut streams {
        stream.next_secret(patience()).await;
    }
    assert_eq!(ended(), [14, 14]);
    drop(greedy);
    // And it has all of it again.
    for volume in &volumes {
        node.certificate(volume).await;
    }
}
