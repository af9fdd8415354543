//! Opens the source of workloads that the settings name, and binds the sockets that are known from the start.
//!
//! A workloads file must be good and all its sockets must bind, or the agent does not start: its operator stands by. What a
//! predecessor left of kubelet's volumes is bound before kubelet can call; a socket that cannot be bound there is tried
//! again, holds up no other, and keeps the agent from being ready, so that an upgrade goes no further. While the
//! predecessor lives, its Envoys are with it: nothing is fetched for them here.

use std::collections::HashSet;
use std::sync::Arc;

use anyhow::Context as _;
use ensign_daemon::Readiness;
use ensign_daemon::supervise::Supervisor;
use ensign_daemon::watched_file::WatchMetrics;
use ensign_pki::SharedClock;
use prometheus_client::registry::Registry;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::node::Node;
use crate::rotation::Handle;
use crate::source::{self, Notice, csi, fixed};

/// What the sources need of the process.
pub(super) struct Around<'a> {
    pub(super) supervisor: &'a mut Supervisor,
    pub(super) readiness: &'a Readiness,
    pub(super) registry: &'a mut Registry,
    pub(super) files: &'a WatchMetrics,
    pub(super) clock: SharedClock,
    pub(super) fence: csi::Fence,
    pub(super) rotation: Handle,
    pub(super) stop: CancellationToken,
}

/// Opens the source, binds what is known, and starts both the source and the node.
pub(super) async fn start(config: source::Config, mut node: Node, around: Around<'_>) -> anyhow::Result<()> {
    let (notices, inbox) = mpsc::channel::<Notice>(NOTICES);
    let stop = around.stop.clone();
    let sockets = around.readiness.gate("sockets", "sockets are being bound");
    match config {
        source::Config::Fixed(config) => {
            let workloads_gate = around.readiness.gate("workloads", "the workloads file is being read");
            let (workloads, source, watched) = fixed::open(config, around.files).await?;
            workloads_gate.open();
            around.supervisor.spawn("workloads-file", watched.run(stop.clone()));
            for workload in workloads {
                let uid = Arc::clone(&workload.uid);
                node.serve(workload).with_context(|| format!("workload {uid}"))?;
            }
            sockets.open();
            around.supervisor.spawn("source", source.run(notices, stop.clone()));
        }
        source::Config::Csi(config) => {
            let metrics = csi::Metrics::default();
            metrics.register(around.registry);
            let alone = CancellationToken::new();
            let parts = csi::Parts {
                fence: around.fence,
                clock: around.clock,
                metrics,
                sockets,
                registered: around.readiness.gate("csi-registration", "the driver is being started"),
                alone: alone.clone(),
            };
            let (workloads, opened) = csi::open(config, parts)?;
            if !alone.is_cancelled() {
                around.rotation.beside_another();
                let follow = follow_predecessor(alone, around.rotation, stop.clone());
                around.supervisor.spawn("predecessor", follow);
            }
            let count = workloads.len();
            let mut unbound = HashSet::new();
            for workload in workloads {
                let (uid, name) = (Arc::clone(&workload.uid), Arc::clone(&workload.shares));
                let path = workload.socket.path.clone();
                if let Err(error) = node.serve(workload) {
                    let error = ensign_daemon::logging::chain(&error);
                    tracing::error!(workload = %name, path = %path.display(), error, "socket not bound again, it is tried on");
                    unbound.insert(uid);
                }
            }
            tracing::info!(count, unbound = unbound.len(), "sockets of the predecessor taken over");
            let source = opened.listen(&unbound)?;
            around.supervisor.spawn("source", source.run(notices, stop.clone()));
        }
    }
    around.supervisor.spawn("node", node.run(inbox, stop));
    Ok(())
}

/// The Envoys of the predecessor come to us when it has ended.
async fn follow_predecessor(alone: CancellationToken, rotation: Handle, stop: CancellationToken) -> anyhow::Result<()> {
    if stop.run_until_cancelled(alone.cancelled()).await.is_some() {
        rotation.alone();
    }
    stop.cancelled().await;
    Ok(())
}

/// Notices wait here while a socket is being bound; a source that is faster waits too.
const NOTICES: usize = 64;
