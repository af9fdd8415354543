//! One leader among the replicas, and how many replicas there are.
//!
//! Owns the election by Lease ([`elect`]) and the count of live replicas ([`count_replicas`]). Promises that at most
//! one replica leads at a time as far as clocks that run at one speed can tell, that a leader that stops gives the
//! Lease back, and that a leader that cannot renew steps down before anybody else may take over. Leading is needed for
//! distribution and istiod's certificate; nothing that a request needs, nor readiness, depends on it.
//!
//! The protocol is client-go's, field by field, so that istio-csr and this RA can share a Lease while one replaces the
//! other. It is written here because the libraries for kube 5 would not do: one keeps telling its owner that it leads
//! while the API server is away, judges others by their wall clock and forces its way past their fields, the others are
//! for older versions of kube.
//!
//! Every write is a PATCH of an object of a known name, its creation too (server-side apply), so that RBAC can name the
//! object for each verb.

mod election;
mod metrics;
mod replicas;
mod term;
mod term_of_office;

use std::sync::Arc;

use ensign_pki::SharedClock;

pub use self::election::elect;
pub use self::metrics::LeaderMetrics;
pub use self::replicas::count_replicas;
pub use self::term::Timing;
pub use self::term_of_office::while_leading;
use crate::kubernetes::Cluster;
use crate::unique::unique;

/// Who stands for election, and where.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// The cluster whose Lease it is.
    pub cluster: Cluster,
    /// Namespace of the Lease.
    pub namespace: String,
    /// Name of the Lease; the count of replicas is in one with `-replicas` after it.
    pub lease: String,
    /// Who we are among the replicas.
    pub identity: Arc<str>,
    /// For the times that people read in the Lease. Nothing is decided by them.
    pub clock: SharedClock,
    /// How fast.
    pub timing: Timing,
    /// Counts.
    pub metrics: LeaderMetrics,
}

/// A name that no other replica has, also no earlier one of the same pod.
pub fn identity(pod: Option<&str>) -> Arc<str> {
    format!("{}_{}", pod.unwrap_or("ensign-ra"), unique()).into()
}
