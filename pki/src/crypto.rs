//! The crypto provider: the only file of the product that names `ring` or `aws-lc-rs`.
//!
//! Exactly one of the two is compiled in, chosen by a feature. The rest of the workspace says *what* it wants (this
//! module, or rustls through [`provider`]) and never *by whom*. `ring` cannot make RSA keys; everything else both can.

use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use zeroize::Zeroizing;

use crate::key::KeyType;

#[cfg(all(feature = "ring", feature = "aws-lc-rs"))]
compile_error!(
    "features `ring` and `aws-lc-rs` exclude each other: build with --no-default-features --features aws-lc-rs, or with neither flag"
);
#[cfg(not(any(feature = "ring", feature = "aws-lc-rs")))]
compile_error!("no crypto provider: enable feature `ring` (the default) or `aws-lc-rs`");

#[cfg(all(feature = "aws-lc-rs", not(feature = "ring")))]
use aws_lc_rs as backend;
#[cfg(feature = "ring")]
use ring as backend;

use backend::{
    digest,
    rand::{SecureRandom as _, SystemRandom},
    signature::{self, EcdsaKeyPair, KeyPair as _, RsaKeyPair, RsaPublicKeyComponents, UnparsedPublicKey},
};

/// The name of the provider in this build, for logs and messages.
pub const PROVIDER_NAME: &str = if cfg!(feature = "ring") { "ring" } else { "aws-lc-rs" };

/// Whether this build can make RSA keys. Both providers read, sign with and verify RSA.
pub const MAKES_RSA_KEYS: bool = !cfg!(feature = "ring");

/// Why an operation of the provider failed. The provider itself does not say more.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum CryptoError {
    /// The operating system gives no random bytes.
    #[error("the operating system gives no random bytes")]
    Random,
    /// `ring` makes no RSA keys.
    #[error("{PROVIDER_NAME} makes no RSA keys")]
    NoRsaGeneration,
    /// A key that the provider does not accept.
    #[error(
        "{PROVIDER_NAME} rejects the key: its parts are damaged, do not belong together or are of an unsupported size"
    )]
    Key,
    /// Signing failed.
    #[error("{PROVIDER_NAME} cannot sign with this key")]
    Sign,
    /// A signature that does not fit key and message.
    #[error("the signature does not fit the key and the message")]
    Signature,
    /// A signature algorithm that we do not know, or that does not go with the key.
    #[error("the signature algorithm is unknown or does not go with the type of the key")]
    Algorithm,
}

/// The provider for rustls, made once.
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: std::sync::OnceLock<Arc<CryptoProvider>> = std::sync::OnceLock::new();
    let provider = PROVIDER.get_or_init(|| {
        #[cfg(feature = "ring")]
        let made = rustls::crypto::ring::default_provider();
        #[cfg(not(feature = "ring"))]
        let made = rustls::crypto::aws_lc_rs::default_provider();
        Arc::new(made)
    });
    Arc::clone(provider)
}

/// Makes [`provider`] the process-wide default of rustls. May be called more than once.
pub fn install_default() {
    // An error says that one is installed already; it can only be this one, since no other is compiled in.
    drop(CryptoProvider::clone(&provider()).install_default());
}

/// SHA-256.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    out
}

/// Random bytes from the operating system, fit for keys and serial numbers.
pub fn random_bytes<const N: usize>() -> Result<[u8; N], CryptoError> {
    let mut out = [0; N];
    SystemRandom::new().fill(&mut out).map_err(|_| CryptoError::Random)?;
    Ok(out)
}

/// The two signature algorithms of JSON Web Tokens that we accept.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum JwsAlgorithm {
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    Rs256,
    /// ECDSA on P-256 with SHA-256, signature as r and s side by side.
    Es256,
}

/// The public key of a token issuer, from the components of a JSON Web Key.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum JwsKey {
    /// `n` and `e`, big-endian, without leading zeros.
    Rsa {
        /// Modulus.
        n: Vec<u8>,
        /// Public exponent.
        e: Vec<u8>,
    },
    /// The point as `04 ‖ x ‖ y`.
    P256(Vec<u8>),
}

