//! The streams of a fake Envoy: state of the world and incremental.
//!
//! Owns sending, receiving and the bookkeeping of versions and nonces. Answers nothing by itself: a test says when to ACK,
//! to NACK, or to send something odd.

use std::time::Duration;

use bytes::Bytes;
use ensign_proto::SECRET_TYPE_URL;
use ensign_proto::envoy::extensions::transport_sockets::tls::v3::Secret;
use ensign_proto::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use ensign_proto::google::rpc::Status as RpcStatus;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::Received;

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

/// Sending and receiving on one stream. Dropping it cancels the stream.
#[derive(Debug)]
pub(super) struct Exchange<Req, Resp> {
    requests: mpsc::Sender<Req>,
    responses: mpsc::Receiver<Result<Resp, tonic::Status>>,
    _task: JoinSet<()>,
}

impl<Req, Resp: Send + 'static> Exchange<Req, Resp> {
    pub(super) fn start<F>(
        requests: mpsc::Sender<Req>,
        run: impl FnOnce(mpsc::Sender<Result<Resp, tonic::Status>>) -> F,
    ) -> Self
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
    pub(super) exchange: Exchange<DiscoveryRequest, DiscoveryResponse>,
    pub(super) node: Bytes,
    pub(super) names: Vec<String>,
    pub(super) version: String,
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
    pub(super) exchange: Exchange<DeltaDiscoveryRequest, DeltaDiscoveryResponse>,
    pub(super) node: Bytes,
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
