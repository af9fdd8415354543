//! `CertificateRequest` of cert-manager.io/v1, with the fields that we write or read.

use std::borrow::Cow;

use k8s_openapi::ByteString;
use kube::Resource;
use kube::api::ObjectMeta;
use kube::core::NamespaceResourceScope;
use serde::{Deserialize, Serialize};

use crate::signer::object::metadata;

/// A request to one of cert-manager's issuers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CertificateRequest {
    api_version: String,
    kind: String,
    #[serde(deserialize_with = "metadata::lean")]
    pub(crate) metadata: ObjectMeta,
    pub(crate) spec: Spec,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) status: Option<Status>,
}

/// What is asked for. Frozen by cert-manager's webhook.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Spec {
    /// The CSR in PEM.
    pub(crate) request: ByteString,
    /// The lifetime, in Go's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) duration: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) usages: Option<Vec<String>>,
    #[serde(default, rename = "isCA", skip_serializing_if = "Option::is_none")]
    pub(crate) is_ca: Option<bool>,
    pub(crate) issuer_ref: IssuerReference,
    /// Who created it, stamped by the webhook; never written by us.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) username: Option<String>,
}

/// Who shall sign.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct IssuerReference {
    pub(crate) name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) kind: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) group: String,
}

/// What became of it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Status {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) conditions: Vec<Condition>,
    /// The chain in PEM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) certificate: Option<ByteString>,
    /// What the issuer says its CA is. Believed only by the discovery of roots, where an operator chose that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ca: Option<ByteString>,
}

/// One of `Approved`, `Denied`, `InvalidRequest`, `Ready`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Condition {
    #[serde(rename = "type")]
    pub(crate) type_: String,
    pub(crate) status: String,
    #[serde(default)]
    pub(crate) reason: String,
    #[serde(default)]
    pub(crate) message: String,
}

// === impl CertificateRequest ===

impl CertificateRequest {
    pub(crate) fn new(metadata: ObjectMeta, spec: Spec) -> Self {
        Self {
            api_version: API_VERSION.to_owned(),
            kind: KIND.to_owned(),
            metadata,
            spec,
            status: None,
        }
    }
}

impl Resource for CertificateRequest {
    type DynamicType = ();
    type Scope = NamespaceResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        KIND.into()
    }

    fn group((): &()) -> Cow<'_, str> {
        "cert-manager.io".into()
    }

    fn version((): &()) -> Cow<'_, str> {
        "v1".into()
    }

    fn plural((): &()) -> Cow<'_, str> {
        "certificaterequests".into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

const API_VERSION: &str = "cert-manager.io/v1";
const KIND: &str = "CertificateRequest";
