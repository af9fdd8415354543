//! What is left of a pod on its node: nothing.

use anyhow::{Context, ensure};
use ensign_testbed::wait::{PATIENCE, until};
use k8s_openapi::api::core::v1::Pod;

use crate::mesh::Mesh;

/// Waits until kubelet has no folder of the pod and its node's agent neither a series nor a note of it.
pub(crate) async fn nothing_is_left_of(mesh: &Mesh, pod: &Pod) -> anyhow::Result<()> {
    let uid = pod.metadata.uid.clone().context("a pod has a uid")?;
    let node = mesh.node_of(pod)?;
    let folder = node.path("/var/lib/kubelet/pods").join(&uid);
    until("kubelet's folder of the pod to go", PATIENCE * 2, async || {
        ensure!(!folder.is_dir(), "{} is there", folder.display());
        Ok(())
    })
    .await
    .with_context(|| mesh.agents_tell())?;
    let metrics = mesh.metrics(node.name()).await?;
    let series = metrics
        .samples()
        .iter()
        .find(|sample| format!("{sample:?}").contains(&uid));
    ensure!(series.is_none(), "a series is left: {series:?}");
    // Without any volume there is no file.
    let state = node.run(&["/bin/sh", "-c", "cat /run/ensign/csi.json || true"]).await?;
    ensure!(!state.contains(&uid), "the agent's state still has it: {state}");
    Ok(())
}
