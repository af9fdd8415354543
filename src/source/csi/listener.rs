//! A socket that kubelet calls: its connections are handed to the gRPC server.
//!
//! Only kubelet's user may connect (0600). A successor takes the path over while we live: then kubelet calls it, and what it
//! asked us before is still answered. At the end the socket stays at its path, unless it is taken away ([`Closed`]). Kubelet
//! names the registration socket's path as its `:authority` (it dials without one of its own; seen in 1.34), which the
//! HTTP/2 library alone would refuse.

use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Connected;

use crate::unix_socket::authority::AnyAuthority;
use crate::unix_socket::kept::KeptSocket;
use crate::unix_socket::listening::{Callers, Listening};
use crate::unix_socket::{BindError, SocketSpec};

/// A bound socket, before anything is accepted.
#[derive(Debug)]
pub(super) struct Listener(Listening);

/// A socket on which nobody listens any more, still at its path.
#[derive(Debug)]
pub(super) struct Closed(KeptSocket);

/// One connection of kubelet's.
pub(super) struct Connection(AnyAuthority<UnixStream>);

/// Connections as they come.
pub(super) type Connections = tokio_stream::wrappers::ReceiverStream<io::Result<Connection>>;

// === impl Listener ===

impl Listener {
    /// Binds it, over whatever socket is there.
    pub(super) fn bind(path: PathBuf) -> Result<Self, BindError> {
        let spec = SocketSpec {
            path,
            mode: 0o600,
            owner: None,
            within: None,
            left: true,
        };
        Ok(Self(Listening::bind(spec, Callers::Kubelet, LOOK)?))
    }

    /// Where connections come out, and the task that accepts them until `stop`.
    pub(super) fn connections(self, stop: CancellationToken) -> (Connections, impl Future<Output = Closed> + Send) {
        // Kubelet opens one connection for each call.
        let (sender, receiver) = mpsc::channel(QUEUE);
        (receiver.into(), self.accept(sender, stop))
    }

    async fn accept(mut self, connections: mpsc::Sender<io::Result<Connection>>, stop: CancellationToken) -> Closed {
        while let Some(stream) = self.0.accept(&stop).await {
            let connection = Connection(AnyAuthority::new(stream));
            if connections.send(Ok(connection)).await.is_err() {
                break;
            }
        }
        Closed(self.0.close())
    }
}

// === impl Closed ===

impl Closed {
    /// Takes it away, unless a successor's is in its place.
    pub(super) fn take_away(self) {
        self.0.take_away();
    }
}

// === impl Connection ===

impl Connected for Connection {
    type ConnectInfo = ();

    fn connect_info(&self) -> Self::ConnectInfo {}
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

const QUEUE: usize = 16;
const LOOK: Duration = Duration::from_secs(1);
