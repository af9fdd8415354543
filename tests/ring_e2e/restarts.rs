//! What a node does without its operator: kubelet and containerd die and come back. Whoever runs keeps what he has, and whoever
//! comes is served.

use anyhow::{Context, ensure};
use ensign_testbed::wait::{PATIENCE, until};
use ensign_testkit::patience;
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;

use crate::mesh::Mesh;
use crate::pod;
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

/// From inside the pod's container somebody answers on its socket.
pub(crate) async fn looks_in(mesh: &Mesh, pod: &Pod) -> anyhow::Result<()> {
    let container = pod::container(pod)?;
    let node = mesh.node_of(pod)?;
    until("the socket to answer inside of the pod", PATIENCE, async || {
        node.run_in(&container, &["/guest", "look", SOCKET]).await.map(drop)
    })
    .await
}
