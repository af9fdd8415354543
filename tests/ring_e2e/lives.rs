//! Pods that end in other ways than by waiting, and names that are used again.

use anyhow::ensure;
use kube::api::DeleteParams;
use serde_json::json;

use crate::mesh::Mesh;
use crate::traces::nothing_is_left_of;
use crate::workload::Workload;

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_is_used_again_is_another_pod_and_a_pod_may_go_by_force() -> anyhow::Result<()> {
    let mesh = Mesh::join().await?;
    let place = mesh.namespace_with("foo", "foo").await?;
    let workload = Workload::new(&place, "web")
        .on("node2")
        .attributes(json!({ "signer": "foo" }));
    let first = mesh.start(&workload).await?;
    let mut held = mesh.envoy(&first).await?.subscribe(&["default"]).await;
    held.next_secret(ensign_testkit::patience()).await;

    // The same name at once, while kubelet may still be busy with the old one.
    mesh.delete(&place, "web").await?;
    let second = mesh.start(&workload).await?;
    ensure!(first.metadata.uid != second.metadata.uid, "the old pod is back");
    let mut stream = mesh.envoy(&second).await?.subscribe(&["default"]).await;
    stream.next_secret(ensign_testkit::patience()).await;
    ensure!(
        stream.held_version() != held.held_version(),
        "the new pod has the old one's certificate"
    );
    nothing_is_left_of(&mesh, &first).await?;

    // By force the object goes first, and kubelet learns of it afterwards.
    let pods = mesh.pods(&place);
    pods.delete("web", &DeleteParams::default().grace_period(0)).await?;
    ensure!(pods.get_opt("web").await?.is_none(), "it is not gone at once");
    nothing_is_left_of(&mesh, &second).await?;
    let issued = mesh.issued(&place);
    ensure!(issued == 2, "{issued} certificates for two pods");
    mesh.finish().await
}
