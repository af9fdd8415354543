//! The SDS server: one socket per workload, each with an accept loop of its own.
//!
//! Owns the life of a socket: bound at once (so that a wrong path is known at once), watched and put back when its file
//! or folder goes, drained when its workload goes. On the way out the file is removed first, if it is still
//! ours, so that a client that comes back finds our successor or nothing; then streams end, then, at the
//! latest after the drain timeout, connections. Where a successor serves already, the ends of our sockets' streams are spread
//! over some time, so that not all of the node's Envoys come to it at once. Leaves identity to the source: a socket is its workload's.

use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::config::Config;
use super::connection::{self, Socket};
use super::metrics::Metrics;
use super::paced::Paced;
use super::refused::Refused;
use super::share::Shares;
use crate::rotation::{Handle, SignerName, WorkloadUid};
use crate::unix_socket::listening::{Callers, Listening};
use crate::unix_socket::{BindError, SocketSpec};

/// Serves SDS. Clones share everything.
#[derive(Clone)]
pub struct Server {
    config: Config,
    rotation: Handle,
    metrics: Metrics,
    shares: Shares,
    sockets: Arc<Mutex<Vec<Weak<Listing>>>>,
    leaving: CancellationToken,
}

/// A bound socket. Nothing is accepted before [`SocketHandle::run`]; dropped, its file goes.
pub struct SocketHandle {
    listing: Arc<Listing>,
    listening: Listening,
    metrics: Metrics,
    sockets: Arc<Mutex<Vec<Weak<Listing>>>>,
    cancel: CancellationToken,
    leaving: CancellationToken,
}

/// What one socket does at the moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketSnapshot {
    /// Whose it is.
    pub workload: WorkloadUid,
    /// Where it is.
    pub path: PathBuf,
    /// Open connections.
    pub connections: usize,
    /// Open streams.
    pub streams: usize,
}

struct Listing {
    socket: Arc<Socket>,
    path: PathBuf,
}

impl Server {
    /// A server without sockets. `leaving` is cancelled when the whole agent stops.
    pub fn new(config: Config, rotation: Handle, metrics: Metrics, leaving: CancellationToken) -> Self {
        Self {
            shares: Shares::new(&config),
            config,
            rotation,
            metrics,
            sockets: Arc::default(),
            leaving,
        }
    }

    /// Binds a workload's socket. Sockets of one `pod` share what they may take. A fixed signer stands above what its clients wish.
    /// `cancel` closes it.
    pub fn serve(
        &self,
        workload: WorkloadUid,
        pod: &Arc<str>,
        signer: Option<SignerName>,
        spec: SocketSpec,
        cancel: CancellationToken,
    ) -> Result<SocketHandle, BindError> {
        let callers = Callers::EnvoysOf(workload.to_string());
        let listening = Listening::bind(spec, callers, self.config.socket_check)?;
        let path = listening.path().to_owned();
        let socket = Arc::new(Socket {
            metrics: self.metrics.of(&workload),
            share: self.shares.of(pod, &self.config),
            connections: AtomicUsize::new(0),
            streams: AtomicUsize::new(0),
            config: self.config.clone(),
            rotation: self.rotation.clone(),
            refused: Refused::default(),
            paced: Paced::default(),
            draining: CancellationToken::new(),
            closed: CancellationToken::new(),
            tasks: TaskTracker::new(),
            workload,
            signer,
        });
        let listing = Arc::new(Listing { socket, path });
        let mut sockets = self.sockets.lock();
        sockets.retain(|socket| socket.strong_count() > 0);
        sockets.push(Arc::downgrade(&listing));
        drop(sockets);
        tracing::info!(workload = %listing.socket.workload, path = %listing.path.display(), "socket bound");
        let (metrics, sockets) = (self.metrics.clone(), Arc::clone(&self.sockets));
        Ok(SocketHandle {
            listing,
            listening,
            metrics,
            sockets,
            cancel,
            leaving: self.leaving.clone(),
        })
    }

    /// Every socket as it is now, sorted by workload.
    pub fn snapshot(&self) -> Vec<SocketSnapshot> {
        let listings: Vec<_> = self.sockets.lock().iter().filter_map(Weak::upgrade).collect();
        let mut sockets: Vec<_> = listings.iter().map(|listing| listing.snapshot()).collect();
        sockets.sort_by(|a, b| a.workload.cmp(&b.workload));
        sockets
    }
}

impl SocketHandle {
    /// Accepts connections until the socket is cancelled and its streams have ended.
    pub async fn run(mut self) {
        while let Some(stream) = self.listening.accept(&self.cancel).await {
            self.accept(stream);
        }
        self.drain().await;
    }

    fn accept(&self, stream: tokio::net::UnixStream) {
        let socket = &self.listing.socket;
        if let Some(connection) = connection::serve(socket, stream) {
            socket.tasks.spawn(connection);
            return;
        }
        socket.metrics.refused_connections.inc();
        if socket.paced.allows() {
            tracing::warn!(
                workload = %socket.workload,
                open = socket.share.connections.taken(),
                limit = socket.config.max_connections,
                shared = socket.config.shared.connections,
                "connection closed, the sockets of its pod have their limit or all of the node have theirs"
            );
        }
    }

    /// How long to wait before the streams end.
    fn turn(&self) -> Duration {
        if !self.leaving.is_cancelled() || !self.listening.has_successor() {
            // Nobody would serve meanwhile, or this workload alone is gone.
            return Duration::ZERO;
        }
        let config = &self.listing.socket.config;
        let sockets = u32::try_from(self.sockets.lock().len()).unwrap_or(u32::MAX);
        let all = (config.handover_pace.saturating_mul(sockets)).min(config.drain_timeout / 2);
        all.mul_f64(fastrand::f64())
    }

    async fn drain(self) {
        let socket = Arc::clone(&self.listing.socket);
        let turn = self.turn();
        sleep(turn).await;
        let limit = socket.config.drain_timeout.saturating_sub(turn);
        // Removes the file: nobody new comes.
        drop(self);
        socket.draining.cancel();
        socket.tasks.close();
        if timeout(limit, socket.tasks.wait()).await.is_err() {
            tracing::warn!(workload = %socket.workload, "streams did not end in time, their connections are closed");
            socket.closed.cancel();
            socket.tasks.wait().await;
        }
    }
}

impl Drop for SocketHandle {
    fn drop(&mut self) {
        let workload = &self.listing.socket.workload;
        let mut sockets = self.sockets.lock();
        sockets.retain(|socket| !std::ptr::eq(socket.as_ptr(), Arc::as_ptr(&self.listing)));
        // The same workload may have a new socket already, at another path.
        if !sockets
            .iter()
            .filter_map(Weak::upgrade)
            .any(|listing| listing.socket.workload == *workload)
        {
            self.metrics.forget(workload);
        }
        tracing::info!(%workload, path = %self.listing.path.display(), "socket closed");
    }
}

impl Listing {
    fn snapshot(&self) -> SocketSnapshot {
        SocketSnapshot {
            workload: self.socket.workload.clone(),
            path: self.path.clone(),
            connections: self.socket.connections.load(Ordering::Relaxed),
            streams: self.socket.streams.load(Ordering::Relaxed),
        }
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("sockets", &self.snapshot())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for SocketHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SocketHandle")
            .field("socket", &self.listing.snapshot())
            .finish_non_exhaustive()
    }
}
