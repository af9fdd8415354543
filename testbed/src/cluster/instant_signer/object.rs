//! Requests as objects of the API: which are ours, what is in them, and how an answer is written into them.

use std::time::Duration;

use anyhow::Context;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use ensign_testkit::TestCa;
use kube::{
    Api, Client, ResourceExt as _,
    api::{ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, Preconditions},
    core::GroupVersionKind,
    runtime::watcher,
};
use serde_json::{Value, json};

use super::{Behaviour, Seen, Serves};

/// The lifetime of a certificate whose request names none.
const LIFETIME: Duration = Duration::from_hours(1);

/// One kind of object, and which of them are ours.
pub(super) struct Target {
    client: Client,
    serves: Serves,
    resource: ApiResource,
}

/// What is told to tests of a request.
pub(super) fn seen(object: &DynamicObject) -> Seen {
    let spec = &object.data["spec"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    Seen {
        name: object.name_any(),
        namespace: object.namespace().unwrap_or_default(),
        uid: object.uid().unwrap_or_default(),
        username: text(&spec["username"]),
        csr_pem: csr_pem(object).unwrap_or_default(),
    }
}

fn csr_pem(object: &DynamicObject) -> anyhow::Result<String> {
    let encoded = object.data["spec"]["request"].as_str().context("it has no request")?;
    let bytes = STANDARD.decode(encoded).context("its request is not base64")?;
    String::from_utf8(bytes).context("its request is not PEM")
}

fn conditions(object: &DynamicObject) -> Vec<Value> {
    object.data["status"]["conditions"]
        .as_array()
        .cloned()
        .unwrap_or_default()
}

// === impl Target ===

impl Target {
    pub(super) fn new(client: Client, serves: Serves) -> Self {
        let kind = match serves {
            Serves::SignerName(_) => GroupVersionKind::gvk("certificates.k8s.io", "v1", "CertificateSigningRequest"),
            Serves::Issuer { .. } => GroupVersionKind::gvk("cert-manager.io", "v1", "CertificateRequest"),
        };
        Self {
            client,
            serves,
            resource: ApiResource::from_gvk(&kind),
        }
    }

    /// All objects of the kind.
    pub(super) fn watched(&self) -> Api<DynamicObject> {
        Api::all_with(self.client.clone(), &self.resource)
    }

    /// Of CSRs the server sends what is ours only; of CertificateRequests it cannot, since cert-manager's CRD makes no
    /// field selectable.
    pub(super) fn watch_config(&self) -> watcher::Config {
        match &self.serves {
            Serves::SignerName(name) => watcher::Config::default().fields(&format!("spec.signerName={name}")),
            Serves::Issuer { .. } => watcher::Config::default(),
        }
    }

    /// Whether it is ours to answer.
    pub(super) fn is_ours(&self, object: &DynamicObject) -> bool {
        let spec = &object.data["spec"];
        match &self.serves {
            Serves::SignerName(name) => spec["signerName"] == name.as_str(),
            Serves::Issuer { group, kind, name } => {
                let issuer = &spec["issuerRef"];
                issuer["group"] == group.as_str() && issuer["kind"] == kind.as_str() && issuer["name"] == name.as_str()
            }
        }
    }

    /// Whether it may be signed. A CSR waits for its approval, as the API demands; whether a CertificateRequest must be
    /// approved is for each issuer to say, and ours does not care.
    pub(super) fn is_approved(&self, object: &DynamicObject) -> bool {
        match self.serves {
            Serves::SignerName(_) => conditions(object)
                .iter()
                .any(|condition| condition["type"] == "Approved"),
            Serves::Issuer { .. } => true,
        }
    }

    /// Does it. Says whether something was written into the object.
    pub(super) async fn answer(
        &self,
        object: &DynamicObject,
        behaviour: &Behaviour,
        ca: &TestCa,
    ) -> anyhow::Result<bool> {
        let (subresource, status) = match behaviour {
            Behaviour::Silent => return Ok(false),
            Behaviour::Delete | Behaviour::DeleteUnapproved => {
                self.delete(object).await?;
                return Ok(false);
            }
            Behaviour::Sign(answer) => {
                answer.due().await;
                let certificates = answer.certificates(ca, &csr_pem(object)?, lifetime(object));
                (
                    "status",
                    self.signed(object, &certificates.chain_pem, certificates.ca_pem.as_deref()),
                )
            }
            Behaviour::Deny(reason) => (self.approval(), self.judged(object, &["Denied"], reason)),
            Behaviour::Fail(message) => ("status", self.judged(object, &["Failed"], message)),
            Behaviour::Invalid(message) => ("status", self.judged(object, &["InvalidRequest", "Failed"], message)),
        };
        // The id makes it a precondition: not another object of the same name.
        let patch = json!({ "metadata": { "uid": object.uid() }, "status": status });
        self.api(object)
            .patch_subresource(
                subresource,
                &object.name_any(),
                &PatchParams::default(),
                &Patch::Merge(&patch),
            )
            .await
            .context("the API server does not take the answer")?;
        Ok(true)
    }

    async fn delete(&self, object: &DynamicObject) -> anyhow::Result<()> {
        let parameters = DeleteParams::default().preconditions(Preconditions {
            uid: object.uid(),
            resource_version: None,
        });
        let answer = self.api(object).delete(&object.name_any(), &parameters).await;
        answer.map(drop).context("the API server does not delete it")
    }

    fn api(&self, object: &DynamicObject) -> Api<DynamicObject> {
        match object.namespace() {
            Some(namespace) => Api::namespaced_with(self.client.clone(), &namespace, &self.resource),
            None => self.watched(),
        }
    }

    /// Where a denial is written.
    fn approval(&self) -> &'static str {
        match self.serves {
            Serves::SignerName(_) => "approval",
            Serves::Issuer { .. } => "status",
        }
    }

    fn signed(&self, object: &DynamicObject, chain_pem: &str, ca_pem: Option<&str>) -> Value {
        match self.serves {
            Serves::SignerName(_) => json!({ "certificate": STANDARD.encode(chain_pem) }),
            Serves::Issuer { .. } => json!({
                "certificate": STANDARD.encode(chain_pem),
                "ca": ca_pem.map(|pem| STANDARD.encode(pem)),
                "conditions": with(object, [json!({
                    "type": "Ready", "status": "True", "reason": "Issued", "message": "issued at once",
                })]),
            }),
        }
    }

    /// The object's conditions and these. A CertificateRequest says what `Failed` is to a CSR by `Ready`.
    fn judged(&self, object: &DynamicObject, types: &[&str], text: &str) -> Value {
        let added = types.iter().map(|&kind| match self.serves {
            Serves::SignerName(_) if kind == "InvalidRequest" => Value::Null,
            Serves::Issuer { .. } if kind == "Failed" => {
                json!({ "type": "Ready", "status": "False", "reason": "Failed", "message": text })
            }
            Serves::SignerName(_) | Serves::Issuer { .. } => {
                json!({ "type": kind, "status": "True", "reason": "InstantSigner", "message": text })
            }
        });
        json!({ "conditions": with(object, added.filter(|condition| !condition.is_null())) })
    }
}

