//! Signing through cert-manager's CertificateRequests: exactly create and delete.
//!
//! Any issuer that cert-manager knows will do, external ones included; others approve (cert-manager's own approver, or
//! approver-policy). Annotation, usages and the ConfigMap that names the issuer at run time are istio-csr's, so that
//! policies and tools written for it keep working. Whether an object is ours is told by `spec.username`, which
//! cert-manager's webhook stamps; where that webhook is missing no retry finds its object and the janitor removes none.
//!
//! Sources: cert-manager's API reference, cert-manager.io/v1; istio-csr's documentation.

pub mod annotations;
mod resource;
mod runtime;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use ensign_daemon::GoDuration;
use ensign_pki::SignerName;
use k8s_openapi::ByteString;
use kube::api::ObjectMeta;

use self::resource::{Condition, IssuerReference, Spec};
pub(crate) use self::{resource::CertificateRequest, runtime::RuntimeIssuer};
use super::object::ask::{Ask, Purpose};
use super::object::issuers::{self, Issuer, IssuerKind};
use super::object::kind::Said;
use super::object::stage::Hints;
use super::object::{Backends, Dialect, Marks, ObjectSigner, Phase, RequestKind};
use crate::policy::{CertManagerSpec, IssuerRef};

/// A signer behind CertificateRequests.
pub(crate) type CertManagerSigner = ObjectSigner<CertificateRequestDialect>;

/// How requests in one namespace are written and read.
#[derive(Debug)]
pub(crate) struct CertificateRequestDialect {
    namespace: String,
    issuer: Option<IssuerRef>,
    runtime: Option<Arc<RuntimeIssuer>>,
    annotations: BTreeMap<String, String>,
    preserve: bool,
    backends: Backends,
}

/// Joins the shared watch of the namespace, which begins with the first signer.
pub(crate) fn open(name: &SignerName, spec: &CertManagerSpec, backends: &Backends) -> CertManagerSigner {
    let runtime = spec
        .runtime_issuer
        .as_ref()
        .map(|config_map| backends.runtime_issuer(config_map));
    let dialect = CertificateRequestDialect {
        namespace: spec.namespace.clone(),
        issuer: spec.issuer.clone(),
        runtime,
        annotations: spec.annotations.clone(),
        preserve: spec.preserve,
        backends: backends.clone(),
    };
    if let Some(issuer) = spec.issuer.as_ref().and_then(|issuer| dialect.own(issuer)) {
        // So that its answer is there when the first request comes.
        _ = backends.issuers(issuer.kind, &issuer.namespace);
    }
    let requests = backends.certificate_requests(&spec.namespace);
    ObjectSigner::new(name.clone(), dialect, requests, backends.clone(), spec.request.clone())
}

/// The issuer that a signer would ask now: what its ConfigMap says, or else the one of the policy.
pub(crate) async fn issuer_in_effect(spec: &CertManagerSpec, backends: &Backends) -> Option<IssuerRef> {
    let said = match &spec.runtime_issuer {
        Some(config_map) => backends.runtime_issuer(config_map).current().await,
        None => None,
    };
    said.or_else(|| spec.issuer.clone())
}

// === impl CertificateRequestDialect ===

impl CertificateRequestDialect {
    /// The issuer in effect: what the ConfigMap says, or else the one of the policy.
    async fn issuer(&self) -> Result<IssuerRef, String> {
        let said = match &self.runtime {
            Some(runtime) => runtime.current().await,
            None => None,
        };
        said.or_else(|| self.issuer.clone()).ok_or_else(|| match &self.runtime {
            Some(runtime) => {
                format!("no issuer is configured yet: {runtime} does not name one, and neither does the policy")
            }
            None => "no issuer is configured: the policy names neither one nor a ConfigMap".to_owned(),
        })
    }

    /// The issuer as one of cert-manager's own kinds, whose readiness we can know.
    fn own(&self, issuer: &IssuerRef) -> Option<Issuer> {
        let (kind, namespace) = match (issuer.group.as_str(), issuer.kind.as_str()) {
            (issuers::GROUP | "", "Issuer" | "") => (IssuerKind::Issuer, self.namespace.clone()),
            (issuers::GROUP | "", "ClusterIssuer") => (IssuerKind::ClusterIssuer, String::new()),
            _ => return None,
        };
        Some(Issuer {
            kind,
            namespace,
            name: issuer.name.clone(),
        })
    }
}

impl Dialect for CertificateRequestDialect {
    type Object = CertificateRequest;
    type Terms = IssuerRef;

