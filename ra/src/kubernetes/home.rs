//! Our own place in a cluster: where we run, and as what.

use std::sync::Arc;

use super::client::Cluster;

/// The cluster that the RA belongs to, and who it is there.
#[derive(Debug, Clone)]
pub struct Home {
    /// The connection.
    pub cluster: Cluster,
    /// Our own namespace.
    pub namespace: String,
    /// Where Istio's control plane lives.
    pub istio_namespace: String,
    /// Tells our objects from those of another installation.
    pub installation: String,
    /// Tells this replica from every other, also from an earlier one of the same pod.
    pub identity: Arc<str>,
}
