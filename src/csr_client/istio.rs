//! [`Sign`] over Istio's `CreateCertificate`.
//!
//! One connection is shared by all requests and remade when the roots change, when a call gets no answer in time, or
//! when the replica says that it is not available: requests that are under way on the old connection end there, new ones
//! go to another replica. The token is read for each call and travels as a header that is never indexed nor printed.

use std::error::Error as _;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use ensign_proto::istio::v1::auth::IstioCertificateRequest;
use ensign_proto::istio::v1::auth::istio_certificate_service_client::IstioCertificateServiceClient;
use futures::future::BoxFuture;
use prost_types::value::Kind;
use prost_types::{Struct, Value};
use rustls_pki_types::ServerName;
use tokio::sync::{Mutex, watch};
use tokio::time::timeout;
use tonic::metadata::{Ascii, MetadataKey, MetadataValue};
use tonic::transport::{Channel, Endpoint};

use super::connect::Connector;
use super::request::REQUEST_ID;
use super::{CaAddress, CaRoots, Sign, SignError, SignRequest, Token, TokenError};

/// A chain of certificates is a few kB; a bundle of many roots a few hundred.
const MAX_REPLY_BYTES: usize = 1024 * 1024;
/// A leaf, its intermediates, a bundle.
const MAX_ELEMENTS: usize = 16;
/// TCP and TLS handshake with one address.
const CONNECT_PATIENCE: Duration = Duration::from_secs(5);
/// As Istio's agent does it.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// How to reach the certificate authority.
#[derive(Clone)]
pub struct IstioCaConfig {
    /// `CA_ADDR`.
    pub address: CaAddress,
    /// `ISTIOD_SAN`: the name that the authority's certificate must bear, if it is not the host of the address.
    /// It always counts, while Istio's agent heeds it only without a `CA_ADDR`; and a `localhost` in the address is
    /// taken at its word, while Istio's agent then expects `istiod.istio-system.svc`.
    pub server_name: Option<String>,
    /// `ISTIO_META_CLUSTER_ID`, sent as `clusterid`.
    pub cluster_id: String,
    /// Further headers (`CA_HEADER_*`), names and values.
    pub headers: Vec<(String, String)>,
    /// The end of one call: connecting, handshake and answer together.
    pub deadline: Duration,
}

impl fmt::Debug for IstioCaConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.headers.iter().map(|(name, _)| name).collect();
        f.debug_struct("IstioCaConfig")
            .field("address", &self.address)
            .field("server_name", &self.server_name)
            .field("cluster_id", &self.cluster_id)
            .field("headers", &names)
            .field("deadline", &self.deadline)
            .finish()
    }
}

/// Why the settings cannot work.
#[derive(Debug, thiserror::Error)]
pub enum IstioCaConfigError {
    /// Not a name that a certificate could bear.
    #[error("{0:?} is no DNS name or IP address that a server certificate could bear: correct ISTIOD_SAN or CA_ADDR")]
    ServerName(String),
    /// Not a header.
    #[error(
        "CA_HEADER_{0} cannot be sent: a name needs lower-case letters, digits, '-' or '_', a value printable ASCII; `authorization`, `clusterid` and names that end in `-bin` are not free"
    )]
    Header(String),
    /// Not a header value.
    #[error("the cluster id {0:?} cannot be sent: expected printable ASCII, correct ISTIO_META_CLUSTER_ID")]
    ClusterId(String),
}

/// The certificate authority of an Istio mesh: our RA, istiod or istio-csr.
pub struct IstioCa {
    address: CaAddress,
    headers: Vec<(MetadataKey<Ascii>, MetadataValue<Ascii>)>,
    deadline: Duration,
    endpoint: Endpoint,
    connector: Connector,
    roots: watch::Receiver<Arc<CaRoots>>,
    /// Locked while a connection is being made, so that all wait for the same one, each within its own deadline.
    connection: Mutex<Option<Connection>>,
}

