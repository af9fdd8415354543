//! Puts the agent together: the only file that knows every module.
//!
//! [`bind`] checks and binds everything that can be wrong, so that a wrong path, address or file stops the agent at
//! once, with the fix in the text; [`Bound::run`] returns when the agent has stopped. Readiness needs
//! sockets, the workloads file or kubelet's registration, and the roots of the authority, never the authority itself: a node must not go unready because
//! a server far away is down. On the way out: unready, sockets gone, streams end, exit.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ensign_daemon::supervise::{Signals, Supervisor};
use ensign_daemon::watched_file::{FileSet, WatchMetrics, WatchedFile};
use ensign_daemon::{Readiness, addresses, build_info, http};
use ensign_pki::{Bundle, SystemClock, crypto};
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::admin::{self, SocketLine, StatusSource};
use crate::config::Config;
use crate::csr_client::SignerName;
use crate::rotation::{self, Handle, RotationCollector};
use crate::sds;
use crate::source::csi::Fence;

mod authority;
mod node;
mod workloads;
use authority::Authority;
use node::Node;
use workloads::Around;

/// An agent whose sockets and addresses are bound and whose tasks are started; [`Bound::run`] watches over them.
#[derive(Debug)]
pub struct Bound {
    /// Where metrics and health are.
    pub admin: SocketAddr,
    /// Where the status is.
    pub status: SocketAddr,
    supervisor: Supervisor,
    readiness: Readiness,
    drain_timeout: Duration,
}

/// Builds the agent. Anything wrong is an error here, not later.
pub async fn bind(config: Config) -> anyhow::Result<Bound> {
    bind_fenced(config, Fence::None).await
}

/// As [`bind`], in a process around which this fence was raised.
pub async fn bind_fenced(config: Config, fence: Fence) -> anyhow::Result<Bound> {
    let mut supervisor = Supervisor::new();
    let readiness = Readiness::new();
    let drain_timeout = config.drain_timeout;
    match assemble(config, fence, &mut supervisor, &readiness).await {
        Ok((admin, status)) => Ok(Bound {
            admin,
            status,
            supervisor,
            readiness,
            drain_timeout,
        }),
        Err(error) => {
            // What is bound already is taken back in order, so that no socket file stays behind.
            supervisor.stop_token().cancel();
            let _ = supervisor.run(None, drain_timeout).await;
            Err(error)
        }
    }
}

