//! Whether this replica leads, and how many there are.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Gauges of the election. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct LeaderMetrics {
    leads: Gauge,
    replicas: Gauge,
    /// controller-runtime's name for the first, which istio-csr's users know.
    master: Family<NameLabels, Gauge>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct NameLabels {
    name: String,
}

// === impl LeaderMetrics ===

impl LeaderMetrics {
    /// Registers our names under `…_ra_`, and controller-runtime's. `registry` has no prefix.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register(
            "leader_election_master_status",
            "As in istio-csr: 1 if this replica holds the Lease",
            metrics.master.clone(),
        );
        let own = registry.sub_registry_with_prefix("ensign_ra");
        own.register(
            "leader",
            "1 while this replica leads (distribution, istiod's certificate); signing needs no leader",
            metrics.leads.clone(),
        );
        own.register(
            "replicas",
            "Live replicas, as this one sees them",
            metrics.replicas.clone(),
        );
        metrics
    }

    pub(super) fn leads(&self, lease: &str, leads: bool) {
        let labels = NameLabels { name: lease.to_owned() };
        self.leads.set(i64::from(leads));
        self.master.get_or_create(&labels).set(i64::from(leads));
    }

    pub(super) fn replicas(&self, count: usize) {
        self.replicas.set(i64::try_from(count).unwrap_or(i64::MAX));
    }
}
