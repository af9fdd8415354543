//! What is shown of Istio's configuration: whether the newest is read and in effect, and what of it does not count.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::notice::{Notice, NoticeKind};

/// Gauges and counts. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct MeshMetrics {
    read: Gauge,
    failures: Counter,
    in_effect: Gauge,
    notices: Family<NoticeLabels, Gauge>,
    any_signer: Gauge,
    refused_signers: Gauge,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct NoticeLabels {
    kind: &'static str,
}

// === impl MeshMetrics ===

impl MeshMetrics {
    /// Registers with `registry`, which brings the program's prefix.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register(
            "mesh_config_read",
            "1 if Istio's mesh configuration as it is now could be read, 0 if it is absent or cannot be read: the last good one stays",
            metrics.read.clone(),
        );
        registry.register(
            "mesh_config_failures",
            "Changes of Istio's mesh configuration that could not be read",
            metrics.failures.clone(),
        );
        registry.register(
            "mesh_config_in_effect",
            "1 if the policy in effect follows the newest of Istio's configuration that could be read, 0 if it contradicts the policy file or a signer does not start",
            metrics.in_effect.clone(),
        );
        registry.register(
            "mesh_config_notices",
            "What Istio's configuration says that does not count here, by kind; the log says what",
            metrics.notices.clone(),
        );
        registry.register(
            "any_mesh_signer",
            "1 if every workload may use every signer of the mesh configuration (--signer-choice=any-mesh-signer)",
            metrics.any_signer.clone(),
        );
        registry.register(
            "refused_signers",
            "Signers that are defined and refused to everybody because they have no roots",
            metrics.refused_signers.clone(),
        );
        metrics
    }

    /// The configuration as it is now could be read.
    pub(super) fn read(&self) {
        self.read.set(1);
    }

    /// All that does not count now.
    pub(super) fn notices(&self, notices: &[Notice]) {
        for kind in NoticeKind::ALL {
            let count = notices.iter().filter(|notice| notice.kind == kind).count();
            let labels = NoticeLabels { kind: kind.as_str() };
            self.notices
                .get_or_create(&labels)
                .set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    /// It is absent, or could not be read.
    pub(super) fn unread(&self) {
        self.read.set(0);
        self.failures.inc();
    }

    /// Whether the newest that could be read is part of the policy in effect.
    pub fn in_effect(&self, newest: bool) {
        self.in_effect.set(i64::from(newest));
    }

    /// What a policy that takes effect makes of it.
    pub fn policy(&self, any_signer: bool, refused_signers: usize) {
        self.any_signer.set(i64::from(any_signer));
        self.refused_signers
            .set(i64::try_from(refused_signers).unwrap_or(i64::MAX));
    }
}
