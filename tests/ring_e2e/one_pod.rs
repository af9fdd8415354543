//! One kubelet, one pod, one socket, one certificate; then the agent's death, then the pod's.

use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

use anyhow::{Context, ensure};
use ensign_testbed::wait::{PATIENCE, until};
use ensign_testkit::fake_envoy::certificate;
use ensign_testkit::metrics::get;
use ensign_testkit::patience;
use serde_json::json;

use crate::mesh::Mesh;

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_lives_through_the_death_of_its_agent_and_leaves_nothing() -> anyhow::Result<()> {
    let mesh = Mesh::start().await?;
    let place = mesh.cluster.namespace("foo").await?;
    let strict = json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": { "name": place, "labels": { "pod-security.kubernetes.io/enforce": "restricted" } },
    });
    mesh.cluster.apply_yaml(&strict.to_string()).await?;

    // The socket answers the first container's first act, and cannot be taken away.
    let pod = mesh.pod(&place, "httpbin", json!({ "signer": "foo" })).await?;
    let log = until("the probe", PATIENCE, async || {
        let log = mesh.log(&place, "httpbin");
        ensure!(log.contains("socket"), "{log}");
        Ok(log)
    })
    .await?;
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
    let id = format!("spiffe://cluster.local/ns/{place}/sa/default");
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
    mesh.create(&place, "mistaken", json!({ "sginer": "foo" })).await?;
    let said = mesh.event(&place, "mistaken", "FailedMount").await?;
    ensure!(said.contains("sginer") && said.contains("volumeAttributes"), "{said}");
    mesh.delete(&place, "mistaken").await?;

    // What it runs as: no capability, the fence up.
    let status = mesh.node.run(&["/bin/sh", "-c", CAPABILITIES]).await?;
    ensure!(status.trim() == "CapEff:\t0000000000000000", "{status}");
    let metrics = mesh.metrics().await?;
    ensure!(metrics.sum("ensign_agent_fence", &[]) == Some(1.0), "no fence");
    only_health_and_series_are_served_to_others(&mesh).await?;

    // Killed: kubelet starts it again, the folder is the same, the certificate in use costs nothing, a newcomer gets one.
    let folder = std::fs::metadata(mesh.mount(&pod)?)?.ino();
    mesh.node.kill("ensign-agent").await?;
    drop(stream);
    drop(envoy);
    let envoy = mesh.envoy(&pod).await?;
    let mut holder = envoy.subscribe_holding(&["default"], &held).await;
    mesh.agent_ready().await?;
    holder.expect_silence(Duration::from_secs(1)).await;
    ensure!(mesh.issued(&place) == 1, "the restart cost a certificate");
    ensure!(
        std::fs::metadata(mesh.mount(&pod)?)?.ino() == folder,
        "the folder was made again"
    );
    let mut fresh = mesh.envoy(&pod).await?.subscribe(&["default"]).await;
    fresh.next_secret(patience()).await;

    // The agent never spoke to the API server.
    let user = "system:serviceaccount:ensign-node:ensign-agent";
    let requests = mesh.cluster.audit().requests_by(user).since(mesh.begin).await?.counts();
    ensure!(requests.is_empty(), "{requests:?}");

    // Gone: no folder, no series, no state.
    mesh.delete(&place, "httpbin").await?;
    let uid = pod.metadata.uid.clone().context("a pod has a uid")?;
    let pods = mesh.node.path("/var/lib/kubelet/pods");
    until("kubelet's folder of the pod to go", PATIENCE, async || {
        ensure!(!pods.join(&uid).is_dir(), "it is there");
        Ok(())
    })
    .await?;
    let metrics = mesh.metrics().await?;
    ensure!(
        metrics.sum("ensign_agent_csi_volumes", &[]) == Some(0.0),
        "a volume is left"
    );
    ensure!(
        metrics
            .samples()
            .iter()
            .all(|sample| !format!("{sample:?}").contains(&uid)),
        "a series is left"
    );
    let state = mesh.node.run(&["cat", "/run/ensign/csi.json"]).await?;
    ensure!(!state.contains(&uid), "{state}");
    mesh.finish().await
}

/// Names of workloads are for people on the node.
async fn only_health_and_series_are_served_to_others(mesh: &Mesh) -> anyhow::Result<()> {
    let address = mesh.agent_address().await?;
    for (path, expected) in [("/healthz", 200), ("/readyz", 200), ("/status", 404), ("/", 404)] {
        let answer = get(SocketAddr::new(address, 9402), path, None).await?;
        ensure!(answer.status == expected, "{path} is answered with {}", answer.status);
    }
    let status = get(SocketAddr::new(address, 9403), "/status", None).await;
    ensure!(status.is_err(), "the status is served to other pods");
    Ok(())
}

/// Of the agent's process, as the node sees it.
const CAPABILITIES: &str = "for process in /proc/[0-9]*; do
    if [ \"$(cat \"$process/comm\" 2>/dev/null)\" = ensign-agent ]; then grep CapEff \"$process/status\"; fi
done";
