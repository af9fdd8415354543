//! The cluster of the bench and what is in it: two installations of equal rights, two signers behind each API, workloads.
//!
//! One installation is the RA's, with `deploy/optional/rbac.yaml` as it is. The other has the same rights under other names, for
//! the client of the direct limit, so that the audit log tells the two apart and neither meets the other's objects.

use std::path::PathBuf;

use anyhow::Context;
use ensign_testbed::cluster::instant_signer::{InstantSigner, Serves};
use ensign_testbed::cluster::{Cluster, ClusterOptions, Manifests, Places};
use ensign_testbed::folder::Folder;
use ensign_testkit::TestCa;
use serde_json::{Value, json};

use super::direct::Way;
use super::tokens::Mint;

/// Where the RA is, and where Istio would be.
pub(super) const OWN: &str = "ensign-system";
pub(super) const ISTIO: &str = "istio-system";
/// The same of the direct client.
pub(super) const DIRECT_OWN: &str = "direct-system";
pub(super) const DIRECT_ISTIO: &str = "direct-requests";

/// A signer of the policy, and how it is asked without the RA.
pub(super) struct Signer {
    /// Its name in the policy.
    pub(super) name: &'static str,
    /// Which API is between, for the table.
    pub(super) api: &'static str,
    /// Who signs, for the table.
    pub(super) by: &'static str,
    /// What the direct client does.
    pub(super) way: Way,
    /// Its section of the policy.
    backend: Value,
    /// The root of its certificates.
    root: String,
}

/// Everything that is needed before the first RA starts.
pub(super) struct Bed {
    /// The cluster.
    pub(super) cluster: Cluster,
    /// Makes requests.
    pub(super) mint: Mint,
    /// Those behind the API server.
    pub(super) signers: Vec<Signer>,
    /// The direct client's credentials.
    pub(super) direct_kubeconfig: PathBuf,
    _instant: [InstantSigner; 2],
}

// === impl Bed ===

impl Bed {
    /// Starts the cluster and makes it all.
    pub(super) async fn start() -> anyhow::Result<Self> {
        let cluster = Cluster::start(ClusterOptions::default()).await?;
        let issuer = cluster.cluster_issuer(CLUSTER_ISSUER).await?;
        let ca = TestCa::root_only("instant");
        InstantSigner::install_kind(&cluster).await?;
        let external = Serves::external_issuer("instant");
        let reference = external.reference();
        let instant = [
            InstantSigner::start(&cluster, Serves::SignerName(INSTANT_NAME.to_owned()), &ca).await?,
            InstantSigner::start(&cluster, external, &ca).await?,
        ];
        for (own, istio) in [(OWN, ISTIO), (DIRECT_OWN, DIRECT_ISTIO)] {
            install(&cluster, own, istio).await?;
        }
        let kubeconfig = cluster.kubeconfig_of_service_account(DIRECT_OWN, "ensign-ra").await?;
        let direct_kubeconfig = cluster.folder().join("direct.kubeconfig");
        std::fs::write(&direct_kubeconfig, kubeconfig)?;
        cluster.namespace_named(WORKLOADS).await?;
        Ok(Self {
            mint: Mint::open(&cluster, WORKLOADS, WORKLOAD_COUNT).await?,
            signers: signers(&issuer.root_pem(), &ca.root_pem(), &reference),
            cluster,
            direct_kubeconfig,
            _instant: instant,
        })
    }

    /// The policy of an RA whose files are in `folder`.
    pub(super) fn policy(&self, folder: &Folder) -> anyhow::Result<String> {
        let mut signers = vec![json!({
            "name": LOCAL,
            "local": { "dir": folder.join("local-ca"), "selfSigned": true },
        })];
        let mut names = vec![LOCAL];
        for signer in &self.signers {
            let roots = folder.write(&format!("roots/{}.pem", signer.name), &signer.root)?;
            let mut section = signer.backend.clone();
            section["name"] = json!(signer.name);
            section["roots"] = json!(roots);
            signers.push(section);
            names.push(signer.name);
        }
        let policy = json!({
            "apiVersion": "ensign.mesh/v1",
            "trustDomain": "cluster.local",
            "signers": signers,
            "rules": [{ "namespace": WORKLOADS, "serviceAccounts": ["*"], "signers": names, "default": LOCAL }],
        });
        // Every JSON text is a YAML text.
        Ok(format!("{policy:#}\n"))
    }
}

/// Rights and accounts of one installation.
async fn install(cluster: &Cluster, own: &str, istio: &str) -> anyhow::Result<()> {
    cluster.namespace_named(own).await?;
    cluster.namespace_named(istio).await?;
    cluster.service_account(own, "ensign-ra").await?;
    let places = Places {
        own: own.to_owned(),
        istio: istio.to_owned(),
        signers: vec![INSTANT_NAME.to_owned(), cert_manager_name()],
        issuers: Vec::new(),
    };
    let rbac = Manifests::read("optional/rbac.yaml")?.of_modes(&MODES)?.moved(&places);
    rbac.apply(cluster).await?;
    for right in rbac.rights()? {
        right.wait_until(cluster, true).await.context("rbac.yaml")?;
    }
    Ok(())
}

fn signers(issuer_root: &str, instant_root: &str, instant: &Value) -> Vec<Signer> {
    let cluster_issuer = json!({ "name": CLUSTER_ISSUER, "kind": "ClusterIssuer", "group": "cert-manager.io" });
    let csr = |name, by, signer_name: String, root: &str| Signer {
        name,
        api: "CSR",
        by,
        way: Way::Csr(signer_name.clone()),
        backend: json!({ "kubernetesCsr": { "signerName": signer_name } }),
        root: root.to_owned(),
    };
    let request = |name, by, issuer: &Value, root: &str| Signer {
        name,
        api: "CertificateRequest",
        by,
        way: Way::CertificateRequest(issuer.clone()),
        backend: json!({ "certManager": { "namespace": ISTIO, "issuer": issuer } }),
        root: root.to_owned(),
    };
    vec![
        csr("csr-cert-manager", CERT_MANAGER, cert_manager_name(), issuer_root),
        csr("csr-instant", INSTANT, INSTANT_NAME.to_owned(), instant_root),
        request("request-cert-manager", CERT_MANAGER, &cluster_issuer, issuer_root),
        request("request-instant", INSTANT, instant, instant_root),
    ]
}

fn cert_manager_name() -> String {
    format!("clusterissuers.cert-manager.io/{CLUSTER_ISSUER}")
}

/// The signer that is the RA itself.
pub(super) const LOCAL: &str = "local";
const CERT_MANAGER: &str = "cert-manager";
const INSTANT: &str = "instant";
const CLUSTER_ISSUER: &str = "bench";
const INSTANT_NAME: &str = "instant.ensign.mesh/bench";
const WORKLOADS: &str = "workloads";
/// Each with an account and a pod.
pub(super) const WORKLOAD_COUNT: usize = 64;
/// What an RA with these signers needs, and with informers.
const MODES: [&str; 6] = [
    "base",
    "pods",
    "service-accounts",
    "kubernetes-csr",
    "cert-manager",
    "cluster-issuers",
];
