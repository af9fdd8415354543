//! May this caller have a certificate for this identity? For its own, and for those that it may ask for.
//!
//! The identity asked for is the one in the CSR. It has to be the caller's namespace and service account in our own
//! trust domain, character by character; neither a subset nor a superset counts, since a CSR names exactly one. A
//! caller that asks for somebody else (ztunnel's `ImpersonatedIdentity`) gets that identity and not its own, if
//! `impersonation` lets it. Which signer may sign is the policy's business, judged on the identity that is issued; what
//! a caller with a certificate may renew is here (`renewal`).

mod impersonation;
mod renewal;
mod trusted;

use ensign_pki::{SpiffeId, TrustDomain};
use thiserror::Error;

pub use self::impersonation::ImpersonationError;
pub use self::renewal::{GrantError, grant};
pub use self::trusted::{TrustedAccounts, TrustedAccountsError};

use crate::authn::{Caller, Clusters};

/// Decides for whom a caller may ask. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Authorizer {
    trusted: TrustedAccounts,
    clusters: Clusters,
}

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
    #[error("the CSR asks for {asked}, the caller may have {own}")]
    NotOwn {
        /// What the CSR holds.
        asked: String,
        /// The caller's, or the one that it may ask for.
        own: String,
    },
    /// It may not ask for somebody else.
    #[error("impersonation is refused: {0}")]
    Impersonation(#[from] ImpersonationError),
}

// === impl Authorizer ===

impl Authorizer {
    /// Lets `trusted` ask for pods on their node.
    pub fn new(trusted: TrustedAccounts, clusters: Clusters) -> Self {
        Self { trusted, clusters }
    }

    /// The identity to certify: the caller's own, or the one that it impersonates, if that is what the CSR asks for.
    pub async fn authorise(
        &self,
        trust_domain: &TrustDomain,
        caller: &Caller,
        impersonated: Option<&str>,
        asked: &SpiffeId,
    ) -> Result<SpiffeId, AuthzError> {
        let own = match impersonated {
            Some(requested) => {
                impersonation::judge(&self.trusted, &self.clusters, trust_domain, caller, requested).await?
            }
            None => own(trust_domain, caller)?,
        };
        if *asked == own {
            Ok(own)
        } else {
            Err(AuthzError::NotOwn {
                asked: asked.to_string(),
                own: own.to_string(),
            })
        }
    }
}

fn own(trust_domain: &TrustDomain, caller: &Caller) -> Result<SpiffeId, AuthzError> {
    SpiffeId::new(trust_domain, &caller.namespace, &caller.service_account).map_err(|error| AuthzError::NoIdentity {
        namespace: caller.namespace.clone(),
        service_account: caller.service_account.clone(),
        trust_domain: trust_domain.to_string(),
        why: error.to_string(),
    })
}

// === impl AuthzError ===

impl AuthzError {
    /// The word for metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoIdentity { .. } => "no_identity",
            Self::NotOwn { .. } => "identity_mismatch",
            Self::Impersonation(error) => error.reason(),
        }
    }
}

#[cfg(test)]
mod tests;
