//! The installation that all tests of the ring share, as the documents tell people to make it: three ClusterIssuers, Istio's
//! mesh configuration, the manifests of `deploy/`, a ConfigMap with settings for each program.

use std::fs::File;
use std::io::{Read as _, Write as _};

use anyhow::{Context, ensure};
use ensign_testbed::cluster::{Access, Manifests};
use ensign_testbed::site::{NODES, SharedSite};
use ensign_testbed::wait::{PATIENCE, until};
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use rustix::fs::{FlockOperation, flock};
use serde_json::{Value, json};

/// Where the RA is.
pub(crate) const RA: &str = "ensign-system";
/// Where the agents are.
pub(crate) const AGENTS: &str = "ensign-node";
/// Where Istio's configuration is.
const ISTIO: &str = "istio-system";
/// By which workloads ask for a signer.
const DOMAIN: &str = "clusterissuers.cert-manager.io";
/// What the RA is used for here.
const MODES: [&str; 6] = [
    "base",
    "cluster-issuers",
    "istio-config",
    "kubernetes-csr",
    "root-cert",
    "serving-secret",
];
/// What the file holds that tells the next test.
const DONE: &str = "installed";

/// Installs everything unless another test has, and waits until all of it is ready.
pub(crate) async fn once(site: &SharedSite) -> anyhow::Result<()> {
    let path = site.folder().join("installation");
    let mut file = File::options().create(true).read(true).append(true).open(&path)?;
    // Held by whoever installs; a test runs on threads enough to wait on one of them.
    flock(&file, FlockOperation::LockExclusive)?;
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    if text != DONE {
        istio(site).await?;
        registration_authority(site).await?;
        agents(site).await?;
        file.write_all(DONE.as_bytes())?;
    }
    Ok(())
}

/// Waits until both agents are ready.
pub(crate) async fn agents_ready(access: &Access) -> anyhow::Result<()> {
    let sets = Api::<DaemonSet>::namespaced(access.admin(), AGENTS);
    until("an agent on each node", PATIENCE * 2, async || {
        let set = sets.get("ensign-agent").await?;
        let generation = set.metadata.generation;
        let status = set.status.unwrap_or_default();
        let wanted = i32::try_from(NODES.len())?;
        ensure!(
            status.observed_generation == generation
                && status.number_ready == wanted
                && status.updated_number_scheduled == Some(wanted),
            "its status is {status:?}"
        );
        Ok(())
    })
    .await
}

/// The ProxyConfig of a namespace: which signer is the default of its workloads.
pub(crate) async fn proxy_config(access: &Access, namespace: &str, signer: &str) -> anyhow::Result<()> {
    let object = json!({
        "apiVersion": "networking.istio.io/v1beta1", "kind": "ProxyConfig",
        "metadata": { "name": "signer", "namespace": namespace },
        "spec": { "environmentVariables": { "ISTIO_META_CERT_SIGNER": signer } },
    });
    access.apply_yaml(&object.to_string()).await.map(drop)
}

/// The signers, and what says so to the RA.
async fn istio(access: &Access) -> anyhow::Result<()> {
    let mut mesh = String::from(
        "trustDomain: cluster.local\ndefaultConfig:\n  proxyMetadata:\n    ISTIO_META_CERT_SIGNER: istio-system\ncaCertificates:\n",
    );
    for issuer in ["istio-system", "foo", "bar"] {
        let authority = access.cluster_issuer(issuer).await?;
        let pem: String = authority
            .root_pem()
            .lines()
            .map(|line| format!("    {line}\n"))
            .collect();
        mesh.push_str(&format!("- pem: |\n{pem}  certSigners:\n  - {DOMAIN}/{issuer}\n"));
    }
    access.namespace_named(ISTIO).await?;
    config_map(access, ISTIO, "istio", &json!({ "mesh": mesh })).await?;
    access.install_proxy_config().await
}

async fn registration_authority(access: &Access) -> anyhow::Result<()> {
    let manifests = Manifests::read("ra.yaml")?;
    access.namespace_named(RA).await?;
    let settings = json!({
        "CERT_SIGNER_DOMAIN": DOMAIN,
        "EXTERNAL_CA": "ISTIOD_RA_KUBERNETES_API",
        "ENSIGN_RA_LEADER_ELECTION_NAMESPACE": RA,
        "ENSIGN_RA_SERVING_CA_SECRET": "ensign-ra-serving",
        "ENSIGN_RA_SERVING_DNS_NAMES": "ensign-ra.ensign-system.svc",
    });
    config_map(access, RA, "ensign-ra", &settings).await?;
    Manifests::read("rbac.yaml")?.of_modes(&MODES)?.apply(access).await?;
    manifests.apply(access).await?;
    let deployments = Api::<Deployment>::namespaced(access.admin(), RA);
    until("two replicas of the RA", PATIENCE * 2, async || {
        let status = deployments.get("ensign-ra").await?.status.unwrap_or_default();
        ensure!(status.ready_replicas == Some(2), "its status is {status:?}");
        Ok(())
    })
    .await
}

async fn agents(access: &Access) -> anyhow::Result<()> {
    access.namespace_named(AGENTS).await?;
    let settings = json!({ "CA_ADDR": "ensign-ra.ensign-system.svc:443" });
    config_map(access, AGENTS, "ensign-agent", &settings).await?;
    // The RA gives its roots to every namespace. An agent that starts before works, too: kubelet brings them within a minute.
    let maps = Api::<ConfigMap>::namespaced(access.admin(), AGENTS);
    until("the RA's roots in the agents' namespace", PATIENCE, async || {
        maps.get("istio-ca-root-cert").await.map(drop).context("not yet")
    })
    .await?;
    access.apply_yaml(include_str!("../../deploy/csidriver.yaml")).await?;
    access.apply_yaml(include_str!("../../deploy/daemonset.yaml")).await?;
    agents_ready(access).await
}

async fn config_map(access: &Access, namespace: &str, name: &str, data: &Value) -> anyhow::Result<()> {
    let object = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name, "namespace": namespace }, "data": data,
    });
    access.apply_yaml(&object.to_string()).await.map(drop)
}
