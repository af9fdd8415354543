//! What the SDS server counts.
//!
//! Owns the two series that Istio's agent has too, under Istio's names, and ours, by workload. The series of a workload end
//! with its socket; a stream that outlives it counts into nothing that is shown.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::encoding::{EncodeLabelSet, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::{MetricType, TypedMetric};
use prometheus_client::registry::Registry;

use super::names::{Name, PerName};
use crate::rotation::WorkloadUid;

/// All series of the SDS server. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    rejects: Family<TypeLabel, PlainCounter>,
    expired_nonces: Family<TypeLabel, PlainCounter>,
    connections: Family<WorkloadLabel, Gauge>,
    refused_connections: Family<WorkloadLabel, Counter>,
    streams: Family<WorkloadLabel, Gauge>,
    pushes: Family<SecretLabels, Counter>,
    nacks: Family<SecretLabels, Counter>,
}

/// The series of one workload, looked up once.
#[derive(Clone, Debug)]
pub(crate) struct WorkloadMetrics {
    rejects: PlainCounter,
    expired_nonces: PlainCounter,
    pub(crate) connections: Gauge,
    pub(crate) refused_connections: Counter,
    pub(crate) streams: Gauge,
    pushes: PerName<Counter>,
    nacks: PerName<Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TypeLabel {
    r#type: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WorkloadLabel {
    workload: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SecretLabels {
    workload: String,
    name: &'static str,
}

/// A counter without the suffix `_total`: Istio's names have none, and its dashboards ask for those.
#[derive(Clone, Debug, Default)]
struct PlainCounter(Arc<AtomicU64>);

impl Metrics {
    /// Adds all series to `registry`.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "istio_agent_pilot_total_xds_rejects",
            "Secrets that a client refused (NACK)",
            self.rejects.clone(),
        );
        registry.register(
            "istio_agent_pilot_xds_expired_nonce",
            "Requests about an older response, ignored",
            self.expired_nonces.clone(),
        );
        registry.register(
            "ensign_agent_sds_connections",
            "Open connections",
            self.connections.clone(),
        );
        registry.register(
            "ensign_agent_sds_refused_connections",
            "Connections above the socket's limit, closed at once",
            self.refused_connections.clone(),
        );
        registry.register("ensign_agent_sds_streams", "Open streams", self.streams.clone());
        registry.register("ensign_agent_sds_pushes", "Secrets sent", self.pushes.clone());
        registry.register(
            "ensign_agent_sds_nacks",
            "Secrets refused by the client",
            self.nacks.clone(),
        );
    }

    pub(crate) fn of(&self, workload: &WorkloadUid) -> WorkloadMetrics {
        let sds = TypeLabel { r#type: "sds" };
        let label = WorkloadLabel {
            workload: workload.to_string(),
        };
        let by_name = |family: &Family<SecretLabels, Counter>| PerName {
            bundle: family.get_or_create_owned(&SecretLabels::new(workload, Name::Bundle)),
            certificate: family.get_or_create_owned(&SecretLabels::new(workload, Name::Certificate)),
        };
        WorkloadMetrics {
            rejects: self.rejects.get_or_create_owned(&sds),
            expired_nonces: self.expired_nonces.get_or_create_owned(&sds),
            connections: self.connections.get_or_create_owned(&label),
            refused_connections: self.refused_connections.get_or_create_owned(&label),
            streams: self.streams.get_or_create_owned(&label),
            pushes: by_name(&self.pushes),
            nacks: by_name(&self.nacks),
        }
    }

    pub(crate) fn forget(&self, workload: &WorkloadUid) {
        let label = WorkloadLabel {
            workload: workload.to_string(),
        };
        self.connections.remove(&label);
        self.refused_connections.remove(&label);
        self.streams.remove(&label);
        for name in Name::ALL {
            self.pushes.remove(&SecretLabels::new(workload, name));
            self.nacks.remove(&SecretLabels::new(workload, name));
        }
    }
}

impl WorkloadMetrics {
    pub(crate) fn pushed(&self, name: Name) {
        self.pushes.of(name).inc();
    }

    /// `name` is `None` if it is not known what was refused.
    pub(crate) fn refused(&self, name: Option<Name>) {
        self.rejects.inc();
        if let Some(name) = name {
            self.nacks.of(name).inc();
        }
    }

    pub(crate) fn stale(&self) {
        self.expired_nonces.inc();
    }
}

impl SecretLabels {
    fn new(workload: &WorkloadUid, name: Name) -> Self {
        Self {
            workload: workload.to_string(),
            name: name.as_str(),
        }
    }
}

impl PlainCounter {
    fn inc(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl TypedMetric for PlainCounter {
    const TYPE: MetricType = MetricType::Unknown;
}

impl EncodeMetric for PlainCounter {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), fmt::Error> {
        encoder.encode_gauge(&self.0.load(Ordering::Relaxed))
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Unknown
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;

    use super::*;

    fn text(metrics: &Metrics) -> String {
        let mut registry = Registry::default();
        metrics.register(&mut registry);
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        text
    }

    #[test]
    fn istios_names_have_no_suffix() {
        let metrics = Metrics::default();
        let workload = metrics.of(&WorkloadUid::new("fixed/a"));
        workload.refused(Some(Name::Certificate));
        workload.stale();
        let text = text(&metrics);
        assert!(
            text.contains("\nistio_agent_pilot_total_xds_rejects{type=\"sds\"} 1\n"),
            "{text}"
        );
        assert!(
            text.contains("\nistio_agent_pilot_xds_expired_nonce{type=\"sds\"} 1\n"),
            "{text}"
        );
        assert!(
            text.contains("ensign_agent_sds_nacks_total{workload=\"fixed/a\",name=\"default\"} 1\n"),
            "{text}"
        );
    }

    #[test]
    fn series_end_with_the_workload() {
        let metrics = Metrics::default();
        let workload = metrics.of(&WorkloadUid::new("fixed/a"));
        workload.pushed(Name::Bundle);
        workload.connections.inc();
        metrics.forget(&WorkloadUid::new("fixed/a"));
        workload.pushed(Name::Bundle);
        assert!(!text(&metrics).contains("fixed/a"));
    }
}