struct Connection {
    channel: Channel,
    roots: Arc<CaRoots>,
    number: u64,
}

impl fmt::Debug for IstioCa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IstioCa")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl IstioCa {
    /// A client with these settings; connects with the first request. Whoever owns `roots` replaces them there.
    pub fn new(config: IstioCaConfig, roots: watch::Receiver<Arc<CaRoots>>) -> Result<Self, IstioCaConfigError> {
        let IstioCaConfig {
            address,
            server_name,
            cluster_id,
            headers,
            deadline,
        } = config;
        let name = server_name.unwrap_or_else(|| address.host().to_owned());
        let server_name = ServerName::try_from(name.clone()).map_err(|_| IstioCaConfigError::ServerName(name))?;
        let wrong = |_| IstioCaConfigError::ServerName(address.to_string());
        let endpoint = Endpoint::from_shared(format!("https://{address}"))
            .and_then(|endpoint| endpoint.user_agent(concat!("ensign-agent/", env!("CARGO_PKG_VERSION"))))
            .map_err(wrong)?
            .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT);
        let connector = Connector::new(address.clone(), server_name, roots.clone(), CONNECT_PATIENCE);
        let headers = all_headers(&cluster_id, &headers)?;
        Ok(Self {
            address,
            headers,
            deadline,
            endpoint,
            connector,
            roots,
            connection: Mutex::new(None),
        })
    }

    async fn sign_within_deadline(&self, request: SignRequest) -> Result<Vec<String>, SignError> {
        let mut used = None;
        let answer = match timeout(self.deadline, self.call(request, &mut used)).await {
            Ok(answer) => answer,
            Err(_) => Err(SignError::Deadline {
                address: self.address.to_string(),
                deadline: self.deadline,
            }),
        };
        if let Err(error) = &answer
            && leaves_replica(error)
        {
            self.leave(used).await;
        }
        answer
    }

    /// One call. `used` is the number of the connection, once there is one.
    async fn call(&self, request: SignRequest, used: &mut Option<u64>) -> Result<Vec<String>, SignError> {
        let token = request.token.read().await.map_err(SignError::Token)?;
        let message = self.message(&request, &token)?;
        drop(token);
        let (channel, number) = self.channel().await?;
        *used = Some(number);
        let mut client = IstioCertificateServiceClient::new(channel).max_decoding_message_size(MAX_REPLY_BYTES);
        tracing::debug!(request_id = %request.request_id, id = %request.id, "request sent");
        let reply = client
            .create_certificate(message)
            .await
            .map_err(|status| self.sort(&status))?;
        let elements = reply.into_inner().cert_chain;
        if elements.is_empty() || elements.len() > MAX_ELEMENTS {
            let seen = elements.len();
            return Err(SignError::Malformed(format!(
                "{seen} chain elements, expected 1 to {MAX_ELEMENTS}"
            )));
        }
        Ok(elements)
    }

    fn message(
        &self,
        request: &SignRequest,
        token: &Token,
    ) -> Result<tonic::Request<IstioCertificateRequest>, SignError> {
        let signer = request.signer.as_ref().map(ToString::to_string).unwrap_or_default();
        // Present even when empty, as Istio's agent sends it.
        let fields = [(
            "CertSigner".to_owned(),
            Value {
                kind: Some(Kind::StringValue(signer)),
            },
        )];
        let message = IstioCertificateRequest {
            csr: request.csr_pem.clone(),
            validity_duration: i64::try_from(request.ttl.as_secs()).unwrap_or(i64::MAX),
            metadata: Some(Struct { fields: fields.into() }),
        };
        let mut message = tonic::Request::new(message);
        let bearer = zeroize::Zeroizing::new(format!("Bearer {}", token.expose()));
        let not_a_header = |_| SignError::Token(TokenError::NotAToken);
        let mut bearer = MetadataValue::try_from(bearer.as_str()).map_err(not_a_header)?;
        bearer.set_sensitive(true);
        message.metadata_mut().insert("authorization", bearer);
        // Our RA logs it beside its own; others pass it over.
        if let Ok(id) = MetadataValue::try_from(request.request_id.as_str()) {
            message.metadata_mut().insert(REQUEST_ID, id);
        }
        for (name, value) in &self.headers {
            message.metadata_mut().insert(name.clone(), value.clone());
        }
        Ok(message)
    }

    /// The connection in use, or a new one if there is none or if the roots have changed.
    async fn channel(&self) -> Result<(Channel, u64), SignError> {
        let mut connection = self.connection.lock().await;
        let roots = Arc::clone(&self.roots.borrow());
        let number = match &*connection {
            Some(known) if Arc::ptr_eq(&known.roots, &roots) => return Ok((known.channel.clone(), known.number)),
            Some(outdated) => outdated.number + 1,
            None => fastrand::u64(..u64::MAX / 2),
        };
        *connection = None;
        let failed = |error: tonic::transport::Error| {
            // Each of its addresses was tried already.
            SignError::Connect {
                address: self.address.to_string(),
                reason: causes(&error),
            }
        };
        let channel = self
            .endpoint
            .connect_with_connector(self.connector.clone())
            .await
            .map_err(failed)?;
        tracing::debug!(address = %self.address, "connected to the certificate authority");
        *connection = Some(Connection {
            channel: channel.clone(),
            roots,
            number,
        });
        Ok((channel, number))
    }

    /// Gives the connection up, unless another request did already.
    async fn leave(&self, used: Option<u64>) {
        let mut connection = self.connection.lock().await;
        let ours = connection.as_ref().is_some_and(|known| used == Some(known.number));
        if ours {
            *connection = None;
        }
        // Without a connection, connecting itself hung: begin with another replica as well.
        if ours || used.is_none() {
            self.connector.leave_replica();
        }
    }

    /// A status with a source was made on this side of the wire.
    fn sort(&self, status: &tonic::Status) -> SignError {
        match status.source() {
            Some(cause) => SignError::Connect {
                address: self.address.to_string(),
                reason: causes(cause),
            },
            None => SignError::from_status(status),
        }
    }
}

