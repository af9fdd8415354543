//! What stands before each signer: who waits, who is let in, and what holds them up.
//!
//! A gate owns its [`GateSeries`] and says there how things are, not what changed. A signer that a reload replaces has two
//! gates for a while, the old one until its last request is through: their numbers add up, and a gate that is gone
//! counts as nothing.

use ensign_pki::SignerName;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::{Metrics, NameLabels};

#[derive(Debug, Clone)]
pub(super) struct Gates {
    waiting: Family<NameLabels, Gauge>,
    in_flight: Family<NameLabels, Gauge>,
    paused: Family<NameLabels, Gauge>,
    circuit: Family<NameLabels, Gauge>,
    wait: Family<NameLabels, Histogram, fn() -> Histogram>,
    pauses: Family<NameLabels, Counter>,
    openings: Family<NameLabels, Counter>,
}

/// The series of one gate.
#[derive(Debug)]
pub struct GateSeries {
    /// Requests that wait.
    pub waiting: Level,
    /// Requests that are with the signer.
    pub in_flight: Level,
    /// 1 while the backend wants no requests.
    pub paused: Level,
    /// 0 closed, 1 half-open, 2 open.
    pub circuit: Level,
    /// How long those that were let in had waited, in seconds.
    pub wait: Histogram,
    /// Pauses that began.
    pub pauses: Counter,
    /// How often the circuit breaker opened.
    pub openings: Counter,
}

/// A gauge that several owners add up to; dropping an owner takes its part out again.
#[derive(Debug)]
pub struct Level {
    gauge: Gauge,
    shown: i64,
}

/// From no wait to the deadline of a request.
const WAIT_BUCKETS: [f64; 10] = [0.001, 0.01, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

// === impl Gates ===

impl Gates {
    pub(super) fn register(ours: &mut Registry) -> Self {
        let gates = Self {
            waiting: Family::default(),
            in_flight: Family::default(),
            paused: Family::default(),
            circuit: Family::default(),
            wait: Family::new_with_constructor(waits),
            pauses: Family::default(),
            openings: Family::default(),
        };
        ours.register(
            "signer_queued",
            "Requests that wait for a signer",
            gates.waiting.clone(),
        );
        ours.register(
            "signer_in_flight",
            "Requests that are with a signer",
            gates.in_flight.clone(),
        );
        ours.register(
            "signer_queue_wait_seconds",
            "Time that requests waited before they reached their signer",
            gates.wait.clone(),
        );
        ours.register(
            "signer_paused",
            "1 while requests wait because the signer's backend asked for a pause (429 or 503 with Retry-After)",
            gates.paused.clone(),
        );
        ours.register("signer_pauses", "Pauses that began", gates.pauses.clone());
        ours.register(
            "signer_circuit_state",
            "State of a signer's circuit breaker: 0 closed, 1 half-open, 2 open",
            gates.circuit.clone(),
        );
        ours.register(
            "signer_circuit_openings",
            "How often a signer's circuit breaker opened",
            gates.openings.clone(),
        );
        gates
    }

    pub(super) fn forget(&self, labels: &NameLabels) {
        for gauges in [&self.waiting, &self.in_flight, &self.paused, &self.circuit] {
            gauges.remove(labels);
        }
        self.wait.remove(labels);
        self.pauses.remove(labels);
        self.openings.remove(labels);
    }
}

// === impl Metrics ===

impl Metrics {
    /// The series for a new gate of that signer.
    pub fn gate(&self, signer: &SignerName) -> GateSeries {
        let (gates, labels) = (&self.gates, NameLabels::from(signer));
        let level = |family: &Family<NameLabels, Gauge>| Level::new(family.get_or_create(&labels).clone());
        GateSeries {
            waiting: level(&gates.waiting),
            in_flight: level(&gates.in_flight),
            paused: level(&gates.paused),
            circuit: level(&gates.circuit),
            wait: gates.wait.get_or_create(&labels).clone(),
            pauses: gates.pauses.get_or_create(&labels).clone(),
            openings: gates.openings.get_or_create(&labels).clone(),
        }
    }
}

// === impl Level ===

impl Level {
    fn new(gauge: Gauge) -> Self {
        Self { gauge, shown: 0 }
    }

    /// This owner's part is this now.
    pub fn set(&mut self, value: usize) {
        let value = i64::try_from(value).unwrap_or(i64::MAX);
        if value != self.shown {
            self.gauge.inc_by(value - self.shown);
            self.shown = value;
        }
    }
}

impl Drop for Level {
    fn drop(&mut self) {
        self.gauge.dec_by(self.shown);
    }
}

fn waits() -> Histogram {
    Histogram::new(WAIT_BUCKETS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(registry: &Registry) -> String {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, registry).unwrap();
        text
    }

    #[test]
    fn two_gates_of_one_signer_add_up_and_one_that_is_gone_counts_as_nothing() {
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        let foo: SignerName = "foo".parse().unwrap();
        let (mut old, mut new) = (metrics.gate(&foo), metrics.gate(&foo));
        old.waiting.set(5);
        old.paused.set(1);
        new.waiting.set(4);
        new.waiting.set(2);
        let text = page(&registry);
        assert!(text.contains("ensign_ra_signer_queued{signer=\"foo\"} 7"), "{text}");
        drop(old);
        let text = page(&registry);
        assert!(text.contains("ensign_ra_signer_queued{signer=\"foo\"} 2"), "{text}");
        assert!(text.contains("ensign_ra_signer_paused{signer=\"foo\"} 0"), "{text}");
        metrics.forget_signer(&foo);
        let text = page(&registry);
        assert!(!text.contains("signer=\"foo\""), "{text}");
    }
}
