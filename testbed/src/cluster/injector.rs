//! Istio's sidecar injector, as far as it decides who is injected: by the labels of a pod and of its namespace.
//!
//! What it injects is a container whose image nobody has: a pod that did not mean to be injected is never ready. The selectors
//! are those of Istio's chart `istiod` (`mutatingwebhook.yaml`, webhook `namespace.sidecar-injector.istio.io`).

use std::sync::Arc;

use anyhow::Context;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinSet};

use super::{
    Access,
    admission_hook::server::{self, Judge, Verdict},
    tls,
};

/// The container that it puts into pods.
pub const INJECTED: &str = "istio-proxy";

/// The webhook, for as long as it lives.
#[derive(Debug)]
pub(crate) struct Injector {
    _server: JoinSet<()>,
}

struct Always;

// === impl Injector ===

impl Injector {
    /// Starts it. The API server takes it up a moment later.
    pub(crate) async fn start(access: &Access) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0))
            .await
            .context("no free port on loopback")?;
        let address = listener.local_addr().context("no address")?;
        let tls = tls::acceptor(&access.serving_certificate()?)?;
        let mut server = JoinSet::new();
        server.spawn(server::serve(listener, tls, Arc::new(Always)));
        let configuration = json!({
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "MutatingWebhookConfiguration",
            "metadata": { "name": "istio-sidecar-injector" },
            "webhooks": [{
                "name": "namespace.sidecar-injector.istio.io",
                "clientConfig": { "url": format!("https://{address}/inject"), "caBundle": STANDARD.encode(access.ca_pem()) },
                "rules": [{ "apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"] }],
                "namespaceSelector": { "matchExpressions": [
                    { "key": "istio.io/rev", "operator": "DoesNotExist" },
                    { "key": "istio-injection", "operator": "In", "values": ["enabled"] },
                ] },
                "objectSelector": { "matchExpressions": [
                    { "key": "sidecar.istio.io/inject", "operator": "NotIn", "values": ["false"] },
                ] },
                "admissionReviewVersions": ["v1"],
                "failurePolicy": "Fail",
                "sideEffects": "None",
            }],
        });
        access.apply_yaml(&configuration.to_string()).await?;
        Ok(Self { _server: server })
    }
}

// === impl Always ===

impl Judge for Always {
    async fn judge(&self, _request: Value) -> Verdict {
        let container = json!({
            "name": INJECTED,
            "image": "istio-proxy:none",
            // Pod Security has its say after injection.
            "securityContext": {
                "allowPrivilegeEscalation": false, "runAsNonRoot": true, "capabilities": { "drop": ["ALL"] },
                "seccompProfile": { "type": "RuntimeDefault" },
            },
        });
        Verdict::Change(json!([{ "op": "add", "path": "/spec/containers/-", "value": container }]))
    }
}
