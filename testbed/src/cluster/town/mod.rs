//! What a person finds in `make cluster`: the RA installed as docs/install.md does it with the Kubernetes CSR API, and workloads of
//! foo and bar whose Envoys have their certificates from it.
//!
//! The RA's pods are processes ([`PodRunner`]), with the rights of deploy/optional/rbac.yaml. It is ended in order, so that nothing
//! is left behind whenever it was interrupted: hold it outside of whatever may be dropped.

mod residents;

use std::{fmt::Write as _, sync::Arc};

use anyhow::{Context, ensure};
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::{
    Api, ResourceExt,
    api::{DynamicObject, ListParams},
};
use serde_json::json;

use self::residents::Residents;
use super::{Access, Cluster, ClusterOptions, Manifests, PodRunner};
use crate::{
    folder::Folder,
    story::Story,
    wait::{self, PATIENCE},
};

/// The signers of Istio's documentation on mixed signers.
const ISSUERS: [&str; 3] = ["istio-system", "foo", "bar"];
/// Istio's mesh configuration, but for the roots of the signers.
const MESH: &str = "trustDomain: cluster.local
defaultConfig:
  proxyMetadata:
    ISTIO_META_CERT_SIGNER: istio-system
caCertificates:
";
/// Where the RA is.
const OWN: &str = "ensign-system";
/// What deploy/examples/kubernetes-csr.yaml needs.
const MODES: [&str; 7] = [
    "base",
    "istio-config",
    "kubernetes-csr",
    "cluster-issuers",
    "root-cert",
    "istiod-secret",
    "serving-secret",
];

/// What runs, as far as it was begun.
#[derive(Default)]
pub(super) struct Town {
    residents: Option<Residents>,
    pods: Option<PodRunner>,
    cluster: Option<Cluster>,
}

// === impl Town ===

impl Town {
    /// Begins everything, and says what there is. What was begun is in `self` also if this is dropped halfway.
    pub(super) async fn build(&mut self, files: &Arc<Folder>, story: &mut Story) -> anyhow::Result<()> {
        story.chapter("A Kubernetes with cert-manager: control plane only, no kubelet");
        let options = ClusterOptions {
            scheduler: true,
            ..ClusterOptions::default()
        };
        let cluster = self
            .cluster
            .insert(Cluster::start_in(Arc::clone(files), options).await?);
        let mut mesh = String::from(MESH);
        for name in ISSUERS {
            let signer = format!("clusterissuers.cert-manager.io/{name}");
            let root = cluster.cluster_issuer(name).await?.root_pem();
            story.tell(&format!("ClusterIssuer {name} is ready, signer {signer}"));
            writeln!(mesh, "- pem: |")?;
            for line in root.lines() {
                writeln!(mesh, "    {line}")?;
            }
            writeln!(mesh, "  certSigners:\n  - {signer}")?;
        }
        story.tell(&format!(
            "logs, audit log and kubeconfigs: {}",
            cluster.folder().display()
        ));

        story.chapter("Our RA in it, as docs/install.md installs it with the Kubernetes CSR API");
        istio(cluster, &mesh).await?;
        let pods = self.pods.insert(PodRunner::start(cluster, "node-1").await?);
        install(cluster).await?;
        ready(cluster, pods).await?;
        story.tell(&format!(
            "two replicas in namespace {OWN} are ready, as processes; their Service leads to {}",
            pods.service()
        ));

        story.chapter("Workloads of foo and bar: an agent with a socket for each, Envoys behind them");
        let root = roots(cluster, "foo").await?;
        let residents = Residents::settle(cluster, pods.service(), &root).await?;
        residents.introduce(story)?;
        self.residents = Some(residents);
        Ok(())
    }

    /// The cluster, once it runs.
    pub(super) fn cluster(&self) -> anyhow::Result<&Cluster> {
        self.cluster.as_ref().context("there is no cluster")
    }

    /// What a shell should know, by variable.
    pub(super) fn variables(&self) -> anyhow::Result<Vec<(&'static str, String)>> {
        let residents = self.residents.as_ref().context("nobody lives here yet")?;
        residents.variables()
    }

    /// Ends all of it, the last first.
    pub(super) async fn end(self) -> anyhow::Result<()> {
        drop(self.residents);
        let ended = match self.pods {
            Some(pods) => pods.finish().await,
            None => Ok(()),
        };
        drop(self.cluster);
        ended
    }
}

/// What an installation of Istio would have brought: its namespace, its mesh configuration, a ProxyConfig for each team.
async fn istio(access: &Access, mesh: &str) -> anyhow::Result<()> {
    access.install_proxy_config().await?;
    access.namespace_named("istio-system").await?;
    let map = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "istio", "namespace": "istio-system" },
        "data": { "mesh": mesh },
    });
    access.apply_yaml(&map.to_string()).await?;
    for namespace in ["foo", "bar"] {
        access.namespace_named(namespace).await?;
        let choice = json!({
            "apiVersion": "networking.istio.io/v1beta1", "kind": "ProxyConfig",
            "metadata": { "name": format!("{namespace}pc"), "namespace": namespace },
            "spec": { "environmentVariables": { "ISTIO_META_CERT_SIGNER": namespace } },
        });
        access.apply_yaml(&choice.to_string()).await?;
    }
    Ok(())
}

async fn install(access: &Access) -> anyhow::Result<Vec<DynamicObject>> {
    let mut applied = Vec::new();
    for manifests in [
        Manifests::read("ra.yaml")?,
        Manifests::read("optional/rbac.yaml")?.of_modes(&MODES)?,
        Manifests::read("optional/admission.yaml")?,
        Manifests::read("examples/kubernetes-csr.yaml")?,
    ] {
        applied.extend(manifests.apply(access).await?);
    }
    Ok(applied)
}

async fn ready(access: &Access, runner: &PodRunner) -> anyhow::Result<()> {
    let pods = Api::<Pod>::namespaced(access.admin(), OWN);
    wait::until("both replicas to be ready", PATIENCE, async || {
        let found = pods.list(&ListParams::default()).await?.items;
        let ready = found.iter().filter(|pod| is_ready(pod)).count();
        let names: Vec<_> = found.iter().map(ResourceExt::name_any).collect();
        ensure!(ready == 2, "{ready} of {names:?} are");
        Ok(())
    })
    .await
    .with_context(|| format!("their last lines:\n{}", runner.printed(OWN).join("\n")))
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.is_some_and(|all| all.iter().any(|one| one.type_ == "Ready" && one.status == "True"))
}

/// What callers of the RA in this namespace trust.
async fn roots(access: &Access, namespace: &str) -> anyhow::Result<String> {
    let maps = Api::<ConfigMap>::namespaced(access.admin(), namespace);
    wait::until("istio-ca-root-cert", PATIENCE, async || {
        let map = maps.get("istio-ca-root-cert").await.context("not there")?;
        let root = map.data.and_then(|mut data| data.remove("root-cert.pem"));
        root.context("no root-cert.pem")
    })
    .await
}
