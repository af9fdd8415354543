//! Raw limits: the crypto provider called directly, with nothing of ours around it.

#[cfg(all(feature = "aws-lc-rs", not(feature = "ring")))]
use aws_lc_rs as backend;
#[cfg(feature = "ring")]
use ring as backend;

use anyhow::anyhow;
use backend::rand::SystemRandom;
use backend::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_SHA256,
    RsaKeyPair, RsaPublicKeyComponents, UnparsedPublicKey,
};

/// Signs as most API servers sign tokens: RS256, with a key of 2048 bits.
pub(crate) struct Rs256(RsaKeyPair);

/// A new P-256 key and one signature with it; returns the signature's length.
pub(crate) fn make_key_and_sign(message: &[u8]) -> anyhow::Result<usize> {
    let random = SystemRandom::new();
    let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random)
        .map_err(|_| anyhow!("no key could be made"))?;
    let pair = pair(document.as_ref())?;
    let signature = pair.sign(&random, message).map_err(|_| anyhow!("cannot sign"))?;
    Ok(signature.as_ref().len())
}

/// Checks a signature as certificates and CSRs carry it. `point` is the uncompressed public key.
pub(crate) fn verify_asn1(point: &[u8], message: &[u8], signature: &[u8]) -> anyhow::Result<()> {
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point)
        .verify(message, signature)
        .map_err(|_| anyhow!("the signature of the CSR is wrong"))
}

/// Checks a signature as the tokens of most clusters carry it (RS256). `n` and `e` are big-endian.
pub(crate) fn verify_rs256(n: &[u8], e: &[u8], message: &[u8], signature: &[u8]) -> anyhow::Result<()> {
    RsaPublicKeyComponents { n, e }
        .verify(&RSA_PKCS1_2048_8192_SHA256, message, signature)
        .map_err(|_| anyhow!("the signature of the token is wrong"))
}

impl Rs256 {
    /// Of a key in PKCS#1.
    pub(crate) fn new(pkcs1_der: &[u8]) -> anyhow::Result<Self> {
        let pair = RsaKeyPair::from_der(pkcs1_der).map_err(|error| anyhow!("not an RSA key: {error}"))?;
        Ok(Self(pair))
    }

    /// The signature.
    pub(crate) fn sign(&self, message: &[u8]) -> anyhow::Result<[u8; 256]> {
        let mut signature = [0; 256];
        self.0
            .sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message, &mut signature)
            .map_err(|_| anyhow!("cannot sign: is it a key of 2048 bits?"))?;
        Ok(signature)
    }
}

#[cfg(feature = "ring")]
fn pair(pkcs8: &[u8]) -> anyhow::Result<EcdsaKeyPair> {
    let random = SystemRandom::new();
    EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8, &random).map_err(|_| anyhow!("bad key"))
}

#[cfg(not(feature = "ring"))]
fn pair(pkcs8: &[u8]) -> anyhow::Result<EcdsaKeyPair> {
    EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8).map_err(|_| anyhow!("bad key"))
}
