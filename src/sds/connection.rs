//! One connection of one socket: HTTP/2 settings, routing, and what its streams share.
//!
//! Owns the limits of a connection (streams, silence, a peer that does not read) and the way from a request's path
//! to a [`Session`]. hyper runs each stream as a task on the socket's tracker; nothing else is spawned.
//! The server's SETTINGS go out before the client's first byte is read: pilot-agent probes for them.

use std::convert::Infallible;
use std::future::{self, Future};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use bytes::buf::Chain;
use ensign_proto::sds_path;
use http::{Request, Response};
use http_body_util::{Either, Empty};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::Status;

use super::allowance::Taken;
use super::config::Config;
use super::delta::Delta;
use super::fetch::Fetch;
use super::grpc;
use super::metrics::WorkloadMetrics;
use super::paced::Paced;
use super::patient_io::PatientIo;
use super::refused::Refused;
use super::roots::Roots;
use super::session::{Machine, Session};
use super::share::Share;
use super::stream::Stream;
use crate::rotation::{Handle, SignerName, WorkloadUid};
use crate::unix_socket::authority::AnyAuthority;

/// What a stream may send before we read: one first message of Envoy's fits.
const STREAM_WINDOW: u32 = 65_535;

/// What a connection may send before we read.
const CONNECTION_WINDOW: u32 = 256 * 1024;

/// Envoy's request headers have some 300 bytes.
const MAX_HEADERS: u32 = 8 * 1024;

/// What may wait in one stream's send buffer; a response is handed over whole, so this bounds what comes after it.
const SEND_BUFFER: usize = 16 * 1024;

/// How long a connection that is closed as idle stays after it was told.
const PARTING: Duration = Duration::from_secs(1);

/// Makes the nonces of no two streams of this process equal.
static NEXT_STREAM: AtomicU64 = AtomicU64::new(1);

/// What the connections of one socket share.
pub(crate) struct Socket {
    pub(crate) workload: WorkloadUid,
    /// Its signer, if that is not for clients to choose.
    pub(crate) signer: Option<SignerName>,
    pub(crate) config: Config,
    pub(crate) rotation: Handle,
    pub(crate) metrics: WorkloadMetrics,
    /// What it and the other sockets of its pod may take.
    pub(crate) share: Arc<Share>,
    /// What is open on it.
    pub(crate) connections: AtomicUsize,
    pub(crate) streams: AtomicUsize,
    pub(crate) refused: Refused,
    /// Lines of the log that its clients cause.
    pub(crate) paced: Paced,
    /// Cancelled: streams end, connections close when they have.
    pub(crate) draining: CancellationToken,
    /// Cancelled: connections close at once.
    pub(crate) closed: CancellationToken,
    pub(crate) tasks: TaskTracker,
}

/// What the streams of one connection share.
pub(crate) struct Connection {
    socket: Arc<Socket>,
    pub(crate) roots: Roots,
    /// How many streams asked for something.
    active: watch::Sender<usize>,
}

/// Counts a stream for as long as it lives.
pub(crate) struct StreamGuard {
    id: u64,
    connection: Arc<Connection>,
    asked: bool,
    _taken: Taken,
}

/// Counts a connection for as long as it lives.
struct ConnectionGuard {
    socket: Arc<Socket>,
    _taken: Taken,
}

/// Runs hyper's stream tasks where the socket can wait for them.
#[derive(Clone)]
struct OnTracker(TaskTracker);

/// Body of every response.
type Reply = Either<Empty<Chain<Bytes, Bytes>>, Session>;

/// Serves one accepted connection until it ends. `None` if the pod, or the node, has as many as it may.
pub(crate) fn serve(socket: &Arc<Socket>, stream: UnixStream) -> Option<impl Future<Output = ()> + Send + use<>> {
    let guard = ConnectionGuard::new(socket)?;
    let socket = Arc::clone(socket);
    Some(async move {
        let pid = stream.peer_cred().ok().and_then(|peer| peer.pid());
        let (active, _) = watch::channel(0);
        let connection = Arc::new(Connection {
            socket,
            roots: Roots::default(),
            active,
        });
        tracing::debug!(workload = %connection.socket.workload, pid, "connection accepted");
        let end = connection.run(stream).await;
        tracing::debug!(workload = %connection.socket.workload, pid, end, "connection ended");
        drop(guard);
    })
}

impl Connection {
    pub(crate) fn socket(&self) -> &Socket {
        &self.socket
    }

