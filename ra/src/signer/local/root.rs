//! The certificate of a CA that makes itself: key, self-signed root, ten years.
//!
//! Owns only what a fresh root looks like. P-256, because it signs ten times as fast as RSA and every peer of a mesh
//! reads it. The subject carries a random part, so that two CAs of one name are told apart by people as well.

use std::time::{Duration, SystemTime};

use ensign_pki::{CryptoError, KeyError, KeyType, PrivateKey, TrustDomain, crypto};
use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, KeyUsagePurpose, SerialNumber};
use thiserror::Error;
use time::OffsetDateTime;

use super::selfmade::Material;

/// Why no root could be made.
#[derive(Debug, Error)]
pub(crate) enum RootError {
    /// No key.
    #[error("no CA key could be made")]
    Key(#[from] KeyError),
    /// No random bytes.
    #[error("no serial number could be drawn")]
    Random(#[from] CryptoError),
    /// No certificate.
    #[error("the root could not be signed")]
    Sign(#[from] rcgen::Error),
}

/// A new root for the CA called `name`.
pub(crate) fn make(name: &str, trust_domain: &TrustDomain, now: SystemTime) -> Result<Material, RootError> {
    let key = PrivateKey::generate(KeyType::P256)?;
    let mut serial = crypto::random_bytes::<16>()?;
    let mark = format!("{:08x}", u32::from_be_bytes(crypto::random_bytes::<4>()?));
    // Top bit clear: positive; next bit set: always 16 bytes.
    if let Some(first) = serial.first_mut() {
        *first = *first & 0x7f | 0x40;
    }
    let mut subject = DistinguishedName::new();
    subject.push(DnType::OrganizationName, trust_domain.as_str());
    subject.push(DnType::CommonName, format!("Ensign CA {name} {mark}"));
    let mut root = CertificateParams::default();
    root.distinguished_name = subject;
    root.serial_number = Some(SerialNumber::from_slice(&serial));
    root.not_before = OffsetDateTime::from(now.checked_sub(BACKDATE).unwrap_or(now));
    root.not_after = OffsetDateTime::from(now + LIFETIME);
    // It signs leaves itself and no CA.
    root.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    root.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let certificate = root.self_signed(key.signing_key())?;
    Ok(Material {
        certificate_pem: certificate.pem(),
        key_pem: key.to_pkcs8_pem(),
    })
}

/// As Istio's own: ten years.
const LIFETIME: Duration = Duration::from_hours(10 * 365 * 24);
/// A root younger than its leaves' own backdating would cut that short on the first day.
const BACKDATE: Duration = Duration::from_hours(24);
