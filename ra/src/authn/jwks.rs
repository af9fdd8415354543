//! The public keys of the token issuer, from a JWKS file (RFC 7517).
//!
//! Read whole or refused whole. A key that we could never use (another type, another algorithm, not for signatures, no
//! `kid`) is passed over; a key that contradicts itself, is too weak, holds private parts, or shares its `kid` with
//! another spoils the file, because such a file is not what the operator meant.

use std::collections::HashMap;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ensign_pki::crypto::JwsKey;
use serde::Deserialize;
use thiserror::Error;

/// The keys of one file, by `kid`.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Jwks {
    keys: HashMap<String, JwsKey>,
    passed_over: usize,
}

/// What is wrong with a JWKS file.
#[derive(Debug, Error)]
pub enum JwksError {
    /// No JSON of this form.
    #[error("it is no JSON Web Key Set ({0})")]
    Form(String),
    /// Nothing in it can check a token.
    #[error(
        "none of its {0} keys is usable: expected RSA (RS256) or P-256 (ES256) keys for signatures, each with a kid"
    )]
    Empty(usize),
    /// More keys than an issuer has.
    #[error("it has {0} keys, expected at most {MAX_KEYS}")]
    TooMany(usize),
    /// Two keys, one name.
    #[error("two of its keys have the kid {0:?}")]
    Duplicate(String),
    /// Somebody exported the wrong half.
    #[error("key {0:?} holds private parts: this file is for public keys; replace that key pair")]
    Private(String),
    /// The parts of a key do not go together.
    #[error("key {kid:?}: {why}")]
    Key {
        /// The key.
        kid: String,
        /// What is wrong.
        why: &'static str,
    },
}

#[derive(Deserialize)]
struct Set {
    keys: Vec<Jwk>,
}

#[derive(Deserialize)]
struct Jwk {
    kty: String,
    #[serde(default)]
    kid: Option<String>,
    #[serde(default)]
    alg: Option<String>,
    #[serde(default, rename = "use")]
    usage: Option<String>,
    #[serde(default)]
    key_ops: Option<Vec<String>>,
    #[serde(default)]
    crv: Option<String>,
    #[serde(default)]
    n: Option<String>,
    #[serde(default)]
    e: Option<String>,
    #[serde(default)]
    x: Option<String>,
    #[serde(default)]
    y: Option<String>,
    /// Private exponent or scalar: never expected, never kept.
    #[serde(default)]
    d: Option<serde::de::IgnoredAny>,
}

// === impl Jwks ===

impl Jwks {
    /// Reads a file.
    pub fn parse(json: &[u8]) -> Result<Self, JwksError> {
        let set: Set = super::strict_json::parse(json).map_err(|error| JwksError::Form(form(&error)))?;
        let all = set.keys.len();
        if all > MAX_KEYS {
            return Err(JwksError::TooMany(all));
        }
        let mut jwks = Self::default();
        for jwk in set.keys {
            match jwk.usable()? {
                Some((kid, _)) if jwks.keys.contains_key(&kid) => {
                    return Err(JwksError::Duplicate(kid));
                }
                Some((kid, key)) => _ = jwks.keys.insert(kid, key),
                None => jwks.passed_over += 1,
            }
        }
        if jwks.keys.is_empty() {
            Err(JwksError::Empty(all))
        } else {
            Ok(jwks)
        }
    }

    /// The key of that name.
    pub fn find(&self, kid: &str) -> Option<&JwsKey> {
        self.keys.get(kid)
    }

    /// How many keys can check tokens.
    pub fn usable(&self) -> usize {
        self.keys.len()
    }

    /// How many keys of the file cannot.
    pub fn passed_over(&self) -> usize {
        self.passed_over
    }
}

// === impl Jwk ===

impl Jwk {
    fn usable(self) -> Result<Option<(String, JwsKey)>, JwksError> {
        if self.d.is_some() {
            return Err(JwksError::Private(self.kid.unwrap_or_default()));
        }
        let Some(kid) = self.kid.clone().filter(|kid| !kid.is_empty()) else {
            return Ok(None);
        };
        let for_signatures = self.usage.as_deref().is_none_or(|usage| usage == "sig")
            && self
                .key_ops
                .as_ref()
                .is_none_or(|ops| ops.iter().any(|op| op == "verify"));
        if !for_signatures {
            return Ok(None);
        }
        let wrong = |why| JwksError::Key { kid: kid.clone(), why };
        let key = match (self.kty.as_str(), self.alg.as_deref()) {
            ("RSA", None | Some("RS256")) => {
                let n = part(self.n.as_deref()).ok_or_else(|| wrong("n is missing or no base64url"))?;
                let e = part(self.e.as_deref()).ok_or_else(|| wrong("e is missing or no base64url"))?;
                JwsKey::rsa(&n, &e).map_err(|_| wrong("no RSA key of 2048 to 8192 bits"))?
            }
            ("EC", None | Some("ES256")) if self.crv.as_deref() == Some("P-256") => {
                let x = part(self.x.as_deref()).ok_or_else(|| wrong("x is missing or no base64url"))?;
                let y = part(self.y.as_deref()).ok_or_else(|| wrong("y is missing or no base64url"))?;
                JwsKey::p256(&x, &y).map_err(|_| wrong("x and y are no point of P-256"))?
            }
            ("EC", Some("ES256")) => return Err(wrong("alg ES256 needs the curve P-256")),
            ("RSA", Some("ES256")) | ("EC", Some("RS256")) => {
                return Err(wrong("alg does not go with kty"));
            }
            _ => return Ok(None),
        };
        Ok(Some((kid, key)))
    }
}

