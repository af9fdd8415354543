//! A Secret that holds a server's key and chain, as Kubernetes' own kind has them and cert-manager writes them.
//!
//! Owns the names of its keys and what may be wrong with their values. Whether the pair is a good one, for whom and under
//! which roots is the business of who reads it.

use ensign_pki::{Certificate, CertificateError, Chain, ChainError, KeyError, PrivateKey};
use thiserror::Error;

use super::secret::KeySecret;

/// Why a Secret holds no pair.
#[derive(Debug, Error)]
pub(crate) enum TlsSecretError {
    /// No such key, or nothing in it.
    #[error("it has no {0}, or an empty one; expected PEM")]
    Missing(&'static str),
    /// Bytes of another kind, such as DER.
    #[error("its {0} is not text; expected PEM")]
    NotText(&'static str),
    /// The private key cannot be used.
    #[error("its {KEY} cannot be used")]
    Key(#[from] KeyError),
    /// A certificate is damaged.
    #[error("its {key} cannot be read")]
    Certificates {
        /// Which value.
        key: &'static str,
        /// What is wrong with it.
        source: CertificateError,
    },
    /// The certificates are no chain.
    #[error("its {CERTIFICATE} is no chain of a server")]
    Chain(#[from] ChainError),
}

/// The key, and the chain that is to be its own.
pub(crate) fn read(secret: &KeySecret) -> Result<(PrivateKey, Chain), TlsSecretError> {
    let key = PrivateKey::from_pem(text(secret, KEY)?)?;
    let chain = Chain::from_certificates(certificates(secret, CERTIFICATE)?)?;
    Ok((key, chain))
}

/// The certificates of one value, such as the roots.
pub(crate) fn certificates(secret: &KeySecret, key: &'static str) -> Result<Vec<Certificate>, TlsSecretError> {
    Certificate::parse_all(text(secret, key)?).map_err(|source| TlsSecretError::Certificates { key, source })
}

fn text<'a>(secret: &'a KeySecret, key: &'static str) -> Result<&'a str, TlsSecretError> {
    match secret.text(key) {
        None | Some(Ok("")) => Err(TlsSecretError::Missing(key)),
        Some(Ok(text)) => Ok(text),
        Some(Err(_)) => Err(TlsSecretError::NotText(key)),
    }
}

/// Kubernetes' name for the kind.
pub(crate) const KIND: &str = "kubernetes.io/tls";
/// The chain, leaf first.
pub(crate) const CERTIFICATE: &str = "tls.crt";
/// The private key.
pub(crate) const KEY: &str = "tls.key";
/// The roots: cert-manager's addition, and ours.
pub(crate) const ROOTS: &str = "ca.crt";

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use base64::{Engine as _, engine::general_purpose::STANDARD};
    use ensign_daemon::logging;
    use ensign_pki::KeyType;
    use ensign_testkit::TestCa;
    use ensign_testkit::ca::Leaf;
    use serde_json::json;

    use super::*;

    fn secret(values: &[(&str, &[u8])]) -> KeySecret {
        let data = values.iter().map(|(key, value)| (*key, STANDARD.encode(value)));
        let data: std::collections::BTreeMap<_, _> = data.collect();
        serde_json::from_value(json!({"metadata": {}, "type": KIND, "data": data})).unwrap()
    }

    /// Values, and what is said of them.
    type Case<'a> = (&'a [(&'a str, &'a [u8])], &'a str);

    #[test]
    fn each_value_that_is_missing_or_wrong_is_told_by_its_own_words() {
        let key = PrivateKey::generate(KeyType::P256).unwrap();
        let leaf = Leaf::right(
            "spiffe://cluster.local/ns/foo/sa/bar",
            Duration::from_hours(1),
            SystemTime::now(),
        );
        let certificate = TestCa::new("ca").issue(&key.spki_der(), &leaf);
        let (key_pem, damaged) = (key.to_pkcs8_pem(), certificate.replace("MII", "M"));
        let good = (KEY, key_pem.as_bytes());
        let cases: [Case<'_>; 7] = [
            (&[], "it has no tls.key, or an empty one; expected PEM"),
            (&[(KEY, b"")], "it has no tls.key, or an empty one; expected PEM"),
            (&[(KEY, b"\xff")], "its tls.key is not text; expected PEM"),
            (&[(KEY, b"x")], "its tls.key cannot be used: no private key found, "),
            (&[good, (CERTIFICATE, b"\xff")], "its tls.crt is not text; expected PEM"),
            (
                &[good, (CERTIFICATE, damaged.as_bytes())],
                "its tls.crt cannot be read: the ",
            ),
            (&[good, (CERTIFICATE, b"x")], "its tls.crt is no chain of a server: "),
        ];
        for (values, expected) in cases {
            let error = logging::chain(&read(&secret(values)).unwrap_err());
            assert!(error.starts_with(expected), "{error}, expected {expected}");
        }
        let (read_key, chain) = read(&secret(&[good, (CERTIFICATE, certificate.as_bytes())])).unwrap();
        assert_eq!(read_key.spki_der(), key.spki_der());
        assert_eq!(chain.leaf().spki_der(), key.spki_der());
    }
}
