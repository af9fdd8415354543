//! A certificate for a server of the control plane, asked for, judged and taken.
//!
//! What [`crate::service`] does for a workload: nothing is asked that could not be judged, the chain is checked against the
//! signer's roots, and the signer's object goes once the answer is judged. Dropped on the way, it leaves the object to a
//! retry with the same key.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ensign_daemon::logging;
use ensign_pki::{Certificate, Chain, SharedClock, SignerName, SvidError, Validity, verify_server};
use thiserror::Error;

use super::{IssuedChain, Running, ServerCsr, ServerIdentity, ServerIssuance, SignerError};
use crate::reply::{self, AnswerError};
use crate::trust::{Discovery, NoRoots, Roots};

/// Finds the signer of a server in the policy of the moment, or says why there is none.
pub type Pick = Arc<dyn Fn() -> Result<Arc<Running>, String> + Send + Sync>;

/// What is wanted of a signer.
#[derive(Clone, Debug)]
pub struct Errand<'a> {
    /// The names.
    pub identity: &'a ServerIdentity,
    /// What it is for, on the record.
    pub record: &'a str,
    /// How long it should live.
    pub ttl: Duration,
    /// Tells the time.
    pub clock: &'a SharedClock,
    /// Who is told what the issuer says its CA is, for a signer whose roots are discovered.
    pub discovery: Option<&'a Discovery>,
}

/// A certificate that holds.
#[derive(Debug)]
pub struct Obtained {
    /// Leaf, intermediates.
    pub chain: Chain,
    /// The roots that it was judged by.
    pub roots: Arc<Roots>,
    /// From when to when.
    pub validity: Validity,
}

/// Why there is none.
#[derive(Debug, Error)]
pub enum ObtainError {
    /// The signer said no.
    #[error(transparent)]
    Signer(#[from] SignerError),
    /// Its answer is no chain.
    #[error("the answer of signer {signer} is refused: {source}")]
    Chain {
        /// The signer.
        signer: SignerName,
        /// What is wrong.
        source: AnswerError,
    },
    /// Its answer does not hold.
    #[error("the answer of signer {signer} is refused")]
    Answer {
        /// The signer.
        signer: SignerName,
        /// What is wrong.
        #[source]
        source: SvidError,
    },
    /// There is nothing to judge it by.
    #[error("signer {signer} has no roots: {source}")]
    NoRoots {
        /// The signer.
        signer: SignerName,
        /// Why.
        source: NoRoots,
    },
}

// === impl ObtainError ===

impl ObtainError {
    /// The word for logs and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Signer(error) => error.reason(),
            Self::Chain { source, .. } => source.reason,
            Self::Answer { source, .. } => source.reason(),
            Self::NoRoots { source, .. } => source.reason(),
        }
    }

    /// Whether the same request, asked again, may still be answered: its object may be there.
    pub fn is_resumable(&self) -> bool {
        match self {
            Self::Signer(
                SignerError::NotApproved { .. }
                | SignerError::NotIssued { .. }
                | SignerError::NotReady { .. }
                | SignerError::TimedOut { .. }
                | SignerError::Unavailable { .. },
            ) => true,
            Self::Signer(_) | Self::Chain { .. } | Self::Answer { .. } | Self::NoRoots { .. } => false,
        }
    }
}

/// Asks `running` for a certificate for the key behind `csr`.
pub async fn obtain(running: &Running, csr: &ServerCsr, errand: Errand<'_>) -> Result<Obtained, ObtainError> {
    let signer = running.spec().name.clone();
    let no_roots = |source| ObtainError::NoRoots {
        signer: signer.clone(),
        source,
    };
    let discovers = running.discovers();
    if !discovers {
        running.trust().current().map_err(no_roots)?;
    }
    let patience = running
        .spec()
        .backend
        .request()
        .map_or(PATIENCE, |request| request.deadline);
    let issuance = ServerIssuance::new(csr.clone(), &signer, errand.record, errand.ttl, patience);
    let issued = running.signer().sign_server(issuance).await?;
    let now = || errand.clock.now();
    if let Some(discovery) = errand.discovery.filter(|_| discovers) {
        discover(discovery, issued.ca.as_deref(), &issued.chain, now());
    }
    let outcome = async {
        let chain = reply::read(&issued.chain).map_err(|source| ObtainError::Chain {
            signer: signer.clone(),
            source,
        })?;
        if let Some(ahead) = reply::begins_in(&chain, now()) {
            tokio::time::sleep(ahead).await;
        }
        let roots = running.trust().current().map_err(no_roots)?;
        let names = errand.identity.names();
        let verified = verify_server(&chain, roots.bundle(), names, &csr.spki_der, now());
        let validity = verified.map_err(|source| ObtainError::Answer {
            signer: signer.clone(),
            source,
        })?;
        Ok(Obtained { chain, roots, validity })
    };
    let outcome = outcome.await;
    issued.receipt.settle();
    outcome
}

/// Believes the issuer: what it calls its CA, or else a root that it put into the chain.
fn discover(discovery: &Discovery, ca: Option<&[u8]>, chain: &IssuedChain, now: SystemTime) {
    let named = ca
        .and_then(|pem| std::str::from_utf8(pem).ok())
        .map(Certificate::parse_all);
    let named = match named {
        Some(Ok(named)) if !named.is_empty() => named,
        Some(Ok(_) | Err(_)) | None => {
            let all = chain.iter().filter_map(|der| Certificate::parse_der(der).ok());
            all.filter(|one| one.is_ca() && one.is_self_signed()).collect()
        }
    };
    if named.is_empty() {
        tracing::warn!(
            "the issuer does not say what its CA is (status.ca), so no roots can be discovered from it; name them with --root-ca-file"
        );
    } else if let Err(error) = discovery.found(&named, now) {
        let error = logging::chain(&error);
        tracing::warn!(error, "what the issuer says its CA is cannot be a root");
    }
}

/// For a signer that names no deadline.
const PATIENCE: Duration = Duration::from_mins(1);

#[cfg(test)]
mod tests {
    use test_case::test_case;

    use super::*;

    #[test_case(|signer, detail| SignerError::NotApproved { signer, detail }, true; "somebody may still approve it")]
    #[test_case(|signer, detail| SignerError::NotIssued { signer, detail }, true; "the signer may still issue it")]
    #[test_case(|signer, detail| SignerError::TimedOut { signer, detail }, true; "the answer may be there")]
    #[test_case(|signer, detail| SignerError::NotReady { signer, detail }, true; "nothing was asked yet")]
    #[test_case(|signer, detail| SignerError::Unavailable { signer, detail }, true; "it may have been taken")]
    #[test_case(|signer, detail| SignerError::NamesTaken { signer, detail }, false; "another key has other names")]
    #[test_case(|signer, detail| SignerError::Denied { signer, detail }, false; "it was denied")]
    #[test_case(|signer, detail| SignerError::ApprovalDenied { signer, detail }, false; "its approval was denied")]
    #[test_case(|signer, detail| SignerError::Failed { signer, detail }, false; "it failed")]
    fn what_may_still_be_answered_is_asked_again(error: fn(SignerName, String) -> SignerError, resumable: bool) {
        let error = ObtainError::Signer(error("foo".parse().unwrap(), "x".to_owned()));
        assert_eq!(error.is_resumable(), resumable);
    }
}
