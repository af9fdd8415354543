//! Signing through the Kubernetes CSR API: exactly create, approval (unless another approves) and delete.
//!
//! Any signer of the cluster that answers CertificateSigningRequests will do; `spec.signerName` says which. Usages and
//! their order are istiod's. The API takes no lifetime below ten minutes, which
//! is the policy's floor for such signers. For cert-manager's own signer names its
//! Issuers and ClusterIssuers are asked first, since cert-manager leaves a request to one that is not Ready undecided.
//!
//! Sources: Kubernetes API reference, certificates.k8s.io/v1; istiod's RA (`ISTIOD_RA_KUBERNETES_API`); cert-manager's
//! documentation of its CertificateSigningRequest support.

mod resource;
mod signer_name;

#[cfg(test)]
mod tests;

use std::time::{Duration, SystemTime};

use ensign_pki::SignerName;
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{CertificateSigningRequestCondition, CertificateSigningRequestSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::api::ObjectMeta;

pub(crate) use self::resource::CertificateSigningRequest;
use super::object::ask::{Ask, Purpose};
use super::object::issuers::Issuer;
use super::object::kind::Said;
use super::object::stage::Hints;
use super::object::{Backends, Dialect, Marks, ObjectSigner, Phase, RequestKind};
use crate::policy::KubernetesCsrSpec;

/// A signer behind the CSR API.
pub(crate) type KubernetesCsrSigner = ObjectSigner<CsrDialect>;

/// How requests of one `signerName` are written and read.
#[derive(Debug)]
pub(crate) struct CsrDialect {
    signer_name: String,
    approve: bool,
    /// What cert-manager takes the name for, if it is one of its own.
    issuer: Option<Issuer>,
    backends: Backends,
}

/// Joins the shared watch, which begins with the first signer.
pub(crate) fn open(name: &SignerName, spec: &KubernetesCsrSpec, backends: &Backends) -> KubernetesCsrSigner {
    let issuer = signer_name::cert_manager_issuer(&spec.signer_name);
    if let Some(issuer) = &issuer {
        // So that its answer is there when the first request comes.
        _ = backends.issuers(issuer.kind, &issuer.namespace);
    }
    let dialect = CsrDialect {
        signer_name: spec.signer_name.clone(),
        approve: spec.approve,
        issuer,
        backends: backends.clone(),
    };
    let requests = backends.csrs();
    ObjectSigner::new(name.clone(), dialect, requests, backends.clone(), spec.request.clone())
}

// === impl CsrDialect ===

impl Dialect for CsrDialect {
    type Object = CertificateSigningRequest;
    type Terms = ();

    async fn terms(&self) -> Result<(), String> {
        let Some(issuer) = &self.issuer else { return Ok(()) };
        let issuers = self.backends.issuers(issuer.kind, &issuer.namespace);
        issuers.obstacle(issuer).await.map_or(Ok(()), Err)
    }

    fn draft(&self, (): &(), ask: &Ask, marks: Marks) -> CertificateSigningRequest {
        let metadata = ObjectMeta {
            name: Some(marks.name),
            labels: Some(marks.labels),
            annotations: Some(marks.annotations),
            ..ObjectMeta::default()
        };
        let spec = CertificateSigningRequestSpec {
            request: ByteString(ask.pem.as_bytes().to_vec()),
            signer_name: self.signer_name.clone(),
            usages: Some(usages(ask.purpose).iter().map(|&usage| usage.to_owned()).collect()),
            expiration_seconds: Some(expiration_seconds(ask.ttl)),
            ..CertificateSigningRequestSpec::default()
        };
        CertificateSigningRequest::new(metadata, spec)
    }

    fn difference(&self, draft: &CertificateSigningRequest, found: &CertificateSigningRequest) -> Option<&'static str> {
        let (draft, found) = (&draft.spec, &found.spec);
        if draft.signer_name != found.signer_name {
            Some("spec.signerName")
        } else if draft.usages != found.usages {
            Some("spec.usages")
        } else if draft.expiration_seconds != found.expiration_seconds {
            Some("spec.expirationSeconds")
        } else {
            None
        }
    }

    fn approved(&self, object: &CertificateSigningRequest, now: SystemTime) -> Option<CertificateSigningRequest> {
        if !self.approve {
            return None;
        }
        let now = Timestamp::try_from(now).ok().map(Time);
        let mut approved = object.clone();
        let conditions = approved
            .status
            .get_or_insert_default()
            .conditions
            .get_or_insert_default();
        conditions.push(CertificateSigningRequestCondition {
            type_: "Approved".to_owned(),
            status: "True".to_owned(),
            reason: Some(REASON.to_owned()),
            message: Some(format!(
                "{} authenticated the workload and checked its policy",
                self.backends.installation()
            )),
            last_update_time: now,
            last_transition_time: None,
        });
        Some(approved)
    }

    fn hints(&self) -> Hints {
        let signer = &self.signer_name;
        let approval = if self.approve {
            "our own approval does not show".to_owned()
        } else {
            format!("approve is false for it, so an approver of {signer} must decide; none did")
        };
        let signing = match &self.issuer {
            Some(issuer) => format!(
                "{issuer} is Ready, so see whether cert-manager runs, and runs with \
                 --feature-gates=ExperimentalCertificateSigningRequestControllers=true, without which it answers no \
                 CertificateSigningRequest; its events at the request say more"
            ),
            None => format!("see whether a signer of {signer} runs"),
        };
        Hints { approval, signing }
    }

    fn approval_rule(&self) -> String {
        format!(
            "apiGroups: [certificates.k8s.io], resources: [certificatesigningrequests/approval], verbs: [update], and \
             resources: [signers], resourceNames: [{}], verbs: [approve]",
            self.signer_name
        )
    }

    fn preserves(&self) -> bool {
        false
    }
}

