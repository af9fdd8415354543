//! Why a caller is not let in.
//!
//! What the caller is told is a fixed text; this is for our log, and names no part of a token but its `kid`. Two kinds
//! must not be mixed: a credential that is not accepted, and one that nobody can judge now ([`AuthnError::is_passing`]).

use thiserror::Error;

use super::certificate::CertificateError;
use super::claims::ClaimsError;
use super::live::LiveError;
use super::review::ReviewError;
use super::token::TokenError;

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
    /// The API server does not accept the token.
    #[error("the token is refused: {0}")]
    Review(ReviewError),
    /// The token is genuine, and what it is bound to is not there.
    #[error("the token is refused: {0}")]
    Live(LiveError),
    /// The caller says that it belongs to a cluster that we do not know.
    #[error(
        "the caller claims cluster {seen:?}, we know {known:?} only; see --cluster-id, --cluster-aliases and --remote-clusters"
    )]
    Cluster {
        /// What it claims.
        seen: String,
        /// What we know.
        known: Vec<String>,
    },
    /// Two clusters in one call.
    #[error("the call has {0} clusterid values, expected at most one")]
    ManyClusters(usize),
    /// The cluster is known and its remote secret is not accepted.
    #[error("cluster {cluster:?} is refused: {why}")]
    ClusterRefused {
        /// The cluster.
        cluster: String,
        /// What is wrong with its secret.
        why: String,
    },
    /// Nobody can tell now whether the token is good.
    #[error("the token cannot be judged now, cluster {cluster:?}: {why}")]
    Away {
        /// The cluster whose word is missing.
        cluster: String,
        /// What is missing, as a word.
        reason: &'static str,
        /// What is missing, in full.
        why: String,
    },
    /// Too many wait for the word of this cluster already.
    #[error(
        "the token cannot be judged now, the API server of cluster {0:?} does not answer and as many wait for it as may: a quarter of --max-in-flight, half for all such clusters together"
    )]
    Crowded(String),
    /// There is a certificate and no token, or a token that did not do, and the certificate is refused too.
    #[error("{token}; and the client certificate is refused: {certificate}")]
    Certificate {
        /// What is wrong with the token.
        token: Box<AuthnError>,
        /// What is wrong with the certificate.
        certificate: CertificateError,
    },
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
            Self::Review(error) => error.reason(),
            Self::Live(error) => error.reason(),
            Self::Cluster { .. } => "unknown_cluster",
            Self::ManyClusters(_) => "many_clusters",
            Self::ClusterRefused { .. } => "cluster_refused",
            Self::Away { reason, .. } => reason,
            Self::Crowded(_) => "crowded",
            Self::Certificate { token, certificate } => match **token {
                Self::NoToken => certificate.reason(),
                _ if certificate.is_passing() && !token.is_passing() => certificate.reason(),
                _ => token.reason(),
            },
        }
    }

    /// Whether the same call may be let in without anybody changing anything: the server was away, not the token bad.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Away { .. } | Self::Crowded(_) => true,
            Self::Certificate { token, certificate } => token.is_passing() || certificate.is_passing(),
            Self::NoToken
            | Self::ManyTokens(_)
            | Self::NotBearer
            | Self::Token(_)
            | Self::Claims(_)
            | Self::Review(_)
            | Self::Live(_)
            | Self::Cluster { .. }
            | Self::ManyClusters(_)
            | Self::ClusterRefused { .. } => false,
        }
    }

    /// Whether it was told at once because too many wait.
    pub fn is_crowded(&self) -> bool {
        match self {
            Self::Crowded(_) => true,
            Self::Certificate { token, .. } => token.is_crowded(),
            Self::NoToken
            | Self::ManyTokens(_)
            | Self::NotBearer
            | Self::Token(_)
            | Self::Claims(_)
            | Self::Review(_)
            | Self::Live(_)
            | Self::Cluster { .. }
            | Self::ManyClusters(_)
            | Self::ClusterRefused { .. }
            | Self::Away { .. } => false,
        }
    }
}
