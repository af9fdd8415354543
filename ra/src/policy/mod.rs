//! Which signer a workload may use, for how long and with which keys (I7): the operator's word, from a file.
//!
//! A [`Policy`] is immutable and complete: a request is judged by one of them from beginning to end, whatever is
//! reloaded meanwhile. The signer that a workload asks for is a wish within the policy, never more.
//! Left to others: building signers (`signer`), reading and watching the file (`desk`).

mod file;
mod rules;
mod spec;
mod ttl;

use ensign_pki::{KeyType, TrustDomain};
use thiserror::Error;

pub use file::{API_VERSION, PolicyError};
pub use spec::{Backend, CertManagerSpec, IssuerRef, KubernetesCsrSpec, LocalSpec, RequestSpec, RootsSpec, SignerSpec};
pub(crate) use spec::{is_dns_label, is_dns_subdomain};
pub use ttl::{TtlBounds, TtlChange};

use crate::signer::SignerName;
use rules::Rule;

/// A policy file that was read, valid in itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    trust_domain: TrustDomain,
    key_types: Vec<KeyType>,
    signers: Vec<SignerPolicy>,
    rules: Vec<Rule>,
}

/// What a request wants, by a caller who is known.
#[derive(Debug, Clone, Copy)]
pub struct Wish<'a> {
    /// Namespace of the identity.
    pub namespace: &'a str,
    /// Service account of the identity.
    pub service_account: &'a str,
    /// The signer asked for, if any.
    pub signer: Option<&'a SignerName>,
    /// The type of the key to be certified.
    pub key_type: KeyType,
    /// The lifetime asked for, in seconds; anything below 1 means none was.
    pub ttl_seconds: i64,
}

/// What the policy makes of a wish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// The signer to use.
    pub signer: SignerName,
    /// The lifetime to ask of it.
    pub ttl: std::time::Duration,
    /// How that lifetime differs from the one asked for.
    pub ttl_change: TtlChange,
}

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
    /// The rule that fits does not allow the signer.
    #[error("signer {signer} is not allowed to {namespace}/{service_account}; its rule allows {allowed}")]
    SignerNotAllowed {
        /// The signer asked for.
        signer: SignerName,
        /// Namespace of the identity.
        namespace: String,
        /// Service account of the identity.
        service_account: String,
        /// The signers of the rule.
        allowed: String,
    },
    /// No signer was asked for, and the rule that fits has no default.
    #[error("{namespace}/{service_account} asked for no signer and its rule has no default; expected one of {allowed}")]
    NoDefault {
        /// Namespace of the identity.
        namespace: String,
        /// Service account of the identity.
        service_account: String,
        /// The signers of the rule.
        allowed: String,
    },
    /// Keys of this type are not allowed.
    #[error("keys of type {0} are not allowed by keyTypes of the policy")]
    KeyType(KeyType),
}

/// A signer with the lifetimes that it may be asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
struct SignerPolicy {
    spec: SignerSpec,
    ttl: TtlBounds,
}

// === impl Policy ===

impl Policy {
    /// Reads a policy file's text.
    pub fn parse(text: &str) -> Result<Self, PolicyError> {
        file::parse(text)
    }

    fn new(trust_domain: TrustDomain, key_types: Vec<KeyType>, signers: Vec<SignerPolicy>, rules: Vec<Rule>) -> Self {
        Self {
            trust_domain,
            key_types,
            signers,
            rules,
        }
    }

    /// The trust domain of every identity that this authority certifies.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The signers to build.
    pub fn signers(&self) -> impl Iterator<Item = &SignerSpec> {
        self.signers.iter().map(|signer| &signer.spec)
    }

    /// Judges a wish.
    pub fn grant(&self, wish: Wish<'_>) -> Result<Grant, Denial> {
        if !self.key_types.contains(&wish.key_type) {
            return Err(Denial::KeyType(wish.key_type));
        }
        let (namespace, service_account) = (wish.namespace, wish.service_account);
        let rule = self
            .rules
            .iter()
            .find(|rule| rule.matches(namespace, service_account))
            .ok_or_else(|| Denial::NoRule {
                namespace: namespace.to_owned(),
                service_account: service_account.to_owned(),
            })?;
        let signer = match (wish.signer, &rule.default) {
            (Some(signer), _) if rule.allowed.contains(signer) => signer,
            (Some(signer), _) => {
                return Err(Denial::SignerNotAllowed {
                    signer: signer.clone(),
                    namespace: namespace.to_owned(),
                    service_account: service_account.to_owned(),
                    allowed: list(&rule.allowed),
                });
            }
            (None, Some(default)) => default,
            (None, None) => {
                return Err(Denial::NoDefault {
                    namespace: namespace.to_owned(),
                    service_account: service_account.to_owned(),
                    allowed: list(&rule.allowed),
                });
            }
        };
        let (ttl, ttl_change) = self.ttl(signer).grant(wish.ttl_seconds);
        Ok(Grant {
            signer: signer.clone(),
            ttl,
            ttl_change,
        })
    }

    /// A rule only names signers that the file defines, so the shortest bounds of all are never needed; they are the
    /// safe answer should that ever change.
    fn ttl(&self, name: &SignerName) -> TtlBounds {
        self.signers
            .iter()
            .find(|signer| signer.spec.name == *name)
            .or_else(|| self.signers.iter().min_by_key(|signer| signer.ttl.max()))
            .map_or(TtlBounds::SHORTEST, |signer| signer.ttl)
    }
}

// === impl Denial ===

impl Denial {
    /// The word for metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoRule { .. } => "no_rule",
            Self::SignerNotAllowed { .. } => "signer_not_allowed",
            Self::NoDefault { .. } => "no_default_signer",
            Self::KeyType(_) => "key_type_not_allowed",
        }
    }
}

fn list(signers: &[SignerName]) -> String {
    signers.iter().map(SignerName::as_str).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;
