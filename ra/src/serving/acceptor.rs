//! The TLS listener: from a bound socket to a stream of finished handshakes.
//!
//! Promises that a bad or silent peer costs one bounded handshake and nothing else; that the number of connections and
//! of handshakes at once is bounded, later ones waiting in the kernel's queue; that no address can take all handshakes,
//! and so keep everybody else out by being slow, while many that come from one address at once (a gateway between
//! clusters, a node that hides its pods) wait for their turn; and that running out of descriptors slows the loop down instead
//! of ending it. The loop ends by its token only; connections handed over live on.

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

use super::{
    Serving, TlsConnection,
    client_certificates::{Possession, asking},
};

/// Bounds of the listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TlsLimits {
    /// Connections at once, handshakes included.
    pub connections: usize,
    /// Handshakes at once.
    pub handshakes: usize,
    /// Handshakes at once from one address.
    pub handshakes_per_peer: usize,
    /// Connections of one address that may wait for that; one more is closed.
    pub waiting_per_peer: usize,
    /// How long one handshake may take, and after it the peer's first words.
    pub handshake_timeout: Duration,
}

/// Connections before the end of their handshake, by address.
#[derive(Clone, Debug, Default)]
struct Peers(Arc<Mutex<HashMap<IpAddr, Share>>>);

/// What one address has of them.
#[derive(Debug)]
struct Share {
    count: usize,
    turns: Arc<Semaphore>,
}

/// One connection of a peer before the end of its handshake; dropping it ends that.
struct OfPeer {
    peers: Peers,
    address: IpAddr,
    turns: Arc<Semaphore>,
}

/// The right to a handshake: one of all, and one of its address.
struct Turn {
    _of_all: OwnedSemaphorePermit,
    _of_peer: OwnedSemaphorePermit,
    _peer: OfPeer,
}

/// Accepts connections. Run it under the supervisor.
#[derive(Debug)]
pub struct Acceptor {
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    /// Asks each peer for a certificate, if there is one to ask for.
    asks: Option<Arc<Serving>>,
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
            waiting_per_peer: 2_500,
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
                asks: None,
                limits,
                ready,
            },
            Incoming(incoming),
        )
    }

    /// Asks each peer for a certificate; none is refused here.
    pub fn ask_for_certificates(self, serving: Serving) -> Self {
        Self {
            asks: Some(Arc::new(serving)),
            ..self
        }
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
                        if let Some(of_peer) = peers.begin(address.ip(), self.limits) {
                            let turn = of_peer.turn(turn, Arc::clone(&handshakes));
                            tasks.spawn(self.handshake(stream, address, place, turn));
                        } else {
                            tracing::debug!(peer = %address, "closed: too many connections of this address wait");
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

    /// Settings for one connection, and what its handshake proves.
    fn tls(&self) -> Result<(Arc<ServerConfig>, Option<Arc<Possession>>), rustls::Error> {
        let Some(serving) = &self.asks else {
            return Ok((Arc::clone(&self.tls), None));
        };
        let (config, possession) = asking(Arc::clone(serving) as _, &serving.speaks)?;
        Ok((config, Some(possession)))
    }

    /// One handshake, owning all that it needs.
    fn handshake(
        &self,
        stream: TcpStream,
        address: SocketAddr,
        place: OwnedSemaphorePermit,
        turn: impl Future<Output = Option<Turn>> + Send + 'static,
    ) -> impl Future<Output = ()> + Send + 'static {
        let (tls, limit, ready) = (self.tls(), self.limits.handshake_timeout, self.ready.clone());
        async move {
            prepare(&stream, address);
            let Ok(Some(turn)) = timeout(TURN_PATIENCE, turn).await else {
                tracing::debug!(peer = %address, "closed: its turn for a handshake did not come");
                return;
            };
            let (tls, possession) = match tls {
                Ok(tls) => tls,
                Err(error) => return tracing::warn!(%error, "TLS cannot be set up for a connection"),
            };
            match timeout(limit, TlsAcceptor::from(tls).accept(stream)).await {
                Ok(Ok(stream)) => {
                    drop(turn);
                    let proven = possession.is_some_and(|possession| possession.is_proven());
                    // An error says that the server is gone; the connection goes with it.
                    _ = ready
                        .send(TlsConnection::new(stream, address, proven, place, limit))
                        .await;
                }
                Ok(Err(error)) => tracing::debug!(peer = %address, %error, "handshake failed"),
                Err(_) => tracing::debug!(peer = %address, ?limit, "handshake timed out"),
            }
        }
    }
}

// === impl Peers ===

impl Peers {
    fn begin(&self, address: IpAddr, limits: TlsLimits) -> Option<OfPeer> {
        let address = address.to_canonical();
        let mut shares = self.0.lock();
        let share = shares.entry(address).or_insert_with(|| Share {
            count: 0,
            turns: Arc::new(Semaphore::new(limits.handshakes_per_peer)),
        });
        if share.count >= limits.handshakes_per_peer + limits.waiting_per_peer {
            return None;
        }
        share.count += 1;
        let turns = Arc::clone(&share.turns);
        drop(shares);
        Some(OfPeer {
            peers: self.clone(),
            address,
            turns,
        })
    }
}

// === impl OfPeer ===

impl OfPeer {
    /// Waits for a handshake of this address, first come, first served. Meanwhile `of_all` is given back, so that an
    /// address that is over its share takes nothing from others but a connection.
    async fn turn(self, of_all: OwnedSemaphorePermit, all: Arc<Semaphore>) -> Option<Turn> {
        let (of_peer, of_all) = if let Ok(of_peer) = Arc::clone(&self.turns).try_acquire_owned() {
            (of_peer, of_all)
        } else {
            drop(of_all);
            let of_peer = Arc::clone(&self.turns).acquire_owned().await.ok()?;
            (of_peer, all.acquire_owned().await.ok()?)
        };
        Some(Turn {
            _of_all: of_all,
            _of_peer: of_peer,
            _peer: self,
        })
    }
}

impl Drop for OfPeer {
    fn drop(&mut self) {
        let mut shares = self.peers.0.lock();
        if let Some(share) = shares.get_mut(&self.address) {
            share.count -= 1;
            // Only addresses with handshakes to come are remembered.
            if share.count == 0 {
                shares.remove(&self.address);
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

/// How long a connection may wait for a handshake: clients of gRPC give an attempt to connect twenty seconds
/// (`MIN_CONNECT_TIMEOUT` of its connection backoff), and nobody needs an answer after that.
const TURN_PATIENCE: Duration = Duration::from_secs(20);
const BACKOFF_FIRST: Duration = Duration::from_millis(50);
/// Descriptors come back when connections end; a second is soon enough to notice.
const BACKOFF_MAX: Duration = Duration::from_secs(1);
/// A node that vanished without a word gives its place back within two minutes.
const KEEPALIVE_IDLE: Duration = Duration::from_mins(1);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
