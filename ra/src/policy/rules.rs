//! Who may use which signer: the operator's rules, first match wins.
//!
//! The first rule whose namespace and service account fit decides alone: if it does not allow the signer that was
//! asked for, no later rule can. No rule means no certificate.

use std::collections::BTreeSet;

use crate::signer::SignerName;

/// One rule of the policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) namespaces: Names,
    pub(super) accounts: Names,
    pub(super) allowed: Vec<SignerName>,
    pub(super) default: Option<SignerName>,
}

/// Exact names, or every name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Names {
    Any,
    Exactly(BTreeSet<String>),
}

// === impl Rule ===

impl Rule {
    pub(super) fn matches(&self, namespace: &str, service_account: &str) -> bool {
        self.namespaces.contains(namespace) && self.accounts.contains(service_account)
    }
}

// === impl Names ===

impl Names {
    fn contains(&self, name: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exactly(names) => names.contains(name),
        }
    }
}
