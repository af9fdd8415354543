//! `CertificateSigningRequest` of certificates.k8s.io/v1: Kubernetes' own specification and status, lean metadata.

use std::borrow::Cow;

use k8s_openapi::api::certificates::v1::{CertificateSigningRequestSpec, CertificateSigningRequestStatus};
use kube::Resource;
use kube::api::ObjectMeta;
use kube::core::ClusterResourceScope;
use serde::{Deserialize, Serialize};

use crate::signer::object::metadata;

/// A request to a signer of the Kubernetes CSR API.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CertificateSigningRequest {
    /// A list leaves it out of its items.
    #[serde(skip_deserializing, default = "api_version")]
    api_version: &'static str,
    #[serde(skip_deserializing, default = "kind")]
    kind: &'static str,
    #[serde(deserialize_with = "metadata::lean")]
    pub(crate) metadata: ObjectMeta,
    pub(crate) spec: CertificateSigningRequestSpec,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) status: Option<CertificateSigningRequestStatus>,
}

// === impl CertificateSigningRequest ===

impl CertificateSigningRequest {
    pub(crate) fn new(metadata: ObjectMeta, spec: CertificateSigningRequestSpec) -> Self {
        Self {
            api_version: api_version(),
            kind: kind(),
            metadata,
            spec,
            status: None,
        }
    }
}

impl Resource for CertificateSigningRequest {
    type DynamicType = ();
    type Scope = ClusterResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        kind().into()
    }

    fn group((): &()) -> Cow<'_, str> {
        "certificates.k8s.io".into()
    }

    fn version((): &()) -> Cow<'_, str> {
        "v1".into()
    }

    fn plural((): &()) -> Cow<'_, str> {
        "certificatesigningrequests".into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

fn api_version() -> &'static str {
    "certificates.k8s.io/v1"
}

fn kind() -> &'static str {
    "CertificateSigningRequest"
}
