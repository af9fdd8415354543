//! An SDS client on a Unix socket that does what Envoy does, or what no Envoy should.
//!
//! Owns the connection, the 61 KB node and the bookkeeping of versions and nonces. Answers nothing by
//! itself: a test says when to ACK, to NACK, or to send something odd.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use ensign_proto::SECRET_TYPE_URL;
use ensign_proto::envoy::config::core::v3::{DataSource, Extension, Node, data_source::Specifier};
use ensign_proto::envoy::extensions::transport_sockets::tls::v3::{Secret, secret};
use ensign_proto::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use ensign_proto::envoy::service::secret::v3::secret_discovery_service_client::SecretDiscoveryServiceClient;
use ensign_proto::google::rpc::Status as RpcStatus;
use hyper_util::rt::TokioIo;
use prost::Message as _;
use prost_types::value::Kind;
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};

mod stalled;
pub use stalled::StalledEnvoy;

/// One connection to an SDS socket.
#[derive(Clone, Debug)]
pub struct FakeEnvoy {
    client: SecretDiscoveryServiceClient<Channel>,
    node: Bytes,
    socket: PathBuf,
}

impl FakeEnvoy {
    /// Connects at once; fails if nobody listens.
    pub async fn connect(socket: impl AsRef<Path>) -> anyhow::Result<Self> {
        let socket = socket.as_ref().to_owned();
        let path = socket.clone();
        let connector = tower::service_fn(move |_| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        let channel = Endpoint::from_static("http://envoy.invalid")
            .connect_with_connector(connector)
            .await?;
        let client = SecretDiscoveryServiceClient::new(channel).max_decoding_message_size(16 << 20);
        Ok(Self {
            client,
            node: node("sidecar~10.0.0.1~httpbin.foo~foo.svc.cluster.local", None),
            socket,
        })
    }

    /// Wishes for a signer in its node metadata from now on.
    pub fn with_cert_signer(mut self, signer: &str) -> Self {
        self.node = node("sidecar~10.0.0.1~httpbin.foo~foo.svc.cluster.local", Some(signer));
        self
    }

    /// Sends these bytes as its node from now on.
    pub fn with_node(mut self, node: impl Into<Bytes>) -> Self {
        self.node = node.into();
        self
    }

    /// The encoded node that goes with the first request of each stream.
    pub fn node(&self) -> Bytes {
        self.node.clone()
    }

    /// The socket that it is connected to.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Opens a state-of-the-world stream without a first request.
    pub fn open(&self) -> SotwStream {
        let mut client = self.client.clone();
        let (sender, requests) = mpsc::channel(64);
        let exchange = Exchange::start(sender, async move |responses| {
            let mut stream = client.stream_secrets(ReceiverStream::new(requests)).await?.into_inner();
            while let Some(response) = stream.message().await? {
                if responses.send(Ok(response)).await.is_err() {
                    break;
                }
            }
            Ok(())
        });
        SotwStream {
            exchange,
            node: self.node.clone(),
            names: Vec::new(),
            version: String::new(),
        }
    }

    /// Opens a stream and subscribes, as Envoy does when it starts.
    pub async fn subscribe(&self, names: &[&str]) -> SotwStream {
        self.subscribe_holding(names, "").await
    }

    /// Opens a stream and subscribes, as Envoy does after a lost connection: with the last accepted version.
    pub async fn subscribe_holding(&self, names: &[&str], version: &str) -> SotwStream {
        let mut stream = self.open();
        stream.names = names.iter().map(|&name| name.to_owned()).collect();
        version.clone_into(&mut stream.version);
        let first = DiscoveryRequest {
            node: self.node.clone(),
            ..stream.request("")
        };
        stream.send(first).await;
        stream
    }

    /// Opens an incremental stream without a first request.
    pub fn open_delta(&self) -> DeltaStream {
        let mut client = self.client.clone();
        let (sender, requests) = mpsc::channel(64);
        let exchange = Exchange::start(sender, async move |responses| {
            let mut stream = client.delta_secrets(ReceiverStream::new(requests)).await?.into_inner();
            while let Some(response) = stream.message().await? {
                if responses.send(Ok(response)).await.is_err() {
                    break;
                }
            }
            Ok(())
        });
        DeltaStream {
            exchange,
            node: self.node.clone(),
        }
    }

    /// Opens an incremental stream and subscribes; `held` are the versions that it already has, by name.
    pub async fn subscribe_delta(&self, names: &[&str], held: &[(&str, &str)]) -> DeltaStream {
        let stream = self.open_delta();
        let versions = held
            .iter()
            .map(|&(name, version)| (name.to_owned(), version.to_owned()));
        let first = DeltaDiscoveryRequest {
            node: self.node.clone(),
            type_url: SECRET_TYPE_URL.to_owned(),
            resource_names_subscribe: names.iter().map(|&name| name.to_owned()).collect(),
            initial_resource_versions: versions.collect::<HashMap<_, _>>(),
            ..DeltaDiscoveryRequest::default()
        };
        stream.send(first).await;
        stream
    }

    /// One request, one answer.
    pub async fn fetch(&self, names: &[&str]) -> Result<Received, tonic::Status> {
        let request = DiscoveryRequest {
            node: self.node.clone(),
            resource_names: names.iter().map(|&name| name.to_owned()).collect(),
            type_url: SECRET_TYPE_URL.to_owned(),
            ..DiscoveryRequest::default()
        };
        Ok(Received::from(
            self.client.clone().fetch_secrets(request).await?.into_inner(),
        ))
    }
}

/// Why nothing was received.
#[derive(Debug)]
pub enum Silence {
    /// Nothing came in time; the stream is open.
    Timeout,
    /// The server ended the stream, with this status (`Ok` for a plain end).
    Ended(tonic::Status),
}

impl std::fmt::Display for Silence {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Timeout => write!(f, "nothing came in time"),
            Self::Ended(status) => write!(f, "the stream ended: {status}"),
        }
    }
}

