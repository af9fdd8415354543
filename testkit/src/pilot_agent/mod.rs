//! Istio's own agent as a CA sees it: pilot-agent's way of asking for a certificate, with its retries and no others.
//!
//! From Istio's `caclient/providers/citadel/client.go` and `pkg/security/retry.go` (over go-grpc-middleware's retry): no
//! deadline; five attempts, 100, 200, 400 and 800 ms apart, ten per cent more or less; again after RESOURCE_EXHAUSTED, ABORTED,
//! INTERNAL and UNAVAILABLE, and after nothing else (CANCELLED and DEADLINE_EXCEEDED are on its list, and the middleware
//! refuses them); a call that failed for good costs the connection. What the connection does is `connection`'s. gRPC for Go also
//! repeats by itself what a server certainly did not look at: this client does not, so it bears no more than the real one.

mod connection;

pub use self::connection::{Ca, Endpoints};

use std::error::Error as _;
use std::fmt;
use std::time::Duration;

use ensign_proto::istio::v1::auth::IstioCertificateRequest;
use ensign_proto::istio::v1::auth::istio_certificate_service_client::IstioCertificateServiceClient;
use prost_types::value::Kind;
use prost_types::{Struct, Value};
use tokio::time::sleep;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

/// One agent: one pod's, with a connection of its own.
pub struct PilotAgent {
    ca: Ca,
    token: String,
    /// `ISTIO_META_CERT_SIGNER`; the field is sent though it be empty.
    signer: String,
    channel: Channel,
}

/// A certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    /// Leaf first, roots last.
    pub chain: Vec<String>,
    /// What came before it, attempt by attempt.
    pub before: Vec<Refusal>,
}

/// No certificate: what each attempt met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GaveUp(pub Vec<Refusal>);

/// What one attempt met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The code, as gRPC for Go has it: a connection that breaks is UNAVAILABLE.
    pub code: Code,
    /// The server's words, or the connection's.
    pub text: String,
    /// Whether the CA said so itself.
    pub by_ca: bool,
}

// === impl PilotAgent ===

impl PilotAgent {
    /// An agent with this token; it connects with its first request.
    pub fn new(ca: &Ca, token: &str) -> Self {
        Self {
            channel: ca.channel(),
            ca: ca.clone(),
            token: token.to_owned(),
            signer: String::new(),
        }
    }

    /// Asking for this signer.
    #[must_use]
    pub fn of_signer(mut self, signer: &str) -> Self {
        signer.clone_into(&mut self.signer);
        self
    }

    /// Has a CSR signed, for a day as Istio's agents ask for it.
    pub async fn sign(&mut self, csr_pem: &str) -> Result<Signed, GaveUp> {
        let mut before = Vec::new();
        loop {
            let refusal = match self.attempt(csr_pem, before.len()).await {
                Ok(chain) => return Ok(Signed { chain, before }),
                Err(refusal) => refusal,
            };
            let again = AGAIN.contains(&refusal.code);
            before.push(refusal);
            if !again || before.len() == ATTEMPTS {
                self.channel = self.ca.channel();
                return Err(GaveUp(before));
            }
            let doubled = FIRST_WAIT * 2_u32.pow(u32::try_from(before.len()).unwrap() - 1);
            sleep(doubled.mul_f64(0.9 + 0.2 * fastrand::f64())).await;
        }
    }

    async fn attempt(&self, csr_pem: &str, number: usize) -> Result<Vec<String>, Refusal> {
        let mut client = IstioCertificateServiceClient::new(self.channel.clone());
        let answer = client.create_certificate(self.request(csr_pem, number)).await;
        let chain = answer.map_err(Refusal::from)?.into_inner().cert_chain;
        if chain.len() < 2 {
            // It tells this apart from no failure of the call, and does not ask again.
            let text = format!("a chain of {} elements", chain.len());
            return Err(Refusal {
                code: Code::Unknown,
                text,
                by_ca: true,
            });
        }
        Ok(chain)
    }

    fn request(&self, csr_pem: &str, number: usize) -> Request<IstioCertificateRequest> {
        let kind = Some(Kind::StringValue(self.signer.clone()));
        let mut request = Request::new(IstioCertificateRequest {
            csr: csr_pem.to_owned(),
            validity_duration: A_DAY,
            metadata: Some(Struct {
                fields: [("CertSigner".to_owned(), Value { kind })].into(),
            }),
        });
        let headers = request.metadata_mut();
        headers.insert("authorization", format!("Bearer {}", self.token).parse().unwrap());
        headers.insert("clusterid", "Kubernetes".parse().unwrap());
        if number > 0 {
            headers.insert("x-retry-attempt", number.to_string().parse().unwrap());
        }
        request
    }
}

impl fmt::Debug for PilotAgent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PilotAgent")
            .field("ca", &self.ca)
            .finish_non_exhaustive()
    }
}

// === impl GaveUp ===

impl GaveUp {
    /// What the last attempt met.
    pub fn code(&self) -> Code {
        self.0.last().map_or(Code::Unknown, |last| last.code)
    }
}

impl fmt::Display for GaveUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no certificate after {} attempts", self.0.len())?;
        for Refusal { code, text, by_ca } in &self.0 {
            let whose = if *by_ca { "the CA" } else { "the connection" };
            write!(f, "; {whose}: {code:?} {text}")?;
        }
        Ok(())
    }
}

impl std::error::Error for GaveUp {}

impl From<Status> for Refusal {
    /// A status with a source was made on this side of the wire.
    fn from(status: Status) -> Self {
        let Some(source) = status.source() else {
            return Self {
                code: status.code(),
                text: status.message().to_owned(),
                by_ca: true,
            };
        };
        let mut text = source.to_string();
        let mut cause = source.source();
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        Self {
            code: Code::Unavailable,
            text,
            by_ca: false,
        }
    }
}

const ATTEMPTS: usize = 5;
const FIRST_WAIT: Duration = Duration::from_millis(100);
const AGAIN: [Code; 4] = [
    Code::ResourceExhausted,
    Code::Aborted,
    Code::Internal,
    Code::Unavailable,
];
/// `SECRET_TTL` in seconds.
const A_DAY: i64 = 24 * 60 * 60;

#[cfg(test)]
mod tests;
