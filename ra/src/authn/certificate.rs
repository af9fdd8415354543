//! A certificate of ours as a credential, for workloads that have no token (istio-csr's client certificate
//! authenticator; off by default).
//!
//! The handshake accepts any certificate and proves only that the peer has its key; here it is judged. It must end in
//! the roots of one of our signers, be good for clients and valid now, and hold one id in our trust domain. Which
//! signers those are stays with the caller: it renews with them alone, and only where the policy lets that signer vouch
//! for that identity, so that who holds foo's CA cannot become bar. No certificate names a pod, so none can ask for
//! others.

use std::sync::Arc;

use ensign_pki::{Chain, ChainError, SharedClock, SvidError, verify_presented};
use rustls_pki_types::CertificateDer;
use thiserror::Error;
use tokio::sync::watch;

use super::caller::{Caller, CertificateProof, Proof};
use super::clusters::Clusters;
use crate::desk::{Closed, Desk};

/// Why a client certificate is refused.
#[derive(Debug, Error)]
pub enum CertificateError {
    /// The chain cannot be read.
    #[error("its chain cannot be read: {0}")]
    Chain(#[source] ChainError),
    /// It is no certificate of ours.
    #[error("it does not end in the roots of any signer, or is not good for clients now: {0}")]
    Refused(SvidError),
    /// There is no policy that could say whose it is.
    #[error(transparent)]
    Closed(#[from] Closed),
    /// There is nothing that it could end in.
    #[error("there are no signers")]
    NoSigners,
    /// Somebody else's trust domain.
    #[error("it is for {seen}, our trust domain is {ours}")]
    TrustDomain {
        /// Its id.
        seen: String,
        /// Ours.
        ours: String,
    },
    /// Its account is in none of the clusters.
    #[error("its service account {0:?} is in no cluster that we know")]
    AccountGone(String),
}

/// Judges client certificates.
#[derive(Debug, Clone)]
pub(super) struct Certificates {
    desk: watch::Receiver<Arc<Desk>>,
    clock: SharedClock,
}

// === impl Certificates ===

impl Certificates {
    pub(super) fn new(desk: watch::Receiver<Arc<Desk>>, clock: SharedClock) -> Self {
        Self { desk, clock }
    }

    /// Whom a chain speaks for, whose leaf's key the peer has.
    pub(super) fn judge(
        &self,
        presented: &[CertificateDer<'_>],
        clusters: &Clusters,
    ) -> Result<Caller, CertificateError> {
        let chain = Chain::from_ders(presented).map_err(CertificateError::Chain)?;
        let desk = Arc::clone(&self.desk.borrow());
        let now = self.clock.now();
        let (mut id, mut signers, mut refused) = (None, Vec::new(), None);
        for (name, running) in desk.signers().iter() {
            // A signer whose roots are not known vouches for nobody.
            let Ok(roots) = running.trust().current() else { continue };
            match verify_presented(&chain, roots.bundle(), now) {
                Ok(seen) => {
                    id = Some(seen);
                    signers.push(name.clone());
                }
                Err(error) => refused = refused.or(Some(error)),
            }
        }
        let Some(id) = id else {
            return Err(refused.map_or(CertificateError::NoSigners, CertificateError::Refused));
        };
        let ours = desk.open()?.policy.trust_domain();
        if id.trust_domain() != ours {
            return Err(CertificateError::TrustDomain {
                seen: id.to_string(),
                ours: ours.to_string(),
            });
        }
        if clusters.has_account(id.namespace(), id.service_account()) == Some(false) {
            let account = format!("{}/{}", id.namespace(), id.service_account());
            return Err(CertificateError::AccountGone(account));
        }
        Ok(Caller {
            namespace: id.namespace().to_owned(),
            service_account: id.service_account().to_owned(),
            pod: None,
            node: None,
            cluster: None,
            token_id: None,
            proof: Proof::Certificate(CertificateProof {
                signers,
                serial: chain.leaf().serial().to_owned(),
            }),
        })
    }
}

// === impl CertificateError ===

impl CertificateError {
    /// The word for metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Chain(_) => "certificate_damaged",
            Self::Refused(_) => "certificate_refused",
            Self::Closed(_) => "no_policy",
            Self::NoSigners => "certificate_no_signers",
            Self::TrustDomain { .. } => "certificate_trust_domain",
            Self::AccountGone(_) => "certificate_account_gone",
        }
    }
}
