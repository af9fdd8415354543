//! May this caller have a certificate for this identity? Only for its own.
//!
//! The identity asked for is the one in the CSR. It has to be the caller's namespace and service account in our own
//! trust domain, character by character; neither a subset nor a superset counts, since a CSR names exactly one.
//! Asking for somebody else's (ztunnel's impersonation) is refused before this step, in `request`.

use ensign_pki::{SpiffeId, TrustDomain};
use thiserror::Error;

use crate::authn::Caller;

/// Why a caller may not have the identity.
#[derive(Debug, Error)]
pub enum AuthzError {
    /// The caller's own names make no identity.
    #[error("the caller {namespace}/{service_account} has no identity in trust domain {trust_domain}: {why}")]
    NoIdentity {
        /// Its namespace.
        namespace: String,
        /// Its service account.
        service_account: String,
        /// Ours.
        trust_domain: String,
        /// Why not.
        why: String,
    },
    /// It asked for another.
    #[error("the CSR asks for {asked}, the caller is {own}")]
    NotOwn {
        /// What the CSR holds.
        asked: String,
        /// The caller's.
        own: String,
    },
}

/// The identity to certify: what was asked for, which is the caller's own.
pub fn authorise(trust_domain: &TrustDomain, caller: &Caller, asked: &SpiffeId) -> Result<SpiffeId, AuthzError> {
    let own = SpiffeId::new(trust_domain, &caller.namespace, &caller.service_account).map_err(|error| {
        AuthzError::NoIdentity {
            namespace: caller.namespace.clone(),
            service_account: caller.service_account.clone(),
            trust_domain: trust_domain.to_string(),
            why: error.to_string(),
        }
    })?;
    if *asked == own {
        Ok(own)
    } else {
        Err(AuthzError::NotOwn {
            asked: asked.to_string(),
            own: own.to_string(),
        })
    }
}

// === impl AuthzError ===

impl AuthzError {
    /// The word for metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoIdentity { .. } => "no_identity",
            Self::NotOwn { .. } => "identity_mismatch",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use test_case::test_case;

    #[test_case("spiffe://cluster.local/ns/foo/sa/httpbin", true; "its own")]
    #[test_case("spiffe://cluster.local/ns/foo/sa/sleep", false; "another account")]
    #[test_case("spiffe://cluster.local/ns/bar/sa/httpbin", false; "another namespace")]
    #[test_case("spiffe://other.local/ns/foo/sa/httpbin", false; "another trust domain")]
    fn a_caller_gets_its_own_identity_only(asked: &str, granted: bool) {
        let caller = Caller {
            namespace: "foo".to_owned(),
            service_account: "httpbin".to_owned(),
            pod: None,
            pod_uid: None,
            node: None,
            cluster: "Kubernetes".to_owned(),
            token_id: None,
        };
        let trust_domain = "cluster.local".parse().unwrap();
        let verdict = authorise(&trust_domain, &caller, &asked.parse().unwrap());
        assert_eq!(verdict.map_err(|error| error.reason()).is_ok(), granted);
    }
}
