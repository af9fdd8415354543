//! What signers answered, and by which clock.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use ensign_pki::SignerName;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::{Metrics, NameLabels};

#[derive(Debug, Clone, Default)]
pub(super) struct Signers {
    outcomes: Family<SignerLabels, Counter>,
    clock_ahead: Family<NameLabels, Gauge<f64, AtomicU64>>,
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
        ours.register(
            "signer_clock_ahead_seconds",
            "By how much NotBefore of a signer's last certificate was ahead of this replica's clock, 0 if it was not",
            signers.clock_ahead.clone(),
        );
        signers
    }

    pub(super) fn forget(&self, labels: &NameLabels) {
        self.clock_ahead.remove(labels);
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

    /// So far ahead of this replica's clock was what a signer dated a certificate by.
    pub fn clock_ahead(&self, signer: &SignerName, ahead: Duration) {
        let gauge = self.signers.clock_ahead.get_or_create(&signer.into());
        gauge.set(ahead.as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_of_a_signer_is_forgotten_with_it() {
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        let foo: SignerName = "foo".parse().unwrap();
        metrics.clock_ahead(&foo, Duration::from_millis(1500));
        let page = |registry: &Registry| {
            let mut text = String::new();
            prometheus_client::encoding::text::encode(&mut text, registry).unwrap();
            text
        };
        let text = page(&registry);
        let series = "ensign_ra_signer_clock_ahead_seconds{signer=\"foo\"}";
        assert!(text.contains(&format!("{series} 1.5\n")), "{text}");
        metrics.forget_signer(&foo);
        assert!(!page(&registry).contains(series));
    }
}
