//! What the agent cannot do with the folders that it is trusted with: read a pod's files, or keep a pod's mounts.

use anyhow::{Context, ensure};
use ensign_testbed::wait::{PATIENCE, until};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, PostParams};
use serde_json::{Value, json};

use crate::install::AGENTS;
use crate::mesh::Mesh;
use crate::traces::nothing_is_left_of;
use crate::workload::Workload;

/// What must not be read.
const PLANTED: &str = "planted-for-nobody-else";

/// An agent is told that its roots are a file in another pod's Secret, which appears once its fence is up. Root on the node can read it;
/// the agent, which is root as well, cannot open it, and says so.
#[tokio::test(flavor = "multi_thread")]
async fn a_secret_of_another_pod_cannot_be_opened_from_inside_the_fence() -> anyhow::Result<()> {
    let mesh = Mesh::join().await?;
    let place = mesh.namespace_for_hosts("fence").await?;
    let pods = mesh.pods(&place);
    // Kubelet's folder of the owner is known before there is a Secret in it: the pod waits for it.
    let owner: Pod = serde_json::from_value(owner())?;
    let owner = pods.create(&PostParams::default(), &owner).await?;
    let uid = owner.metadata.uid.context("a pod has a uid")?;
    let file = format!("pods/{uid}/volumes/kubernetes.io~secret/secret/root-cert.pem");

    let agent: Pod = serde_json::from_value(curious(&format!("/kubelet/{file}")))?;
    pods.create(&PostParams::default(), &agent).await?;
    let line = |words: [&str; 2]| {
        let log = mesh.log(&place, "curious");
        let mut lines = log.lines().filter(|line| words.iter().all(|word| line.contains(word)));
        lines
            .next()
            .map(str::to_owned)
            .with_context(|| format!("its log:\n{log}"))
    };
    // Whole, or in part by an older kernel: what it is to read is kept from it either way.
    until("the curious agent's fence", PATIENCE, async || {
        line(["INFO", "fenced: no file"]).or_else(|_| line(["WARN", "fenced in part"]))
    })
    .await?;

    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "secret", "namespace": place },
        "stringData": { "root-cert.pem": PLANTED },
    });
    mesh.apply_yaml(&secret.to_string()).await?;
    let node = mesh.node("node1")?;
    until("root on the node to read it", PATIENCE, async || {
        let text = node.run(&["cat", &format!("/var/lib/kubelet/{file}")]).await?;
        ensure!(text == PLANTED, "it reads {text:?}");
        Ok(())
    })
    .await?;
    until("the curious agent to try", PATIENCE, async || {
        line([&file, "Permission denied"])
    })
    .await?;
    ensure!(!mesh.log(&place, "curious").contains(PLANTED), "it was read");
    mesh.finish().await
}

