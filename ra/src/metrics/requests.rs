//! Requests, from their first to their last step.
//!
//! Each request is counted exactly once: by [`Metrics::begin`] and the guard it returns, also if the caller goes away,
//! or by [`Metrics::refused_unread`].

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use tokio::time::Instant;
use tonic::Code;

use super::Metrics;
use crate::policy::TtlChange;
use crate::refusal::Refusal;

#[derive(Debug, Clone)]
pub(super) struct Requests {
    outcomes: Family<OutcomeLabels, Counter>,
    duration: Histogram,
    in_flight: Gauge,
    queued: Gauge,
    ttl_changes: Family<TtlLabels, Counter>,
    unknown_metadata: Counter,
}

/// One request from its first to its last step.
#[derive(Debug)]
pub struct InFlight {
    metrics: Metrics,
    began: Instant,
    outcome: Option<OutcomeLabels>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabels {
    code: &'static str,
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TtlLabels {
    change: &'static str,
}

/// From a P-256 issue (a millisecond) to a signer behind a person's approval.
const DURATION_BUCKETS: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.25, 1.0, 2.5, 10.0, 30.0, 60.0];

// === impl Requests ===

impl Requests {
    pub(super) fn register(ours: &mut Registry) -> Self {
        let requests = Self {
            outcomes: Family::default(),
            duration: Histogram::new(DURATION_BUCKETS),
            in_flight: Gauge::default(),
            queued: Gauge::default(),
            ttl_changes: Family::default(),
            unknown_metadata: Counter::default(),
        };
        ours.register("requests", "Requests by outcome", requests.outcomes.clone());
        ours.register(
            "request_duration_seconds",
            "Time from the first byte of a request to its answer, the queue included",
            requests.duration.clone(),
        );
        ours.register(
            "requests_in_flight",
            "Requests not yet answered",
            requests.in_flight.clone(),
        );
        ours.register(
            "requests_queued",
            "Requests that wait for a place",
            requests.queued.clone(),
        );
        ours.register(
            "ttl_changes",
            "Certificates whose lifetime differs from the one asked for",
            requests.ttl_changes.clone(),
        );
        ours.register(
            "unknown_metadata",
            "Names in the metadata of requests that mean nothing to this authority",
            requests.unknown_metadata.clone(),
        );
        requests
    }
}

// === impl Metrics ===

impl Metrics {
    /// Counts a request in; the guard counts it out.
    pub fn begin(&self) -> InFlight {
        self.istiod.asked();
        self.requests.in_flight.inc();
        InFlight {
            metrics: self.clone(),
            began: Instant::now(),
            outcome: None,
        }
    }

    /// A request ended before it could be read: it has an outcome, and neither a duration nor a place in flight.
    pub fn refused_unread(&self, refusal: &Refusal) {
        let outcome = OutcomeLabels {
            code: code_name(refusal.code()),
            reason: refusal.reason(),
        };
        self.requests.outcomes.get_or_create(&outcome).inc();
    }

    /// Requests that wait for a place.
    pub fn queued(&self, count: usize) {
        self.requests.queued.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// The lifetime of a request was changed.
    pub fn ttl_change(&self, change: TtlChange) {
        match change {
            TtlChange::Unchanged => {}
            TtlChange::Defaulted | TtlChange::Clamped | TtlChange::Raised => {
                let labels = TtlLabels {
                    change: change.as_str(),
                };
                self.requests.ttl_changes.get_or_create(&labels).inc();
            }
        }
    }

    /// A signer granted another lifetime than it was asked for.
    pub fn lifetime(&self, change: &'static str) {
        self.requests.ttl_changes.get_or_create(&TtlLabels { change }).inc();
    }

    /// Names in a request's metadata were passed over.
    pub fn unknown_metadata(&self, count: usize) {
        self.requests.unknown_metadata.inc_by(count as u64);
    }
}

// === impl InFlight ===

impl InFlight {
    /// It ended with a certificate.
    pub fn issued(mut self) {
        self.metrics.istiod.issued();
        self.outcome = Some(OutcomeLabels {
            code: "ok",
            reason: "issued",
        });
    }

    /// It ended without one.
    pub fn refused(mut self, refusal: &Refusal) {
        self.metrics.istiod.refused(refusal);
        let code = code_name(refusal.code());
        self.outcome = Some(OutcomeLabels {
            code,
            reason: refusal.reason(),
        });
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let cancelled = OutcomeLabels {
            code: "cancelled",
            reason: "client_gone",
        };
        let outcome = self.outcome.take().unwrap_or(cancelled);
        let requests = &self.metrics.requests;
        requests.outcomes.get_or_create(&outcome).inc();
        requests.duration.observe(self.began.elapsed().as_secs_f64());
        requests.in_flight.dec();
    }
}

fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "ok",
        Code::ResourceExhausted => "resource_exhausted",
        Code::Unauthenticated => "unauthenticated",
        Code::InvalidArgument => "invalid_argument",
        Code::PermissionDenied => "permission_denied",
        Code::Unavailable => "unavailable",
        Code::DeadlineExceeded => "deadline_exceeded",
        Code::FailedPrecondition => "failed_precondition",
        Code::Internal => "internal",
        _ => "other",
    }
}