impl JwsKey {
    /// From `n` and `e`. The modulus has 2048 to 8192 bits; leading zero bytes are dropped.
    pub fn rsa(n: &[u8], e: &[u8]) -> Result<Self, CryptoError> {
        let trim = |bytes: &[u8]| -> Vec<u8> { bytes.iter().copied().skip_while(|b| *b == 0).collect() };
        let (n, e) = (trim(n), trim(e));
        let bits = bit_length(&n);
        if (2048..=8192).contains(&bits) && !e.is_empty() && e.len() <= 5 {
            Ok(Self::Rsa { n, e })
        } else {
            Err(CryptoError::Key)
        }
    }

    /// From `x` and `y`, 32 bytes each.
    pub fn p256(x: &[u8], y: &[u8]) -> Result<Self, CryptoError> {
        if x.len() == 32 && y.len() == 32 {
            Ok(Self::P256([&[0x04], x, y].concat()))
        } else {
            Err(CryptoError::Key)
        }
    }

    /// The one algorithm that goes with this key.
    pub fn algorithm(&self) -> JwsAlgorithm {
        match self {
            Self::Rsa { .. } => JwsAlgorithm::Rs256,
            Self::P256(_) => JwsAlgorithm::Es256,
        }
    }

    /// Checks a signature. `algorithm` is what the token claims; it must be the one that goes with the key.
    pub fn verify(&self, algorithm: JwsAlgorithm, message: &[u8], signature: &[u8]) -> Result<(), CryptoError> {
        if algorithm != self.algorithm() {
            return Err(CryptoError::Algorithm);
        }
        let verified = match self {
            Self::Rsa { n, e } => RsaPublicKeyComponents {
                n: n.as_slice(),
                e: e.as_slice(),
            }
            .verify(&signature::RSA_PKCS1_2048_8192_SHA256, message, signature),
            Self::P256(point) => {
                UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, point).verify(message, signature)
            }
        };
        verified.map_err(|_| CryptoError::Signature)
    }
}

/// Checks a signature of the X.509 family. Both algorithms are the contents of their `AlgorithmIdentifier`s.
pub(crate) fn verify_x509(
    key_algorithm: &[u8],
    key: &[u8],
    signature_algorithm: &[u8],
    message: &[u8],
    signature: &[u8],
) -> Result<(), CryptoError> {
    webpki::ALL_VERIFICATION_ALGS
        .iter()
        .find(|candidate| {
            candidate.public_key_alg_id().as_ref() == key_algorithm
                && candidate.signature_alg_id().as_ref() == signature_algorithm
        })
        .ok_or(CryptoError::Algorithm)?
        .verify_signature(key, message, signature)
        .map_err(|_| CryptoError::Signature)
}

/// The provider's own form of a private key, ready to sign.
pub(crate) enum Signer {
    Ecdsa(EcdsaKeyPair),
    Rsa(RsaKeyPair),
}

impl Signer {
    /// From PKCS#8 version 1.
    pub(crate) fn from_pkcs8(key_type: KeyType, pkcs8: &[u8]) -> Result<Self, CryptoError> {
        let signer = match key_type {
            KeyType::P256 => Self::Ecdsa(ecdsa(&signature::ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8)?),
            KeyType::P384 => Self::Ecdsa(ecdsa(&signature::ECDSA_P384_SHA384_ASN1_SIGNING, pkcs8)?),
            KeyType::Rsa2048 | KeyType::Rsa3072 | KeyType::Rsa4096 => {
                Self::Rsa(RsaKeyPair::from_pkcs8(pkcs8).map_err(|_| CryptoError::Key)?)
            }
        };
        Ok(signer)
    }

    /// The content of `subjectPublicKey`: a point, or a DER `RSAPublicKey`.
    pub(crate) fn public_key(&self) -> &[u8] {
        match self {
            Self::Ecdsa(pair) => pair.public_key().as_ref(),
            Self::Rsa(pair) => pair.public_key().as_ref(),
        }
    }

    /// Signs with SHA-384 for P-384, with SHA-256 for all others.
    pub(crate) fn sign(&self, message: &[u8]) -> Result<Vec<u8>, CryptoError> {
        let random = SystemRandom::new();
        match self {
            Self::Ecdsa(pair) => {
                let signature = pair.sign(&random, message).map_err(|_| CryptoError::Sign)?;
                Ok(signature.as_ref().to_vec())
            }
            Self::Rsa(pair) => {
                let mut signature = vec![0; modulus_length(pair)];
                pair.sign(&signature::RSA_PKCS1_SHA256, &random, message, &mut signature)
                    .map_err(|_| CryptoError::Sign)?;
                Ok(signature)
            }
        }
    }
}

