//! What is asked of a certificate authority, and the seam through which it is asked.
//!
//! Owns the vocabulary of one request. [`Sign`] is the only thing that `rotation` knows of the world outside; its tests
//! put a scripted fake there.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use ensign_pki::{SignerName, SpiffeId};
use futures::future::BoxFuture;
use tonic::metadata::MetadataMap;

use super::{SignError, TokenSource};

/// The metadata that names a request, in both directions.
pub(super) const REQUEST_ID: &str = "x-request-id";

/// Anything that turns a CSR into a certificate chain.
pub trait Sign: fmt::Debug + Send + Sync {
    /// Asks once. Ends within the deadline of the implementation; dropping the future gives the request up.
    fn sign(&self, request: SignRequest) -> BoxFuture<'_, Result<Answer, SignError>>;

    /// An answer of this replica was wrong: the next request goes to another, where there is another.
    fn leave(&self, replica: Replica) -> BoxFuture<'_, ()>;
}

/// What an authority answered. Nothing of it is verified.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The reply's elements as they came, PEM text each.
    pub elements: Vec<String>,
    /// Who gave it.
    pub by: Replica,
}

/// One replica of an authority, for as long as the connection to it lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Replica(pub u64);

/// One request for one certificate. A resumed request carries the same CSR and the same id again.
#[derive(Debug, Clone)]
pub struct SignRequest {
    /// The certificate signing request, PEM.
    pub csr_pem: String,
    /// The identity that the CSR asks for.
    pub id: SpiffeId,
    /// The signer that shall issue it; none means the authority's default.
    pub signer: Option<SignerName>,
    /// How long the certificate should live.
    pub ttl: Duration,
    /// Where the bearer token comes from; read once per call.
    pub token: Arc<dyn TokenSource>,
    /// Names this request in the logs of both sides.
    pub request_id: RequestId,
}

/// Names one request in logs, not secret: 16 random hex digits if it is ours, what the authority says if it is its own.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct RequestId(Arc<str>);

impl RequestId {
    /// The id made of these random bits.
    pub fn from_bits(bits: u64) -> Self {
        Self(format!("{bits:016x}").into())
    }

    /// What an answer's metadata says, if it can be logged.
    pub(super) fn of(metadata: &MetadataMap) -> Option<Self> {
        let text = metadata.get(REQUEST_ID)?.to_str().ok()?;
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        ((1..=64).contains(&text.len()) && text.bytes().all(plain)).then(|| Self(text.into()))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
