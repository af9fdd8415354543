//! Watched files that took effect. Those that could not be loaded are counted by `ensign_daemon::watched_file`.

use std::time::SystemTime;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::{Metrics, seconds};

#[derive(Debug, Clone, Default)]
pub(super) struct Reloads {
    count: Family<FileLabels, Counter>,
    last: Family<FileLabels, Gauge>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FileLabels {
    file: &'static str,
}

// === impl Reloads ===

impl Reloads {
    pub(super) fn register(ours: &mut Registry) -> Self {
        let reloads = Self::default();
        ours.register(
            "reloads",
            "Watched files whose new content took effect; failures are file_load_failures",
            reloads.count.clone(),
        );
        ours.register(
            "reload_last_success_timestamp_seconds",
            "When what is in effect was read",
            reloads.last.clone(),
        );
        reloads
    }
}

// === impl Metrics ===

impl Metrics {
    /// The content of a watched file took effect.
    pub fn reloaded(&self, file: &'static str, now: SystemTime) {
        let labels = FileLabels { file };
        self.reloads.count.get_or_create(&labels).inc();
        self.reloads.last.get_or_create(&labels).set(seconds(now));
    }
}