/// Binds everything and starts every task; gives the addresses of admin and status.
async fn assemble(
    config: Config,
    fence: Fence,
    supervisor: &mut Supervisor,
    readiness: &Readiness,
) -> anyhow::Result<(SocketAddr, SocketAddr)> {
    crypto::install_default();
    for file in &config.behind_the_fence {
        tracing::warn!(
            file = %file.display(),
            "a new version of this file could not be read: it lies on the way to kubelet's pods, where the fence hides it; keep it in a folder beside"
        );
    }
    let stop = supervisor.stop_token();
    let mut registry = Registry::default();
    let ours = registry.sub_registry_with_prefix("ensign_agent");
    build_info::register(ours, env!("CARGO_PKG_VERSION"), crypto::PROVIDER_NAME);
    let files = WatchMetrics::register(ours);
    let clock = SystemClock::shared();

    let admin = http::bind(config.admin_addr, "--admin-addr").await?;
    let status = http::bind(config.status_addr, "--status-addr").await?;
    let authority_name = config.ca.address.to_string();

    let gate = readiness.gate("ca-roots", authority::no_roots(&config.ca_roots_file));
    let (authority, roots, watched) = Authority::open(config.ca, &config.ca_roots_file, &files).await;
    watch_file(supervisor, "ca-roots-file", watched, &stop);
    let follow = Arc::clone(&authority).follow(roots, gate, stop.clone());
    supervisor.spawn("ca-roots", follow);
    let (rotation, worker) = rotation::start(config.rotation, authority, Arc::clone(&clock));
    for (signer, path) in config.pins {
        let label = "pinned bundle";
        let parse = |contents: &ensign_daemon::watched_file::Contents| Ok(Bundle::parse_pem(contents.text(0)?)?);
        let (bundle, watched) = FileSet::file(label, path).metrics(&files).required(parse).await?;
        watch_file(supervisor, "pinned-bundle-file", watched, &stop);
        rotation.pin(signer.clone(), Bundle::clone(&bundle.borrow()));
        supervisor.spawn(
            "pinned-bundle",
            follow_pin(signer, bundle, rotation.clone(), stop.clone()),
        );
    }

    let sds_metrics = sds::Metrics::default();
    sds_metrics.register(&mut registry);
    registry.register_collector(Box::new(RotationCollector::new(rotation.clone(), Arc::clone(&clock))));
    let sds = sds::Server::new(config.sds, rotation.clone(), sds_metrics, stop.clone());
    let node = Node::new(rotation.clone(), sds.clone(), supervisor.connections(), stop.clone());
    let around = Around {
        supervisor,
        readiness,
        registry: &mut registry,
        files: &files,
        clock: Arc::clone(&clock),
        fence,
        rotation: rotation.clone(),
        stop: stop.clone(),
    };
    workloads::start(config.source, node, around).await?;
    let worker_stop = stop.clone();
    supervisor.spawn("rotation", async move {
        worker.run(worker_stop).await;
        Ok(())
    });
    let at = (admin.local_addr()?, status.local_addr()?);
    serve_http(
        supervisor,
        "admin",
        admin,
        admin::admin_router(registry, readiness.clone()),
    );
    let lines = status_source(rotation, sds, readiness, clock, authority_name);
    serve_http(supervisor, "status", status, admin::status_router(lines));
    if let Some(path) = &config.addresses_file {
        addresses::write(path, &BTreeMap::from([("admin", at.0), ("status", at.1)])).await?;
    }
    tracing::info!(admin = %at.0, status = %at.1, "bound");
    Ok(at)
}

// === impl Bound ===

impl Bound {
    /// Cancel it to stop the agent as SIGTERM does.
    pub fn stop_token(&self) -> CancellationToken {
        self.supervisor.stop_token()
    }

    /// Serves until a signal, the stop token or the end of a task stops the agent.
    pub async fn run(mut self, signals: Option<Signals>) -> anyhow::Result<()> {
        let (readiness, stop) = (self.readiness, self.supervisor.stop_token());
        self.supervisor.spawn("readiness", async move {
            stop.cancelled().await;
            readiness.begin_drain();
            Ok(())
        });
        self.supervisor.run(signals, self.drain_timeout).await?;
        tracing::info!("stopped");
        Ok(())
    }
}

fn watch_file<T: Send + Sync + 'static>(
    supervisor: &mut Supervisor,
    name: &'static str,
    watched: WatchedFile<T>,
    stop: &CancellationToken,
) {
    supervisor.spawn(name, watched.run(stop.clone()));
}

fn serve_http(supervisor: &mut Supervisor, name: &'static str, listener: TcpListener, router: axum::Router) {
    let (stop, connections) = (supervisor.stop_token(), supervisor.connections());
    supervisor.spawn(name, http::serve(listener, router, stop, connections));
}

/// Passes every new version of a pinned bundle on.
async fn follow_pin(
    signer: Option<SignerName>,
    mut bundle: watch::Receiver<Arc<Bundle>>,
    rotation: Handle,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    while let Some(Ok(())) = stop.run_until_cancelled(bundle.changed()).await {
        let newest = Bundle::clone(&bundle.borrow_and_update());
        rotation.pin(signer.clone(), newest);
    }
    stop.cancelled().await;
    Ok(())
}

fn status_source(
    rotation: Handle,
    sds: sds::Server,
    readiness: &Readiness,
    clock: ensign_pki::SharedClock,
    authority: String,
) -> StatusSource {
    let lines = move || {
        let line = |socket: sds::SocketSnapshot| SocketLine {
            workload: socket.workload,
            path: socket.path,
            connections: socket.connections,
            streams: socket.streams,
        };
        sds.snapshot().into_iter().map(line).collect()
    };
    StatusSource {
        rotation,
        sockets: Arc::new(lines),
        readiness: readiness.clone(),
        clock,
        authority,
    }
}