impl std::error::Error for Silence {}

/// What a response holds, decoded.
#[derive(Clone, Debug)]
pub struct Received {
    /// Of the response.
    pub version: String,
    /// Of the response.
    pub nonce: String,
    /// Of the response.
    pub type_url: String,
    /// Its secrets, in order.
    pub secrets: Vec<Secret>,
    /// Version per secret (incremental streams only).
    pub versions: Vec<(String, String)>,
    /// Names that are gone (incremental streams only).
    pub removed: Vec<String>,
}

impl Received {
    /// The secret of this name.
    pub fn secret(&self, name: &str) -> Option<&Secret> {
        self.secrets.iter().find(|secret| secret.name == name)
    }

    /// The only secret. Panics if there are more or none.
    pub fn only(&self) -> &Secret {
        assert_eq!(self.secrets.len(), 1, "expected one secret in {self:?}");
        &self.secrets[0]
    }
}

impl From<DiscoveryResponse> for Received {
    fn from(response: DiscoveryResponse) -> Self {
        let secrets = response
            .resources
            .iter()
            .map(|any| Secret::decode(any.value.clone()).expect("a Secret"))
            .collect();
        Self {
            version: response.version_info,
            nonce: response.nonce,
            type_url: response.type_url,
            secrets,
            versions: Vec::new(),
            removed: Vec::new(),
        }
    }
}

impl From<DeltaDiscoveryResponse> for Received {
    fn from(response: DeltaDiscoveryResponse) -> Self {
        let secret = |any: &ensign_proto::Any| Secret::decode(any.value.clone()).expect("a Secret");
        Self {
            version: response.system_version_info,
            nonce: response.nonce,
            type_url: response.type_url,
            secrets: response
                .resources
                .iter()
                .filter_map(|one| one.resource.as_ref())
                .map(secret)
                .collect(),
            versions: response
                .resources
                .into_iter()
                .map(|one| (one.name, one.version))
                .collect(),
            removed: response.removed_resources,
        }
    }
}

/// PEM of the chain and of the key, from a certificate secret.
pub fn certificate(secret: &Secret) -> Option<(String, String)> {
    match secret.r#type.as_ref()? {
        secret::Type::TlsCertificate(certificate) => Some((
            inline(certificate.certificate_chain.as_ref()?)?,
            inline(certificate.private_key.as_ref()?)?,
        )),
        secret::Type::ValidationContext(_) => None,
    }
}

