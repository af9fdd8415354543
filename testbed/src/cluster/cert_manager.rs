//! cert-manager in a cluster: its CRDs, its accounts with their rights, and the registration of its webhook.

use std::net::SocketAddr;

use anyhow::{Context, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api,
    api::{ApiResource, DynamicObject, PostParams},
    core::GroupVersionKind,
};
use serde_json::json;

use super::{Access, component::distribution};
use crate::wait::{self, PATIENCE};

/// The accounts, and what each may do: what cert-manager's own chart grants, without ACME, the shims and Leases.
const RIGHTS: &str = include_str!("cert_manager.yaml");

/// Makes what the controllers need before they start.
pub(super) async fn install(access: &Access) -> anyhow::Result<()> {
    let mut crds = String::new();
    let folder = distribution()?.join("crds");
    for entry in std::fs::read_dir(&folder).with_context(|| format!("no {}", folder.display()))? {
        let path = entry.context("cannot list the CRDs")?.path();
        crds.push_str("---\n");
        crds.push_str(&std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?);
    }
    let applied = access.apply_yaml(&crds).await?;
    access.apply_yaml(RIGHTS).await?;
    let definitions = Api::<CustomResourceDefinition>::all(access.admin());
    for object in applied {
        let name = object.metadata.name.unwrap_or_default();
        wait::until_true(&format!("the CRD {name}"), PATIENCE, async || {
            let status = definitions.get(&name).await?.status.unwrap_or_default();
            let conditions = status.conditions.unwrap_or_default();
            Ok(conditions
                .iter()
                .any(|condition| condition.type_ == "Established" && condition.status == "True"))
        })
        .await?;
    }
    Ok(())
}

/// Makes the API server ask the webhook, and waits until it does.
pub(super) async fn register_webhook(access: &Access, address: SocketAddr) -> anyhow::Result<()> {
    let client_config = |path: &str| {
        json!({
            "url": format!("https://{address}/{path}"),
            "caBundle": STANDARD.encode(access.ca_pem()),
        })
    };
    let webhook = |path: &str, groups: &[&str], operations: &[&str], resource: &str| {
        json!([{
            "name": "webhook.cert-manager.io",
            "clientConfig": client_config(path),
            "rules": [{
                "apiGroups": groups,
                "apiVersions": ["v1"],
                "operations": operations,
                "resources": [resource],
            }],
            "admissionReviewVersions": ["v1"],
            "matchPolicy": "Equivalent",
            "failurePolicy": "Fail",
            "sideEffects": "None",
            "timeoutSeconds": 30,
        }])
    };
    let mutating = json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingWebhookConfiguration",
        "metadata": { "name": "cert-manager-webhook" },
        "webhooks": webhook("mutate", &["cert-manager.io"], &["CREATE"], "certificaterequests"),
    });
    let validating = json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingWebhookConfiguration",
        "metadata": { "name": "cert-manager-webhook" },
        "webhooks": webhook("validate", &["cert-manager.io", "acme.cert-manager.io"], &["CREATE", "UPDATE"], "*/*"),
    });
    access.apply_yaml(&format!("{mutating}\n---\n{validating}\n")).await?;
    wait::until("cert-manager's webhook to be asked", PATIENCE, async || {
        webhook_stamps(access).await
    })
    .await
}

/// Whether a CertificateRequest would be stamped with its maker; nothing is made.
async fn webhook_stamps(access: &Access) -> anyhow::Result<()> {
    let kind = GroupVersionKind::gvk("cert-manager.io", "v1", "CertificateRequest");
    let resource = ApiResource::from_gvk(&kind);
    let requests = Api::<DynamicObject>::namespaced_with(access.admin(), "default", &resource);
    let key = rcgen::KeyPair::generate().context("cannot make a key")?;
    let csr = rcgen::CertificateParams::default()
        .serialize_request(&key)
        .and_then(|request| request.pem())
        .context("cannot make a CSR")?;
    let request = DynamicObject::new("probe", &resource).data(json!({
        "spec": { "request": STANDARD.encode(csr), "issuerRef": { "name": "none" }, "usages": ["digital signature", "key encipherment"] },
    }));
    let parameters = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    let answer = requests
        .create(&parameters, &request)
        .await
        .context("it does not answer")?;
    ensure!(
        answer.data["spec"]["username"] == "admin",
        "the request is not stamped: {}",
        answer.data
    );
    Ok(())
}
