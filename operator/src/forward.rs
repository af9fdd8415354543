//! A way to a port of a pod, also to one that listens on the pod's loopback only: the API server's port-forward.
//!
//! `pods/proxy` would come from outside the pod and so cannot reach loopback; port-forward is connected by the node inside
//! the pod's network. Needs the right to `create` on `pods/portforward` (`get` too on older API servers).

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::Portforwarder;
use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional};
use tokio::net::TcpListener;
use tokio::time::timeout;

use crate::access::{Access, bounded};

/// Why a port of a pod cannot be reached.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("port {port} of pod {namespace}/{pod} cannot be reached through the API server: {why}")]
pub struct ForwardError {
    namespace: String,
    pod: String,
    port: u16,
    why: String,
}

/// One port of one pod.
#[derive(Clone, Debug)]
pub struct Door {
    access: Access,
    namespace: String,
    pod: String,
    port: u16,
}

// === impl Door ===

impl Door {
    /// Nothing is opened yet.
    pub fn new(access: &Access, namespace: &str, pod: &str, port: u16) -> Self {
        Self {
            access: access.clone(),
            namespace: namespace.to_owned(),
            pod: pod.to_owned(),
            port,
        }
    }

    /// Opens a connection and lets `talk` use it. If the talk fails, the node's own words about the port say why, where
    /// there are any.
    pub async fn with<T, E, F>(&self, talk: impl FnOnce(Box<dyn Stream>) -> F) -> Result<T, ForwardError>
    where
        F: Future<Output = Result<T, E>>,
        E: std::error::Error + 'static,
    {
        let mut forward = self.forward().await?;
        let said = forward.take_error(self.port);
        let Some(stream) = forward.take_stream(self.port) else {
            return Err(self.error("the API server gave no stream".to_owned()));
        };
        let error = match talk(Box::new(stream)).await {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        let said = match said {
            Some(said) => timeout(LAST_WORDS, said).await.ok().flatten(),
            None => None,
        };
        let said = match said {
            Some(said) => Some(said),
            None => self.last_words().await,
        };
        Err(self.error(said.unwrap_or_else(|| ensign_daemon::logging::chain(&error))))
    }

    /// What the node says about the port to one who says nothing himself. Who writes when the connection has just been ended loses the
    /// words that came with the end.
    async fn last_words(&self) -> Option<String> {
        let mut forward = self.forward().await.ok()?;
        let said = forward.take_error(self.port)?;
        // Held until then: who lets the stream go ends the connection.
        let _stream = forward.take_stream(self.port)?;
        timeout(LAST_WORDS, said).await.ok()?
    }

    async fn forward(&self) -> Result<Portforwarder, ForwardError> {
        let pods = Api::<Pod>::namespaced(self.access.client(), &self.namespace);
        let ports = [self.port];
        bounded(pods.portforward(&self.pod, &ports))
            .await
            .map_err(|why| self.error(why))
    }

    /// While `act` runs, a port of this machine's loopback leads there. For one connection.
    pub async fn open<T, F>(&self, act: impl FnOnce(SocketAddr) -> F) -> Result<T, ForwardError>
    where
        F: Future<Output = T>,
    {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
        let listener = listener.map_err(|error| self.error(format!("no port of this machine: {error}")))?;
        let address = listener.local_addr().map_err(|error| self.error(error.to_string()))?;
        let relay = async {
            let (mut from, _) = listener.accept().await.map_err(|error| self.error(error.to_string()))?;
            self.with(|mut to| async move { copy_bidirectional(&mut from, &mut to).await })
                .await
        };
        let act = act(address);
        tokio::pin!(act, relay);
        tokio::select! {
            outcome = &mut act => return Ok(outcome),
            ended = &mut relay => { ended?; }
        }
        // The other side closed; what arrived before that is still to be read.
        Ok(act.await)
    }

    fn error(&self, why: String) -> ForwardError {
        ForwardError {
            namespace: self.namespace.clone(),
            pod: self.pod.clone(),
            port: self.port,
            why,
        }
    }
}

/// Both directions of a connection.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// Turns the end of a stream into the error that it is.
pub(crate) fn ended() -> io::Error {
    io::Error::new(
        io::ErrorKind::UnexpectedEof,
        "the connection was closed without an answer",
    )
}

/// The node's error about a port comes beside the stream's end, not before it.
const LAST_WORDS: Duration = Duration::from_secs(1);