/// PEM of the trust anchors, from a validation context.
pub fn trusted_ca(secret: &Secret) -> Option<String> {
    match secret.r#type.as_ref()? {
        secret::Type::ValidationContext(context) => inline(context.trusted_ca.as_ref()?),
        secret::Type::TlsCertificate(_) => None,
    }
}

fn inline(source: &DataSource) -> Option<String> {
    match source.specifier.as_ref()? {
        Specifier::InlineBytes(bytes) => String::from_utf8(bytes.to_vec()).ok(),
        Specifier::InlineString(text) => Some(text.clone()),
        Specifier::Filename(_) | Specifier::EnvironmentVariable(_) => None,
    }
}

/// Sending and receiving on one stream. Dropping it cancels the stream.
#[derive(Debug)]
struct Exchange<Req, Resp> {
    requests: mpsc::Sender<Req>,
    responses: mpsc::Receiver<Result<Resp, tonic::Status>>,
    _task: JoinSet<()>,
}

impl<Req, Resp: Send + 'static> Exchange<Req, Resp> {
    fn start<F>(requests: mpsc::Sender<Req>, run: impl FnOnce(mpsc::Sender<Result<Resp, tonic::Status>>) -> F) -> Self
    where
        F: Future<Output = Result<(), tonic::Status>> + Send + 'static,
    {
        let (sender, responses) = mpsc::channel(64);
        let mut task = JoinSet::new();
        let run = run(sender.clone());
        task.spawn(async move {
            let status = match run.await {
                Ok(()) => tonic::Status::ok("end of stream"),
                Err(status) => status,
            };
            let _ = sender.send(Err(status)).await;
        });
        Self {
            requests,
            responses,
            _task: task,
        }
    }

    async fn receive(&mut self, timeout: Duration) -> Result<Received, Silence>
    where
        Received: From<Resp>,
    {
        match tokio::time::timeout(timeout, self.responses.recv()).await {
            Err(_) => Err(Silence::Timeout),
            Ok(Some(Ok(response))) => Ok(response.into()),
            Ok(Some(Err(status))) => Err(Silence::Ended(status)),
            Ok(None) => Err(Silence::Ended(tonic::Status::ok("end of stream, already reported"))),
        }
    }
}

/// A `StreamSecrets` call.
#[derive(Debug)]
pub struct SotwStream {
    exchange: Exchange<DiscoveryRequest, DiscoveryResponse>,
    node: Bytes,
    names: Vec<String>,
    version: String,
}

impl SotwStream {
    /// Sends any request, as it is. Lost without a word if the server has ended the stream.
    pub async fn send(&self, request: DiscoveryRequest) {
        let _ = self.exchange.requests.send(request).await;
    }

    /// A request with the current names, the accepted version and this nonce; no node.
    pub fn request(&self, nonce: &str) -> DiscoveryRequest {
        DiscoveryRequest {
            version_info: self.version.clone(),
            resource_names: self.names.clone(),
            type_url: SECRET_TYPE_URL.to_owned(),
            response_nonce: nonce.to_owned(),
            ..DiscoveryRequest::default()
        }
    }

    /// The node that this stream's Envoy sends.
    pub fn node(&self) -> Bytes {
        self.node.clone()
    }

    /// The next response.
    pub async fn next(&mut self, timeout: Duration) -> Result<Received, Silence> {
        self.exchange.receive(timeout).await
    }

    /// The next response's only secret, after an ACK. Panics on anything else.
    pub async fn next_secret(&mut self, timeout: Duration) -> Secret {
        let received = self.next(timeout).await.expect("a response");
        self.ack(&received).await;
        received.only().clone()
    }

    /// Panics if anything comes, the end of the stream included.
    pub async fn expect_silence(&mut self, duration: Duration) {
        match self.next(duration).await {
            Err(Silence::Timeout) => {}
            other => panic!("expected silence, got {other:?}"),
        }
    }

    /// Accepts: the version counts as held from now on.
    pub async fn ack(&mut self, received: &Received) {
        self.version.clone_from(&received.version);
        self.send(self.request(&received.nonce)).await;
    }

