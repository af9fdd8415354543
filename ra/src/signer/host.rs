//! What signers and their roots need of the process that they run in.

use ensign_daemon::watched_file::WatchMetrics;
use ensign_pki::SharedClock;
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::object::Backends;
use crate::{
    kubernetes::Cluster,
    trust::{Discovery, TrustMetrics},
};

/// What signers need of the process.
#[derive(Clone, Debug)]
pub struct Host {
    /// Tells the time.
    pub clock: SharedClock,
    /// Where the tasks of signers are counted; the drain waits for them.
    pub tasks: TaskTracker,
    /// Cancelled when the process stops.
    pub stop: CancellationToken,
    /// Counts files that could not be loaded.
    pub files: WatchMetrics,
    /// How many replicas live, this one included, so that they share a signer's rate; without it this one is alone.
    pub replicas: Option<watch::Receiver<usize>>,
    /// The API server, for signers behind it.
    pub cluster: Option<Cluster>,
    /// What signers behind it share.
    pub backends: Option<Backends>,
    /// For the roots of signers behind it.
    pub trust: TrustHost,
}

/// What the roots of signers need of the process.
#[derive(Clone, Debug, Default)]
pub struct TrustHost {
    /// Counts.
    pub metrics: TrustMetrics,
    /// Roots that the RA's own issuer names, if its certificate comes from one.
    pub discovery: Option<Discovery>,
}

// === impl Host ===

impl Host {
    /// A process without Kubernetes and without metrics, which keeps time by this clock.
    pub fn alone(clock: SharedClock) -> Self {
        Self {
            clock,
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            files: WatchMetrics::default(),
            replicas: None,
            cluster: None,
            backends: None,
            trust: TrustHost::default(),
        }
    }
}
