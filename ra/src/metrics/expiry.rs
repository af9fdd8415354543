//! When roots, CAs and the serving certificate expire.

use std::time::SystemTime;

use ensign_pki::SignerName;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::{Metrics, NameLabels, seconds};

#[derive(Debug, Clone, Default)]
pub(super) struct Expiry {
    roots: Family<NameLabels, Gauge>,
    cas: Family<NameLabels, Gauge>,
    serving: Gauge,
}

// === impl Expiry ===

impl Expiry {
    pub(super) fn register(ours: &mut Registry) -> Self {
        let expiry = Self::default();
        ours.register(
            "root_expiry_timestamp_seconds",
            "When the first root of a signer expires",
            expiry.roots.clone(),
        );
        ours.register(
            "ca_expiry_timestamp_seconds",
            "When the CA of a signer, or one above it, expires: no certificate of that signer lives longer",
            expiry.cas.clone(),
        );
        ours.register(
            "serving_certificate_expiry_timestamp_seconds",
            "When the certificate that clients see expires",
            expiry.serving.clone(),
        );
        expiry
    }
}

// === impl Metrics ===

impl Metrics {
    /// The roots of a signer in effect.
    pub fn root_expiry(&self, signer: &SignerName, not_after: SystemTime) {
        let root = self.expiry.roots.get_or_create(&signer.into());
        root.set(seconds(not_after));
    }

    /// The CA of a signer, where it is known.
    pub fn ca_expiry(&self, signer: &SignerName, not_after: SystemTime) {
        let ca = self.expiry.cas.get_or_create(&signer.into());
        ca.set(seconds(not_after));
    }

    /// The first root of all signers to expire, and when it is now.
    pub fn first_root_expiry(&self, not_after: SystemTime, now: SystemTime) {
        let left = match not_after.duration_since(now) {
            Ok(left) => left.as_secs_f64(),
            Err(past) => -past.duration().as_secs_f64(),
        };
        self.istiod.first_root_expiry(seconds(not_after), left);
    }

    /// A signer is no longer in the policy.
    pub fn forget_signer(&self, signer: &SignerName) {
        let labels = NameLabels::from(signer);
        self.expiry.roots.remove(&labels);
        self.expiry.cas.remove(&labels);
        self.gates.forget(&labels);
        self.signers.forget(&labels);
    }

    /// The serving certificate in effect.
    pub fn serving_expiry(&self, not_after: SystemTime) {
        self.expiry.serving.set(seconds(not_after));
    }
}
