//! How far the roots have come.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Counts of the distribution; those of a replica that does not lead are 0. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct DistributionMetrics {
    roots: Gauge,
    wanted: Gauge,
    done: Gauge,
    writes: Family<OutcomeLabels, Counter>,
    contested: Family<WriterLabels, Gauge>,
}

/// How one pass found the targets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) wanted: usize,
    pub(super) done: usize,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabels {
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WriterLabels {
    writer: String,
}

// === impl DistributionMetrics ===

impl DistributionMetrics {
    /// Registers under `…_distribution_…`.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let own = registry.sub_registry_with_prefix("distribution");
        own.register("roots", "Roots that the namespaces get", metrics.roots.clone());
        own.register("targets", "Objects that should hold the roots", metrics.wanted.clone());
        own.register("targets_in_step", "Objects that do", metrics.done.clone());
        own.register("writes", "Writes of roots by outcome", metrics.writes.clone());
        own.register(
            "contested",
            "Objects that another writer keeps changing, by its name in managedFields; they are left to it for a while",
            metrics.contested.clone(),
        );
        metrics
    }

    pub(super) fn roots(&self, roots: usize) {
        self.roots.set(count(roots));
    }

    pub(super) fn tally(&self, tally: Tally) {
        self.wanted.set(count(tally.wanted));
        self.done.set(count(tally.done));
    }

    pub(super) fn wrote(&self, outcome: &'static str) {
        self.writes.get_or_create(&OutcomeLabels { outcome }).inc();
    }

    /// Writers are few: each is a controller that somebody runs.
    pub(super) fn contested<'a>(&self, writers: impl Iterator<Item = (&'a str, usize)>) {
        self.contested.clear();
        for (writer, objects) in writers.take(20) {
            let writer = writer.chars().take(64).collect();
            self.contested
                .get_or_create(&WriterLabels { writer })
                .set(count(objects));
        }
    }

    /// This replica does not lead any more.
    pub(super) fn idle(&self) {
        self.roots(0);
        self.tally(Tally::default());
        self.contested.clear();
    }
}

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
