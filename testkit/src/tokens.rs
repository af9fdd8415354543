//! Service account tokens as Kubernetes mints them, the key set that verifies them, and bad ones.
//!
//! The RSA key is a checked-in fixture, since not every crypto provider can make one; it signs nothing
//! outside tests.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rcgen::{KeyPair, PublicKeyData as _, SigningKey as _};
use serde_json::{Value, json};
use x509_parser::prelude::FromDer as _;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

const RSA_KEY: &str = include_str!("../fixtures/token-signing-rsa-2048.pem");

/// `iss` of [`Claims::service_account`].
pub const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// `aud` of [`Claims::service_account`].
pub const AUDIENCE: &str = "istio-ca";

/// What a token says. Starts right; any field can be set or removed.
#[derive(Clone, Debug)]
pub struct Claims(Value);

impl Claims {
    /// A pod-bound token of the account, valid for an hour.
    pub fn service_account(namespace: &str, account: &str) -> Self {
        Self::service_account_at(SystemTime::now(), namespace, account)
    }

    /// As [`Claims::service_account`], for tests that move their clock.
    pub fn service_account_at(now: SystemTime, namespace: &str, account: &str) -> Self {
        let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        Self(json!({
            "iss": ISSUER,
            "sub": format!("system:serviceaccount:{namespace}:{account}"),
            "aud": [AUDIENCE],
            "exp": now + 3600,
            "iat": now,
            "nbf": now,
            "jti": "6b3f1c1e-0000-4000-8000-000000000001",
            "kubernetes.io": {
                "namespace": namespace,
                "serviceaccount": {"name": account, "uid": "6b3f1c1e-0000-4000-8000-000000000002"},
                "pod": {"name": format!("{account}-0"), "uid": "6b3f1c1e-0000-4000-8000-000000000003"},
                "node": {"name": "node-a", "uid": "6b3f1c1e-0000-4000-8000-000000000004"},
            },
        }))
    }

    /// Sets the field at a JSON pointer, for example `/kubernetes.io/pod/uid` or `/aud`.
    pub fn with(mut self, pointer: &str, value: impl Into<Value>) -> Self {
        let (parent, field) = pointer.rsplit_once('/').expect("a pointer begins with a slash");
        self.0.pointer_mut(parent).expect("the parent exists")[field] = value.into();
        self
    }

    /// Removes the field at a JSON pointer.
    pub fn without(mut self, pointer: &str) -> Self {
        let (parent, field) = pointer.rsplit_once('/').expect("a pointer begins with a slash");
        self.0
            .pointer_mut(parent)
            .and_then(Value::as_object_mut)
            .expect("the parent is an object")
            .remove(field);
        self
    }

    /// Valid for this long from now.
    pub fn for_the_next(self, time: Duration) -> Self {
        let end = (SystemTime::now() + time)
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap()
            .as_secs();
        self.with("/exp", end)
    }

    /// The claims as JSON.
    pub fn json(&self) -> &Value {
        &self.0
    }
}

/// A key of the cluster that signs tokens.
pub struct TokenMint {
    algorithm: &'static str,
    kid: String,
    key: KeyPair,
}

impl TokenMint {
    /// RS256, as most clusters. Every mint of this kind holds the same key.
    pub fn rs256(kid: &str) -> Self {
        let key = KeyPair::from_pkcs8_pem_and_sign_algo(RSA_KEY, &rcgen::PKCS_RSA_SHA256).unwrap();
        Self {
            algorithm: "RS256",
            kid: kid.to_owned(),
            key,
        }
    }

    /// ES256, with a new key.
    pub fn es256(kid: &str) -> Self {
        Self {
            algorithm: "ES256",
            kid: kid.to_owned(),
            key: crate::ca::new_key(),
        }
    }

    /// A token with the mint's own header.
    pub fn mint(&self, claims: &Claims) -> String {
        self.mint_with_header(&json!({"alg": self.algorithm, "kid": self.kid}), claims)
    }

    /// A token with any header, signed by the mint's key whatever the header says.
    pub fn mint_with_header(&self, header: &Value, claims: &Claims) -> String {
        self.sign(&header.to_string(), &claims.0.to_string())
    }