impl RequestKind for CertificateSigningRequest {
    const RBAC: (&'static str, &'static str) = ("certificates.k8s.io", "certificatesigningrequests");

    fn requester(&self) -> Option<&str> {
        self.spec.username.as_deref()
    }

    fn request(&self) -> &[u8] {
        &self.spec.request.0
    }

    fn phase(&self) -> Phase<'_> {
        let Some(status) = &self.status else {
            return Phase::Pending;
        };
        let conditions = status.conditions.as_deref().unwrap_or_default();
        // These are never False, says the API; a server that thinks otherwise has not decided.
        let condition = |type_: &str| {
            conditions
                .iter()
                .find(|one| one.type_ == type_ && one.status == "True")
                .map(said)
        };
        if let Some(said) = condition("Denied") {
            return Phase::Denied(said);
        }
        if let Some(said) = condition("Failed") {
            return Phase::Failed(said);
        }
        match &status.certificate {
            Some(certificate) if !certificate.0.is_empty() => Phase::Issued(&certificate.0),
            Some(_) | None if condition("Approved").is_some() => Phase::Approved { said: None },
            Some(_) | None => Phase::Pending,
        }
    }
}

fn said(condition: &CertificateSigningRequestCondition) -> Said<'_> {
    Said {
        reason: condition.reason.as_deref().unwrap_or_default(),
        message: condition.message.as_deref().unwrap_or_default(),
    }
}

/// Whole seconds, at least what the API takes and at most what its field holds.
fn expiration_seconds(ttl: Duration) -> i32 {
    i32::try_from(ttl.max(SHORTEST).as_secs()).unwrap_or(i32::MAX)
}

/// In istiod's order, which asks for its own certificate without the last.
fn usages(purpose: Purpose) -> &'static [&'static str] {
    match purpose {
        Purpose::Workload => &["digital signature", "key encipherment", "server auth", "client auth"],
        Purpose::Server => &["digital signature", "key encipherment", "server auth"],
    }
}

/// `spec.expirationSeconds` is refused below.
const SHORTEST: Duration = Duration::from_mins(10);
/// Reason of our approvals.
const REASON: &str = "EnsignPolicy";
