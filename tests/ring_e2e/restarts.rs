//! What a node does without its operator: kubelet, containerd and the agent die and come back. Whoever runs keeps what he has and talks on, and
//! whoever comes is served.

use anyhow::{Context, ensure};
use ensign_testbed::wait::{PATIENCE, until};
use ensign_testkit::patience;
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;

use crate::asked;
use crate::mesh::Mesh;
use crate::pod;
use crate::traffic::Traffic;
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

    let traffic = Traffic::between_nodes(&mesh).await?;
    for program in ["kubelet", "containerd"] {
        node.kill(program).await?;
        mesh.start(&workload(&format!("after-{program}"))).await?;
        looks_in(&mesh, &pod).await?;
        traffic.flows(program)?;
    }
    stream.expect_silence(std::time::Duration::from_secs(1)).await;
    // Who is connected notices this one, and who talks does not.
    node.kill("ensign-agent").await?;
    mesh.start(&workload("after-agent")).await?;
    looks_in(&mesh, &pod).await?;
    traffic.finish(|place| mesh.issued(place)).await?;
    let issued = mesh.issued(&place);
    ensure!(issued == 4, "{issued} certificates for four pods");
    asked::nothing(&mesh).await?;
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