    /// Any two texts, signed: also such that no JSON value can hold, as one member twice.
    pub fn sign(&self, header: &str, payload: &str) -> String {
        let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload));
        let signature = self.key.sign(message.as_bytes()).unwrap();
        let signature = if self.algorithm == "ES256" {
            fixed_width(&signature).to_vec()
        } else {
            signature
        };
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    /// A token that names `none` as its algorithm and has no signature.
    pub fn mint_unsigned(&self, claims: &Claims) -> String {
        message(&json!({"alg": "none", "kid": self.kid}), claims) + "."
    }

    /// A token signed by HMAC with the public key as its secret: the old confusion of algorithms.
    pub fn mint_hs256_with_public_key(&self, claims: &Claims) -> String {
        let message = message(&json!({"alg": "HS256", "kid": self.kid}), claims);
        let tag = hmac_sha256(self.key.public_key_pem().as_bytes(), message.as_bytes());
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(tag))
    }

    /// A token whose claims were changed after it was signed.
    pub fn mint_tampered(&self, signed: &Claims, shown: &Claims) -> String {
        let token = self.mint(signed);
        let mut parts = token.split('.');
        let (header, _, signature) = (parts.next().unwrap(), parts.next(), parts.next().unwrap());
        format!("{header}.{}.{signature}", URL_SAFE_NO_PAD.encode(shown.0.to_string()))
    }

    /// The key as a member of a key set.
    pub fn jwk(&self) -> Value {
        let spki = self.key.subject_public_key_info();
        let (_, spki) = SubjectPublicKeyInfo::from_der(&spki).unwrap();
        let mut key = match spki.parsed().unwrap() {
            PublicKey::RSA(key) => json!({
                "kty": "RSA",
                "n": URL_SAFE_NO_PAD.encode(without_leading_zeros(key.modulus)),
                "e": URL_SAFE_NO_PAD.encode(without_leading_zeros(key.exponent)),
            }),
            PublicKey::EC(point) => {
                let (x, y) = point.data()[1..].split_at(32);
                json!({"kty": "EC", "crv": "P-256", "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y)})
            }
            other => panic!("a key of another kind: {other:?}"),
        };
        key["use"] = "sig".into();
        key["alg"] = self.algorithm.into();
        key["kid"] = self.kid.clone().into();
        key
    }
}

/// The key set of these mints, as the API server publishes it.
pub fn jwks(mints: &[&TokenMint]) -> String {
    json!({"keys": mints.iter().map(|mint| mint.jwk()).collect::<Vec<_>>()}).to_string()
}

fn message(header: &Value, claims: &Claims) -> String {
    let mut message = URL_SAFE_NO_PAD.encode(header.to_string());
    write!(message, ".{}", URL_SAFE_NO_PAD.encode(claims.0.to_string())).unwrap();
    message
}

/// An ECDSA signature as JWS wants it: two numbers of 32 bytes, instead of ASN.1.
fn fixed_width(asn1: &[u8]) -> [u8; 64] {
    let mut fixed = [0; 64];
    // SEQUENCE (short length), then two INTEGERs.
    let mut rest = &asn1[2..];
    for half in fixed.chunks_exact_mut(32) {
        let (number, after) = rest[2..].split_at(usize::from(rest[1]));
        let number = without_leading_zeros(number);
        half[32 - number.len()..].copy_from_slice(number);
        rest = after;
    }
    fixed
}

fn without_leading_zeros(number: &[u8]) -> &[u8] {
    &number[number.iter().take_while(|&&byte| byte == 0).count()..]
}

fn hmac_sha256(key: &[u8], message: &[u8]) -> [u8; 32] {
    use ensign_pki::crypto::sha256;
    let mut block = [0; 64];
    if key.len() > block.len() {
        block[..32].copy_from_slice(&sha256(key));
    } else {
        block[..key.len()].copy_from_slice(key);
    }
    let pad = |byte: u8| block.map(|key| key ^ byte).to_vec();
    let inner = sha256(&[pad(0x36), message.to_vec()].concat());
    sha256(&[pad(0x5c), inner.to_vec()].concat())
}

#[cfg(test)]
mod tests {
    use ensign_pki::crypto::{JwsAlgorithm, JwsKey};

    use super::*;

    fn member(jwk: &Value, name: &str) -> Vec<u8> {
        URL_SAFE_NO_PAD.decode(jwk[name].as_str().unwrap()).unwrap()
    }

    fn verified(token: &str, key: &JwsKey, algorithm: JwsAlgorithm) -> bool {
        let (message, signature) = token.rsplit_once('.').unwrap();
        key.verify(
            algorithm,
            message.as_bytes(),
            &URL_SAFE_NO_PAD.decode(signature).unwrap(),
        )
        .is_ok()
    }

    #[test]
    fn good_tokens_verify_under_their_published_key_and_bad_ones_do_not() {
        let claims = Claims::service_account("foo", "httpbin");
        let rsa = TokenMint::rs256("a");
        let jwk = rsa.jwk();
        let key = JwsKey::rsa(&member(&jwk, "n"), &member(&jwk, "e")).unwrap();
        assert!(verified(&rsa.mint(&claims), &key, JwsAlgorithm::Rs256));
        let changed = claims.clone().with("/sub", "system:serviceaccount:foo:other");
        assert!(!verified(
            &rsa.mint_tampered(&claims, &changed),
            &key,
            JwsAlgorithm::Rs256
        ));

        // Often enough to meet numbers that begin with zeros.
        for _ in 0..300 {
            let ec = TokenMint::es256("b");
            let jwk = ec.jwk();
            let key = JwsKey::p256(&member(&jwk, "x"), &member(&jwk, "y")).unwrap();
            assert!(verified(&ec.mint(&claims), &key, JwsAlgorithm::Es256));
        }
    }

    #[test]
    fn hmac_is_the_published_one() {
        // RFC 4231, test case 2.
        let tag = hmac_sha256(b"Jefe", b"what do ya want for nothing?");
        assert_eq!(tag[..4], [0x5b, 0xdc, 0xc1, 0x46]);
    }

    #[test]
    fn fields_can_be_set_and_removed() {
        let claims = Claims::service_account("foo", "httpbin")
            .with("/kubernetes.io/pod/uid", "u")
            .without("/exp");
        assert_eq!(claims.json()["kubernetes.io"]["pod"]["uid"], "u");
        assert_eq!(claims.json().get("exp"), None);
    }
}
