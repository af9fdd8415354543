//! What an Istio installation would have put into the cluster, as far as the RA reads it, and the RA's own account.

use ensign_testbed::cluster::Access;
use ensign_testbed::wait::{self, PATIENCE};
use serde_json::json;

/// Where Istio's control plane is.
pub(crate) const ISTIO_SYSTEM: &str = "istio-system";

/// The mesh configuration, in the ConfigMap `istio`.
pub(crate) async fn mesh_config(bed: &Access, mesh: &str) -> anyhow::Result<()> {
    bed.namespace_named(ISTIO_SYSTEM).await?;
    let object = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": { "name": "istio", "namespace": ISTIO_SYSTEM },
        "data": { "mesh": mesh },
    });
    bed.apply_yaml(&object.to_string()).await.map(drop)
}

/// The part of Istio's ProxyConfig that is read here.
pub(crate) async fn proxy_config_crd(bed: &Access) -> anyhow::Result<()> {
    let object = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": { "name": "proxyconfigs.networking.istio.io" },
        "spec": {
            "group": "networking.istio.io", "scope": "Namespaced",
            "names": { "kind": "ProxyConfig", "listKind": "ProxyConfigList", "plural": "proxyconfigs", "singular": "proxyconfig" },
            "versions": [{
                "name": "v1beta1", "served": true, "storage": true,
                "schema": { "openAPIV3Schema": { "type": "object", "properties": { "spec": {
                    "type": "object", "x-kubernetes-preserve-unknown-fields": true,
                } } } },
            }],
        },
    });
    bed.apply_yaml(&object.to_string()).await.map(drop)
}

/// A ProxyConfig for all workloads of a namespace. The API server needs a moment to serve a kind that was just defined.
pub(crate) async fn proxy_config(bed: &Access, namespace: &str, name: &str, signer: &str) -> anyhow::Result<()> {
    let object = json!({
        "apiVersion": "networking.istio.io/v1beta1", "kind": "ProxyConfig",
        "metadata": { "name": name, "namespace": namespace },
        "spec": { "environmentVariables": { "ISTIO_META_CERT_SIGNER": signer } },
    })
    .to_string();
    wait::until("ProxyConfig to be served", PATIENCE, async || {
        bed.apply_yaml(&object).await.map(drop)
    })
    .await
}

/// The RA's account, with what `deploy/optional/rbac.yaml` gives it.
pub(crate) async fn ra_kubeconfig(bed: &Access) -> anyhow::Result<String> {
    bed.namespace_named("ensign-system").await?;
    bed.service_account("ensign-system", "ensign-ra").await?;
    bed.apply_yaml(include_str!("../../deploy/optional/rbac.yaml")).await?;
    bed.kubeconfig_of_service_account("ensign-system", "ensign-ra").await
}
