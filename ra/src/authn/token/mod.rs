//! One bearer token: a signed JWT in compact form (RFC 7515), read strictly.
//!
//! Exactly three parts of canonical base64url; the algorithm is RS256 or ES256 and is the one that goes with the key
//! that `kid` names, so that nobody can have an RSA key taken for a secret. `crit` is refused: it asks for rules that
//! we do not know. Keys inside a token (`jwk`, `jku`, `x5c`) are never looked at.
//!
//! Written here rather than taken from the jsonwebtoken crate, which reads the system's clock (ours is handed in),
//! accepts duplicate members and wants its cryptography installed process-wide: what would be left of it is the split
//! at the dots. The cryptography is `ensign_pki::crypto`'s.

mod shape;

use ensign_pki::crypto::{CryptoError, JwsAlgorithm};
use serde::Deserialize;
use thiserror::Error;

use self::shape::{MAX_TOKEN_BYTES, decode, split};
use super::jwks::Jwks;

pub(super) use self::shape::claimed_end;

/// Why a token is not to be believed. No variant holds a part of the token other than its `kid`.
#[derive(Debug, Error)]
pub enum TokenError {
    /// Longer than any token of a cluster.
    #[error("it has {0} bytes, expected at most {MAX_TOKEN_BYTES}")]
    Length(usize),
    /// No JWT in compact form.
    #[error("it is no signed JWT: {0}")]
    Form(&'static str),
    /// An algorithm that we do not accept.
    #[error("its algorithm is not accepted, expected RS256 or ES256")]
    Algorithm,
    /// It asks for rules that we do not know.
    #[error("its header has crit, which names rules that must be understood; none are")]
    Critical,
    /// It names no key.
    #[error("its header has no kid")]
    NoKeyId,
    /// It names a key that the issuer does not have, as far as we know.
    #[error("its kid {0:?} is not among the issuer's keys; were they rotated?")]
    UnknownKey(String),
    /// The key is of another type than the algorithm.
    #[error("its algorithm does not go with key {0:?}")]
    KeyType(String),
    /// The signature is wrong.
    #[error("its signature does not verify with key {0:?}")]
    Signature(String),
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    #[serde(default)]
    kid: Option<String>,
    #[serde(default)]
    typ: Option<String>,
}

/// Verifies the signature and returns the payload: bytes that the issuer signed, not yet read.
pub(super) fn verify(token: &str, jwks: &Jwks) -> Result<Vec<u8>, TokenError> {
    let parts = split(token)?;
    let header = decode(parts.header)?;
    // `"crit": null` is a crit too, so its name is looked for and not its value.
    let members: serde_json::Map<String, serde_json::Value> = super::strict_json::parse(&header)
        .map_err(|_| TokenError::Form("its header is no JSON object, or a member occurs twice"))?;
    if members.contains_key("crit") {
        return Err(TokenError::Critical);
    }
    let header: Header = serde_json::from_value(serde_json::Value::Object(members))
        .map_err(|_| TokenError::Form("its header lacks alg or has a member of a wrong type"))?;
    if header.typ.is_some_and(|typ| !typ.eq_ignore_ascii_case("JWT")) {
        return Err(TokenError::Form("its typ is not JWT"));
    }
    let algorithm = match header.alg.as_str() {
        "RS256" => JwsAlgorithm::Rs256,
        "ES256" => JwsAlgorithm::Es256,
        _ => return Err(TokenError::Algorithm),
    };
    let kid = header.kid.ok_or(TokenError::NoKeyId)?;
    let shown: String = kid.chars().filter(|c| !c.is_control()).take(80).collect();
    let Some(key) = jwks.find(&kid) else {
        return Err(TokenError::UnknownKey(shown));
    };
    let signature = decode(parts.signature)?;
    key.verify(algorithm, parts.signed.as_bytes(), &signature)
        .map_err(|error| match error {
            CryptoError::Algorithm => TokenError::KeyType(shown),
            _ => TokenError::Signature(shown),
        })?;
    decode(parts.payload)
}

// === impl TokenError ===

impl TokenError {
    /// The word for metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Length(_) => "token_length",
            Self::Form(_) => "token_form",
            Self::Algorithm => "token_algorithm",
            Self::Critical => "token_crit",
            Self::NoKeyId => "token_kid_missing",
            Self::UnknownKey(_) => "token_kid_unknown",
            Self::KeyType(_) => "token_key_type",
            Self::Signature(_) => "token_signature",
        }
    }
}

#[cfg(test)]
mod tests;