/// Conditions are replaced as a whole by a merge patch.
fn with(object: &DynamicObject, added: impl IntoIterator<Item = Value>) -> Vec<Value> {
    conditions(object).into_iter().chain(added).collect()
}

/// What the request asks for: `spec.expirationSeconds` of a CSR, `spec.duration` of a CertificateRequest.
fn lifetime(object: &DynamicObject) -> Duration {
    let spec = &object.data["spec"];
    let seconds = spec["expirationSeconds"].as_u64().map(Duration::from_secs);
    seconds
        .or_else(|| spec["duration"].as_str().and_then(go_duration))
        .unwrap_or(LIFETIME)
}

/// A Go duration of hours, minutes and whole seconds, as Kubernetes writes it: `1h0m0s`.
fn go_duration(text: &str) -> Option<Duration> {
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let count: u64 = rest[..digits].parse().ok()?;
        total += match rest.as_bytes()[digits] {
            b'h' => Duration::from_secs(count * 3600),
            b'm' => Duration::from_secs(count * 60),
            b's' => Duration::from_secs(count),
            _ => return None,
        };
        rest = &rest[digits + 1..];
    }
    Some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_kubernetes_writes_them() {
        assert_eq!(go_duration("1h0m0s"), Some(Duration::from_hours(1)));
        assert_eq!(go_duration("90s"), Some(Duration::from_secs(90)));
        assert_eq!(go_duration("1.5h"), None);
        assert_eq!(go_duration("7"), None);
    }
}
