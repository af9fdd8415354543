//! Tokens and key sets for tests: an ES256 issuer of our own. The tests of ring `ra` read this file too.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ensign_pki::{KeyType, PrivateKey};
use rcgen::SigningKey as _;
use serde_json::{Value, json};

pub(super) const NOW: u64 = 1_800_000_000;

/// A key pair of a token issuer.
pub(super) struct Issuer {
    key: PrivateKey,
    kid: &'static str,
}

impl Issuer {
    pub(super) fn new(kid: &'static str) -> Self {
        Self {
            key: PrivateKey::generate(KeyType::P256).unwrap(),
            kid,
        }
    }

    fn jwk(&self) -> Value {
        let spki = self.key.spki_der();
        let (x, y) = spki[spki.len() - 64..].split_at(32);
        json!({"kty": "EC", "crv": "P-256", "kid": self.kid, "use": "sig", "alg": "ES256",
               "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y)})
    }

    /// A JWKS file with this key.
    pub(super) fn jwks(&self) -> String {
        json!({ "keys": [self.jwk()] }).to_string()
    }

    pub(super) fn header(&self) -> Value {
        json!({"alg": "ES256", "kid": self.kid, "typ": "JWT"})
    }

    /// A token that says so.
    pub(super) fn token(&self, claims: &Value) -> String {
        self.sign(&self.header().to_string(), &claims.to_string())
    }

    pub(super) fn sign(&self, header: &str, payload: &str) -> String {
        let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload));
        let der = self.key.signing_key().sign(signed.as_bytes()).unwrap();
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(side_by_side(&der)))
    }
}

pub(super) fn claims() -> Value {
    json!({
        "iss": "https://kubernetes.default.svc",
        "sub": "system:serviceaccount:foo:httpbin",
        "aud": ["istio-ca"],
        "exp": NOW + 3600, "nbf": NOW, "iat": NOW, "jti": "6a8f",
        "kubernetes.io": {
            "namespace": "foo",
            "serviceaccount": {"name": "httpbin", "uid": "1"},
            "pod": {"name": "httpbin-1", "uid": "2-3"},
            "node": {"name": "node-1", "uid": "4"},
        },
    })
}

/// From DER's two integers to 32 bytes each.
fn side_by_side(der: &[u8]) -> Vec<u8> {
    let mut rest = &der[2..];
    let mut both = Vec::new();
    for _ in 0..2 {
        let length = usize::from(rest[1]);
        let integer = &rest[2..2 + length];
        let integer = integer.strip_prefix(&[0]).unwrap_or(integer);
        both.extend(std::iter::repeat_n(0, 32 - integer.len()));
        both.extend_from_slice(integer);
        rest = &rest[2 + length..];
    }
    both
}