    /// Returns why it ended, for the log.
    async fn run(self: &Arc<Self>, stream: UnixStream) -> String {
        let config = &self.socket.config;
        let io = PatientIo::new(TokioIo::new(AnyAuthority::new(stream)), config.write_timeout);
        let service = service_fn(|request| {
            let response = Ok::<_, Infallible>(self.answer(request));
            future::ready(response)
        });
        let serving = http2::Builder::new(OnTracker(self.socket.tasks.clone()))
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_concurrent_streams(config.max_streams_per_connection)
            .max_header_list_size(MAX_HEADERS)
            .max_send_buf_size(SEND_BUFFER)
            .keep_alive_interval(config.keep_alive_interval)
            .keep_alive_timeout(config.keep_alive_timeout)
            .auto_date_header(false)
            .serve_connection(io, service);
        let mut serving = pin!(serving);
        let mut idle = pin!(self.idle());
        let mut leaving = false;
        loop {
            tokio::select! {
                served = &mut serving => return served.map_or_else(|error| error.to_string(), |()| "closed".into()),
                () = &mut idle => {
                    // Told before it is closed, so that a call that is about to begin is made elsewhere.
                    serving.as_mut().graceful_shutdown();
                    let _ = timeout(PARTING, serving).await;
                    return "no stream asked for anything".into();
                }
                () = self.socket.closed.cancelled() => return "the socket closed".into(),
                () = self.socket.draining.cancelled(), if !leaving => {
                    leaving = true;
                    serving.as_mut().graceful_shutdown();
                }
            }
        }
    }

    /// Completes when no stream has asked for anything for the idle timeout.
    async fn idle(&self) {
        let mut active = self.active.subscribe();
        loop {
            // The sender lives as long as `self`, so neither wait can fail.
            let _ = active.wait_for(|streams| *streams == 0).await;
            let busy = timeout(self.socket.config.idle_timeout, active.wait_for(|streams| *streams > 0));
            if busy.await.is_err() {
                return;
            }
        }
    }

    fn answer(self: &Arc<Self>, request: Request<Incoming>) -> Response<Reply> {
        let (head, incoming) = request.into_parts();
        if let Some(code) = grpc::http_fault(&head.method, &head.headers) {
            let mut response = Response::new(Either::Left(Empty::new()));
            *response.status_mut() = code;
            return response;
        }
        let id = NEXT_STREAM.fetch_add(1, Ordering::Relaxed);
        let machine = match head.uri.path() {
            sds_path::STREAM_SECRETS => Machine::Stream(Stream::new(id)),
            sds_path::DELTA_SECRETS => Machine::Delta(Delta::new(id)),
            sds_path::FETCH_SECRETS => Machine::Fetch(Fetch::default()),
            _ => {
                return ended(&Status::unimplemented(
                    "this socket serves the SecretDiscoveryService only",
                ));
            }
        };
        match StreamGuard::new(self, id) {
            Some(guard) => grpc::accepted(Either::Right(Session::new(Arc::clone(self), guard, machine, incoming))),
            None => ended(&Status::resource_exhausted(format!(
                "there is no room for another stream: {} for one pod at most, and {} for all of the node beyond each one's first {}",
                self.socket.config.max_streams, self.socket.config.shared.streams, self.socket.config.own.streams
            ))),
        }
    }
}

/// A response that has nothing but a status.
fn ended(status: &Status) -> Response<Reply> {
    let mut response = grpc::accepted(Either::Left(Empty::new()));
    response.headers_mut().extend(grpc::trailers(status));
    response
}

impl ConnectionGuard {
    fn new(socket: &Arc<Socket>) -> Option<Self> {
        let taken = socket.share.connections.take(1)?;
        socket.connections.fetch_add(1, Ordering::Relaxed);
        socket.metrics.connections.inc();
        Some(Self {
            socket: Arc::clone(socket),
            _taken: taken,
        })
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.socket.connections.fetch_sub(1, Ordering::Relaxed);
        self.socket.metrics.connections.dec();
    }
}

impl StreamGuard {
    fn new(connection: &Arc<Connection>, id: u64) -> Option<Self> {
        let socket = &connection.socket;
        let taken = socket.share.streams.take(1)?;
        socket.streams.fetch_add(1, Ordering::Relaxed);
        socket.metrics.streams.inc();
        Some(Self {
            id,
            connection: Arc::clone(connection),
            asked: false,
            _taken: taken,
        })
    }

    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// A whole request came: the connection is not idle while this stream lives.
    pub(crate) fn asked(&mut self) {
        if !std::mem::replace(&mut self.asked, true) {
            self.connection.active.send_modify(|streams| *streams += 1);
        }
    }
}

impl Drop for StreamGuard {
    fn drop(&mut self) {
        if self.asked {
            self.connection.active.send_modify(|streams| *streams -= 1);
        }
        let socket = &self.connection.socket;
        socket.streams.fetch_sub(1, Ordering::Relaxed);
        socket.metrics.streams.dec();
    }
}

impl<F> hyper::rt::Executor<F> for OnTracker
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn execute(&self, stream: F) {
        self.0.spawn(stream);
    }
}
