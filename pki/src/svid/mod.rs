//! The checks between a reply and an Envoy (invariant I3), and the type that cannot exist without them.
//!
//! [`verify_issued`] is what both sides run: the RA on what a signer returned, the agent on what an RA returned. A
//! certificate passes only if its key is ours, its only name is the id, it is no CA, it has both extended key usages,
//! every certificate of the chain is valid now, and the chain ends in a root of the bundle. Each way to fail has a
//! reason of its own. [`Svid`] joins a private key to a chain that passed; nothing else can be pushed.

mod path;
mod server;

use std::{fmt, sync::Arc, time::SystemTime};

use webpki::KeyUsage;
use zeroize::Zeroizing;

use self::path::{BothUsages, check_path};
pub use self::server::{ServerNames, verify_server};
use crate::{
    bundle::Bundle,
    certificate::Certificate,
    chain::Chain,
    key::PrivateKey,
    san::{self, SanError},
    spiffe_id::SpiffeId,
};

/// Why a chain must not reach an Envoy.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum SvidError {
    /// A CA certificate where a workload's belongs.
    #[error("the leaf is a CA certificate")]
    CaLeaf,
    /// Issued for another key.
    #[error("the leaf holds another public key than the one that was requested")]
    WrongKey,
    /// Issued for another id.
    #[error("the leaf is for {seen}, expected {expected}")]
    WrongId {
        /// The id in the certificate.
        seen: SpiffeId,
        /// The workload's id.
        expected: SpiffeId,
    },
    /// Names other than one SPIFFE id.
    #[error("the leaf does not hold exactly one SPIFFE id: {0}")]
    Names(SanError),
    /// None or several subject alternative name extensions.
    #[error("the leaf has {0} subject alternative name extensions, expected one")]
    SanExtensions(usize),
    /// Server or client authentication is missing.
    #[error("the leaf lacks an extended key usage, expected both serverAuth and clientAuth")]
    MissingEku,
    /// A server's certificate for clients only.
    #[error("the leaf restricts its extended key usage and lacks serverAuth")]
    MissingServerEku,
    /// A server's certificate lacks a name that was asked for.
    #[error("the leaf lacks the name {0}, which was asked for; does the signer allow it?")]
    MissingName(String),
    /// A server's certificate holds an id that nobody asked for.
    #[error("the leaf holds the URI {0:?}, which was not asked for")]
    ForeignName(String),
    /// Envoy refuses to use such a key in TLS.
    #[error("the key usage of the leaf lacks digitalSignature")]
    MissingKeyUsage,
    /// Past its end.
    #[error("certificate {subject:?} (serial {serial}) of the chain has expired")]
    Expired {
        /// Which certificate.
        subject: String,
        /// Which certificate.
        serial: String,
    },
    /// Before its begin: an authority's clock is ahead of ours, or ours is behind.
    #[error(
        "certificate {subject:?} (serial {serial}) of the chain is not valid yet, compare the clocks of this machine and of the signer"
    )]
    NotYetValid {
        /// Which certificate.
        subject: String,
        /// Which certificate.
        serial: String,
    },
    /// The chain ends in a root of the bundle that is expired or not yet valid.
    #[error("the chain ends in root {0:?}, which is in the bundle but not valid now")]
    RootNotValid(String),
    /// The chain ends in a root that is not in the bundle.
    #[error("the chain ends in a root that is not in the bundle of the signer")]
    ForeignRoot,
    /// An issuer is neither in the chain nor among the roots.
    #[error("the chain is incomplete: the issuer of {0:?} is neither in it nor in the bundle of the signer")]
    IncompleteChain(String),
    /// A signature in the chain is wrong.
    #[error("the signature on {0:?} does not fit the key of its issuer in the chain")]
    BadSignature(String),
    /// Path length, name constraints, unknown critical extensions and so on.
    #[error("the chain is not acceptable: {0}")]
    Path(String),
}

impl SvidError {
    /// A fixed word for metrics and log fields.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::CaLeaf => "ca_leaf",
            Self::WrongKey => "wrong_key",
            Self::WrongId { .. } | Self::Names(_) | Self::SanExtensions(_) => "wrong_san",
            Self::MissingEku => "missing_eku",
            Self::MissingServerEku => "missing_server_eku",
            Self::MissingName(_) => "missing_name",
            Self::ForeignName(_) => "foreign_name",
            Self::MissingKeyUsage => "missing_key_usage",
            Self::Expired { .. } => "expired",
            Self::NotYetValid { .. } => "not_yet_valid",
            Self::RootNotValid(_) => "root_not_valid",
            Self::ForeignRoot => "foreign_root",
            Self::IncompleteChain(_) => "incomplete_chain",
            Self::BadSignature(_) => "bad_signature",
            Self::Path(_) => "unacceptable_chain",
        }
    }
}