/// The parser quotes what stands in the wrong place, which may be the wrong half of a key.
fn form(error: &serde_json::Error) -> String {
    ensign_daemon::redact::random_words(&error.to_string()).into_owned()
}

fn part(text: Option<&str>) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text?).ok().filter(|bytes| !bytes.is_empty())
}

/// An issuer has one to three keys at a time; a thousand would only be an accident.
const MAX_KEYS: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};
    use test_case::test_case;

    fn encoded(bytes: &[u8]) -> String {
        URL_SAFE_NO_PAD.encode(bytes)
    }

    fn rsa(kid: &str, bytes: usize) -> Value {
        json!({"kty": "RSA", "kid": kid, "use": "sig", "alg": "RS256",
               "n": encoded(&vec![0xAB; bytes]), "e": "AQAB"})
    }

    fn ec(kid: &str) -> Value {
        json!({"kty": "EC", "kid": kid, "crv": "P-256",
               "x": encoded(&[1; 32]), "y": encoded(&[2; 32])})
    }

    fn parse(keys: &[Value]) -> Result<Jwks, JwksError> {
        Jwks::parse(json!({ "keys": keys }).to_string().as_bytes())
    }

    fn with(mut key: Value, member: &str, value: Value) -> Value {
        key[member] = value;
        key
    }

    #[test]
    fn reads_both_types_and_passes_over_what_it_cannot_use() {
        let keys = [
            rsa("a", 256),
            ec("b"),
            json!({"kty": "OKP", "kid": "c", "crv": "Ed25519", "x": encoded(&[1; 32])}),
            with(rsa("d", 256), "alg", json!("RS512")),
            with(rsa("e", 256), "use", json!("enc")),
            with(ec("f"), "crv", json!("P-384")),
            with(ec("g"), "key_ops", json!(["encrypt"])),
            with(ec("h"), "kid", json!("")),
        ];
        let jwks = parse(&keys).unwrap();
        assert_eq!((jwks.usable(), jwks.passed_over()), (2, 6));
        assert!(matches!(jwks.find("a"), Some(JwsKey::Rsa { .. })));
        assert!(matches!(jwks.find("b"), Some(JwsKey::P256(_))));
        assert!(jwks.find("c").is_none());
    }

    #[test_case(&[], "none of its 0"; "no keys")]
    #[test_case(&[rsa("a", 128)], "2048"; "a weak key")]
    #[test_case(&[rsa("a", 256), ec("a")], "two of its keys"; "a kid twice")]
    #[test_case(&[with(ec("a"), "d", json!("AAAA"))], "private"; "a private key")]
    #[test_case(&[with(with(ec("a"), "kid", json!(null)), "d", json!("AAAA"))], "private"; "a private key without a kid")]
    #[test_case(&[with(ec("a"), "alg", json!("RS256"))], "alg does not go"; "EC with RS256")]
    #[test_case(&[with(rsa("a", 256), "alg", json!("ES256"))], "alg does not go"; "RSA with ES256")]
    #[test_case(&[with(with(ec("a"), "alg", json!("ES256")), "crv", json!("P-384"))], "P-256"; "ES256 on another curve")]
    #[test_case(&[with(rsa("a", 256), "n", json!("a+b/"))], "base64url"; "another alphabet")]
    #[test_case(&[with(rsa("a", 256), "n", json!(null))], "n is missing"; "no modulus")]
    #[test_case(&[with(ec("a"), "x", json!(encoded(&[1; 31])))], "no point"; "a short coordinate")]
    fn a_file_that_was_not_meant_is_refused_whole(keys: &[Value], expected: &str) {
        let mut all = vec![ec("good")];
        if keys.is_empty() {
            all.clear();
        }
        all.extend_from_slice(keys);
        let error = parse(&all).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }

    #[test_case("{}"; "no keys member")]
    #[test_case("[]"; "a list")]
    #[test_case("{\"keys\":[],\"keys\":[]}"; "duplicate members")]
    fn what_is_no_set_is_refused(text: &str) {
        assert!(matches!(Jwks::parse(text.as_bytes()), Err(JwksError::Form(_))));
    }

    #[test]
    fn a_key_in_the_wrong_place_is_not_repeated() {
        let secret = "KJHa79fZq2mXw8Rb3Lk5TnVc1Yp0Ds6";
        let error = Jwks::parse(json!({ "keys": secret }).to_string().as_bytes()).unwrap_err();
        assert!(!error.to_string().contains("KJHa"), "{error}");
    }

    #[test]
    fn the_number_of_keys_is_bounded() {
        let keys: Vec<_> = (0..=MAX_KEYS).map(|n| ec(&n.to_string())).collect();
        assert!(matches!(parse(&keys), Err(JwksError::TooMany(_))));
    }
}
