//! Why the policy refuses a wish: a sentence for the log and a word for metrics, never for the caller.

use ensign_pki::{KeyType, SignerName};
use thiserror::Error;

/// Why the policy refuses a wish.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Denial {
    /// No rule fits the identity.
    #[error("no rule of the policy fits {namespace}/{service_account}; add one that names it")]
    NoRule {
        /// Namespace of the identity.
        namespace: String,
        /// Service account of the identity.
        service_account: String,
    },
    /// The signer asked for is not allowed.
    #[error("signer {signer} is not allowed to {namespace}/{service_account}; allowed: {allowed}")]
    SignerNotAllowed {
        /// The signer asked for.
        signer: SignerName,
        /// Namespace of the identity.
        namespace: String,
        /// Service account of the identity.
        service_account: String,
        /// The signers that are.
        allowed: String,
    },
    /// No signer was asked for, and nobody says which it is then.
    #[error("{namespace}/{service_account} asked for no signer and there is no default for it: {why}")]
    NoDefault {
        /// Namespace of the identity.
        namespace: String,
        /// Service account of the identity.
        service_account: String,
        /// Where a default could have come from.
        why: String,
    },
    /// No signer was asked for, and the default of Istio's configuration is not among those that the rule allows.
    #[error(
        "{namespace}/{service_account} asked for no signer; its default {signer:?} (from {place}) is not allowed to it; allowed: {allowed}"
    )]
    DefaultNotAllowed {
        /// The default.
        signer: String,
        /// Who says so.
        place: String,
        /// Namespace of the identity.
        namespace: String,
        /// Service account of the identity.
        service_account: String,
        /// The signers that are allowed.
        allowed: String,
    },
    /// The default of Istio's configuration is no signer.
    #[error(
        "the default signer {signer:?} of namespace {namespace} (from {place}) is not defined; name it with its domain in certSigners of the mesh configuration's caCertificates, or define it in the policy file"
    )]
    UnknownDefault {
        /// The default.
        signer: String,
        /// Who says so.
        place: String,
        /// Namespace of the identity.
        namespace: String,
    },
    /// The signer has no roots to check its answers with.
    #[error("signer {signer} is refused to everybody: {why}")]
    NoRoots {
        /// The signer.
        signer: SignerName,
        /// Where its roots should come from.
        why: String,
    },
    /// Keys of this type are not allowed.
    #[error("keys of type {0} are not allowed by keyTypes of the policy")]
    KeyType(KeyType),
}

// === impl Denial ===

impl Denial {
    /// The word for metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoRule { .. } => "no_rule",
            Self::SignerNotAllowed { .. } => "signer_not_allowed",
            Self::NoDefault { .. } => "no_default_signer",
            Self::DefaultNotAllowed { .. } => "default_signer_not_allowed",
            Self::UnknownDefault { .. } => "default_signer_unknown",
            Self::NoRoots { .. } => "signer_without_roots",
            Self::KeyType(_) => "key_type_not_allowed",
        }
    }
}