#[cfg(feature = "ring")]
fn ecdsa(algorithm: &'static signature::EcdsaSigningAlgorithm, pkcs8: &[u8]) -> Result<EcdsaKeyPair, CryptoError> {
    EcdsaKeyPair::from_pkcs8(algorithm, pkcs8, &SystemRandom::new()).map_err(|_| CryptoError::Key)
}

#[cfg(not(feature = "ring"))]
fn ecdsa(algorithm: &'static signature::EcdsaSigningAlgorithm, pkcs8: &[u8]) -> Result<EcdsaKeyPair, CryptoError> {
    EcdsaKeyPair::from_pkcs8(algorithm, pkcs8).map_err(|_| CryptoError::Key)
}

#[cfg(feature = "ring")]
fn modulus_length(pair: &RsaKeyPair) -> usize {
    pair.public().modulus_len()
}

#[cfg(not(feature = "ring"))]
fn modulus_length(pair: &RsaKeyPair) -> usize {
    pair.public_modulus_len()
}

/// Does what needs a private key, then overwrites what that left on the stack: `ring` wipes none of its scratch memory, and a
/// thread with little to do would keep it for as long as it sleeps.
pub(crate) fn swept<T>(work: impl FnOnce() -> T) -> T {
    /// Has a frame of its own, so that all of the work's frames are below the caller's.
    #[inline(never)]
    fn apart<T>(work: impl FnOnce() -> T) -> T {
        work()
    }
    let made = apart(work);
    overwrite_stack(4);
    made
}

/// So many times 16 KiB below the caller's frame, which is more than the provider uses.
#[inline(never)]
fn overwrite_stack(times: usize) {
    let mut below = [0_u8; 16 * 1024];
    std::hint::black_box(&mut below);
    if times > 1 {
        overwrite_stack(times - 1);
    }
    // Needed until here, so that the next call cannot take this frame's place.
    std::hint::black_box(&mut below);
}

/// A new private key as PKCS#8.
pub(crate) fn generate_pkcs8(key_type: KeyType) -> Result<Zeroizing<Vec<u8>>, CryptoError> {
    let ecdsa = |algorithm| {
        let document =
            EcdsaKeyPair::generate_pkcs8(algorithm, &SystemRandom::new()).map_err(|_| CryptoError::Random)?;
        Ok(Zeroizing::new(document.as_ref().to_vec()))
    };
    match key_type {
        KeyType::P256 => ecdsa(&signature::ECDSA_P256_SHA256_ASN1_SIGNING),
        KeyType::P384 => ecdsa(&signature::ECDSA_P384_SHA384_ASN1_SIGNING),
        KeyType::Rsa2048 | KeyType::Rsa3072 | KeyType::Rsa4096 => rsa_pkcs8(key_type),
    }
}

#[cfg(feature = "ring")]
fn rsa_pkcs8(_: KeyType) -> Result<Zeroizing<Vec<u8>>, CryptoError> {
    Err(CryptoError::NoRsaGeneration)
}

#[cfg(not(feature = "ring"))]
fn rsa_pkcs8(key_type: KeyType) -> Result<Zeroizing<Vec<u8>>, CryptoError> {
    use backend::{
        encoding::{AsDer as _, Pkcs8V1Der},
        rsa::KeySize,
    };
    let size = match key_type {
        KeyType::Rsa3072 => KeySize::Rsa3072,
        KeyType::Rsa4096 => KeySize::Rsa4096,
        KeyType::P256 | KeyType::P384 | KeyType::Rsa2048 => KeySize::Rsa2048,
    };
    let pair = RsaKeyPair::generate(size).map_err(|_| CryptoError::Random)?;
    let der: Pkcs8V1Der<'_> = pair.as_der().map_err(|_| CryptoError::Key)?;
    Ok(Zeroizing::new(der.as_ref().to_vec()))
}

/// Bits of a big-endian number without leading zero bytes.
pub(crate) fn bit_length(magnitude: &[u8]) -> usize {
    magnitude.first().map_or(0, |first| {
        magnitude.len() * 8 - usize::try_from(first.leading_zeros()).unwrap_or_default()
    })
}

#[cfg(test)]
mod tests {
    use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
    use rcgen::{PublicKeyData as _, SigningKey as _};

    use super::*;
    use crate::{PrivateKey, der, der::Reader};

