//! What a node does without its operator: kubelet and containerd die and come back, somebody removes a socket. Whoever runs
//! keeps what he has, whoever comes is served, and the folder that containers hold is never made again.

use std::os::unix::fs::MetadataExt as _;

use anyhow::{Context, ensure};
use ensign_testbed::wait::{PATIENCE, until};
use ensign_testkit::patience;
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;

use crate::mesh::Mesh;
use crate::workload::{SOCKET, Workload};

#[tokio::test(flavor = "multi_thread")]
async fn kubelet_and_containerd_die_and_whoever_runs_does_not_notice() -> anyhow::Result<()> {
    let mesh = Mesh::join().await?;
    let place = mesh.namespace_with("foo", "foo").await?;
    let workload = |name: &str| {
        Workload::new(&place, name)
            .on("node2")
            .attributes(json!({ "signer": "foo" }))
    };
    let pod = mesh.start(&workload("stays")).await?;
    let node = mesh.node_of(&pod)?.clone();
    let mut stream = mesh.envoy(&pod).await?.subscribe(&["default"]).await;
    let secret = stream.next(patience()).await.ok().context("no certificate")?;
    stream.ack(&secret).await;

    for program in ["kubelet", "containerd"] {
        node.kill(program).await?;
        mesh.start(&workload(&format!("after-{program}"))).await?;
        looks_in(&mesh, &pod).await?;
    }
    stream.expect_silence(std::time::Duration::from_secs(1)).await;
    let issued = mesh.issued(&place);
    ensure!(issued == 3, "{issued} certificates for three pods");
    mesh.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_that_somebody_removed_comes_back_into_the_same_folder() -> anyhow::Result<()> {
    let mesh = Mesh::join().await?;
    let place = mesh.namespace_with("foo", "foo").await?;
    let workload = Workload::new(&place, "web").attributes(json!({ "signer": "foo" }));
    let pod = mesh.start(&workload).await?;
    let folder = mesh.mount(&pod)?;
    let inode = std::fs::metadata(&folder)?.ino();

    // Kubelet's next call of a published volume mends it; the container sees that, since it holds the same folder.
    for round in 1..=2 {
        let socket = folder.join("ensign.sock");
        std::fs::remove_file(&socket)?;
        until("kubelet to have the socket mended", PATIENCE, async || {
            std::fs::symlink_metadata(&socket).map(drop).context("not there")
        })
        .await
        .with_context(|| format!("round {round}; {}", mesh.agents_tell()))?;
        looks_in(&mesh, &pod).await?;
    }
    ensure!(std::fs::metadata(&folder)?.ino() == inode, "the folder was made again");
    let issued = mesh.issued(&place);
    ensure!(issued == 1, "{issued} certificates for one pod");
    mesh.finish().await
}

/// From inside the pod's container somebody answers on its socket.
async fn looks_in(mesh: &Mesh, pod: &Pod) -> anyhow::Result<()> {
    let statuses = pod
        .status
        .as_ref()
        .and_then(|status| status.container_statuses.as_ref());
    let container = statuses
        .and_then(|all| all.first()?.container_id.clone())
        .context("no container")?;
    let node = mesh.node_of(pod)?;
    until("the socket to answer inside of the pod", PATIENCE, async || {
        node.run_in(&container, &["/guest", "look", SOCKET]).await.map(drop)
    })
    .await
}
