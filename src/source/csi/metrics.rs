//! The series of the CSI source: what kubelet asked and what became of it. None names a pod.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// All of them. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    calls: Family<CallLabels, Counter>,
    remade: Counter,
    pub(super) volumes: Gauge,
    pub(super) registered: Gauge,
    pub(super) fence: Gauge<f64, AtomicU64>,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct CallLabels {
    method: &'static str,
    outcome: &'static str,
}

impl Metrics {
    /// Adds all series to `registry`.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "ensign_agent_csi_calls",
            "Calls of kubelet by outcome; kept: a volume that is published already stays so, although the call was wrong",
            self.calls.clone(),
        );
        registry.register(
            "ensign_agent_csi_targets_remade",
            "Target folders that something else removed: running containers of those pods hold the old one",
            self.remade.clone(),
        );
        registry.register("ensign_agent_csi_volumes", "Published volumes", self.volumes.clone());
        registry.register(
            "ensign_agent_csi_registered",
            "1 if kubelet said that it took the driver up",
            self.registered.clone(),
        );
        registry.register(
            "ensign_agent_fence",
            "Fence around the files below kubelet's pods folder (Landlock): 1 whole, 0.5 they can be cut but not read or written, 0 none",
            self.fence.clone(),
        );
    }

    pub(super) fn called(&self, method: &'static str, outcome: &'static str) {
        self.calls.get_or_create_owned(&CallLabels { method, outcome }).inc();
    }

    pub(super) fn remade(&self) {
        self.remade.inc();
    }
}
