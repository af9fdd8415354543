//! `version_info`: what an Envoy tells us after our restart about the secret that it still holds.
//!
//! A certificate's version carries NotBefore, NotAfter, the renewal time already drawn, the serial, and a digest of
//! (workload, signer, key type, identity); a bundle's carries the digest of its roots and one of (workload, signer,
//! trust domain). The whole identity counts, because a workload's account may be changed while the agent is down. Bounded, printable, signed by nothing and trusted for nothing but timing: a forged one can harm only
//! the workload that forged it. Parsing is strict: what this file did not write, or would not write now, is no claim.

use std::time::{Duration, SystemTime};

use ensign_pki::{Bundle, KeyType, SpiffeId, Validity, crypto, hex};

use super::WorkloadUid;
use crate::csr_client::SignerName;

/// Marks the format of a certificate's version.
const CERTIFICATE: &str = "c1";
/// Marks the format of a bundle's version.
const BUNDLE: &str = "b1";
/// Nothing longer is looked at.
const MAX_BYTES: usize = 192;
/// RFC 5280: a serial has at most 20 bytes.
const MAX_SERIAL_DIGITS: usize = 40;
/// How many bytes of a digest go into a version.
const DIGEST_BYTES: usize = 16;
/// A certificate may begin this much in our future: clocks differ.
const SKEW: Duration = Duration::from_mins(5);
/// Backdating and rounding may stretch a lifetime beyond what was asked for.
const SLACK: Duration = Duration::from_mins(10);
/// No authority can be made to issue for less (cert-manager's smallest duration), so a cap below would adopt nothing.
const LEAST_CAP: Duration = Duration::from_hours(1);

/// Writes and judges the versions of one entry.
#[derive(Debug, Clone)]
pub(super) struct Versions {
    certificate_digest: String,
    bundle_digest: String,
}

/// A believable claim: what an Envoy still holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Claim {
    pub(super) validity: Validity,
    pub(super) renew_at: SystemTime,
}

impl Versions {
    pub(super) fn new(uid: &WorkloadUid, signer: Option<&SignerName>, key_type: KeyType, id: &SpiffeId) -> Self {
        let signer = signer.map_or("", SignerName::as_str);
        let trust_domain = id.trust_domain().as_str();
        let key_type = key_type.to_string();
        Self {
            certificate_digest: digest(&[uid.as_str(), signer, &key_type, id.as_str()]),
            bundle_digest: digest(&[uid.as_str(), signer, trust_domain]),
        }
    }

    /// The version of a certificate.
    pub(super) fn of_certificate(&self, validity: &Validity, renew_at: SystemTime) -> String {
        let serial: String = validity.serial.chars().take(MAX_SERIAL_DIGITS).collect();
        format!(
            "{CERTIFICATE}.{}.{}.{}.{serial}.{}",
            seconds(validity.not_before),
            seconds(validity.not_after),
            seconds(renew_at),
            self.certificate_digest
        )
    }

    /// The version of a bundle.
    pub(super) fn of_bundle(&self, bundle: &Bundle) -> String {
        let roots = hex::encode(&bundle.digest()[..DIGEST_BYTES]);
        format!("{BUNDLE}.{roots}.{}", self.bundle_digest)
    }

    /// The claim behind a certificate's version, if it may be believed: it is ours, the certificate is valid now, its
    /// renewal is not due yet, and its lifetime is one that we would have asked for.
    pub(super) fn claim(&self, version: &str, ttl: Duration, now: SystemTime) -> Option<Claim> {
        let [not_before, not_after, renew_at, serial, digest] = fields(version, CERTIFICATE)?;
        if digest != self.certificate_digest || !is_lower_hex(serial) || serial.len() > MAX_SERIAL_DIGITS {
            return None;
        }
        let (not_before, not_after, renew_at) = (time(not_before)?, time(not_after)?, time(renew_at)?);
        let life = not_after.duration_since(not_before).ok()?;
        let believable = life <= ttl.max(LEAST_CAP) + SLACK
            && not_before <= now + SKEW
            && not_before <= renew_at
            && renew_at < not_after
            && now < renew_at;
        let validity = Validity {
            not_before,
            not_after,
            serial: serial.to_owned(),
        };
        believable.then_some(Claim { validity, renew_at })
    }

    /// Whether this is the version of a bundle that we gave to this entry.
    pub(super) fn is_our_bundle(&self, version: &str) -> bool {
        fields(version, BUNDLE).is_some_and(|[roots, digest]| {
            digest == self.bundle_digest && roots.len() == 2 * DIGEST_BYTES && is_lower_hex(roots)
        })
    }
}

/// Splits a version of this kind into exactly so many fields.
fn fields<'v, const N: usize>(version: &'v str, kind: &str) -> Option<[&'v str; N]> {
    if version.len() > MAX_BYTES {
        return None;
    }
    let rest = version.strip_prefix(kind)?.strip_prefix('.')?;
    rest.split('.').collect::<Vec<_>>().try_into().ok()
}

fn is_lower_hex(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

/// Parts are length-prefixed: no two lists of parts share a digest.
fn digest(parts: &[&str]) -> String {
    let mut input = Vec::new();
    for part in parts {
        input.extend_from_slice(&(part.len() as u64).to_be_bytes());
        input.extend_from_slice(part.as_bytes());
    }
    hex::encode(&crypto::sha256(&input)[..DIGEST_BYTES])
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// Twelve digits reach the year 33658, and keep all arithmetic far from overflow.
fn time(field: &str) -> Option<SystemTime> {
    let canonical = (1..=12).contains(&field.len())
        && field.bytes().all(|byte| byte.is_ascii_digit())
        && (field == "0" || !field.starts_with('0'));
    let seconds = canonical.then(|| field.parse().ok()).flatten()?;
    Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests;
