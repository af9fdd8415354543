//! Whether istiod has a certificate, and for how long.

use std::time::SystemTime;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::metrics::seconds;

/// Counts about istiod's certificate. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct IstiodMetrics {
    good: Gauge,
    expiry: Gauge,
    failures: Family<ReasonLabels, Counter>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabels {
    reason: &'static str,
}

// === impl IstiodMetrics ===

impl IstiodMetrics {
    /// Registers under `…_istiod_certificate_…`.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let own = registry.sub_registry_with_prefix("istiod_certificate");
        own.register(
            "good",
            "1 while istiod's certificate is as it should be; of the leader alone",
            metrics.good.clone(),
        );
        own.register(
            "expiry_timestamp_seconds",
            "When istiod's certificate ends, in seconds since 1970; of the leader alone",
            metrics.expiry.clone(),
        );
        own.register(
            "failures",
            "Times that istiod's certificate could not be made or written",
            metrics.failures.clone(),
        );
        metrics
    }

    pub(super) fn good(&self, good: bool) {
        self.good.set(i64::from(good));
    }

    pub(super) fn expires(&self, at: SystemTime) {
        self.expiry.set(seconds(at));
    }

    pub(super) fn failed(&self, reason: &'static str) {
        self.failures.get_or_create(&ReasonLabels { reason }).inc();
    }

    /// This replica does not lead any more.
    pub(super) fn idle(&self) {
        self.good.set(0);
        self.expiry.set(0);
    }
}
