//! Our own place in a cluster: where we run, as what, and under which name we write.
//!
//! Three names stand in `managedFields`, each where it must:
//!
//! - [`FIELD_MANAGER`] writes what all replicas share and find by name, Leases and Secrets: each write carries the version
//!   that it was decided on, so the name decides nothing and only tells people who it was. It also makes a Lease, which is
//!   empty then and the same whoever makes it.
//! - [`Home::creator`] makes such a Secret. A server-side apply by a name that made the object before replaces its values,
//!   so of two replicas that create at once both would succeed if they had one name, and each would use another key.
//! - [`Home::manager`] owns fields by server-side apply, which leader after leader must be able to change: the roots in the
//!   namespaces, their history, the ClusterTrustBundle, istiod's Certificate. It tells two installations apart that write
//!   the same object, so that `distribution` sees another writer where there is one.

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

// === impl Home ===

impl Home {
    /// Makes a Secret: no other replica has this name, nor an earlier run of this one.
    pub fn creator(&self) -> String {
        format!("{FIELD_MANAGER}-{}", self.identity)
    }

    /// Owns fields, whichever replica leads.
    pub fn manager(&self) -> String {
        format!("{}-ra", self.installation)
    }
}

/// What we call ourselves where replicas and installations need not be told apart.
pub(crate) const FIELD_MANAGER: &str = "ensign-ra";
