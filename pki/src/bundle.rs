//! Trust anchors: the roots that a signer's certificates must end in.
//!
//! A [`Bundle`] is a set. It has one order and one text whatever the order, the duplicates and the comments of the
//! file that it came from, so equal bundles have equal digests and are pushed once. An expired root stays in it (an
//! operator who looks for it must find it) but anchors nothing. Several roots may share one name or one key.

use std::{sync::Arc, time::SystemTime};

use rustls_pki_types::TrustAnchor;

use crate::{
    certificate::{Certificate, CertificateError},
    crypto,
};

/// A mesh of many clusters has tens of roots. Each is copied into every Envoy of the node.
const MAX_ROOTS: usize = 256;

/// Why a text or a list of certificates is no bundle.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum BundleError {
    /// No certificate at all: nothing could be trusted, and an Envoy would refuse it.
    #[error("the bundle holds no certificate, expected at least one root in PEM")]
    Empty,
    /// More than a mesh could use.
    #[error("the bundle holds {0} certificates, at most {MAX_ROOTS} are accepted")]
    TooMany(usize),
    /// A certificate in it is damaged.
    #[error("a certificate of the bundle cannot be read")]
    Certificate(#[from] CertificateError),
    /// A certificate in it cannot issue.
    #[error("certificate {subject:?} (serial {serial}) of the bundle is no CA certificate, expected roots only")]
    NotCa {
        /// Its subject.
        subject: String,
        /// Its serial number.
        serial: String,
    },
}

/// A set of at least one trust anchor. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Bundle {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    roots: Vec<Root>,
    digest: [u8; 32],
}

#[derive(Debug)]
struct Root {
    certificate: Certificate,
    anchor: TrustAnchor<'static>,
}

impl Bundle {
    /// All certificates of a text. Comments and other blocks are skipped.
    pub fn parse_pem(text: &str) -> Result<Self, BundleError> {
        Self::from_certificates(Certificate::parse_all(text)?)
    }

    /// From certificates in any order, duplicates allowed.
    pub fn from_certificates(mut certificates: Vec<Certificate>) -> Result<Self, BundleError> {
        certificates.sort_by(|a, b| a.der().as_ref().cmp(b.der().as_ref()));
        certificates.dedup();
        match certificates.len() {
            0 => return Err(BundleError::Empty),
            many if many > MAX_ROOTS => return Err(BundleError::TooMany(many)),
            _ => {}
        }
        // A length before each certificate, so that no two bundles have one digest.
        let mut digested = Vec::new();
        for certificate in &certificates {
            digested.extend_from_slice(&certificate.der().len().to_be_bytes());
            digested.extend_from_slice(certificate.der());
        }
        let roots = certificates.into_iter().map(Root::new).collect::<Result<_, _>>()?;
        Ok(Self {
            inner: Arc::new(Inner {
                roots,
                digest: crypto::sha256(&digested),
            }),
        })
    }

    /// All roots in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Certificate> {
        self.inner.roots.iter().map(|root| &root.certificate)
    }

    /// How many there are: one or more.
    #[expect(clippy::len_without_is_empty, reason = "a bundle is never empty")]
    pub fn len(&self) -> usize {
        self.inner.roots.len()
    }

    /// All roots in order, in fresh armour. Two equal bundles have the same text.
    pub fn to_pem(&self) -> String {
        self.iter().map(Certificate::to_pem).collect()
    }

    /// SHA-256 over the roots in order.
    pub fn digest(&self) -> [u8; 32] {
        self.inner.digest
    }

    /// Whether this very certificate is in it.
    pub fn contains(&self, certificate: &Certificate) -> bool {
        self.iter().any(|root| root == certificate)
    }

    /// Whether each root of the other is in it.
    pub fn contains_all(&self, other: &Self) -> bool {
        other.iter().all(|root| self.contains(root))
    }

    /// The roots of both.
    pub fn union(&self, other: &Self) -> Result<Self, BundleError> {
        Self::from_certificates(self.iter().chain(other.iter()).cloned().collect())
    }

    /// When the first of its roots ends.
    pub fn earliest_not_after(&self) -> SystemTime {
        self.iter()
            .map(Certificate::not_after)
            .min()
            .unwrap_or(SystemTime::UNIX_EPOCH)
    }

    /// What paths may end in at this time: all roots but the expired and the not yet valid.
    pub(crate) fn anchors_at(&self, now: SystemTime) -> Vec<TrustAnchor<'_>> {
        self.inner
            .roots
            .iter()
            .filter(|root| root.certificate.is_valid_at(now))
            .map(Root::anchor)
            .collect()
    }
}

impl Root {
    fn new(certificate: Certificate) -> Result<Self, BundleError> {
        // A root of version 1 has no basic constraints to say that it is a CA; that it signed itself says so.
        let may_anchor = certificate.is_issuer() || (certificate.is_v1() && certificate.is_self_signed());
        if !may_anchor {
            return Err(BundleError::NotCa {
                subject: certificate.subject().to_owned(),
                serial: certificate.serial().to_owned(),
            });
        }
        let anchor = webpki::anchor_from_trusted_cert(certificate.der())
            .map_err(|error| CertificateError::Damaged(error.to_string()))?
            .to_owned();
        Ok(Self { certificate, anchor })
    }

    /// The anchor, borrowed: a copy per check would cost more than the rest of the check's set-up.
    fn anchor(&self) -> TrustAnchor<'_> {
        TrustAnchor {
            subject: self.anchor.subject.as_ref().into(),
            subject_public_key_info: self.anchor.subject_public_key_info.as_ref().into(),
            name_constraints: self.anchor.name_constraints.as_ref().map(|c| c.as_ref().into()),
        }
    }
}

// The digest covers all there is.
impl PartialEq for Bundle {
    fn eq(&self, other: &Self) -> bool {
        self.digest() == other.digest()
    }
}

impl Eq for Bundle {}
