//! The objects that carry roots: what we look at in each, and how it is written.

use k8s_openapi::api::certificates::v1beta1::ClusterTrustBundle;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;

use super::BundleName;
use crate::kubernetes::{ApiError, Cluster};

/// Digest of a text of roots.
pub(super) type Digest = [u8; 32];

/// One object that should hold the roots.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Target {
    /// The ConfigMap of a namespace.
    Namespace(String),
    /// The ClusterTrustBundle.
    Bundle,
}

/// What an object holds, as far as it matters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Held {
    /// Of the roots in it; of nothing if it has none.
    pub(super) digest: Digest,
    /// Whether it says what it must beside them: Istio's label, or the signer's name.
    pub(super) marked: Option<String>,
    /// Who wrote the roots, the last first.
    pub(super) writers: Vec<String>,
    /// Tells this state from the same content at another time.
    pub(super) version: String,
}

/// What is kept of a namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) terminating: bool,
}

// === impl Held ===

impl Held {
    #[expect(
        clippy::needless_pass_by_value,
        reason = "a store keeps what this makes of an object that it hands over"
    )]
    pub(super) fn of_config_map(object: ConfigMap) -> Self {
        let pem = object.data.as_ref().and_then(|data| data.get(KEY));
        let label = object.metadata.labels.as_ref().and_then(|labels| labels.get(LABEL));
        Self {
            digest: digest(pem.map(String::as_str).unwrap_or_default()),
            marked: label.cloned(),
            version: object.metadata.resource_version.clone().unwrap_or_default(),
            writers: writers(
                object.metadata.managed_fields.as_deref().unwrap_or_default(),
                &["f:data", "f:root-cert.pem"],
            ),
        }
    }

    pub(super) fn of_bundle(object: ClusterTrustBundle) -> Self {
        Self {
            digest: digest(&object.spec.trust_bundle),
            marked: object.spec.signer_name,
            version: object.metadata.resource_version.clone().unwrap_or_default(),
            writers: writers(
                object.metadata.managed_fields.as_deref().unwrap_or_default(),
                &["f:spec", "f:trustBundle"],
            ),
        }
    }
}

// === impl Place ===

impl Place {
    pub(super) fn of(object: Namespace) -> Self {
        let phase = object.status.and_then(|status| status.phase);
        Self {
            terminating: phase.as_deref() == Some("Terminating") || object.metadata.deletion_timestamp.is_some(),
        }
    }
}

pub(super) fn digest(pem: &str) -> Digest {
    ensign_pki::crypto::sha256(pem.as_bytes())
}

/// Writes the ConfigMap of a namespace: our key and our label, nothing else in it.
pub(super) async fn write_config_map(
    cluster: &Cluster,
    manager: &str,
    namespace: &str,
    pem: &str,
) -> Result<(), ApiError> {
    let api: Api<ConfigMap> = Api::namespaced(cluster.client(), namespace);
    let object = json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": NAME, "labels": {LABEL: LABELLED}},
        "data": {KEY: pem},
    });
    api.patch(NAME, &PatchParams::apply(manager).force(), &Patch::Apply(object))
        .await?;
    Ok(())
}

/// Writes the ClusterTrustBundle.
pub(super) async fn write_bundle(
    cluster: &Cluster,
    manager: &str,
    name: &BundleName,
    pem: &str,
) -> Result<(), ApiError> {
    let api: Api<ClusterTrustBundle> = Api::all(cluster.client());
    let mut object = json!({
        "apiVersion": "certificates.k8s.io/v1beta1",
        "kind": "ClusterTrustBundle",
        "metadata": {"name": name.name},
        "spec": {"trustBundle": pem},
    });
    if let (Some(signer), Some(spec)) = (&name.signer_name, object.get_mut("spec")) {
        spec["signerName"] = json!(signer);
    }
    api.patch(&name.name, &PatchParams::apply(manager).force(), &Patch::Apply(object))
        .await?;
    Ok(())
}

/// The managers of one field, who wrote last first.
fn writers(entries: &[ManagedFieldsEntry], field: &[&str]) -> Vec<String> {
    let owns = |entry: &&ManagedFieldsEntry| {
        let fields = entry.fields_v1.as_ref().map(|fields| &fields.0);
        fields
            .and_then(|fields| field.iter().try_fold(fields, |at, name| at.get(name)))
            .is_some()
    };
    let mut owners: Vec<&ManagedFieldsEntry> = entries.iter().filter(owns).collect();
    owners.sort_by_key(|entry| std::cmp::Reverse(entry.time.as_ref().map(|time| time.0)));
    owners
        .iter()
        .map(|entry| entry.manager.clone().unwrap_or_default())
        .collect()
}

/// Istio's names.
pub(super) const NAME: &str = "istio-ca-root-cert";
pub(super) const KEY: &str = "root-cert.pem";
pub(super) const LABEL: &str = "istio.io/config";
pub(super) const LABELLED: &str = "true";
/// Where no workload of a mesh runs; as istiod. `kube-system` is not among them: ztunnel may live there.
pub(super) const SKIPPED: [&str; 3] = ["kube-public", "kube-node-lease", "local-path-storage"];
