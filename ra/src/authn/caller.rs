//! Who proved to be who, and by what.
//!
//! A [`Caller`] comes out of authentication only. What it holds beside namespace and account is what the proof says:
//! a client certificate, for instance, names neither a pod nor a cluster, so its caller has none.

use ensign_pki::SignerName;

/// A workload that proved who it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Its namespace.
    pub namespace: String,
    /// Its service account.
    pub service_account: String,
    /// Its pod, if its token is bound to one.
    pub pod: Option<Bound>,
    /// The node that the pod runs on, as far as it is known.
    pub node: Option<NodeRef>,
    /// The cluster that vouches for it; none vouches for a client certificate.
    pub cluster: Option<String>,
    /// The token's own name (`jti`), for an audit; not a secret.
    pub token_id: Option<String>,
    /// How it proved it.
    pub proof: Proof,
}

/// An object by name, and by the uid that tells it from a later namesake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bound {
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
}

/// A node. Older API servers put its name into tokens and not its uid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeRef {
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: Option<String>,
}

/// How a caller proved who it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Proof {
    /// A token, by its signature alone (`--authn=jwks-file`).
    Signature,
    /// A token, by the API server's word.
    TokenReview,
    /// A token, by its signature and the live pod and account.
    Informer,
    /// A certificate of ours.
    Certificate(CertificateProof),
}

/// The certificate by which a caller proved who it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateProof {
    /// The signers in whose roots its chain ends: more than one only where signers share a root. It renews with these.
    pub signers: Vec<SignerName>,
    /// Its serial number.
    pub serial: String,
}

// === impl Proof ===

impl Proof {
    /// The word for logs and metrics.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Signature => "token_signature",
            Self::TokenReview => "token_review",
            Self::Informer => "informer",
            Self::Certificate(_) => "client_certificate",
        }
    }
}