    fn decode(text: &str) -> Vec<u8> {
        URL_SAFE_NO_PAD.decode(text).unwrap()
    }

    /// RFC 7515, appendix A.3.
    #[test]
    fn es256_of_the_specification() {
        let key = JwsKey::p256(
            &decode("f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU"),
            &decode("x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"),
        )
        .unwrap();
        let message = b"eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
        let mut signature =
            decode("DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q");
        assert_eq!(key.verify(JwsAlgorithm::Es256, message, &signature), Ok(()));
        assert_eq!(
            key.verify(JwsAlgorithm::Rs256, message, &signature),
            Err(CryptoError::Algorithm)
        );
        assert_eq!(
            key.verify(JwsAlgorithm::Es256, b"other", &signature),
            Err(CryptoError::Signature)
        );
        signature[0] ^= 1;
        assert_eq!(
            key.verify(JwsAlgorithm::Es256, message, &signature),
            Err(CryptoError::Signature)
        );
        assert_eq!(
            key.verify(JwsAlgorithm::Es256, message, &[]),
            Err(CryptoError::Signature)
        );
        assert_eq!(
            key.verify(JwsAlgorithm::Es256, message, &[0; 64]),
            Err(CryptoError::Signature)
        );
    }

    /// ECDSA signatures of tokens are two numbers side by side; the ASN.1 form of certificates is another algorithm.
    #[test]
    fn es256_in_the_form_of_certificates_is_refused() {
        let private = PrivateKey::generate(KeyType::P256).unwrap();
        let point = private.der_bytes();
        let key = JwsKey::p256(&point[1..33], &point[33..]).unwrap();
        let signature = private.sign(b"message").unwrap();
        assert_eq!(
            key.verify(JwsAlgorithm::Es256, b"message", &signature),
            Err(CryptoError::Signature)
        );
    }

    #[test]
    fn rs256() {
        let private = PrivateKey::from_pem(include_str!("../testdata/rsa-2048.pkcs8.pem")).unwrap();
        let mut numbers = Reader::whole(private.der_bytes(), der::SEQUENCE).unwrap();
        let (n, e) = (numbers.unsigned().unwrap(), numbers.unsigned().unwrap());
        let signature = private.sign(b"message").unwrap();
        for n in [n.to_vec(), [&[0], n].concat()] {
            let key = JwsKey::rsa(&n, e).unwrap();
            assert_eq!(key.algorithm(), JwsAlgorithm::Rs256);
            assert_eq!(key.verify(JwsAlgorithm::Rs256, b"message", &signature), Ok(()));
            assert_eq!(
                key.verify(JwsAlgorithm::Es256, b"message", &signature),
                Err(CryptoError::Algorithm)
            );
            assert_eq!(
                key.verify(JwsAlgorithm::Rs256, b"messagE", &signature),
                Err(CryptoError::Signature)
            );
        }
    }

    #[test]
    fn keys_of_issuers_have_bounds() {
        assert_eq!(
            JwsKey::rsa(&[0xff; 128], &[1, 0, 1]),
            Err(CryptoError::Key),
            "1024 bits"
        );
        assert_eq!(
            JwsKey::rsa(&[0xff; 1025], &[1, 0, 1]),
            Err(CryptoError::Key),
            "8200 bits"
        );
        assert_eq!(JwsKey::rsa(&[0xff; 256], &[]), Err(CryptoError::Key));
        assert_eq!(JwsKey::rsa(&[], &[1, 0, 1]), Err(CryptoError::Key));
        assert!(JwsKey::rsa(&[0xff; 256], &[1, 0, 1]).is_ok());
        assert_eq!(JwsKey::p256(&[1; 31], &[1; 32]), Err(CryptoError::Key));
        assert_eq!(JwsKey::p256(&[1; 32], &[1; 33]), Err(CryptoError::Key));
    }

    #[test]
    fn digests_and_random_bytes() {
        assert_eq!(sha256(b"")[..4], [0xe3, 0xb0, 0xc4, 0x42]);
        assert_ne!(random_bytes::<16>().unwrap(), random_bytes::<16>().unwrap());
    }

    #[test]
    fn bits_are_counted_from_the_first_one() {
        assert_eq!(bit_length(&[]), 0);
        assert_eq!(bit_length(&[1]), 1);
        assert_eq!(bit_length(&[0x80, 0]), 16);
        assert_eq!(bit_length(&[0x7f, 0]), 15);
    }
}
