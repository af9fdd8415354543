//! A socket that kubelet calls: kept at its path, its connections handed to the gRPC server.
//!
//! Only kubelet's user may connect (0600). A successor takes the path over while we live: then kubelet calls it, and what it
//! asked us before is still answered. At the end the socket stays at its path, unless it is taken away ([`Closed`]). Kubelet
//! names the registration socket's path as its `:authority` (it dials without one of its own; seen in 1.34), which the
//! HTTP/2 library alone would refuse.

use std::io;
use std::os::unix::net::UnixListener as StdListener;
use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Connected;

use crate::unix_socket::authority::AnyAuthority;
use crate::unix_socket::kept::{self, Found, KeptSocket};
use crate::unix_socket::{BindError, SocketSpec};

/// A bound socket, before anything is accepted.
#[derive(Debug)]
pub(super) struct Listener {
    listener: UnixListener,
    kept: KeptSocket,
}

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
        let (listener, kept): (StdListener, _) = KeptSocket::bind(spec)?;
        let listener = kept::registered(listener, kept.path())?;
        Ok(Self { listener, kept })
    }

    /// Where connections come out, and the task that accepts them until `stop`.
    pub(super) fn connections(self, stop: CancellationToken) -> (Connections, impl Future<Output = Closed> + Send) {
        // Kubelet opens one connection for each call.
        let (sender, receiver) = mpsc::channel(QUEUE);
        (receiver.into(), self.accept(sender, stop))
    }

    async fn accept(mut self, connections: mpsc::Sender<io::Result<Connection>>, stop: CancellationToken) -> Closed {
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return Closed(self.kept),
                _ = look.tick() => self.look(),
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, _)) => {
                        let connection = Connection(AnyAuthority::new(stream));
                        if connections.send(Ok(connection)).await.is_err() {
                            return Closed(self.kept);
                        }
                    }
                    Err(error) => {
                        tracing::error!(path = %self.kept.path().display(), %error, "connection of kubelet cannot be accepted, trying on");
                        sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
    }

    fn look(&mut self) {
        let complaint = match self.kept.look() {
            None => return,
            Some(Found::Succeeded) => {
                tracing::info!(path = %self.kept.path().display(), "kubelet calls our successor from now on");
                return;
            }
            Some(Found::Complaint(complaint)) => complaint,
            Some(Found::Gone(listener)) => match kept::registered(listener, self.kept.path()) {
                Ok(listener) => {
                    self.listener = listener;
                    tracing::warn!(path = %self.kept.path().display(), "socket for kubelet was gone, it is back");
                    return;
                }
                Err(error) => error.to_string(),
            },
        };
        tracing::error!(path = %self.kept.path().display(), error = complaint, "socket for kubelet is not at its path");
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
/// After a failed accept: out of descriptors is nothing that a second try at once mends.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
