//! What the RA counts, under its own names (`ensign_ra_…`) and, where they mean the same, under istiod's.
//!
//! Label values come from small fixed sets: codes, reason words, and the signers of the policy. Nothing that a caller
//! chooses becomes a label. Each request is counted exactly once: by [`Metrics::begin`] and the guard it returns, also
//! if the caller goes away, or by [`Metrics::refused_unread`].

use std::sync::atomic::AtomicU64;
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use tokio::time::Instant;
use tonic::Code;

use crate::policy::TtlChange;
use crate::refusal::Refusal;
use crate::signer::SignerName;

/// The RA's counters. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Metrics {
    requests: Family<OutcomeLabels, Counter>,
    signers: Family<SignerLabels, Counter>,
    duration: Histogram,
    in_flight: Gauge,
    queued: Gauge,
    ttl_changes: Family<TtlLabels, Counter>,
    unknown_metadata: Counter,
    reloads: Family<FileLabels, Counter>,
    last_reload: Family<FileLabels, Gauge>,
    root_expiry: Family<NameLabels, Gauge>,
    ca_expiry: Family<NameLabels, Gauge>,
    serving_expiry: Gauge,
    istiod: Istiod,
}

/// istiod's names. It counts without the suffix `_total`, which OpenMetrics counters must have, so these are gauges
/// that only rise: queries and alerts written for istiod find them under the name they know.
#[derive(Debug, Clone, Default)]
struct Istiod {
    csr_count: Rising,
    authentication_failures: Rising,
    csr_parsing_errors: Rising,
    sign_errors: Family<ErrorLabels, Rising>,
    issued: Rising,
    root_expiry: Gauge,
    root_expiry_seconds: Gauge<f64, AtomicU64>,
}

