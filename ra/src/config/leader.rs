//! Where the replicas elect their leader.

use clap::Args;
use ensign_daemon::settings::Checker;

use super::values::{label, subdomain};

/// The Lease of the leader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaderConfig {
    /// Its namespace.
    pub namespace: String,
    /// Its name; that of the installation decides without one.
    pub lease: Option<String>,
}

#[derive(Debug, Clone, Args)]
pub(super) struct LeaderArgs {
    /// Namespace of the leader's Lease
    #[arg(
        long,
        env = "ENSIGN_RA_LEADER_ELECTION_NAMESPACE",
        default_value = "istio-system",
        value_name = "NAME"
    )]
    leader_election_namespace: String,
    /// Its name; unset: the installation's and `-ra`. `istio-csr` shares istio-csr's, so that one of the two distributes at a time
    #[arg(long, env = "ENSIGN_RA_LEADER_ELECTION_LEASE", value_name = "NAME")]
    leader_election_lease: Option<String>,
}

impl LeaderArgs {
    pub(super) fn check(&self, c: &mut Checker<'_>) -> Option<LeaderConfig> {
        let namespace = label(c, "leader_election_namespace", &self.leader_election_namespace);
        let lease = match &self.leader_election_lease {
            Some(name) => subdomain(c, "leader_election_lease", name).map(Some),
            None => Some(None),
        };
        Some(LeaderConfig {
            namespace: namespace?,
            lease: lease?,
        })
    }
}
