//! What kubelet, API server and RA show of one pod, on whichever node and cluster a test has it.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use ensign_testbed::wait::{PATIENCE, until};
use ensign_testkit::FakeEnvoy;
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::Api;
use kube::api::{DeleteParams, ListParams};
use serde_json::Value;

/// Whether a condition of a pod is true.
pub(crate) fn condition(pod: &Pod, name: &str) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.is_some_and(|all| all.iter().any(|one| one.type_ == name && one.status == "True"))
}

/// What the pod's first container is called by its node.
pub(crate) fn container(pod: &Pod) -> anyhow::Result<String> {
    let status = pod.status.as_ref();
    let statuses = status.and_then(|status| status.container_statuses.as_ref());
    let first = statuses.and_then(|all| all.first()?.container_id.clone());
    first.context("the pod has no container yet")
}

/// A port of a pod.
pub(crate) fn address(pod: &Pod, port: u16) -> anyhow::Result<SocketAddr> {
    let ip = pod.status.as_ref().and_then(|status| status.pod_ip.as_deref());
    let ip: IpAddr = ip.context("the pod has no address")?.parse()?;
    Ok(SocketAddr::new(ip, port))
}

/// Waits until a pod runs.
pub(crate) async fn running(pods: &Api<Pod>, name: &str) -> anyhow::Result<Pod> {
    until(&format!("pod {name} to run"), PATIENCE * 2, async || {
        let pod = pods.get(name).await?;
        ensure!(condition(&pod, "Ready"), "its status is {:?}", pod.status);
        Ok(pod)
    })
    .await
}

/// Deletes a pod and waits until kubelet has let go of it.
pub(crate) async fn delete(pods: &Api<Pod>, name: &str) -> anyhow::Result<()> {
    pods.delete(name, &DeleteParams::default()).await?;
    until(&format!("pod {name} to be gone"), PATIENCE, async || {
        let left = pods.get_opt(name).await?;
        ensure!(left.is_none(), "it is still there");
        Ok(())
    })
    .await
}

/// What a pod's event of this reason says, as `kubectl describe pod` shows it.
pub(crate) async fn event(events: &Api<Event>, pod: &str, reason: &str) -> anyhow::Result<String> {
    until(&format!("an event {reason} of {pod}"), PATIENCE, async || {
        let all = events.list(&ListParams::default()).await?.items;
        let mut found = all.into_iter().filter(|event| {
            event.involved_object.name.as_deref() == Some(pod) && event.reason.as_deref() == Some(reason)
        });
        found.next().and_then(|event| event.message).context("none yet")
    })
    .await
}

/// Where the pod's volume is on its node: what is mounted into its containers.
pub(crate) fn volume(pod: &Pod) -> anyhow::Result<String> {
    let uid = pod.metadata.uid.as_deref().context("a pod has a uid")?;
    Ok(format!(
        "/var/lib/kubelet/pods/{uid}/volumes/kubernetes.io~csi/identity/mount"
    ))
}

/// An Envoy on the socket of such a volume: it is the same file, whoever connects.
pub(crate) async fn envoy(mount: &Path) -> anyhow::Result<FakeEnvoy> {
    until("the pod's socket to answer", PATIENCE, async || connect(mount).await).await
}

/// The same without a second try.
pub(crate) async fn connect(mount: &Path) -> anyhow::Result<FakeEnvoy> {
    FakeEnvoy::connect(mount.join("ensign.sock")).await
}

/// All that the containers of pods whose names begin like this printed, by a node's `/var/log/pods`.
pub(crate) fn printed(logs: PathBuf, namespace: &str, pod: &str) -> String {
    let start = format!("{namespace}_{pod}");
    let of_it = entries(logs).filter(|folder| {
        let name = folder.file_name().map(|name| name.to_string_lossy());
        name.is_some_and(|name| name.starts_with(&start))
    });
    let files = of_it.flat_map(entries).flat_map(entries);
    files
        .map(|file| std::fs::read_to_string(file).unwrap_or_default())
        .collect()
}

/// How many certificates these lines of RAs' logs give to workloads of a namespace.
pub(crate) fn issued<'a>(lines: impl Iterator<Item = &'a str>, namespace: &str) -> usize {
    let events = lines.filter_map(|line| serde_json::from_str::<Value>(line).ok());
    events
        .filter(|event| event["message"] == "certificate issued" && event["namespace"] == namespace)
        .count()
}

/// Nothing where there is no folder.
fn entries(folder: PathBuf) -> impl Iterator<Item = PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path())
}
