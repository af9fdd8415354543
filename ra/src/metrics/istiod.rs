//! istiod's names, for queries and alerts that were written for it.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::authz::AuthzError;
use crate::refusal::Refusal;

/// istiod counts without the suffix `_total`, which OpenMetrics counters must have, so these are gauges that only rise:
/// queries and alerts written for istiod find them under the name they know.
#[derive(Debug, Clone, Default)]
pub(super) struct Istiod {
    csr_count: Rising,
    authentication_failures: Rising,
    csr_parsing_errors: Rising,
    sign_errors: Family<ErrorLabels, Rising>,
    issued: Rising,
    root_expiry: Gauge,
    root_expiry_seconds: Gauge<f64, AtomicU64>,
}

type Rising = Gauge<u64, AtomicU64>;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ErrorLabels {
    error: &'static str,
}

// === impl Istiod ===

impl Istiod {
    /// `registry` has no prefix.
    pub(super) fn register(registry: &mut Registry) -> Self {
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

    pub(super) fn asked(&self) {
        self.csr_count.inc();
    }

    pub(super) fn issued(&self) {
        self.issued.inc();
    }

    pub(super) fn first_root_expiry(&self, timestamp: i64, seconds_left: f64) {
        self.root_expiry.set(timestamp);
        self.root_expiry_seconds.set(seconds_left);
    }

    pub(super) fn refused(&self, refusal: &Refusal) {
        match refusal {
            Refusal::Authn(_) | Refusal::Extras(_) | Refusal::Authz(AuthzError::Impersonation(_)) => {
                self.authentication_failures.inc()
            }
            Refusal::Csr(_) => self.csr_parsing_errors.inc(),
            Refusal::NoSigner(_)
            | Refusal::NoRoots { .. }
            | Refusal::Gate { .. }
            | Refusal::Signer(_)
            | Refusal::SignerDeadline(_)
            | Refusal::Answer { .. } => self
                .sign_errors
                .get_or_create(&ErrorLabels {
                    error: refusal.reason(),
                })
                .inc(),
            Refusal::Message
            | Refusal::SlowMessage
            | Refusal::Limit(_)
            | Refusal::Closed(_)
            | Refusal::Authz(_)
            | Refusal::OtherSigner(_)
            | Refusal::Policy(_)
            | Refusal::ClientDeadline => 0,
        };
    }
}