    /// Refuses, as Envoy does: with the version accepted before.
    pub async fn nack(&mut self, received: &Received, reason: &str) {
        let error_detail = Some(RpcStatus {
            code: 13,
            message: reason.to_owned(),
        });
        self.send(DiscoveryRequest {
            error_detail,
            ..self.request(&received.nonce)
        })
        .await;
    }

    /// Changes the names, answering this nonce. An empty list unsubscribes.
    pub async fn rename(&mut self, names: &[&str], nonce: &str) {
        self.names = names.iter().map(|&name| name.to_owned()).collect();
        self.send(self.request(nonce)).await;
    }

    /// The version accepted last.
    pub fn held_version(&self) -> &str {
        &self.version
    }
}

/// A `DeltaSecrets` call.
#[derive(Debug)]
pub struct DeltaStream {
    exchange: Exchange<DeltaDiscoveryRequest, DeltaDiscoveryResponse>,
    node: Bytes,
}

impl DeltaStream {
    /// Sends any request, as it is. Lost without a word if the server has ended the stream.
    pub async fn send(&self, request: DeltaDiscoveryRequest) {
        let _ = self.exchange.requests.send(request).await;
    }

    /// The node that this stream's Envoy sends.
    pub fn node(&self) -> Bytes {
        self.node.clone()
    }

    /// The next response.
    pub async fn next(&mut self, timeout: Duration) -> Result<Received, Silence> {
        self.exchange.receive(timeout).await
    }

    /// Panics if anything comes, the end of the stream included.
    pub async fn expect_silence(&mut self, duration: Duration) {
        match self.next(duration).await {
            Err(Silence::Timeout) => {}
            other => panic!("expected silence, got {other:?}"),
        }
    }

    /// Accepts.
    pub async fn ack(&self, received: &Received) {
        self.answer(received, None).await;
    }

    /// Refuses.
    pub async fn nack(&self, received: &Received, reason: &str) {
        self.answer(
            received,
            Some(RpcStatus {
                code: 13,
                message: reason.to_owned(),
            }),
        )
        .await;
    }

    /// Subscribes to and unsubscribes from names.
    pub async fn change(&self, subscribe: &[&str], unsubscribe: &[&str]) {
        let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        self.send(DeltaDiscoveryRequest {
            type_url: SECRET_TYPE_URL.to_owned(),
            resource_names_subscribe: owned(subscribe),
            resource_names_unsubscribe: owned(unsubscribe),
            ..DeltaDiscoveryRequest::default()
        })
        .await;
    }

    async fn answer(&self, received: &Received, error_detail: Option<RpcStatus>) {
        self.send(DeltaDiscoveryRequest {
            type_url: SECRET_TYPE_URL.to_owned(),
            response_nonce: received.nonce.clone(),
            error_detail,
            ..DeltaDiscoveryRequest::default()
        })
        .await;
    }
}

/// A node like a real Envoy 1.40's: 516 extensions, about 61 KB.
pub fn node(id: &str, cert_signer: Option<&str>) -> Bytes {
    let text = |text: &str| prost_types::Value {
        kind: Some(Kind::StringValue(text.to_owned())),
    };
    let mut fields = std::collections::BTreeMap::from([
        ("CLUSTER_ID".to_owned(), text("Kubernetes")),
        ("NAMESPACE".to_owned(), text("foo")),
        ("SERVICE_ACCOUNT".to_owned(), text("httpbin")),
        ("MESH_ID".to_owned(), text("cluster.local")),
    ]);
    if let Some(signer) = cert_signer {
        fields.insert("CERT_SIGNER".to_owned(), text(signer));
    }
    let extension = |number| Extension {
        name: format!("envoy.filters.network.some_filter_of_number_{number:03}"),
        category: "envoy.filters.network".to_owned(),
        type_urls: vec![format!("envoy.extensions.filters.{number:03}.v3.FilterRule")],
        ..Extension::default()
    };
    let node = Node {
        id: id.to_owned(),
        cluster: "httpbin.foo".to_owned(),
        metadata: Some(prost_types::Struct { fields }),
        user_agent_name: "envoy".to_owned(),
        extensions: (0..516).map(extension).collect(),
    };
    node.encode_to_vec().into()
}

#[cfg(test)]
mod tests;
