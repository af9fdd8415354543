//! What can be set about rotation, with the defaults and why they are so.
//!
//! Plain values; flags and environment are read elsewhere.

use std::time::Duration;

use super::Schedule;
use crate::csr_client::SignerName;

/// Settings of rotation.
#[derive(Debug, Clone)]
pub struct RotationConfig {
    /// The lifetime to ask for (`SECRET_TTL`). Also bounds what may be adopted.
    pub ttl: Duration,
    /// When to renew.
    pub schedule: Schedule,
    /// Shortest time between two fetches of one entry, however short its certificates are.
    pub fetch_floor: Duration,
    /// How many requests may hold a slot at once.
    pub max_in_flight: usize,
    /// The end of one call. The implementation of `Sign` has the same; this one is the belt.
    pub request_deadline: Duration,
    /// The signer for workloads that neither fix nor wish one. If set, it is warmed up like a fixed one.
    pub default_signer: Option<SignerName>,
    /// How many signers one workload may have entries for.
    pub max_signers: usize,
    /// How long a reconnecting Envoy's claim is waited for: a held bundle waits so long for the sibling certificate, and
    /// the warm-up of a workload that is there at our start begins no earlier, unless an Envoy waits. Envoy's streams
    /// back off separately, up to 30 s.
    pub adoption_window: Duration,
    /// How long an entry outlives its last subscriber, unless its signer is fixed or the default.
    pub forget_after: Duration,
}

impl Default for RotationConfig {
    fn default() -> Self {
        Self {
            ttl: Duration::from_hours(24),
            schedule: Schedule::default(),
            fetch_floor: Duration::from_secs(10),
            max_in_flight: 16,
            request_deadline: Duration::from_mins(1),
            default_signer: None,
            max_signers: 4,
            adoption_window: Duration::from_secs(45),
            forget_after: Duration::from_mins(1),
        }
    }
}