type Rising = Gauge<u64, AtomicU64>;

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
struct SignerLabels {
    signer: String,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct NameLabels {
    signer: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TtlLabels {
    change: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FileLabels {
    file: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ErrorLabels {
    error: &'static str,
}

/// From a P-256 issue (a millisecond) to a signer behind a person's approval.
const DURATION_BUCKETS: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.25, 1.0, 2.5, 10.0, 30.0, 60.0];

// === impl Metrics ===

impl Metrics {
    /// Makes the metrics and registers them. `registry` has no prefix: two families of names meet here.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            requests: Family::default(),
            signers: Family::default(),
            duration: Histogram::new(DURATION_BUCKETS),
            in_flight: Gauge::default(),
            queued: Gauge::default(),
            ttl_changes: Family::default(),
            unknown_metadata: Counter::default(),
            reloads: Family::default(),
            last_reload: Family::default(),
            root_expiry: Family::default(),
            ca_expiry: Family::default(),
            serving_expiry: Gauge::default(),
            istiod: Istiod::register(registry),
        };
        metrics.register_own(registry.sub_registry_with_prefix("ensign_ra"));
        metrics
    }

    fn register_own(&self, ours: &mut Registry) {
        ours.register("requests", "Requests by outcome", self.requests.clone());
        ours.register(
            "signer_requests",
            "Requests by signer and outcome",
            self.signers.clone(),
        );
        ours.register(
            "request_duration_seconds",
            "Time from the first byte of a request to its answer, the queue included",
            self.duration.clone(),
        );
        ours.register(
            "requests_in_flight",
            "Requests not yet answered",
            self.in_flight.clone(),
        );
        ours.register("requests_queued", "Requests that wait for a place", self.queued.clone());
        ours.register(
            "ttl_changes",
            "Certificates whose lifetime differs from the one asked for",
            self.ttl_changes.clone(),
        );
        ours.register(
            "unknown_metadata",
            "Names in the metadata of requests that mean nothing to this authority",
            self.unknown_metadata.clone(),
        );
        ours.register(
            "reloads",
            "Watched files whose new content took effect; failures are file_load_failures",
            self.reloads.clone(),
        );
        ours.register(
            "reload_last_success_timestamp_seconds",
            "When what is in effect was read",
            self.last_reload.clone(),
        );
        ours.register(
            "root_expiry_timestamp_seconds",
            "When the first root of a signer expires",
            self.root_expiry.clone(),
        );
        ours.register(
            "ca_expiry_timestamp_seconds",
            "When the CA of a signer, or one above it, expires: no certificate of that signer lives longer",
            self.ca_expiry.clone(),
        );
        ours.register(
            "serving_certificate_expiry_timestamp_seconds",
            "When the certificate that clients see expires",
            self.serving_expiry.clone(),
        );
    }

    /// Counts a request in; the guard counts it out.
    pub fn begin(&self) -> InFlight {
        self.istiod.csr_count.inc();
        self.in_flight.inc();
        InFlight {
            metrics: self.clone(),
            began: Instant::now(),
            outcome: None,
        }
    }

    /// A signer gave or refused a certificate.
    pub fn signer(&self, signer: &SignerName, outcome: &'static str) {
        let labels = SignerLabels {
            signer: signer.to_string(),
            outcome,
        };
        self.signers.get_or_create(&labels).inc();
    }

    /// The lifetime of a request was changed.
    pub fn ttl_change(&self, change: TtlChange) {
        match change {
            TtlChange::Unchanged => {}
            TtlChange::Defaulted | TtlChange::Clamped | TtlChange::Raised => {
                self.ttl_changes
                    .get_or_create(&TtlLabels {
                        change: change.as_str(),
                    })
                    .inc();
            }
        }
    }

    /// Names in a request's metadata were passed over.
    pub fn unknown_metadata(&self, count: usize) {
        self.unknown_metadata.inc_by(count as u64);
    }

    /// The content of a watched file took effect.
    pub fn reloaded(&self, file: &'static str, now: SystemTime) {
        self.reloads.get_or_create(&FileLabels { file }).inc();
        self.last_reload.get_or_create(&FileLabels { file }).set(seconds(now));
    }

    /// The roots of a signer in effect.
    pub fn root_expiry(&self, signer: &SignerName, not_after: SystemTime) {
        let labels = NameLabels {
            signer: signer.to_string(),
        };
        self.root_expiry.get_or_create(&labels).set(seconds(not_after));
    }

    /// The CA of a signer, where it is known.
    pub fn ca_expiry(&self, signer: &SignerName, not_after: SystemTime) {
        let labels = NameLabels {
            signer: signer.to_string(),
        };
        self.ca_expiry.get_or_create(&labels).set(seconds(not_after));
    }

    /// The first root of all signers to expire, and when it is now.
    pub fn first_root_expiry(&self, not_after: SystemTime, now: SystemTime) {
        self.istiod.root_expiry.set(seconds(not_after));
        let left = match not_after.duration_since(now) {
            Ok(left) => left.as_secs_f64(),
            Err(past) => -past.duration().as_secs_f64(),
        };
        self.istiod.root_expiry_seconds.set(left);
    }

    /// A signer is no longer in the policy.
    pub fn forget_signer(&self, signer: &SignerName) {
        let labels = NameLabels {
            signer: signer.to_string(),
        };
        self.root_expiry.remove(&labels);
        self.ca_expiry.remove(&labels);
    }

    /// A request ended before it could be read: it has an outcome, and neither a duration nor a place in flight.
    pub fn refused_unread(&self, refusal: &Refusal) {
        let outcome = OutcomeLabels {
            code: code_name(refusal.code()),
            reason: refusal.reason(),
        };
        self.requests.get_or_create(&outcome).inc();
    }

    /// The serving certificate in effect.
    pub fn serving_expiry(&self, not_after: SystemTime) {
        self.serving_expiry.set(seconds(not_after));
    }

    /// Requests that wait for a place.
    pub fn queued(&self, count: usize) {
        self.queued.set(i64::try_from(count).unwrap_or(i64::MAX));
    }
}

impl Istiod {
    fn register(registry: &mut Registry) -> Self {
        let istiod = Self::default();
        let theirs = registry.sub_registry_with_prefix("citadel_server");
        theirs.register("csr_count", "As in istiod: requests", istiod.csr_count.clone());
        theirs.register(
            "authentication_failure_count",
            "As in istiod: requests without an accepted identity",
            istiod.authentication_failures.clone(),
        );
        theirs.register(
            "csr_parsing_err_count",
            "As in istiod: requests whose CSR was refused",
            istiod.csr_parsing_errors.clone(),
        );
        theirs.register(
            "csr_sign_err_count",
            "As in istiod: requests that failed in or after signing",
            istiod.sign_errors.clone(),
        );
        theirs.register(
            "success_cert_issuance_count",
            "As in istiod: certificates issued",
            istiod.issued.clone(),
        );
        theirs.register(
            "root_cert_expiry_timestamp",
            "As in istiod: when the first root expires (of any signer)",
            istiod.root_expiry.clone(),
        );
        theirs.register(
            "root_cert_expiry_seconds",
            "As in istiod: how long that is from now, below zero once it is past",
            istiod.root_expiry_seconds.clone(),
        );
        istiod
    }

    fn count(&self, refusal: &Refusal) {
        match refusal {
            Refusal::Authn(_) | Refusal::Extras(_) => self.authentication_failures.inc(),
            Refusal::Csr(_) => self.csr_parsing_errors.inc(),
            Refusal::NoSigner(_) | Refusal::Signer(_) | Refusal::SignerDeadline(_) | Refusal::Answer { .. } => self
                .sign_errors
                .get_or_create(&ErrorLabels {
                    error: refusal.reason(),
                })
                .inc(),
            Refusal::Message
            | Refusal::SlowMessage
            | Refusal::Limit(_)
            | Refusal::Authz(_)
            | Refusal::Policy(_)
            | Refusal::ClientDeadline => 0,
        };
    }
}

// === impl InFlight ===

impl InFlight {
    /// It ended with a certificate.
    pub fn issued(mut self) {
        self.metrics.istiod.issued.inc();
        self.outcome = Some(OutcomeLabels {
            code: "ok",
            reason: "issued",
        });
    }

    /// It ended without one.
    pub fn refused(mut self, refusal: &Refusal) {
        self.metrics.istiod.count(refusal);
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
        self.metrics.requests.get_or_create(&outcome).inc();
        self.metrics.duration.observe(self.began.elapsed().as_secs_f64());
        self.metrics.in_flight.dec();
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

fn seconds(time: SystemTime) -> i64 {
    match time.duration_since(UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        Err(_) => 0,
    }
}
