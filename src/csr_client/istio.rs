//! [`Sign`] over Istio's `CreateCertificate`.
//!
//! One connection is shared by all requests and remade when the roots change, when a call gets no answer in time, when
//! the replica says that it is not available, or when its answer was wrong: requests that are under way on the old
//! connection end there, new ones go to another replica. The token is read for each call and travels as a header that is never indexed nor printed.

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
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};

use super::config::{Header, IstioCaConfig, IstioCaConfigError, all_headers};
use super::connect::Connector;
use super::request::REQUEST_ID;
use super::{Answer, CaAddress, CaRoots, Replica, Sign, SignError, SignRequest, Token, TokenError};

/// A chain of certificates is a few kB; a bundle of many roots a few hundred.
const MAX_REPLY_BYTES: usize = 1024 * 1024;
/// A leaf, its intermediates, a bundle.
const MAX_ELEMENTS: usize = 16;
/// TCP and TLS handshake with one address.
const CONNECT_PATIENCE: Duration = Duration::from_secs(5);
/// As Istio's agent does it.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// The certificate authority of an Istio mesh: our RA, istiod or istio-csr.
pub struct IstioCa {
    address: CaAddress,
    headers: Vec<Header>,
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
    replica: Replica,
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

    async fn sign_within_deadline(&self, request: SignRequest) -> Result<Answer, SignError> {
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
            self.give_up(used).await;
        }
        answer
    }

    /// One call. `used` is who is asked, once there is a connection.
    async fn call(&self, request: SignRequest, used: &mut Option<Replica>) -> Result<Answer, SignError> {
        let token = request.token.read().await.map_err(SignError::Token)?;
        let message = self.message(&request, &token)?;
        drop(token);
        let (channel, replica) = self.channel().await?;
        *used = Some(replica);
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
        Ok(Answer { elements, by: replica })
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
    async fn channel(&self) -> Result<(Channel, Replica), SignError> {
        let mut connection = self.connection.lock().await;
        let roots = Arc::clone(&self.roots.borrow());
        if let Some(known) = &*connection
            && Arc::ptr_eq(&known.roots, &roots)
        {
            return Ok((known.channel.clone(), known.replica));
        }
        let replica = Replica(fastrand::u64(..));
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
            replica,
        });
        Ok((channel, replica))
    }

    /// Gives the connection up, unless another request did already.
    async fn give_up(&self, used: Option<Replica>) {
        let mut connection = self.connection.lock().await;
        let ours = connection.as_ref().is_some_and(|known| used == Some(known.replica));
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
    fn sign(&self, request: SignRequest) -> BoxFuture<'_, Result<Answer, SignError>> {
        Box::pin(self.sign_within_deadline(request))
    }

    fn leave(&self, replica: Replica) -> BoxFuture<'_, ()> {
        Box::pin(self.give_up(Some(replica)))
    }
}

fn leaves_replica(error: &SignError) -> bool {
    match error {
        SignError::Connect { .. } | SignError::Deadline { .. } | SignError::Malformed(_) => true,
        SignError::Status { code, .. } => *code == tonic::Code::Unavailable,
        SignError::Token(_) => false,
    }
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

#[cfg(test)]
mod tests {
    use ensign_testkit::fake_ra::{FakeRa, RaOutcome};

    use super::*;
    use crate::csr_client::connect::tests::replicas;
    use crate::csr_client::{RequestId, TokenSource};

    #[derive(Debug)]
    struct Given;

    impl TokenSource for Given {
        fn read(&self) -> BoxFuture<'_, Result<Token, TokenError>> {
            Box::pin(async { Token::new("token") })
        }
    }

    async fn client() -> (FakeRa, FakeRa, IstioCa) {
        let (one, two, connector) = replicas().await;
        let config = IstioCaConfig {
            address: "localhost:443".parse().unwrap(),
            server_name: None,
            cluster_id: String::new(),
            headers: Vec::new(),
            deadline: Duration::from_secs(30),
        };
        let mut client = IstioCa::new(config, connector.roots()).unwrap();
        client.connector = connector;
        (one, two, client)
    }

    fn request() -> SignRequest {
        let id: ensign_pki::SpiffeId = "spiffe://cluster.local/ns/foo/sa/web".parse().unwrap();
        let key = ensign_pki::PrivateKey::generate(ensign_pki::KeyType::P256).unwrap();
        SignRequest {
            csr_pem: ensign_pki::csr::build(&key, &id).unwrap().to_pem(),
            id,
            signer: None,
            ttl: Duration::from_hours(1),
            token: Arc::new(Given),
            request_id: RequestId::from_bits(7),
        }
    }

    #[tokio::test]
    async fn a_replica_whose_answer_was_wrong_is_left_for_another_once() {
        let (one, two, client) = client().await;
        let (first, second) = (
            client.sign(request()).await.unwrap(),
            client.sign(request()).await.unwrap(),
        );
        assert_eq!((one.request_count(), two.request_count()), (2, 0));
        assert_eq!(first.by, second.by);
        // Both were wrong, and the second to say so does not lead back.
        client.leave(first.by).await;
        let third = client.sign(request()).await.unwrap();
        client.leave(second.by).await;
        let fourth = client.sign(request()).await.unwrap();
        assert_eq!((one.request_count(), two.request_count()), (2, 2));
        assert_eq!(third.by, fourth.by);
        client.leave(fourth.by).await;
        client.sign(request()).await.unwrap();
        assert_eq!((one.request_count(), two.request_count()), (3, 2));
    }

    #[tokio::test]
    async fn a_reply_that_is_none_leaves_the_replica_too() {
        let (one, two, client) = client().await;
        one.script().push(RaOutcome::Reply(Vec::new()));
        let error = client.sign(request()).await.unwrap_err();
        assert!(matches!(error, SignError::Malformed(_)), "{error}");
        client.sign(request()).await.unwrap();
        assert_eq!((one.request_count(), two.request_count()), (1, 1));
    }
}
