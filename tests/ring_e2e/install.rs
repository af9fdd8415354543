//! The installation that all tests of the ring share, as the documents tell people to make it: three ClusterIssuers and Istio's
//! mesh configuration, namespaces by the commands of docs/chart.md, then one `helm install --wait` of the chart.
//!
//! The site is strict: Pod Security is `baseline` where a namespace says nothing, and both of ours ask for Istio's injection, so that
//! a pod of ours that does not keep out of it would never be ready.

use std::fs::File;
use std::io::{Read as _, Write as _};

use anyhow::{Context, ensure};
use ensign_testbed::cluster::{Access, INJECTED};
use ensign_testbed::helm::Helm;
use ensign_testbed::page::{Page, Shell};
use ensign_testbed::site::{NODES, SharedSite};
use ensign_testbed::wait::{PATIENCE, until};
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::PostParams;
use rustix::fs::{FlockOperation, flock};
use serde_json::{Value, json};

use crate::pod::printed;
use crate::workload::Workload;

/// Where the RA is.
pub(crate) const RA: &str = "ensign-system";
/// Where the agents are.
pub(crate) const AGENTS: &str = "ensign-node";
/// Where Istio's configuration is.
const ISTIO: &str = "istio-system";
/// By which workloads ask for a signer.
const DOMAIN: &str = "clusterissuers.cert-manager.io";
/// Who signs.
const SIGNERS: [&str; 3] = ["istio-system", "foo", "bar"];
/// What people read.
pub(crate) const PAGE: &str = include_str!("../../docs/chart.md");
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
        namespaces(site).await?;
        release(site, "install", &values()).await?;
        file.write_all(DONE.as_bytes())?;
    }
    Ok(())
}

/// The chart's values.
pub(crate) fn values() -> Value {
    json!({
        "app": { "certmanager": { "issuer": { "enabled": false } } },
        "ra": { "config": { "EXTERNAL_CA": "ISTIOD_RA_KUBERNETES_API", "CERT_SIGNER_DOMAIN": DOMAIN } },
        "rbac": { "signers": SIGNERS.map(|name| format!("{DOMAIN}/{name}")) },
        "admission": { "meshIssuers": SIGNERS.map(|name| format!("ClusterIssuer.cert-manager.io/{name}")) },
        "agent": { "namespace": { "create": false } },
    })
}

/// `helm install --wait`, or `upgrade`; what Helm tells its user.
pub(crate) async fn release(site: &SharedSite, verb: &str, values: &Value) -> anyhow::Result<String> {
    let helm = Helm::of(site)?;
    let notes = helm.apply_with(verb, RA, values, &["--wait"]).await;
    helm.discard();
    notes.with_context(|| {
        let logs = [(RA, "ensign-ra"), (AGENTS, "ensign-agent")].map(|(namespace, pod)| {
            let nodes = site.nodes().iter();
            nodes
                .map(|node| printed(node.path("/var/log/pods"), namespace, pod))
                .collect::<String>()
        });
        format!("what our pods printed:\n{}", logs.concat())
    })
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

/// Whether the injector has been at a pod.
pub(crate) fn is_injected(pod: &Pod) -> bool {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    containers.into_iter().any(|container| container.name == INJECTED)
}

/// The signers, and what says so to the RA.
async fn istio(access: &Access) -> anyhow::Result<()> {
    let mut mesh = String::from(
        "trustDomain: cluster.local\ndefaultConfig:\n  proxyMetadata:\n    ISTIO_META_CERT_SIGNER: istio-system\ncaCertificates:\n",
    );
    for issuer in SIGNERS {
        let authority = access.cluster_issuer(issuer).await?;
        let pem: String = authority
            .root_pem()
            .lines()
            .map(|line| format!("    {line}\n"))
            .collect();
        mesh.push_str(&format!("- pem: |\n{pem}  certSigners:\n  - {DOMAIN}/{issuer}\n"));
    }
    access.namespace_named(ISTIO).await?;
    let map = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "istio", "namespace": ISTIO }, "data": { "mesh": mesh },
    });
    access.apply_yaml(&map.to_string()).await?;
    access.install_proxy_config().await
}

/// Made as docs/chart.md says; and injected, whatever else is made there.
async fn namespaces(access: &Access) -> anyhow::Result<()> {
    let page = Page::parse(PAGE);
    let [prepare] = page.blocks("Namespaces of your own")?;
    let shell = Shell::new(access)?;
    shell.run(prepare).await?;
    let inject = format!("kubectl label namespace {RA} {AGENTS} istio-injection=enabled");
    shell.run(&inject).await?;
    shell.finish();
    for namespace in [RA, AGENTS] {
        let pods = Api::<Pod>::namespaced(access.admin(), namespace);
        let any = serde_json::from_value(Workload::new(namespace, "any").object())?;
        let try_out = PostParams {
            dry_run: true,
            ..PostParams::default()
        };
        until("the injector to be at work", PATIENCE, async || {
            let any = pods.create(&try_out, &any).await?;
            ensure!(is_injected(&any), "it leaves a pod in {namespace} as it is");
            Ok(())
        })
        .await?;
    }
    Ok(())
}
