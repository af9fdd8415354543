//! One certificate: parsed once, its facts beside its bytes.
//!
//! Says what stands in a certificate, judges nothing. Accepted by both parsers in the tree: `x509-parser` for the
//! facts, `webpki` for what paths are built from, so that a later step cannot meet a certificate that it cannot read.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::{
    crypto::{self, CryptoError},
    der::{self, Reader},
    hex, pem, san,
};

/// A leaf is below 2 kB; one with thousands of bytes of policies is still far below this.
const MAX_DER: usize = 64 * 1024;
/// Of the text of a file or reply that is read at all.
pub(crate) const MAX_TEXT: usize = 4 * 1024 * 1024;

/// Why bytes are not a certificate.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum CertificateError {
    /// Larger than any honest certificate.
    #[error("the certificate has {0} bytes, at most {MAX_DER} are accepted")]
    TooLarge(usize),
    /// Not X.509.
    #[error("the certificate is damaged: {0}")]
    Damaged(String),
    /// The text is too long.
    #[error("the PEM text has {0} bytes, at most {MAX_TEXT} are accepted")]
    TextTooLong(usize),
    /// The armour is damaged.
    #[error("the PEM armour of a certificate is damaged")]
    Armour,
    /// Another number of certificates than expected.
    #[error("the PEM text holds {0} certificates, expected exactly one")]
    NotOne(usize),
}

/// A certificate and its facts.
#[derive(Clone)]
pub struct Certificate {
    der: CertificateDer<'static>,
    subject: Vec<u8>,
    issuer: Vec<u8>,
    subject_text: String,
    spki_der: Vec<u8>,
    serial: String,
    not_before: SystemTime,
    not_after: SystemTime,
    is_ca: bool,
    is_v1: bool,
    usages: Usages,
    sans: Vec<Vec<u8>>,
}

/// What the key may be used for. `None`: the certificate has no such extension.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Usages {
    pub(crate) digital_signature: Option<bool>,
    pub(crate) cert_sign: Option<bool>,
    pub(crate) server_auth: Option<bool>,
    pub(crate) client_auth: Option<bool>,
}

impl Certificate {
    /// Parses one certificate with nothing after it.
    pub fn parse_der(der: &[u8]) -> Result<Self, CertificateError> {
        if der.len() > MAX_DER {
            return Err(CertificateError::TooLarge(der.len()));
        }
        let damaged = |what: &dyn fmt::Display| CertificateError::Damaged(what.to_string());
        let (rest, x509) = X509Certificate::from_der(der).map_err(|e| damaged(&e))?;
        if !rest.is_empty() {
            return Err(damaged(&"bytes follow it"));
        }
        let owned = CertificateDer::from(der.to_vec());
        webpki::anchor_from_trusted_cert(&owned).map_err(|e| damaged(&e))?;
        let basic = x509.basic_constraints().map_err(|e| damaged(&e))?;
        let key_usage = x509.key_usage().map_err(|e| damaged(&e))?.map(|e| e.value);
        let extended = x509.extended_key_usage().map_err(|e| damaged(&e))?.map(|e| e.value);
        Ok(Self {
            subject: x509.subject().as_raw().to_vec(),
            issuer: x509.issuer().as_raw().to_vec(),
            subject_text: x509.subject().to_string(),
            spki_der: x509.public_key().raw.to_vec(),
            serial: serial(x509.raw_serial()),
            not_before: time(x509.validity().not_before.timestamp()),
            not_after: time(x509.validity().not_after.timestamp()),
            is_ca: basic.is_some_and(|b| b.value.ca),
            is_v1: x509.version() == x509_parser::x509::X509Version::V1,
            usages: Usages {
                digital_signature: key_usage.map(x509_parser::extensions::KeyUsage::digital_signature),
                cert_sign: key_usage.map(x509_parser::extensions::KeyUsage::key_cert_sign),
                server_auth: extended.map(|e| e.server_auth),
                client_auth: extended.map(|e| e.client_auth),
            },
            sans: x509
                .iter_extensions()
                .filter(|e| e.oid.as_bytes() == san::OID)
                .map(|e| e.value.to_vec())
                .collect(),
            der: owned,
        })
    }

    /// Parses a text that holds exactly one certificate. Comments and other blocks are skipped.
    pub fn parse_pem(text: &str) -> Result<Self, CertificateError> {
        let mut all = Self::parse_all(text)?;
        match (all.pop(), all.len()) {
            (Some(one), 0) => Ok(one),
            (None, _) => Err(CertificateError::NotOne(0)),
            (Some(_), more) => Err(CertificateError::NotOne(more + 1)),
        }
    }