impl Sign for IstioCa {
    fn sign(&self, request: SignRequest) -> BoxFuture<'_, Result<Vec<String>, SignError>> {
        Box::pin(self.sign_within_deadline(request))
    }
}

fn leaves_replica(error: &SignError) -> bool {
    match error {
        SignError::Connect { .. } | SignError::Deadline { .. } => true,
        SignError::Status { code, .. } => *code == tonic::Code::Unavailable,
        SignError::Token(_) | SignError::Malformed(_) => false,
    }
}

type Header = (MetadataKey<Ascii>, MetadataValue<Ascii>);

fn all_headers(cluster_id: &str, headers: &[(String, String)]) -> Result<Vec<Header>, IstioCaConfigError> {
    let mut all = Vec::new();
    if !cluster_id.is_empty() {
        let wrong = |_| IstioCaConfigError::ClusterId(cluster_id.to_owned());
        all.push((
            MetadataKey::from_static("clusterid"),
            cluster_id.parse().map_err(wrong)?,
        ));
    }
    for (name, value) in headers {
        let wrong = || IstioCaConfigError::Header(name.clone());
        let key: MetadataKey<Ascii> = name.to_ascii_lowercase().parse().map_err(|_| wrong())?;
        // A second `clusterid` makes istiod refuse the request; a second token is nobody's wish.
        if matches!(key.as_str(), "clusterid" | "authorization") {
            return Err(wrong());
        }
        let mut value: MetadataValue<Ascii> = value.parse().map_err(|_| wrong())?;
        value.set_sensitive(true);
        all.push((key, value));
    }
    Ok(all)
}

/// An error's text with the causes behind it, without repeating one that says the same.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.ends_with(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}