/// Without propagation the agent's view of kubelet's folder would be a copy of the mounts of that moment, and each would
/// outlive its pod.
#[tokio::test(flavor = "multi_thread")]
async fn mounts_of_pods_older_than_the_agent_go_with_their_pods() -> anyhow::Result<()> {
    let mesh = Mesh::join().await?;
    let place = mesh.namespace_with("foo", "foo").await?;
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "secret", "namespace": place },
        "stringData": { "file": "a secret" },
    });
    mesh.apply_yaml(&secret.to_string()).await?;
    let workload = Workload::new(&place, "older")
        .attributes(json!({ "signer": "foo" }))
        .with_volumes(json!([
            { "name": "memory", "emptyDir": { "medium": "Memory" } },
            { "name": "secret", "secret": { "secretName": "secret" } },
        ]));
    let workload = workload.with_mounts(json!([
        { "name": "memory", "mountPath": "/memory" },
        { "name": "secret", "mountPath": "/secret", "readOnly": true },
        { "name": "secret", "mountPath": "/one-file", "subPath": "file", "readOnly": true },
    ]));
    let older = mesh.start(&workload).await?;
    let uid = older.metadata.uid.clone().context("a pod has a uid")?;
    let node = mesh.node_of(&older)?.clone();

    // An agent that is younger than the pod.
    let name = mesh
        .agent(node.name())
        .await?
        .metadata
        .name
        .context("a pod has a name")?;
    mesh.pods(AGENTS).delete(&name, &DeleteParams::default()).await?;
    until("another agent", PATIENCE * 2, async || {
        let agent = mesh.agent(node.name()).await?;
        ensure!(agent.metadata.name.as_ref() != Some(&name), "it is the old one");
        Ok(())
    })
    .await?;
    let mounts = async || {
        let [agent] = node.processes("ensign-agent").await?[..] else {
            anyhow::bail!("there is not one agent on the node");
        };
        let text = node.run(&["cat", &format!("/proc/{agent}/mountinfo")]).await?;
        let of_pod = text.lines().filter(|line| line.contains(&uid)).map(str::to_owned);
        Ok(of_pod.collect::<Vec<_>>())
    };
    let seen = until("the agent to see the pod's mounts", PATIENCE, async || mounts().await).await?;
    for part in ["empty-dir/memory", "secret/secret", "volume-subpaths/secret"] {
        ensure!(seen.iter().any(|line| line.contains(part)), "no {part} among {seen:?}");
    }

    mesh.delete(&place, "older").await?;
    nothing_is_left_of(&mesh, &older).await?;
    let left = mounts().await?;
    ensure!(left.is_empty(), "the agent still has {left:?}");
    mesh.finish().await
}

/// A pod that cannot start before its Secret is there.
fn owner() -> Value {
    json!({
        "metadata": { "name": "owner" },
        "spec": {
            "nodeName": "node1",
            "automountServiceAccountToken": false,
            "terminationGracePeriodSeconds": 1,
            "containers": [{
                "name": "owner", "image": ensign_testbed::node::GUEST, "imagePullPolicy": "Never",
                "volumeMounts": [{ "name": "secret", "mountPath": "/secret" }],
            }],
            "volumes": [{ "name": "secret", "secret": { "secretName": "secret", "defaultMode": 0o444 } }],
        },
    })
}

/// A second agent of the node, on folders of its own but for the pods', with the container of deploy/daemonset.yaml.
fn curious(roots: &str) -> Value {
    let folder = |name: &str| format!("/var/lib/kubelet/curious/{name}");
    json!({
        "metadata": { "name": "curious" },
        "spec": {
            "nodeName": "node1",
            "automountServiceAccountToken": false,
            "terminationGracePeriodSeconds": 1,
            "containers": [{
                "name": "agent",
                "image": ensign_testbed::image::ours::AGENT,
                "imagePullPolicy": "Never",
                "args": [
                    "--source=csi", "--node-name=node1", "--kubelet-dir=/kubelet", "--state-dir=/state",
                    "--ca-addr=ensign-ra.ensign-system.svc:443", format!("--ca-root-ca={roots}"),
                ],
                "securityContext": {
                    "runAsUser": 0, "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
                    "capabilities": { "drop": ["ALL"] }, "seccompProfile": { "type": "RuntimeDefault" },
                },
                "volumeMounts": [
                    { "name": "pods", "mountPath": "/kubelet/pods", "mountPropagation": "HostToContainer" },
                    { "name": "plugin", "mountPath": "/kubelet/plugins/csi.ensign.mesh" },
                    { "name": "registry", "mountPath": "/kubelet/plugins_registry" },
                    { "name": "state", "mountPath": "/state" },
                ],
            }],
            "volumes": [
                { "name": "pods", "hostPath": { "path": "/var/lib/kubelet/pods" } },
                { "name": "plugin", "hostPath": { "path": folder("plugin"), "type": "DirectoryOrCreate" } },
                { "name": "registry", "hostPath": { "path": folder("registry"), "type": "DirectoryOrCreate" } },
                { "name": "state", "emptyDir": { "medium": "Memory" } },
            ],
        },
    })
}