    /// Parses all certificates of a text, in order. Comments and other blocks are skipped; none at all is no error.
    pub fn parse_all(text: &str) -> Result<Vec<Self>, CertificateError> {
        if text.len() > MAX_TEXT {
            return Err(CertificateError::TextTooLong(text.len()));
        }
        CertificateDer::pem_slice_iter(text.as_bytes())
            .map(|der| Self::parse_der(&der.map_err(|_| CertificateError::Armour)?))
            .collect()
    }

    /// Its bytes.
    pub fn der(&self) -> &CertificateDer<'static> {
        &self.der
    }

    /// Its bytes in fresh armour.
    pub fn to_pem(&self) -> String {
        pem::encode("CERTIFICATE", &self.der).to_string()
    }

    /// The public key as DER `SubjectPublicKeyInfo`.
    pub fn spki_der(&self) -> &[u8] {
        &self.spki_der
    }

    /// The serial number in lower-case hex, two digits per byte, no sign byte: as Envoy's `/certs` shows it.
    pub fn serial(&self) -> &str {
        &self.serial
    }

    /// The subject for people.
    pub fn subject(&self) -> &str {
        &self.subject_text
    }

    /// Begin of validity.
    pub fn not_before(&self) -> SystemTime {
        self.not_before
    }

    /// End of validity.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// Whether it is valid at this time, both ends included.
    pub fn is_valid_at(&self, now: SystemTime) -> bool {
        self.not_before <= now && now <= self.not_after
    }

    /// Whether it may issue: basic constraints say CA, and a key usage, if there is one, includes signing certificates.
    pub fn is_issuer(&self) -> bool {
        self.is_ca && self.usages.cert_sign != Some(false)
    }

    /// Whether basic constraints say CA, or it is of version 1, which cannot say that it is none.
    pub fn is_ca(&self) -> bool {
        self.is_ca || self.is_v1
    }

    /// Whether it is of version 1, which has no basic constraints.
    pub(crate) fn is_v1(&self) -> bool {
        self.is_v1
    }

    /// Whether subject and issuer are one name and its own key made its signature. A signature of an algorithm that
    /// we do not verify (old roots are signed with SHA-1) counts: a root's own signature proves nothing anyway.
    pub fn is_self_signed(&self) -> bool {
        self.subject == self.issuer && matches!(self.check_signature(self), Ok(()) | Err(CryptoError::Algorithm))
    }

    /// Whether the issuer's name is the other's subject.
    pub(crate) fn names_as_issuer(&self, other: &Self) -> bool {
        self.issuer == other.subject
    }

    /// Whether the other's key made its signature.
    pub fn is_signed_by(&self, issuer: &Self) -> bool {
        self.check_signature(issuer).is_ok()
    }

    fn check_signature(&self, issuer: &Self) -> Result<(), CryptoError> {
        let unreadable = |_| CryptoError::Signature;
        let mut fields = Reader::whole(&self.der, der::SEQUENCE).map_err(unreadable)?;
        let content = fields.read(der::SEQUENCE).map_err(unreadable)?.raw;
        let algorithm = fields.read(der::SEQUENCE).map_err(unreadable)?.value;
        let signature = fields.bits().map_err(unreadable)?;
        let mut key = Reader::whole(&issuer.spki_der, der::SEQUENCE).map_err(unreadable)?;
        let key_algorithm = key.read(der::SEQUENCE).map_err(unreadable)?.value;
        let key = key.bits().map_err(unreadable)?;
        crypto::verify_x509(key_algorithm, key, algorithm, content, signature)
    }

    pub(crate) fn usages(&self) -> Usages {
        self.usages
    }

    /// The values of its subject alternative name extensions; an honest certificate has at most one.
    pub(crate) fn sans(&self) -> &[Vec<u8>] {
        &self.sans
    }
}

// The facts follow from the bytes.
impl PartialEq for Certificate {
    fn eq(&self, other: &Self) -> bool {
        self.der == other.der
    }
}

impl Eq for Certificate {}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate")
            .field("serial", &self.serial)
            .field("subject", &self.subject_text)
            .finish_non_exhaustive()
    }
}

fn time(timestamp: i64) -> SystemTime {
    let distance = Duration::from_secs(timestamp.unsigned_abs());
    let time = if timestamp < 0 {
        SystemTime::UNIX_EPOCH.checked_sub(distance)
    } else {
        SystemTime::UNIX_EPOCH.checked_add(distance)
    };
    // X.509 spans the years 0 to 9999, which every supported platform can express.
    time.unwrap_or(SystemTime::UNIX_EPOCH)
}

fn serial(serial: &[u8]) -> String {
    let magnitude = match serial {
        [0, magnitude @ ..] if !magnitude.is_empty() => magnitude,
        whole => whole,
    };
    hex::encode(magnitude)
}
