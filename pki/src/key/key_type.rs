//! The types of key that this mesh knows: their names, which of them this build can make, what they sign with.
//!
//! A short list on purpose: what Envoy, both crypto providers and the RA all accept.

use std::{fmt, str::FromStr};

use rustls_pki_types::alg_id;

use super::KeyError;
use crate::crypto;

/// The types of key that workloads and CAs of this mesh may have.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum KeyType {
    /// ECDSA on NIST P-256.
    #[default]
    P256,
    /// ECDSA on NIST P-384.
    P384,
    /// RSA with 2048 bits.
    Rsa2048,
    /// RSA with 3072 bits.
    Rsa3072,
    /// RSA with 4096 bits.
    Rsa4096,
}

impl KeyType {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::P256, Self::P384, Self::Rsa2048, Self::Rsa3072, Self::Rsa4096];

    /// The name in configuration files, logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::P256 => "P-256",
            Self::P384 => "P-384",
            Self::Rsa2048 => "RSA-2048",
            Self::Rsa3072 => "RSA-3072",
            Self::Rsa4096 => "RSA-4096",
        }
    }

    /// Whether it is RSA, of whatever size.
    pub fn is_rsa(self) -> bool {
        match self {
            Self::Rsa2048 | Self::Rsa3072 | Self::Rsa4096 => true,
            Self::P256 | Self::P384 => false,
        }
    }

    /// Whether this build can make such keys. Meant for start-up, so that a wrong setting is named there and not in
    /// the night when the first workload appears.
    pub fn ensure_generatable(self) -> Result<(), KeyError> {
        if self.is_rsa() && !crypto::MAKES_RSA_KEYS {
            return Err(KeyError::CannotGenerate(self));
        }
        Ok(())
    }

    /// From the number of bits of an RSA modulus.
    pub(crate) fn from_rsa_bits(bits: usize) -> Option<Self> {
        match bits {
            2048 => Some(Self::Rsa2048),
            3072 => Some(Self::Rsa3072),
            4096 => Some(Self::Rsa4096),
            _ => None,
        }
    }

    /// From the content of the `AlgorithmIdentifier` of an elliptic curve key.
    pub(crate) fn from_curve(algorithm: &[u8]) -> Option<Self> {
        match algorithm {
            a if a == alg_id::ECDSA_P256.as_ref() => Some(Self::P256),
            a if a == alg_id::ECDSA_P384.as_ref() => Some(Self::P384),
            _ => None,
        }
    }

    /// Bytes of a private scalar, for curves.
    pub(super) fn scalar_length(self) -> Option<usize> {
        match self {
            Self::P256 => Some(32),
            Self::P384 => Some(48),
            Self::Rsa2048 | Self::Rsa3072 | Self::Rsa4096 => None,
        }
    }

    pub(super) fn signature_algorithm(self) -> &'static rcgen::SignatureAlgorithm {
        match self {
            Self::P256 => &rcgen::PKCS_ECDSA_P256_SHA256,
            Self::P384 => &rcgen::PKCS_ECDSA_P384_SHA384,
            Self::Rsa2048 | Self::Rsa3072 | Self::Rsa4096 => &rcgen::PKCS_RSA_SHA256,
        }
    }
}

impl fmt::Display for KeyType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for KeyType {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|key_type| key_type.as_str() == text)
            .ok_or_else(|| KeyError::UnknownType(text.chars().take(40).collect()))
    }
}
