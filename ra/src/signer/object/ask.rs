//! What one request says to an API, whoever it is for: a workload, or a server of the control plane.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::marks;
use crate::signer::{IdempotencyKey, Issuance, ServerIssuance};

/// One request, in the words that objects have for it.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    /// The CSR in PEM.
    pub(crate) pem: Arc<str>,
    /// Its public key.
    pub(crate) spki_der: Vec<u8>,
    /// How long the certificate should live.
    pub(crate) ttl: Duration,
    /// What the key is for.
    pub(crate) purpose: Purpose,
    /// For whom it is, as istio-csr writes it.
    pub(crate) identities: String,
    /// The same for people, without the object's end.
    pub(crate) marks: BTreeMap<String, String>,
    /// Names the object over all retries.
    pub(crate) idempotency_key: IdempotencyKey,
    /// Names the call in our log.
    pub(crate) request_id: Arc<str>,
    /// Namespace of who gets it.
    pub(crate) namespace: String,
    /// Service account of who gets it.
    pub(crate) service_account: String,
    /// When nobody waits any more.
    pub(crate) deadline: Instant,
}

/// What a key is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// TLS server and client.
    Workload,
    /// TLS server.
    Server,
}

impl From<&Issuance> for Ask {
    fn from(issuance: &Issuance) -> Self {
        Self {
            pem: issuance.csr.to_pem().into(),
            spki_der: issuance.csr.spki_der().to_vec(),
            ttl: issuance.ttl,
            purpose: Purpose::Workload,
            identities: issuance.id.to_string(),
            marks: marks::of_workload(issuance),
            idempotency_key: issuance.idempotency_key.clone(),
            request_id: Arc::clone(&issuance.request_id),
            namespace: issuance.id.namespace().to_owned(),
            service_account: issuance.id.service_account().to_owned(),
            deadline: issuance.deadline,
        }
    }
}

impl From<&ServerIssuance> for Ask {
    fn from(issuance: &ServerIssuance) -> Self {
        Self {
            pem: Arc::clone(&issuance.csr.pem),
            spki_der: issuance.csr.spki_der.clone(),
            ttl: issuance.ttl,
            purpose: Purpose::Server,
            identities: issuance.record.clone(),
            marks: marks::of_server(&issuance.record, &issuance.request_id),
            idempotency_key: issuance.idempotency_key.clone(),
            request_id: Arc::clone(&issuance.request_id),
            namespace: String::new(),
            service_account: String::new(),
            deadline: issuance.deadline,
        }
    }
}
