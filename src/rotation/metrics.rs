//! Rotation's metrics, all worked out at scrape: a series lives exactly as long as the entry that it speaks of.
//!
//! Istio's names where Istio has them, spelled exactly (without the `_total` that the text format would add to a
//! counter), ours with the prefix `ensign_agent_`.

use std::fmt;
use std::time::SystemTime;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use super::core::{Counters, Load};
use super::{EntrySnapshot, Handle, Phase};
use crate::csr_client::SignerName;

/// Collects rotation's metrics. Register it with `Registry::register_collector`.
#[derive(Debug)]
pub struct RotationCollector {
    handle: Handle,
    clock: ensign_pki::SharedClock,
}

impl RotationCollector {
    /// A collector that looks through this handle.
    pub fn new(handle: Handle, clock: ensign_pki::SharedClock) -> Self {
        Self { handle, clock }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CertificateLabels {
    resource_name: &'static str,
    workload: String,
    namespace: String,
    service_account: String,
    signer: String,
    adopted: &'static str,
}

impl CertificateLabels {
    fn of(entry: &EntrySnapshot) -> Self {
        Self {
            resource_name: "default",
            workload: entry.workload.to_string(),
            namespace: entry.id.namespace().to_owned(),
            service_account: entry.id.service_account().to_owned(),
            signer: entry.signer.as_ref().map_or("", SignerName::as_str).to_owned(),
            adopted: if entry.adopted { "true" } else { "false" },
        }
    }
}

const CSR: [(&str, &str); 1] = [("request_type", "csr")];

impl Collector for RotationCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let entries = self.handle.snapshot();
        let (counters, load) = self.handle.counters();
        self.encode_certificates(&mut encoder, &entries)?;
        self.encode_roots(&mut encoder)?;
        encode_istio_counters(&mut encoder, &counters)?;
        encode_ours(&mut encoder, &counters, load, &entries)?;
        if let Some(budget) = self.handle.outage_budget() {
            let help = "Seconds until the first certificate of this node expires if nothing can be renewed";
            gauge(
                &mut encoder,
                "ensign_agent_outage_budget_seconds",
                help,
                budget.as_secs_f64(),
            )?;
        }
        Ok(())
    }
}

impl RotationCollector {
    fn encode_certificates(&self, encoder: &mut DescriptorEncoder<'_>, entries: &[EntrySnapshot]) -> fmt::Result {
        let now = self.clock.now();
        let help = "Seconds until the workload's certificate expires, negative afterwards";
        let mut family = encoder.encode_descriptor("istio_agent_cert_expiry_seconds", help, None, MetricType::Gauge)?;
        for entry in entries {
            let Some(not_after) = entry.not_after else { continue };
            ConstGauge::new(left(not_after, now)).encode(family.encode_family(&CertificateLabels::of(entry))?)?;
        }
        Ok(())
    }

    fn encode_roots(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let now = self.clock.now();
        let help = "Seconds until a root that this node's workloads trust expires, negative afterwards";
        let mut family =
            encoder.encode_descriptor("ensign_agent_root_expiry_seconds", help, None, MetricType::Gauge)?;
        for root in self.handle.roots() {
            let signer = root.signer.as_ref().map_or("", SignerName::as_str);
            let labels = [("signer", signer), ("sha256", &root.sha256)];
            ConstGauge::new(left(root.not_after, now)).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

fn left(not_after: SystemTime, now: SystemTime) -> f64 {
    match not_after.duration_since(now) {
        Ok(left) => left.as_secs_f64(),
        Err(over) => -over.duration().as_secs_f64(),
    }
}

fn encode_istio_counters(encoder: &mut DescriptorEncoder<'_>, counters: &Counters) -> fmt::Result {
    let failed = counters.failures.values().sum::<u64>();
    #[expect(
        clippy::cast_precision_loss,
        reason = "metrics are floating point numbers; 2^53 requests are far away"
    )]
    let rows = [
        (
            "istio_agent_num_outgoing_requests",
            "Requests for a certificate",
            counters.requests as f64,
        ),
        (
            "istio_agent_num_failed_outgoing_requests",
            "Requests that brought no certificate",
            failed as f64,
        ),
        (
            "istio_agent_num_outgoing_retries",
            "Requests that followed a failed one",
            counters.retries as f64,
        ),
        (
            "istio_agent_outgoing_latency",
            "Milliseconds spent waiting for answers",
            counters.latency.as_secs_f64() * 1e3,
        ),
    ];
    for (name, help, value) in rows {
        // A counter by meaning; as such it would get the suffix `_total`, which Istio's has not.
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Unknown)?;
        ConstGauge::new(value).encode(family.encode_family(&CSR)?)?;
    }
    Ok(())
}

fn encode_ours(
    encoder: &mut DescriptorEncoder<'_>,
    counters: &Counters,
    load: Load,
    entries: &[EntrySnapshot],
) -> fmt::Result {
    for (name, help, value) in [
        (
            "ensign_agent_certificates_issued",
            "First certificates of an entry",
            counters.issued,
        ),
        (
            "ensign_agent_rotations",
            "Certificates that replaced another",
            counters.rotated,
        ),
        (
            "ensign_agent_adoptions",
            "Certificates taken over from before the agent's start",
            counters.adopted,
        ),
    ] {
        let metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        ConstCounter::new(value).encode(metric)?;
    }
    let help = "Requests that brought no certificate, by reason";
    let mut failures = encoder.encode_descriptor("ensign_agent_request_failures", help, None, MetricType::Counter)?;
    for (reason, count) in &counters.failures {
        ConstCounter::new(*count).encode(failures.encode_family(&[("reason", *reason)])?)?;
    }
    gauge(
        encoder,
        "ensign_agent_requests_in_flight",
        "Requests without an answer yet",
        as_number(load.in_flight),
    )?;
    gauge(
        encoder,
        "ensign_agent_requests_queued",
        "Requests that are due and wait for a slot or for their key",
        as_number(load.queued),
    )?;
    let help = "Entries by phase";
    let mut phases = encoder.encode_descriptor("ensign_agent_entries", help, None, MetricType::Gauge)?;
    for phase in Phase::ALL {
        let count = entries.iter().filter(|entry| entry.phase == phase).count();
        ConstGauge::new(as_number(count)).encode(phases.encode_family(&[("phase", phase.as_str())])?)?;
    }
    let adopted = entries.iter().filter(|entry| entry.adopted).count();
    gauge(
        encoder,
        "ensign_agent_adopted",
        "Entries whose certificate is from before the agent's start",
        as_number(adopted),
    )
}

fn gauge(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: f64) -> fmt::Result {
    let metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    ConstGauge::new(value).encode(metric)
}

#[expect(
    clippy::cast_precision_loss,
    reason = "metrics are floating point numbers; counts of entries are small"
)]
fn as_number(count: usize) -> f64 {
    count as f64
}
