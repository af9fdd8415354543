//! The accounts that may ask for others: istiod's `CA_TRUSTED_NODE_ACCOUNTS`, a list of `namespace/account`.
//!
//! Blanks around an entry do not count. An entry of another form stops the start: istiod passes over it with a warning,
//! and ztunnel then fails for a reason that nobody sees.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use ensign_pki::dns_name::{is_label, is_subdomain};
use thiserror::Error;

/// Accounts by namespace and name. Cheap to clone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrustedAccounts(Arc<BTreeSet<(String, String)>>);

/// An entry that names no account.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0:?} is no NAMESPACE/SERVICEACCOUNT, such as istio-system/ztunnel")]
pub struct TrustedAccountsError(String);

// === impl TrustedAccounts ===

impl TrustedAccounts {
    /// Whether nobody is trusted.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether this account is.
    pub fn contains(&self, namespace: &str, account: &str) -> bool {
        self.0.contains(&(namespace.to_owned(), account.to_owned()))
    }
}

impl FromStr for TrustedAccounts {
    type Err = TrustedAccountsError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let entries = text.split(',').map(str::trim).filter(|entry| !entry.is_empty());
        let account = |entry: &str| match entry.split_once('/') {
            Some((namespace, account)) if is_label(namespace) && is_subdomain(account) => {
                Ok((namespace.to_owned(), account.to_owned()))
            }
            _ => Err(TrustedAccountsError(entry.chars().take(120).collect())),
        };
        Ok(Self(Arc::new(entries.map(account).collect::<Result<_, _>>()?)))
    }
}

impl fmt::Display for TrustedAccounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, (namespace, account)) in self.0.iter().enumerate() {
            let comma = if number == 0 { "" } else { ", " };
            write!(f, "{comma}{namespace}/{account}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use test_case::test_case;

    use super::*;

    #[test]
    fn entries_are_trimmed() {
        let trusted: TrustedAccounts = " istio-system/ztunnel , foo/a.b,".parse().unwrap();
        assert!(trusted.contains("istio-system", "ztunnel") && trusted.contains("foo", "a.b"));
        assert!(!trusted.contains("istio-system", "istiod") && !trusted.contains("foo", "ztunnel"));
        assert_eq!(trusted.to_string(), "foo/a.b, istio-system/ztunnel");
    }

    #[test_case("" ; "nothing")]
    #[test_case(" , ," ; "blanks")]
    fn an_empty_list_trusts_nobody(text: &str) {
        assert!(text.parse::<TrustedAccounts>().unwrap().is_empty());
    }

    #[test_case("ztunnel" ; "no namespace")]
    #[test_case("istio-system/" ; "no account")]
    #[test_case("/ztunnel" ; "an empty namespace")]
    #[test_case("a/b/c" ; "three parts")]
    #[test_case("a/b c/d" ; "blanks within")]
    #[test_case("istio-system/ztunnel,*/*" ; "a wildcard")]
    #[test_case("system:serviceaccount:a:b" ; "a user name")]
    fn another_form_is_an_error(text: &str) {
        text.parse::<TrustedAccounts>().unwrap_err();
    }
}
