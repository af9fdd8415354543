//! Who may use which signer: the operator's rules, first match wins.
//!
//! The first rule whose namespace and service account fit decides alone: if it does not allow the signer that was
//! asked for, no later rule can. No rule means no certificate.

use std::collections::BTreeSet;

use ensign_pki::SignerName;
use ensign_pki::dns_name::{is_label, is_subdomain};
use serde_saphyr::Spanned;

use super::form::RuleForm;
use super::mistakes::Mistakes;

/// One rule of the policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) namespaces: Names,
    pub(super) accounts: Names,
    pub(super) allowed: Vec<SignerName>,
    pub(super) default: Option<SignerName>,
    /// What a workload asks for counts for nothing: it gets the default.
    pub(super) ignores_wish: bool,
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

    /// What the file says; `signers` are the names that a rule may name.
    pub(super) fn read(form: &RuleForm, signers: &BTreeSet<String>, mistakes: &mut Mistakes) -> Option<Self> {
        let namespace = std::slice::from_ref(&form.namespace);
        let namespaces = Names::read(namespace, is_label, "namespace", mistakes);
        let accounts = Names::read(&form.service_accounts, is_subdomain, "serviceAccounts", mistakes);
        if form.signers.is_empty() {
            mistakes.at(&form.namespace, "the rule allows no signer: expected at least one");
        }
        let mut allowed = Vec::new();
        for name in &form.signers {
            if signers.contains(&name.value) {
                allowed.extend(name.value.parse::<SignerName>().ok());
            } else {
                let what = format!("the rule allows signer {:?}, which is not defined", name.value);
                mistakes.at(name, what);
            }
        }
        let mut default = None;
        if let Some(name) = &form.default {
            if form.signers.iter().any(|allowed| allowed.value == name.value) {
                default = name.value.parse().ok();
            } else {
                let what = format!("the rule's default {:?} is not among its signers", name.value);
                mistakes.at(name, what);
            }
        }
        Some(Self {
            namespaces: namespaces?,
            accounts: accounts?,
            allowed,
            default,
            ignores_wish: form.ignore_cert_signer,
        })
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

    fn read(forms: &[Spanned<String>], valid: fn(&str) -> bool, what: &str, mistakes: &mut Mistakes) -> Option<Self> {
        let Some(first) = forms.first() else {
            mistakes.add(format!("{what} of a rule is empty: expected names or \"*\""));
            return None;
        };
        if forms.iter().any(|form| form.value == "*") {
            if forms.len() > 1 {
                let why = format!("{what} has \"*\" beside names: expected one or the other");
                mistakes.at(first, why);
            }
            return Some(Self::Any);
        }
        for form in forms.iter().filter(|form| !valid(&form.value)) {
            let why = format!("{what}: {:?} is neither a Kubernetes name nor \"*\"", form.value);
            mistakes.at(form, why);
        }
        Some(Self::Exactly(forms.iter().map(|form| form.value.clone()).collect()))
    }
}
