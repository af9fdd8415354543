//! What Istio's configuration says that does not count here, told once in the log and shown as a metric.
//!
//! A notice never keeps the rest of the configuration from taking effect. What does is an error.

use std::fmt;

/// One thing that is passed over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// What sort of thing.
    pub kind: NoticeKind,
    /// What exactly, where, and what to do: one sentence.
    pub text: String,
}

/// Sorts of things that are passed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NoticeKind {
    /// An entry of `caCertificates` whose certificates cannot be read.
    BadCertificates,
    /// A name in `certSigners` that no signer can have.
    BadSignerName,
    /// `spiffeBundleUrl`, which is not supported.
    SpiffeBundleUrl,
    /// An entry for trust domains that are not ours.
    OtherTrustDomain,
    /// A ProxyConfig beside an older one in its namespace, which alone counts.
    SecondProxyConfig,
    /// A ProxyConfig for single workloads, which no token can be held against.
    WorkloadProxyConfig,
}

// === impl NoticeKind ===

impl NoticeKind {
    /// All of them, for metrics that show zero.
    pub const ALL: [Self; 6] = [
        Self::BadCertificates,
        Self::BadSignerName,
        Self::SpiffeBundleUrl,
        Self::OtherTrustDomain,
        Self::SecondProxyConfig,
        Self::WorkloadProxyConfig,
    ];

    /// The word for metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BadCertificates => "bad_certificates",
            Self::BadSignerName => "bad_signer_name",
            Self::SpiffeBundleUrl => "spiffe_bundle_url",
            Self::OtherTrustDomain => "other_trust_domain",
            Self::SecondProxyConfig => "second_proxy_config",
            Self::WorkloadProxyConfig => "workload_proxy_config",
        }
    }

    /// Whether a person should act; the others are as the operator may well want them.
    pub fn is_mistake(self) -> bool {
        match self {
            Self::BadCertificates | Self::BadSignerName | Self::SpiffeBundleUrl | Self::SecondProxyConfig => true,
            Self::OtherTrustDomain | Self::WorkloadProxyConfig => false,
        }
    }
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