    async fn terms(&self) -> Result<IssuerRef, String> {
        let issuer = self.issuer().await?;
        if let Some(own) = self.own(&issuer) {
            let issuers = self.backends.issuers(own.kind, &own.namespace);
            if let Some(obstacle) = issuers.obstacle(&own).await {
                return Err(obstacle);
            }
        }
        Ok(issuer)
    }

    fn draft(&self, issuer: &IssuerRef, ask: &Ask, marks: Marks) -> CertificateRequest {
        let mut annotations = marks.annotations;
        annotations.insert(IDENTITIES.to_owned(), ask.identities.clone());
        // As in istio-csr, the operator's go on top, also over the one above.
        annotations.extend(self.annotations.clone());
        let metadata = ObjectMeta {
            name: Some(marks.name),
            namespace: Some(self.namespace.clone()),
            labels: Some(marks.labels),
            annotations: Some(annotations),
            ..ObjectMeta::default()
        };
        let spec = Spec {
            request: ByteString(ask.pem.as_bytes().to_vec()),
            duration: Some(GoDuration::from(ask.ttl).to_string()),
            usages: Some(usages(ask.purpose).iter().map(|&usage| usage.to_owned()).collect()),
            is_ca: None,
            issuer_ref: IssuerReference {
                name: issuer.name.clone(),
                kind: issuer.kind.clone(),
                group: issuer.group.clone(),
            },
            username: None,
        };
        CertificateRequest::new(metadata, spec)
    }

    fn difference(&self, draft: &CertificateRequest, found: &CertificateRequest) -> Option<&'static str> {
        let (draft, found) = (&draft.spec, &found.spec);
        if draft.issuer_ref != found.issuer_ref {
            Some("spec.issuerRef")
        } else if draft.usages != found.usages {
            Some("spec.usages")
        } else if duration(draft) != duration(found) {
            Some("spec.duration")
        } else if found.is_ca == Some(true) {
            Some("spec.isCA")
        } else {
            None
        }
    }

    fn approved(&self, _: &CertificateRequest, _: SystemTime) -> Option<CertificateRequest> {
        None
    }

    fn hints(&self) -> Hints {
        Hints {
            approval: "see whether cert-manager's approver runs and may approve for this issuer (approveSignerNames), \
                       or whether an approver-policy applies to us"
                .to_owned(),
            signing: "see whether cert-manager, or the external issuer, runs; their events at the request say more"
                .to_owned(),
        }
    }

    fn approval_rule(&self) -> String {
        String::new()
    }

    fn preserves(&self) -> bool {
        self.preserve
    }
}

impl RequestKind for CertificateRequest {
    const RBAC: (&'static str, &'static str) = ("cert-manager.io", "certificaterequests");

    fn requester(&self) -> Option<&str> {
        self.spec.username.as_deref()
    }

    fn request(&self) -> &[u8] {
        &self.spec.request.0
    }

    fn ca(&self) -> Option<&[u8]> {
        let ca = self.status.as_ref()?.ca.as_ref()?;
        Some(&ca.0)
    }

    fn phase(&self) -> Phase<'_> {
        let Some(status) = &self.status else {
            return Phase::Pending;
        };
        let find = |type_: &str, value: &str| {
            let fits = |one: &&Condition| one.type_ == type_ && one.status == value;
            status.conditions.iter().find(fits)
        };
        if let Some(denied) = find("Denied", "True") {
            return Phase::Denied(said(denied));
        }
        // Told apart from Failed: the signer says that the request is at fault, not the signing of it.
        if let Some(invalid) = find("InvalidRequest", "True") {
            return Phase::Refused(said(invalid));
        }
        let unready = find("Ready", "False");
        if let Some(failed) = unready.filter(|ready| ready.reason == "Failed") {
            return Phase::Failed(said(failed));
        }
        // The certificate counts, whether Ready says so already or not.
        if let Some(certificate) = status.certificate.as_ref().filter(|bytes| !bytes.0.is_empty()) {
            return Phase::Issued(&certificate.0);
        }
        if find("Approved", "True").is_some() {
            return Phase::Approved {
                said: unready.map(said),
            };
        }
        Phase::Pending
    }
}

fn said(condition: &Condition) -> Said<'_> {
    Said {
        reason: &condition.reason,
        message: &condition.message,
    }
}

/// A server may write the same duration in other words.
fn duration(spec: &Spec) -> Option<GoDuration> {
    spec.duration.as_ref()?.parse().ok()
}

/// Who the request is for; what istio-csr writes there.
const IDENTITIES: &str = "istio.cert-manager.io/identities";
/// In istio-csr's order, which asks for its own certificate without the first.
fn usages(purpose: Purpose) -> &'static [&'static str] {
    match purpose {
        Purpose::Workload => &["client auth", "server auth"],
        Purpose::Server => &["server auth"],
    }
}
