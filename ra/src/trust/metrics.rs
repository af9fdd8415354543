//! Whether each signer has roots, and where they were merely believed.

use ensign_pki::SignerName;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Counts about roots. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct TrustMetrics {
    present: Family<Labels, Gauge>,
    discovered: Family<Labels, Gauge>,
    damaged: Family<Labels, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    signer: String,
}

// === impl TrustMetrics ===

impl TrustMetrics {
    /// Registers under `…_roots_…`.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let own = registry.sub_registry_with_prefix("roots");
        own.register(
            "present",
            "1 while a signer has roots, 0 while it is refused for want of them",
            metrics.present.clone(),
        );
        own.register(
            "discovered",
            "1 for a signer whose roots are what its issuer says they are, and not the operator's",
            metrics.discovered.clone(),
        );
        own.register(
            "damaged",
            "Contents that were no bundle of roots and not taken",
            metrics.damaged.clone(),
        );
        metrics
    }

    pub(super) fn present(&self, signer: &SignerName, present: bool) {
        self.present.get_or_create(&labels(signer)).set(i64::from(present));
    }

    pub(super) fn discovered(&self, signer: &SignerName, discovered: bool) {
        self.discovered
            .get_or_create(&labels(signer))
            .set(i64::from(discovered));
    }

    pub(super) fn damaged(&self, signer: &SignerName) {
        self.damaged.get_or_create(&labels(signer)).inc();
    }

    /// The signer left the policy.
    pub(crate) fn forget(&self, signer: &SignerName) {
        self.present.remove(&labels(signer));
        self.discovered.remove(&labels(signer));
        self.damaged.remove(&labels(signer));
    }
}

fn labels(signer: &SignerName) -> Labels {
    Labels {
        signer: signer.to_string(),
    }
}
