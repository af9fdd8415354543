//! Opens the source of workloads that the settings name, and binds the sockets that are known from the start.
//!
//! A workloads file must be good and all its sockets must bind, or the agent does not start: its operator stands by. What a
//! predecessor left of kubelet's volumes is bound before kubelet can call; a socket that cannot be bound there waits for
//! kubelet's next look at the pod and holds up no other.

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
use crate::source::{self, Notice, csi, fixed};

/// What the sources need of the process.
pub(super) struct Around<'a> {
    pub(super) supervisor: &'a mut Supervisor,
    pub(super) readiness: &'a Readiness,
    pub(super) registry: &'a mut Registry,
    pub(super) files: &'a WatchMetrics,
    pub(super) clock: SharedClock,
    pub(super) fence: csi::Fence,
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
                node.appeared(workload).with_context(|| format!("workload {uid}"))?;
            }
            around.supervisor.spawn("source", source.run(notices, stop.clone()));
        }
        source::Config::Csi(config) => {
            let metrics = csi::Metrics::default();
            metrics.register(around.registry);
            let parts = csi::Parts {
                fence: around.fence,
                clock: around.clock,
                tasks: around.supervisor.connections(),
                metrics,
                registered: around.readiness.gate("csi-registration", "the driver is being started"),
            };
            let (workloads, opened) = csi::open(config, parts)?;
            let count = workloads.len();
            for workload in workloads {
                let uid = Arc::clone(&workload.uid);
                if let Err(error) = node.appeared(workload) {
                    let error = ensign_daemon::logging::chain(&error);
                    tracing::error!(workload = %uid, error, "socket not bound again, the workload waits for kubelet");
                }
            }
            tracing::info!(count, "sockets of the predecessor bound again");
            around
                .supervisor
                .spawn("source", opened.listen()?.run(notices, stop.clone()));
        }
    }
    sockets.open();
    around.supervisor.spawn("node", node.run(inbox, stop));
    Ok(())
}

/// Notices wait here while a socket is being bound; a source that is faster waits too.
const NOTICES: usize = 64;
