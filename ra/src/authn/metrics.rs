//! What authentication counts, under `ensign_ra_authn_…`.
//!
//! Label values are words of ours, and the names of clusters, which are the operator's.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::caller::Proof;

/// Counts of authentication. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct AuthnMetrics {
    callers: Family<ProofLabels, Counter>,
    verdicts: Family<SourceLabels, Counter>,
    reviews: Family<ReviewLabels, Counter>,
    fallbacks: Family<ClusterLabels, Counter>,
    informers: Family<ClusterLabels, Gauge>,
    keys: Family<OutcomeLabels, Counter>,
    pods: Family<ClusterLabels, Gauge>,
    remotes: Family<RemoteLabels, Gauge>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ProofLabels {
    proof: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SourceLabels {
    source: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReviewLabels {
    cluster: String,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ClusterLabels {
    cluster: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabels {
    cluster: String,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RemoteLabels {
    cluster: String,
    state: &'static str,
}

// === impl AuthnMetrics ===

impl AuthnMetrics {
    /// Registers under `…_authn_…`.
    pub(super) fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let own = registry.sub_registry_with_prefix("authn");
        own.register(
            "callers",
            "Callers let in, by what they proved it with",
            metrics.callers.clone(),
        );
        own.register(
            "verdicts",
            "Tokens judged by TokenReview, by where the verdict came from",
            metrics.verdicts.clone(),
        );
        own.register(
            "token_reviews",
            "TokenReviews sent, by cluster and what came back",
            metrics.reviews.clone(),
        );
        own.register(
            "informer_fallbacks",
            "Tokens that were reviewed because the informers of their cluster could not be relied on",
            metrics.fallbacks.clone(),
        );
        own.register(
            "informer_fresh",
            "1 while tokens are judged by the informers of their cluster, 0 while they are reviewed instead",
            metrics.informers.clone(),
        );
        own.register(
            "issuer_keys_fetches",
            "Times that the keys of a token issuer were fetched, by cluster and outcome",
            metrics.keys.clone(),
        );
        own.register("pods", "Pods known of each cluster", metrics.pods.clone());
        own.register(
            "remote_clusters",
            "1 for the state of each remote cluster: connected, connecting, refused",
            metrics.remotes.clone(),
        );
        metrics
    }

    pub(super) fn caller(&self, proof: &Proof) {
        self.callers.get_or_create(&ProofLabels { proof: proof.as_str() }).inc();
    }

    pub(super) fn verdict(&self, source: &'static str) {
        self.verdicts.get_or_create(&SourceLabels { source }).inc();
    }

    pub(super) fn review(&self, cluster: &str, outcome: &'static str) {
        let cluster = cluster.to_owned();
        self.reviews.get_or_create(&ReviewLabels { cluster, outcome }).inc();
    }

    pub(super) fn fallback(&self, cluster: &str) {
        self.fallbacks.get_or_create(&of(cluster)).inc();
    }

    pub(super) fn informer(&self, cluster: &str, fresh: bool) {
        self.informers.get_or_create(&of(cluster)).set(i64::from(fresh));
    }

    pub(super) fn keys(&self, cluster: &str, outcome: &'static str) {
        let cluster = cluster.to_owned();
        self.keys.get_or_create(&OutcomeLabels { cluster, outcome }).inc();
    }

    pub(super) fn pods(&self, cluster: &str, count: usize) {
        self.pods
            .get_or_create(&of(cluster))
            .set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    pub(super) fn remote(&self, cluster: &str, state: &'static str) {
        for one in REMOTE_STATES {
            let labels = RemoteLabels {
                cluster: cluster.to_owned(),
                state: one,
            };
            self.remotes.get_or_create(&labels).set(i64::from(one == state));
        }
    }

    /// A cluster that is gone has no series.
    pub(super) fn forget(&self, cluster: &str) {
        self.informers.remove(&of(cluster));
        self.pods.remove(&of(cluster));
        for state in REMOTE_STATES {
            let cluster = cluster.to_owned();
            self.remotes.remove(&RemoteLabels { cluster, state });
        }
    }
}

fn of(cluster: &str) -> ClusterLabels {
    ClusterLabels {
        cluster: cluster.to_owned(),
    }
}

const REMOTE_STATES: [&str; 3] = ["connected", "connecting", "refused"];
