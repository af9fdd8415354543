//! Who is calling: the workload behind a bearer token, judged offline against a JWKS file.
//!
//! Promises a [`Caller`] only for a token that the cluster's issuer signed for us and that is valid now. The JWKS is
//! reloaded live; one request sees one set of keys. Nothing that the caller sends beside the token says who it is:
//! `clusterid` may only agree. What the caller is told is a fixed text; the reason is for our log and names no part of
//! the token but its `kid`.

mod claims;
mod jwks;
mod strict_json;
mod token;

use std::path::PathBuf;
use std::sync::Arc;

use ensign_pki::SharedClock;
use thiserror::Error;
use tokio::sync::watch;
use tonic::metadata::MetadataMap;

pub use claims::{ClaimsError, Expectations};
pub use jwks::{Jwks, JwksError};
pub use token::TokenError;

/// Who is let in.
#[derive(Debug, Clone)]
pub struct AuthnConfig {
    /// The issuer's public keys.
    pub jwks_file: PathBuf,
    /// What a token must say.
    pub tokens: Expectations,
    /// The name of this cluster.
    pub cluster_id: String,
}

/// A workload that proved who it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Its namespace.
    pub namespace: String,
    /// Its service account.
    pub service_account: String,
    /// Its pod, if the token is bound to one.
    pub pod: Option<String>,
    /// The pod's uid.
    pub pod_uid: Option<String>,
    /// The node that the pod runs on.
    pub node: Option<String>,
    /// The cluster that vouches for it.
    pub cluster: String,
    /// The token's own name (`jti`), for an audit; not a secret.
    pub token_id: Option<String>,
}

/// Why a caller is not let in.
#[derive(Debug, Error)]
pub enum AuthnError {
    /// No token.
    #[error("the call has no authorization metadata")]
    NoToken,
    /// More than one: which would count?
    #[error("the call has {0} authorization values, expected one")]
    ManyTokens(usize),
    /// Something else than a bearer token.
    #[error("the authorization metadata is no bearer token")]
    NotBearer,
    /// The token is not to be believed.
    #[error("the token is refused: {0}")]
    Token(TokenError),
    /// The token is genuine and does not let its bearer in.
    #[error("the token is refused: {0}")]
    Claims(ClaimsError),
    /// The caller says that it belongs to a cluster that we do not know.
    #[error("the caller claims cluster {seen:?}, we know {known:?} only")]
    Cluster {
        /// What it claims.
        seen: String,
        /// What we know.
        known: String,
    },
    /// Two clusters in one call.
    #[error("the call has {0} clusterid values, expected at most one")]
    ManyClusters(usize),
}

/// Tells who is calling.
#[derive(Debug, Clone)]
pub struct Authenticator {
    jwks: watch::Receiver<Arc<Jwks>>,
    expectations: Arc<Expectations>,
    cluster_id: Arc<str>,
    clock: SharedClock,
}

// === impl Authenticator ===

impl Authenticator {
    /// With keys that are reloaded behind the receiver.
    pub fn new(config: &AuthnConfig, jwks: watch::Receiver<Arc<Jwks>>, clock: SharedClock) -> Self {
        Self {
            jwks,
            expectations: Arc::new(config.tokens.clone()),
            cluster_id: config.cluster_id.as_str().into(),
            clock,
        }
    }

    /// Judges the metadata of a call.
    pub fn authenticate(&self, metadata: &MetadataMap) -> Result<Caller, AuthnError> {
        let cluster = self.cluster(metadata)?;
        let token = bearer(metadata)?;
        let jwks = Arc::clone(&self.jwks.borrow());
        let payload = token::verify(token, &jwks).map_err(AuthnError::Token)?;
        let subject = claims::check(&payload, &self.expectations, self.clock.now()).map_err(AuthnError::Claims)?;
        let (pod, pod_uid) = subject.pod.map(|pod| (pod.name, pod.uid)).unzip();
        Ok(Caller {
            namespace: subject.namespace,
            service_account: subject.service_account,
            pod,
            pod_uid,
            node: subject.node,
            cluster,
            token_id: subject.token_id,
        })
    }

    fn cluster(&self, metadata: &MetadataMap) -> Result<String, AuthnError> {
        let known = || self.cluster_id.to_string();
        let mut values = metadata.get_all("clusterid").iter();
        let Some(value) = values.next() else { return Ok(known()) };
        let more = values.count();
        if more > 0 {
            return Err(AuthnError::ManyClusters(more + 1));
        }
        match value.to_str() {
            Ok("") => Ok(known()),
            Ok(seen) if *seen == *self.cluster_id => Ok(known()),
            other => Err(AuthnError::Cluster {
                seen: other.unwrap_or("(not ASCII)").chars().take(80).collect(),
                known: known(),
            }),
        }
    }
}

fn bearer(metadata: &MetadataMap) -> Result<&str, AuthnError> {
    let mut values = metadata.get_all("authorization").iter();
    let value = values.next().ok_or(AuthnError::NoToken)?;
    let more = values.count();
    if more > 0 {
        return Err(AuthnError::ManyTokens(more + 1));
    }
    let text = value.to_str().map_err(|_| AuthnError::NotBearer)?;
    let (scheme, token) = text.split_once(' ').ok_or(AuthnError::NotBearer)?;
    let token = token.trim_matches(' ');
    if !scheme.eq_ignore_ascii_case("bearer") || token.is_empty() {
        return Err(AuthnError::NotBearer);
    }
    Ok(token)
}

// === impl AuthnError ===

impl AuthnError {
    /// The word for metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoToken => "no_token",
            Self::ManyTokens(_) => "many_tokens",
            Self::NotBearer => "not_bearer",
            Self::Token(error) => error.reason(),
            Self::Claims(error) => error.reason(),
            Self::Cluster { .. } => "unknown_cluster",
            Self::ManyClusters(_) => "many_clusters",
        }
    }
}

#[cfg(test)]
mod tests;
