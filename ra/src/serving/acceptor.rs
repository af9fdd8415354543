//! The TLS listener: from a bound socket to a stream of finished handshakes.
//!
//! Promises that a bad or silent peer costs one bounded handshake and nothing else; that the number of connections and
//! of handshakes at once is bounded, later ones waiting in the kernel's queue; that no address can take all handshakes,
//! and so keep everybody else out by being slow; and that running out of descriptors slows the loop down instead of
//! ending it. The loop ends by its token only; connections handed over live on.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::Stream;
use parking_lot::Mutex;
use rustls::ServerConfig;
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::TlsConnection;

/// Bounds of the listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TlsLimits {
    /// Connections at once, handshakes included.
    pub connections: usize,
    /// Handshakes at once.
    pub handshakes: usize,
    /// Handshakes at once from one address; one more is closed.
    pub handshakes_per_peer: usize,
    /// How long one handshake may take, and after it the peer's first words.
    pub handshake_timeout: Duration,
}

/// Handshakes under way, by address.
#[derive(Clone, Debug, Default)]
struct Peers(Arc<Mutex<HashMap<IpAddr, usize>>>);

/// One handshake of a peer; dropping it ends it.
struct OfPeer {
    peers: Peers,
    address: IpAddr,
}

/// Accepts connections. Run it under the supervisor.
#[derive(Debug)]
pub struct Acceptor {
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    limits: TlsLimits,
    ready: mpsc::Sender<TlsConnection>,
}

/// The finished connections, for `serve_with_incoming_shutdown`. It ends when the acceptor does.
#[derive(Debug)]
pub struct Incoming(mpsc::Receiver<TlsConnection>);

// === impl TlsLimits ===

impl Default for TlsLimits {
    /// A connection holds about 50 kB: 10,000 nodes with one each fit into half a gigabyte.
    fn default() -> Self {
        Self {
            connections: 10_000,
            handshakes: 256,
            handshakes_per_peer: 64,
            handshake_timeout: Duration::from_secs(10),
        }
    }
}

// === impl Acceptor ===

impl Acceptor {
    /// Takes over a bound listener.
    pub fn new(listener: TcpListener, tls: Arc<ServerConfig>, limits: TlsLimits) -> (Self, Incoming) {
        // The server takes each at once; a small buffer only smooths that out.
        let (ready, incoming) = mpsc::channel(16);
        (
            Self {
                listener,
                tls,
                limits,
                ready,
            },
            Incoming(incoming),
        )
    }

    /// Accepts until `stop`. Handshakes under way are dropped then.
    pub async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        let places = Arc::new(Semaphore::new(self.limits.connections));
        let handshakes = Arc::new(Semaphore::new(self.limits.handshakes));
        let peers = Peers::default();
        let mut tasks = JoinSet::new();
        let mut backoff = BACKOFF_FIRST;
        loop {
            // In this order: a connection is only taken from the kernel once there is a place for it.
            let next = async {
                let place = Arc::clone(&places).acquire_owned().await.ok()?;
                let turn = Arc::clone(&handshakes).acquire_owned().await.ok()?;
                Some((place, turn, self.listener.accept().await))
            };
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                Some(_) = tasks.join_next(), if !tasks.is_empty() => {}
                Some((place, turn, accepted)) = next => match accepted {
                    Ok((stream, address)) => {
                        backoff = BACKOFF_FIRST;
                        if let Some(of_peer) = peers.begin(address.ip(), self.limits.handshakes_per_peer) {
                            tasks.spawn(self.handshake(stream, address, place, (turn, of_peer)));
                        } else {
                            tracing::debug!(peer = %address, "closed: too many handshakes of this address");
                        }
                    }
                    Err(error) if of_one_connection(&error) => {}
                    Err(error) => {
                        tracing::warn!(%error, ?backoff, "cannot accept connections, waiting");
                        sleep(backoff).await;
                        backoff = (backoff * 2).min(BACKOFF_MAX);
                    }
                },
            }
        }
    }

    /// One handshake, owning all that it needs.
    fn handshake(
        &self,
        stream: TcpStream,
        address: SocketAddr,
        place: OwnedSemaphorePermit,
        turn: (OwnedSemaphorePermit, OfPeer),
    ) -> impl Future<Output = ()> + Send + 'static {
        let (tls, limit, ready) = (Arc::clone(&self.tls), self.limits.handshake_timeout, self.ready.clone());
        async move {
            prepare(&stream, address);
            match timeout(limit, TlsAcceptor::from(tls).accept(stream)).await {
                Ok(Ok(stream)) => {
                    drop(turn);
                    // An error says that the server is gone; the connection goes with it.
                    _ = ready.send(TlsConnection::new(stream, address, place, limit)).await;
                }
                Ok(Err(error)) => tracing::debug!(peer = %address, %error, "handshake failed"),
                Err(_) => tracing::debug!(peer = %address, ?limit, "handshake timed out"),
            }
        }
    }
}

// === impl Peers ===

impl Peers {
    fn begin(&self, address: IpAddr, most: usize) -> Option<OfPeer> {
        let address = address.to_canonical();
        let mut counts = self.0.lock();
        let count = counts.entry(address).or_default();
        if *count >= most {
            return None;
        }
        *count += 1;
        drop(counts);
        Some(OfPeer {
            peers: self.clone(),
            address,
        })
    }
}

impl Drop for OfPeer {
    fn drop(&mut self) {
        let mut counts = self.peers.0.lock();
        if let Some(count) = counts.get_mut(&self.address) {
            *count -= 1;
            // Only addresses with handshakes under way are remembered.
            if *count == 0 {
                counts.remove(&self.address);
            }
        }
    }
}

// === impl Incoming ===

impl Stream for Incoming {
    type Item = io::Result<TlsConnection>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(context).map(|next| next.map(Ok))
    }
}

/// Socket options; a connection without them still works.
fn prepare(stream: &TcpStream, address: SocketAddr) {
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_IDLE)
        .with_interval(KEEPALIVE_INTERVAL);
    let set = stream
        .set_nodelay(true)
        .and_then(|()| SockRef::from(stream).set_tcp_keepalive(&keepalive));
    if let Err(error) = set {
        tracing::debug!(peer = %address, %error, "socket options not set");
    }
}

/// Errors that `accept` hands through from a connection that died in the queue (see accept(2), "Error handling").
fn of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{
        ConnectionAborted, ConnectionRefused, ConnectionReset, HostUnreachable, Interrupted, NetworkDown,
        NetworkUnreachable, TimedOut, WouldBlock,
    };
    matches!(
        error.kind(),
        ConnectionAborted
            | ConnectionRefused
            | ConnectionReset
            | HostUnreachable
            | Interrupted
            | NetworkDown
            | NetworkUnreachable
            | TimedOut
            | WouldBlock
    )
}

const BACKOFF_FIRST: Duration = Duration::from_millis(50);
/// Descriptors come back when connections end; a second is soon enough to notice.
const BACKOFF_MAX: Duration = Duration::from_secs(1);
/// A node that vanished without a word gives its place back within two minutes.
const KEEPALIVE_IDLE: Duration = Duration::from_mins(1);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
