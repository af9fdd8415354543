//! Tokens as a Kubernetes API server mints them for pods, and the JWKS that they verify with (ES256).
//!
//! Good tokens only. Tokens with faults are the business of the RA's own tests.

use std::time::{Duration, SystemTime};

use anyhow::{Context, ensure};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ensign_pki::{KeyType, PrivateKey};
use rcgen::SigningKey;
use serde_json::{Value, json};

/// Longer than any scenario, shorter than anybody could misuse.
const LIFETIME: Duration = Duration::from_hours(1);

/// One issuer with one key.
#[derive(Debug)]
pub struct TokenIssuer {
    issuer: String,
    key: PrivateKey,
}

/// `kid` of the one key.
const KEY_ID: &str = "test-key";

// === impl TokenIssuer ===

impl TokenIssuer {
    /// A new key for this `iss`.
    pub fn new(issuer: &str) -> anyhow::Result<Self> {
        Ok(Self {
            issuer: issuer.to_owned(),
            key: PrivateKey::generate(KeyType::P256)?,
        })
    }

    /// The public key as a JWKS document.
    pub fn jwks(&self) -> anyhow::Result<String> {
        let spki = self.key.spki_der();
        // A P-256 key ends with its uncompressed point: 4, x, y.
        let (x, y) = spki
            .get(spki.len().saturating_sub(64)..)
            .context("no point in the key")?
            .split_at(32);
        Ok(json!({ "keys": [{
            "kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": KEY_ID,
            "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y),
        }] })
        .to_string())
    }

    /// A token of the only pod of this account, for the audience `istio-ca`.
    pub fn mint(&self, namespace: &str, account: &str) -> anyhow::Result<String> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs();
        self.sign(&json!({
            "iss": self.issuer,
            "sub": format!("system:serviceaccount:{namespace}:{account}"),
            "aud": ["istio-ca"],
            "iat": now,
            "nbf": now,
            "exp": now + LIFETIME.as_secs(),
            "kubernetes.io": {
                "namespace": namespace,
                "serviceaccount": { "name": account, "uid": format!("uid-of-account-{account}") },
                "pod": { "name": format!("{account}-0"), "uid": format!("uid-of-pod-{account}-0") },
                "node": { "name": "node-1", "uid": "uid-of-node-1" },
            },
        }))
    }

    fn sign(&self, claims: &Value) -> anyhow::Result<String> {
        let header = json!({ "alg": "ES256", "kid": KEY_ID, "typ": "JWT" });
        let [header, claims] = [&header, claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string()));
        let signed = format!("{header}.{claims}");
        let signature = fixed_size(&self.key.signing_key().sign(signed.as_bytes())?)?;
        Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }
}

/// JWS wants r and s of 32 bytes each (RFC 7518, 3.4), not the ASN.1 sequence that X.509 has.
fn fixed_size(asn1: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut rest = asn1.get(2..).context("no sequence")?;
    let mut fixed = Vec::with_capacity(64);
    for _ in 0..2 {
        let length = usize::from(*rest.get(1).context("no integer")?);
        let integer = rest.get(2..2 + length).context("cut off")?;
        let digits: &[u8] = integer.strip_prefix(&[0]).unwrap_or(integer);
        ensure!(digits.len() <= 32, "an integer of {} bytes", digits.len());
        fixed.extend(std::iter::repeat_n(0, 32 - digits.len()));
        fixed.extend(digits);
        rest = &rest[2 + length..];
    }
    Ok(fixed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_get_their_full_width_whatever_their_sign_or_size() {
        let asn1 = [0x30, 0x08, 0x02, 0x02, 0x00, 0x80, 0x02, 0x02, 0x01, 0x02];
        let fixed = fixed_size(&asn1).unwrap();
        assert_eq!(fixed.len(), 64);
        assert_eq!((fixed[31], &fixed[62..]), (0x80, &[1, 2][..]));
    }
}
