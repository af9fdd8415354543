//! An SDS client on a Unix socket that does what Envoy does, or what no Envoy should.
//!
//! Owns the connection and how its streams are opened. What a stream does is `streams`', what a response holds
//! `received`'s, the 61 KB node `node`'s; `stalled` is a peer that never reads, `halfway` one that never
//! finishes what it says.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use ensign_proto::SECRET_TYPE_URL;
use ensign_proto::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest};
use ensign_proto::envoy::service::secret::v3::secret_discovery_service_client::SecretDiscoveryServiceClient;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};

mod halfway;
mod node;
mod received;
mod stalled;
mod streams;

use streams::Exchange;
pub use {
    halfway::HalfwayEnvoy,
    node::node,
    received::{Received, certificate, trusted_ca},
    stalled::StalledEnvoy,
    streams::{DeltaStream, Silence, SotwStream},
};

/// One connection to an SDS socket.
#[derive(Clone, Debug)]
pub struct FakeEnvoy {
    client: SecretDiscoveryServiceClient<Channel>,
    node: Bytes,
    socket: PathBuf,
}

impl FakeEnvoy {
    /// Connects at once; fails if nobody listens. The path may be longer than a socket's address (108 bytes, unix(7)), as one
    /// is that a pod sees by a short name.
    pub async fn connect(socket: impl AsRef<Path>) -> anyhow::Result<Self> {
        let socket = socket.as_ref().to_owned();
        let path = socket.clone();
        let connector = tower::service_fn(move |_| {
            let path = path.clone();
            async move {
                let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
                    return Err(io::ErrorKind::InvalidInput.into());
                };
                let folder = if folder.as_os_str().is_empty() {
                    Path::new(".")
                } else {
                    folder
                };
                let folder = File::open(folder)?;
                let through = Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string());
                UnixStream::connect(through.join(name)).await.map(TokioIo::new)
            }
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

#[cfg(test)]
mod tests;
