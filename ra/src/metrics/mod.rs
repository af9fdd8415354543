//! What the RA counts, under its own names (`ensign_ra_…`) and, where they mean the same, under istiod's.
//!
//! One file per subject: each owns its series, how they are registered and the methods of [`Metrics`] that move them.
//! Label values come from small fixed sets: codes, reason words, and the signers of the policy. Nothing that a caller
//! chooses becomes a label.

mod expiry;
mod gates;
mod istiod;
mod reloads;
mod requests;
mod signers;

use std::time::{SystemTime, UNIX_EPOCH};

use ensign_pki::SignerName;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::registry::Registry;

pub use self::gates::{GateSeries, Level};
pub use self::requests::InFlight;
use self::{expiry::Expiry, gates::Gates, istiod::Istiod, reloads::Reloads, requests::Requests, signers::Signers};

/// The RA's counters. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Metrics {
    requests: Requests,
    signers: Signers,
    gates: Gates,
    reloads: Reloads,
    expiry: Expiry,
    istiod: Istiod,
}

/// A series per signer of the policy.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct NameLabels {
    signer: String,
}

// === impl Metrics ===

impl Metrics {
    /// Makes the metrics and registers them. `registry` has no prefix: two families of names meet here.
    pub fn register(registry: &mut Registry) -> Self {
        let istiod = Istiod::register(registry);
        let ours = registry.sub_registry_with_prefix("ensign_ra");
        Self {
            requests: Requests::register(ours),
            signers: Signers::register(ours),
            gates: Gates::register(ours),
            reloads: Reloads::register(ours),
            expiry: Expiry::register(ours),
            istiod,
        }
    }
}

// === impl NameLabels ===

impl From<&SignerName> for NameLabels {
    fn from(signer: &SignerName) -> Self {
        Self {
            signer: signer.to_string(),
        }
    }
}

/// A time as gauges have it.
pub(crate) fn seconds(time: SystemTime) -> i64 {
    match time.duration_since(UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        Err(_) => 0,
    }
}
