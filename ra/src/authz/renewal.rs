//! Which signer a request may use, where its caller's certificate already says something about that.
//!
//! A caller with a token gets what the policy says. One with a certificate proves no more than that a signer vouched
//! for it, so only that signer may do it again, and only if the policy lets it vouch for that identity: otherwise who
//! holds foo's CA could name bar in a certificate and have bar's signer sign it.

use ensign_pki::SignerName;
use thiserror::Error;

use crate::authn::{Caller, CertificateProof, Proof};
use crate::policy::{Denial, Grant, Policy, Wish};

/// Why a wish is not granted.
#[derive(Debug, Error)]
pub enum GrantError {
    /// A certificate renews with its own signer only.
    #[error("the caller's certificate is of signer {own}, the request is for {asked}")]
    OtherSigner {
        /// Whom it asked for, or who would sign.
        asked: String,
        /// Whose its certificate is.
        own: String,
    },
    /// Not within the policy.
    #[error(transparent)]
    Policy(#[from] Denial),
}

/// What the policy grants of a wish, within what the caller's proof allows.
pub fn grant(policy: &Policy, caller: &Caller, wish: Wish<'_>) -> Result<Grant, GrantError> {
    match &caller.proof {
        Proof::Certificate(certificate) => renewal(policy, certificate, wish),
        Proof::Signature | Proof::TokenReview | Proof::Informer => Ok(policy.grant(wish)?),
    }
}

fn renewal(policy: &Policy, certificate: &CertificateProof, wish: Wish<'_>) -> Result<Grant, GrantError> {
    let other = |asked: &str| {
        let own: Vec<&str> = certificate.signers.iter().map(SignerName::as_str).collect();
        GrantError::OtherSigner {
            asked: asked.to_owned(),
            own: own.join(" or "),
        }
    };
    // A rule may ignore a wish (`ignoreCertSigner`), so what counts is always who would sign.
    let with_own = |grant: Grant| {
        if certificate.signers.contains(&grant.signer) {
            Ok(grant)
        } else {
            Err(other(grant.signer.as_str()))
        }
    };
    if let Some(asked) = wish.signer {
        if certificate.signers.contains(asked) {
            return with_own(policy.grant(wish)?);
        }
        return Err(other(asked.as_str()));
    }
    // Without a wish: the default, if that is whose certificate it is.
    if let Ok(grant) = policy.grant(wish)
        && certificate.signers.contains(&grant.signer)
    {
        return Ok(grant);
    }
    // Else whose it is, where the policy allows that.
    let mut refused = other("none");
    for signer in &certificate.signers {
        let wish = Wish {
            signer: Some(signer),
            ..wish
        };
        match policy.grant(wish).map_err(GrantError::from).and_then(with_own) {
            Ok(grant) => return Ok(grant),
            Err(error) => refused = error,
        }
    }
    Err(refused)
}

// === impl GrantError ===

impl GrantError {
    /// The word for metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::OtherSigner { .. } => "certificate_of_other_signer",
            Self::Policy(denial) => denial.reason(),
        }
    }
}