/// When a verified chain is valid, and its name in logs.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Validity {
    /// Begin of the leaf.
    pub not_before: SystemTime,
    /// The earliest end of the leaf and the intermediates (invariant I10).
    pub not_after: SystemTime,
    /// Serial number of the leaf in lower-case hex.
    pub serial: String,
}

/// Checks that `chain` is a certificate for `id` and for the key `spki_der`, good now, under one of `anchors`.
pub fn verify_issued(
    chain: &Chain,
    anchors: &Bundle,
    id: &SpiffeId,
    spki_der: &[u8],
    now: SystemTime,
) -> Result<Validity, SvidError> {
    let leaf = chain.leaf();
    if leaf.is_ca() {
        return Err(SvidError::CaLeaf);
    }
    if leaf.spki_der() != spki_der {
        return Err(SvidError::WrongKey);
    }
    check_names(leaf, id)?;
    check_usages(leaf)?;
    for certificate in chain.iter() {
        check_times(certificate, now)?;
    }
    check_path(chain, anchors, now, BothUsages)?;
    Ok(validity(chain))
}

fn validity(chain: &Chain) -> Validity {
    let leaf = chain.leaf();
    Validity {
        not_before: leaf.not_before(),
        not_after: chain
            .iter()
            .map(Certificate::not_after)
            .min()
            .unwrap_or(leaf.not_after()),
        serial: leaf.serial().to_owned(),
    }
}

/// Whose certificate a peer presented: the one id of a leaf that may authenticate clients, good now, under one of
/// `anchors`. That the peer has its key is for TLS to prove.
pub fn verify_presented(chain: &Chain, anchors: &Bundle, now: SystemTime) -> Result<SpiffeId, SvidError> {
    let leaf = chain.leaf();
    if leaf.is_ca() {
        return Err(SvidError::CaLeaf);
    }
    let id = single_id(leaf)?;
    if leaf.usages().client_auth != Some(true) {
        return Err(SvidError::MissingEku);
    }
    for certificate in chain.iter() {
        check_times(certificate, now)?;
    }
    check_path(chain, anchors, now, KeyUsage::client_auth())?;
    Ok(id)
}

fn single_id(leaf: &Certificate) -> Result<SpiffeId, SvidError> {
    let [value] = leaf.sans() else {
        return Err(SvidError::SanExtensions(leaf.sans().len()));
    };
    san::single_id(value).map_err(SvidError::Names)
}

fn check_names(leaf: &Certificate, id: &SpiffeId) -> Result<(), SvidError> {
    let seen = single_id(leaf)?;
    if seen == *id {
        Ok(())
    } else {
        Err(SvidError::WrongId {
            seen,
            expected: id.clone(),
        })
    }
}

fn check_usages(leaf: &Certificate) -> Result<(), SvidError> {
    let usages = leaf.usages();
    if usages.server_auth != Some(true) || usages.client_auth != Some(true) {
        return Err(SvidError::MissingEku);
    }
    // No key usage extension means every usage; one without this bit makes BoringSSL fail each handshake.
    if usages.digital_signature == Some(false) {
        return Err(SvidError::MissingKeyUsage);
    }
    Ok(())
}

fn check_times(certificate: &Certificate, now: SystemTime) -> Result<(), SvidError> {
    let (subject, serial) = (certificate.subject().to_owned(), certificate.serial().to_owned());
    if now < certificate.not_before() {
        return Err(SvidError::NotYetValid { subject, serial });
    }
    if now > certificate.not_after() {
        return Err(SvidError::Expired { subject, serial });
    }
    Ok(())
}

/// A private key and a verified chain for it.
pub struct Svid {
    key: Arc<PrivateKey>,
    chain: Chain,
    id: SpiffeId,
    validity: Validity,
}

impl Svid {
    /// Joins a key to a chain that passes [`verify_issued`] for it.
    pub fn assemble(
        key: impl Into<Arc<PrivateKey>>,
        chain: Chain,
        anchors: &Bundle,
        id: &SpiffeId,
        now: SystemTime,
    ) -> Result<Self, SvidError> {
        let key = key.into();
        let validity = verify_issued(&chain, anchors, id, &key.spki_der(), now)?;
        Ok(Self {
            key,
            chain,
            id: id.clone(),
            validity,
        })
    }

    /// Leaf first, then the intermediates, without a root.
    pub fn chain_pem(&self) -> String {
        self.chain.to_pem()
    }

    /// The private key as PKCS#8 version 1.
    pub fn key_pem(&self) -> Zeroizing<String> {
        self.key.to_pkcs8_pem()
    }

    /// When it is valid.
    pub fn validity(&self) -> &Validity {
        &self.validity
    }

    /// Whose it is.
    pub fn spiffe_id(&self) -> &SpiffeId {
        &self.id
    }

    /// The chain that was verified.
    pub fn chain(&self) -> &Chain {
        &self.chain
    }
}

impl fmt::Debug for Svid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Svid")
            .field("id", &self.id)
            .field("serial", &self.validity.serial)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
