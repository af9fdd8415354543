//! One kubelet, one pod, one socket, one certificate; then the agent's death, then the pod's.

use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

use anyhow::{Context, ensure};
use ensign_testkit::fake_envoy::certificate;
use ensign_testkit::metrics::get;
use ensign_testkit::patience;
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;

use crate::mesh::Mesh;
use crate::pod::address;
use crate::traces::nothing_is_left_of;
use crate::workload::{Workload, id};

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_lives_through_the_death_of_its_agent_and_leaves_nothing() -> anyhow::Result<()> {
    let mesh = Mesh::join().await?;
    let place = mesh.namespace_with("foo", "foo").await?;

    // The socket answers the first container's first act, and cannot be taken away.
    let workload = Workload::new(&place, "httpbin").attributes(json!({ "signer": "foo" }));
    let pod = mesh.start(&workload).await?;
    let node = mesh.node_of(&pod)?.clone();
    let log = mesh.probed(&place, "httpbin").await?;
    ensure!(log.contains("probe answered"), "{log}");
    ensure!(
        log.contains("socket cannot be removed") && log.contains("read-only"),
        "{log}"
    );

    // Signed for by the pod's own token, which is checked against the cluster's keys.
    let envoy = mesh.envoy(&pod).await?;
    let mut stream = envoy.subscribe(&["default"]).await;
    let secret = stream.next_secret(patience()).await;
    let (chain, _) = certificate(&secret).context("a certificate")?;
    let id = id(&place);
    let der = rustls_pki_types::pem::PemObject::from_pem_slice(chain.as_bytes());
    let der: rustls_pki_types::CertificateDer<'_> = der.ok().context("a PEM certificate")?;
    ensure!(
        der.windows(id.len()).any(|part| part == id.as_bytes()),
        "the certificate does not name {id}"
    );
    let held = stream.held_version().to_owned();
    let issued = mesh.issued(&place);
    ensure!(issued == 1, "{issued} certificates were issued, expected one");

    // A mistake is told where people look.
    let mistaken = Workload::new(&place, "mistaken").attributes(json!({ "sginer": "foo" }));
    mesh.create(&mistaken).await?;
    let said = mesh.event(&place, "mistaken", "FailedMount").await?;
    ensure!(said.contains("sginer") && said.contains("volumeAttributes"), "{said}");
    mesh.delete(&place, "mistaken").await?;

    // What it runs as: no capability, the fence up.
    let [agent] = node.processes("ensign-agent").await?[..] else {
        anyhow::bail!("there is not one agent on the node");
    };
    let status = node.run(&["grep", "CapEff", &format!("/proc/{agent}/status")]).await?;
    ensure!(status.trim() == "CapEff:\t0000000000000000", "{status}");
    let metrics = mesh.metrics(node.name()).await?;
    ensure!(metrics.sum("ensign_agent_fence", &[]) > Some(0.0), "no fence");
    only_health_and_series_are_served_to_others(&mesh.agent(node.name()).await?).await?;

    // Killed: kubelet starts it again, the folder is the same, the certificate in use costs nothing, a newcomer gets one.
    let folder = std::fs::metadata(mesh.mount(&pod)?)?.ino();
    node.kill("ensign-agent").await?;
    drop(stream);
    drop(envoy);
    let envoy = mesh.envoy(&pod).await?;
    let mut holder = envoy.subscribe_holding(&["default"], &held).await;
    mesh.agent(node.name()).await?;
    holder.expect_silence(Duration::from_secs(1)).await;
    ensure!(mesh.issued(&place) == 1, "the restart cost a certificate");
    ensure!(
        std::fs::metadata(mesh.mount(&pod)?)?.ino() == folder,
        "the folder was made again"
    );
    let mut fresh = mesh.envoy(&pod).await?.subscribe(&["default"]).await;
    fresh.next_secret(patience()).await;

    mesh.delete(&place, "httpbin").await?;
    nothing_is_left_of(&mesh, &pod).await?;
    mesh.finish().await
}

/// Names of workloads are for people on the node.
async fn only_health_and_series_are_served_to_others(agent: &Pod) -> anyhow::Result<()> {
    for (path, expected) in [("/healthz", 200), ("/readyz", 200), ("/status", 404), ("/", 404)] {
        let answer = get(address(agent, 9402)?, path, None).await?;
        ensure!(answer.status == expected, "{path} is answered with {}", answer.status);
    }
    let status = get(address(agent, 9403)?, "/status", None).await;
    ensure!(status.is_err(), "the status is served to other pods");
    Ok(())
}
