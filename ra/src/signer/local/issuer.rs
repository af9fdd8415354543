//! One issuing CA, read once, and the leaves that it signs.
//!
//! Owns the profile of a leaf. Everything that is the same for each leaf of a CA is encoded when the CA is loaded, so
//! that one issue is some copying and one signature. Promises: a leaf lives inside the life of every certificate of
//! its chain, carries nothing of a request but the public key and the names given, and is never a CA.
//!
//! Profile: empty subject, critical SAN, critical key usage and basic constraints, both extended key usages (a serving
//! certificate: serverAuth alone), SKI, AKI, a random positive serial of 128 bits. Key usage is digitalSignature, and
//! keyEncipherment with RSA keys only: RFC 8813 (3) forbids it for EC keys, and nothing in TLS 1.2+ uses it with them.

use std::{
    fmt,
    net::IpAddr,
    time::{Duration, SystemTime},
};

use ensign_pki::{CryptoError, KeyType, PrivateKey, crypto};
use rcgen::SigningKey as _;
use rustls_pki_types::CertificateDer;
use thiserror::Error;
use x509_parser::prelude::{FromDer, ParsedExtension, X509Certificate};

use super::der::{self, tag};
use crate::trust::path::Path;

/// A CA certificate, its key and its way to a root.
pub(crate) struct Issuer {
    key: PrivateKey,
    /// AlgorithmIdentifier of the signatures of `key`, DER.
    algorithm: &'static [u8],
    /// Subject of the CA certificate, byte for byte.
    name: Vec<u8>,
    /// The whole AuthorityKeyIdentifier extension of each leaf.
    authority: Vec<u8>,
    path: Path,
}

/// What a leaf is asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Leaf<'a> {
    /// SubjectPublicKeyInfo of the subject, DER.
    pub(crate) spki_der: &'a [u8],
    /// Whether that key is RSA.
    pub(crate) rsa: bool,
    /// The subject alternative names.
    pub(crate) names: &'a [Name<'a>],
    /// What the key is for.
    pub(crate) purpose: Purpose,
    /// How long it lives from now on, unless the chain ends earlier.
    pub(crate) ttl: Duration,
    /// How far back NotBefore lies, unless the chain begins later.
    pub(crate) backdate: Duration,
}

/// One subject alternative name.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Name<'a> {
    /// A URI, such as a SPIFFE id.
    Uri(&'a str),
    /// A DNS name.
    Dns(&'a str),
    /// An address.
    Ip(IpAddr),
}

/// What the leaf's key is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// A mesh workload: TLS server and client.
    Workload,
    /// A TLS server only.
    Server,
}

/// A CA certificate and a key that make no issuer.
#[derive(Debug, Error)]
pub(crate) enum IssuerError {
    /// The certificate does not parse.
    #[error("the CA certificate is no X.509 certificate: {0}")]
    Parse(String),
    /// The certificate is no CA.
    #[error(
        "the certificate of {subject} may not sign certificates ({why}); expected a CA with basicConstraints CA:TRUE and, if it has a key usage, keyCertSign"
    )]
    NotACa { subject: String, why: &'static str },
    /// The key belongs to another certificate.
    #[error("the key does not belong to the certificate of {subject}; put the pair in place together")]
    Mismatch { subject: String },
}

