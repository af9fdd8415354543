//! What signers answered.

use ensign_pki::SignerName;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use super::Metrics;

#[derive(Debug, Clone, Default)]
pub(super) struct Signers {
    outcomes: Family<SignerLabels, Counter>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SignerLabels {
    signer: String,
    outcome: &'static str,
}

// === impl Signers ===

impl Signers {
    pub(super) fn register(ours: &mut Registry) -> Self {
        let signers = Self::default();
        ours.register(
            "signer_requests",
            "Requests by signer and outcome",
            signers.outcomes.clone(),
        );
        signers
    }
}

// === impl Metrics ===

impl Metrics {
    /// A signer gave or refused a certificate.
    pub fn signer(&self, signer: &SignerName, outcome: &'static str) {
        let labels = SignerLabels {
            signer: signer.to_string(),
            outcome,
        };
        self.signers.outcomes.get_or_create(&labels).inc();
    }
}
