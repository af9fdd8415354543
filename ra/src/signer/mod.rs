//! The contract between the RA and whatever signs for it.
//!
//! Owns [`Signer`], the [`Issuance`] that a signer is asked for, what it gives ([`Issued`]), and the errors that tell the
//! ways in which a signer can say no apart. A signer promises a chain (leaf first, intermediates after it) for the public
//! key and the id of one canonical CSR. Roots come from [`crate::trust`]. Who may have what was decided before
//! (`authn`, `authz`, `policy`), and what came back is checked after (`reply` for workloads, [`obtain()`] for servers): a
//! signer decides neither.

pub(crate) mod cert_manager;
mod error;
mod gate;
mod host;
mod issued;
pub(crate) mod kubernetes_csr;
pub mod local;
pub mod object;
mod obtain;
mod running;
mod server;
mod set;

use std::{
    fmt::{self, Display},
    sync::Arc,
    time::{Duration, SystemTime},
};

use ensign_pki::{Csr, SignerName, SpiffeId, crypto, hex};
use futures::future::BoxFuture;
use tokio::time::Instant;

pub(crate) use self::cert_manager::issuer_in_effect;
pub use self::{
    cert_manager::annotations,
    error::SignerError,
    gate::{Gate, GateError, GateParts, Obstacle, Outcome, Pass},
    host::{Host, TrustHost},
    issued::{Issued, IssuedChain, Receipt},
    obtain::{Errand, ObtainError, Obtained, Pick, obtain},
    running::{NotSigned, Running},
    server::{ServerCsr, ServerCsrError, ServerIdentity, ServerIssuance},
    set::{OpenError, Signers},
};

/// Something that turns a checked request into a certificate.
///
/// The future may be dropped at any point: that cancels the request as far as the backend allows, and leaves nothing
/// behind that a later request with the same [`IdempotencyKey`] could not find or replace.
pub trait Signer: fmt::Debug + Send + Sync {
    /// Signs one request.
    fn sign(&self, issuance: Issuance) -> BoxFuture<'_, Result<Issued, SignerError>>;

    /// Signs one request of the RA's own for a server of the control plane. A signer for workloads alone refuses.
    fn sign_server(&self, issuance: ServerIssuance) -> BoxFuture<'_, Result<Issued, SignerError>> {
        Box::pin(async move {
            Err(SignerError::Unavailable {
                detail: format!("it signs for workloads alone, and {} is a server", issuance.record),
                signer: issuance.signer,
            })
        })
    }

    /// When the chain above its leaves ends, where the signer knows its CA; for metrics and warnings.
    fn ca_not_after(&self) -> Option<SystemTime> {
        None
    }
}

/// One request to a signer. Every field was checked by the steps before.
#[derive(Clone, Debug)]
pub struct Issuance {
    /// The canonical CSR: the only source of the public key.
    pub csr: Arc<Csr>,
    /// The identity that the leaf carries as its only SAN.
    pub id: SpiffeId,
    /// How long the leaf should live from now on; the policy has clamped it already.
    pub ttl: Duration,
    /// Who asked. For the record of the backend, never a reason to sign.
    pub originator: Originator,
    /// The same for each retry of the same request, so that a retry finds its own object.
    pub idempotency_key: IdempotencyKey,
    /// Names the call in our log.
    pub request_id: Arc<str>,
    /// When the caller stops waiting.
    pub deadline: Instant,
}

/// Who asked, as far as authentication could tell: the workload itself, or a node proxy on its behalf. Then [`Issuance::id`]
/// is another's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Originator {
    /// Its namespace.
    pub namespace: String,
    /// Its service account.
    pub service_account: String,
    /// The pod, where the token is bound to one.
    pub pod: Option<Pod>,
    /// Name of the node, where the token says so.
    pub node: Option<String>,
    /// The cluster that the caller named (`clusterid`), once checked.
    pub cluster: Option<String>,
}

/// A pod of an [`Originator`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Name of the pod.
    pub name: String,
    /// UID of the pod: tells it from a later pod of the same name.
    pub uid: String,
}

/// Names one request over all of its retries: lower-case hex, fit for the name of a Kubernetes object.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct IdempotencyKey(Arc<str>);

// === impl IdempotencyKey ===

impl IdempotencyKey {
    /// Derived from what makes two requests the same: cluster, identity, signer, public key and lifetime.
    ///
    /// The public key and not the CSR: a client that signs again for its retry makes other bytes of the same request.
    /// Each part is preceded by its length, so that no two lists of parts run together to the same bytes.
    pub fn derive(cluster: Option<&str>, id: &SpiffeId, signer: &SignerName, spki_der: &[u8], ttl: Duration) -> Self {
        Self::of_parts(&[
            cluster.unwrap_or_default().as_bytes(),
            id.as_str().as_bytes(),
            signer.as_str().as_bytes(),
            spki_der,
            &ttl.as_nanos().to_be_bytes(),
        ])
    }

    fn of_parts(parts: &[&[u8]]) -> Self {
        let mut input = Vec::with_capacity(512);
        for part in parts {
            input.extend_from_slice(&(part.len() as u64).to_be_bytes());
            input.extend_from_slice(part);
        }
        Self(hex::encode(&crypto::sha256(&input)).into())
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Display for IdempotencyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