/// Why a loaded CA gives no leaf now.
#[derive(Debug, Error)]
pub(crate) enum IssueError {
    /// The chain begins in the future.
    #[error("the CA's chain is not valid before {0}; check the clock and the CA certificates")]
    NotYetValid(String),
    /// The chain has ended.
    #[error("the CA's chain expired at {0}; put a renewed CA into its folder")]
    Expired(String),
    /// The key would not sign.
    #[error("the CA key gave no signature")]
    Sign(#[source] rcgen::Error),
    /// No serial number could be drawn.
    #[error("no serial number could be drawn")]
    Serial(#[source] CryptoError),
}

// === impl Issuer ===

impl Issuer {
    /// Joins a CA certificate, its key and its way to a root.
    pub(crate) fn new(certificate: &CertificateDer<'_>, key: PrivateKey, path: Path) -> Result<Self, IssuerError> {
        let (_, parsed) =
            X509Certificate::from_der(certificate).map_err(|error| IssuerError::Parse(error.to_string()))?;
        let subject = parsed.subject().to_string();
        if let Some(why) = why_no_ca(&parsed) {
            return Err(IssuerError::NotACa { subject, why });
        }
        if parsed.public_key().raw != key.spki_der() {
            return Err(IssuerError::Mismatch { subject });
        }
        let key_id = parsed
            .iter_extensions()
            .find_map(|extension| match extension.parsed_extension() {
                ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
                _ => None,
            })
            .unwrap_or_else(|| key_identifier(parsed.public_key().raw));
        let key_id = der::element(tag::context(0), &[&key_id]);
        Ok(Self {
            algorithm: match key.key_type() {
                KeyType::P256 => algorithm::ECDSA_SHA256,
                KeyType::P384 => algorithm::ECDSA_SHA384,
                KeyType::Rsa2048 | KeyType::Rsa3072 | KeyType::Rsa4096 => algorithm::RSA_SHA256,
            },
            name: parsed.subject().as_raw().to_vec(),
            authority: der::extension(oid::AUTHORITY_KEY_IDENTIFIER, false, &der::sequence(&[&key_id])),
            path,
            key,
        })
    }

    /// Signs one leaf. One signature's worth of work, see [`Issuer::slow`].
    pub(crate) fn issue(&self, leaf: &Leaf<'_>, now: SystemTime) -> Result<CertificateDer<'static>, IssueError> {
        let (not_before, not_after) = self.validity(leaf, now)?;
        let serial = crypto::random_bytes::<SERIAL_BYTES>().map_err(IssueError::Serial)?;
        let certificate = der::sequence(&[
            // [0] version 3
            &[0xa0, 0x03, tag::INTEGER, 0x01, 0x02],
            &der::positive_integer(&serial),
            self.algorithm,
            &self.name,
            &der::sequence(&[&der::certificate_time(not_before), &der::certificate_time(not_after)]),
            EMPTY_NAME,
            leaf.spki_der,
            &der::element(tag::constructed(3), &[&self.extensions(leaf)]),
        ]);
        let signature = self.key.signing_key().sign(&certificate).map_err(IssueError::Sign)?;
        Ok(der::sequence(&[&certificate, self.algorithm, &der::bit_string(&signature)]).into())
    }

    /// The CA certificate and what stands between it and a root; empty where the CA is itself a root.
    pub(crate) fn intermediates(&self) -> &[CertificateDer<'static>] {
        &self.path.intermediates
    }

    /// When the first certificate between the leaf and its root dies.
    pub(crate) fn not_after(&self) -> SystemTime {
        self.path.not_after
    }

    /// From when on every certificate between the leaf and its root is valid.
    pub(crate) fn not_before(&self) -> SystemTime {
        self.path.not_before
    }

    /// Whether a signature takes milliseconds, so that it must stay off the async threads.
    pub(crate) fn slow(&self) -> bool {
        self.key.key_type().is_rsa()
    }

    /// NotBefore and NotAfter of a leaf, inside the life of its chain.
    fn validity(&self, leaf: &Leaf<'_>, now: SystemTime) -> Result<(SystemTime, SystemTime), IssueError> {
        if now < self.path.not_before {
            return Err(IssueError::NotYetValid(rfc3339(self.path.not_before)));
        }
        let not_after = now
            .checked_add(leaf.ttl)
            .map_or(self.path.not_after, |end| end.min(self.path.not_after));
        // Certificates count in whole seconds: below one there is no leaf left to sign.
        if not_after < now + Duration::from_secs(1) {
            return Err(IssueError::Expired(rfc3339(self.path.not_after)));
        }
        let not_before = now.checked_sub(leaf.backdate).unwrap_or(now).max(self.path.not_before);
        Ok((not_before, not_after))
    }

    fn extensions(&self, leaf: &Leaf<'_>) -> Vec<u8> {
        let names: Vec<Vec<u8>> = leaf.names.iter().map(Name::encode).collect();
        let names: Vec<&[u8]> = names.iter().map(Vec::as_slice).collect();
        let key_id = der::element(tag::OCTET_STRING, &[&key_identifier(leaf.spki_der)]);
        der::sequence(&[
            &der::extension(
                oid::KEY_USAGE,
                true,
                if leaf.rsa {
                    KEY_USAGE_SIGN_ENCIPHER
                } else {
                    KEY_USAGE_SIGN
                },
            ),
            &der::extension(
                oid::EXTENDED_KEY_USAGE,
                false,
                match leaf.purpose {
                    Purpose::Workload => EXTENDED_BOTH,
                    Purpose::Server => EXTENDED_SERVER,
                },
            ),
            // An empty sequence: CA is FALSE by default, and there is no path length.
            &der::extension(oid::BASIC_CONSTRAINTS, true, &[tag::SEQUENCE, 0]),
            &der::extension(oid::SUBJECT_KEY_IDENTIFIER, false, &key_id),
            &self.authority,
            // Critical because the subject is empty (RFC 5280, 4.2.1.6).
            &der::extension(oid::SUBJECT_ALT_NAME, true, &der::sequence(&names)),
        ])
    }
}

impl fmt::Debug for Issuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issuer")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

// === impl Name ===

impl Name<'_> {
    /// A GeneralName.
    fn encode(&self) -> Vec<u8> {
        match self {
            Self::Uri(uri) => der::element(tag::context(6), &[uri.as_bytes()]),
            Self::Dns(name) => der::element(tag::context(2), &[name.as_bytes()]),
            Self::Ip(IpAddr::V4(address)) => der::element(tag::context(7), &[&address.octets()]),
            Self::Ip(IpAddr::V6(address)) => der::element(tag::context(7), &[&address.octets()]),
        }
    }
}

/// A time as people and logs read it.
pub(crate) fn rfc3339(at: SystemTime) -> String {
    time::OffsetDateTime::from(at)
        .format(&time::format_description::well_known::Rfc3339)
        .unwrap_or_else(|_| "a time out of range".to_owned())
}

fn why_no_ca(certificate: &X509Certificate<'_>) -> Option<&'static str> {
    let ca = certificate
        .basic_constraints()
        .ok()
        .flatten()
        .is_some_and(|constraints| constraints.value.ca);
    if !ca {
        return Some("it is no CA");
    }
    match certificate.key_usage() {
        Ok(Some(usage)) if !usage.value.key_cert_sign() => Some("its key usage lacks keyCertSign"),
        Ok(_) => None,
        Err(_) => Some("its key usage does not parse"),
    }
}

/// RFC 7093, 2, method 4: 160 bits of the hash of the whole SubjectPublicKeyInfo.
fn key_identifier(spki_der: &[u8]) -> Vec<u8> {
    crypto::sha256(spki_der).into_iter().take(20).collect()
}

const SERIAL_BYTES: usize = 16;
const EMPTY_NAME: &[u8] = &[tag::SEQUENCE, 0];
/// BIT STRING with digitalSignature (bit 0).
const KEY_USAGE_SIGN: &[u8] = &[tag::BIT_STRING, 2, 7, 0x80];
/// BIT STRING with digitalSignature (bit 0) and keyEncipherment (bit 2).
const KEY_USAGE_SIGN_ENCIPHER: &[u8] = &[tag::BIT_STRING, 2, 5, 0xa0];
/// id-kp-serverAuth.
const EXTENDED_SERVER: &[u8] = &[
    tag::SEQUENCE,
    10,
    tag::OID,
    8,
    0x2b,
    0x06,
    0x01,
    0x05,
    0x05,
    0x07,
    0x03,
    0x01,
];
/// id-kp-serverAuth, id-kp-clientAuth.
const EXTENDED_BOTH: &[u8] = &[
    tag::SEQUENCE,
    20, //
    tag::OID,
    8,
    0x2b,
    0x06,
    0x01,
    0x05,
    0x05,
    0x07,
    0x03,
    0x01, //
    tag::OID,
    8,
    0x2b,
    0x06,
    0x01,
    0x05,
    0x05,
    0x07,
    0x03,
    0x02,
];

/// Object identifiers of the extensions, `2.5.29.n`.
mod oid {
    pub(super) const SUBJECT_KEY_IDENTIFIER: &[u8] = &[0x55, 0x1d, 14];
    pub(super) const KEY_USAGE: &[u8] = &[0x55, 0x1d, 15];
    pub(super) const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 17];
    pub(super) const BASIC_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 19];
    pub(super) const AUTHORITY_KEY_IDENTIFIER: &[u8] = &[0x55, 0x1d, 35];
    pub(super) const EXTENDED_KEY_USAGE: &[u8] = &[0x55, 0x1d, 37];
}

/// AlgorithmIdentifiers of the signatures that we make.
mod algorithm {
    pub(super) const ECDSA_SHA256: &[u8] = &[0x30, 10, 0x06, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];
    pub(super) const ECDSA_SHA384: &[u8] = &[0x30, 10, 0x06, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x03];
    /// With the NULL that RFC 4055 asks for.
    pub(super) const RSA_SHA256: &[u8] = &[
        0x30, 13, 0x06, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0b, 0x05, 0x00,
    ];
}
