//! Who is calling: the workload behind a bearer token, or behind a certificate of ours.
//!
//! Promises a [`Caller`] only for a token that the API server of the cluster vouches for now, in one of three ways
//! ([`Mode`]), or for a certificate that one of our signers issued, where the operator allows those. Nothing that the
//! caller sends beside the credential says who it is: `clusterid` only says whose word to ask. A good token wins over a
//! certificate. What the caller is told is a fixed text; the reason is for our log. docs/authentication.md compares the
//! modes.

mod caller;
mod certificate;
mod claims;
mod clusters;
mod credentials;
mod error;
mod informer;
mod jwks;
mod live;
mod metrics;
mod offline;
mod open;
mod review;
mod strict_json;
mod subject;
mod token;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use rustls_pki_types::CertificateDer;
use tokio::time::Instant;
use tonic::metadata::MetadataMap;

pub use caller::{Bound, Caller, CertificateProof, NodeRef, Proof};
pub use certificate::CertificateError;
pub use claims::{ClaimsError, Expectations};
pub use clusters::{Clusters, NoPods};
pub use error::AuthnError;
pub use jwks::{Jwks, JwksError};
pub use live::{Live, LiveError, Pod, Pods};
pub use open::{AuthnHost, OpenError, Opened, open};
pub use review::{CacheConfig, ReviewError};
pub use token::TokenError;

#[cfg(test)]
pub(crate) use live::testing;

pub(crate) use live::Look;

use self::certificate::Certificates;
use self::metrics::AuthnMetrics;
use crate::authz::TrustedAccounts;

/// Who is let in.
#[derive(Debug, Clone)]
pub struct AuthnConfig {
    /// How tokens are judged.
    pub mode: Mode,
    /// What a token must say.
    pub tokens: Expectations,
    /// The name of this cluster.
    pub cluster_id: String,
    /// Other names of clusters, each with the one that it stands for.
    pub cluster_aliases: BTreeMap<String, String>,
    /// What is remembered of reviews.
    pub cache: CacheConfig,
    /// How long the API server may take to judge a token.
    pub patience: Duration,
    /// Whether remote clusters are taken from Istio's remote secrets.
    pub remote_clusters: bool,
    /// Whether certificates of ours are credentials.
    pub client_certificates: bool,
    /// Accounts that may ask for pods on their node.
    pub trusted_node_accounts: TrustedAccounts,
}

/// How tokens are judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    /// By their signature alone, with no API server.
    JwksFile {
        /// The issuer's public keys.
        path: PathBuf,
        /// The exact `iss`.
        issuer: String,
    },
    /// By the API server's TokenReview.
    TokenReview,
    /// By their signature and informers.
    Informer {
        /// The exact `iss`; the API server's own word without it.
        issuer: Option<String>,
    },
}

/// Tells who is calling. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Authenticator {
    clusters: Clusters,
    certificates: Option<Certificates>,
    patience: Duration,
    metrics: AuthnMetrics,
}

// === impl Authenticator ===

impl Authenticator {
    /// Judges the metadata of a call, and the certificates of its connection if there are any, within the client's own
    /// time.
    pub async fn authenticate(
        &self,
        metadata: &MetadataMap,
        presented: Option<&[CertificateDer<'_>]>,
        deadline: Option<Instant>,
    ) -> Result<Caller, AuthnError> {
        let by_token = self.by_token(metadata, deadline).await;
        let outcome =
            match (by_token, &self.certificates, presented) {
                (Err(token), Some(certificates), Some(presented)) => certificates
                    .judge(presented, &self.clusters)
                    .map_err(|certificate| AuthnError::Certificate {
                        token: Box::new(token),
                        certificate,
                    }),
                (by_token, _, _) => by_token,
            };
        if let Ok(caller) = &outcome {
            self.metrics.caller(&caller.proof);
        }
        outcome
    }

    async fn by_token(&self, metadata: &MetadataMap, deadline: Option<Instant>) -> Result<Caller, AuthnError> {
        let claimed = credentials::claimed_cluster(metadata)?;
        let token = credentials::bearer(metadata)?;
        let member = self.clusters.find(claimed.as_deref())?;
        let own = Instant::now() + self.patience;
        // Our answer, with its reason, comes before the client's time is over.
        let until = deadline.map_or(own, |deadline| {
            own.min(deadline.checked_sub(MARGIN).unwrap_or(deadline))
        });
        member.judge(token, until).await
    }
}

const MARGIN: Duration = Duration::from_millis(20);

#[cfg(test)]
mod tests;
