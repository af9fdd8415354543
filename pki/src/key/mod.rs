//! Private keys: made, read, wiped.
//!
//! A [`PrivateKey`] has no `Clone`, no `Serialize`, and a `Debug` that names only its type. It leaves this module in
//! one way, [`PrivateKey::to_pkcs8_pem`], whose buffer wipes itself. Every buffer that *we* fill with key material is
//! sized beforehand and wiped on drop.
//!
//! Copies that are not ours and that we cannot wipe: the provider's own representation inside [`PrivateKey`] and its
//! scratch memory on the heap (`ring` keeps the scalar, `aws-lc-rs` wipes its own on free; what they leave on the stack is overwritten), the line buffer of the
//! PEM reader in [`PrivateKey::from_pem`], and whatever a caller makes of the PEM (an Envoy gets it over a socket).

use std::fmt;

use rcgen::{PublicKeyData, SigningKey};
use rustls_pki_types::{
    alg_id,
    pem::{PemObject as _, SectionKind},
};
use x509_parser::der_parser::oid::Oid;
use zeroize::Zeroizing;

mod key_type;

pub use key_type::KeyType;

use crate::{
    crypto::{self, CryptoError, Signer},
    der::{self, DerError, Reader},
    pem,
};

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// Not a name of a key type.
    #[error("key type {0:?} is unknown, expected one of P-256, P-384, RSA-2048, RSA-3072, RSA-4096")]
    UnknownType(String),
    /// `ring` makes no RSA keys.
    #[error(
        "this build cannot make {0} keys: its crypto provider ring has no RSA key generation; choose P-256 or P-384, or use a build with --no-default-features --features aws-lc-rs"
    )]
    CannotGenerate(KeyType),
    /// No private key between BEGIN and END, or damaged armour.
    #[error(
        "no private key found, expected one PEM block PRIVATE KEY (PKCS#8), RSA PRIVATE KEY (PKCS#1) or EC PRIVATE KEY (SEC1)"
    )]
    NoKey,
    /// More than one key: which one is meant would be a guess.
    #[error("more than one private key found, expected one")]
    SeveralKeys,
    /// The armour is damaged.
    #[error("the PEM armour of the private key is damaged: {0}")]
    Armour(String),
    /// Encrypted keys need a passphrase that we have no way to ask for.
    #[error("the private key is encrypted: store it without a passphrase (openssl pkey -in key.pem -out plain.pem)")]
    Encrypted,
    /// The encoding is damaged.
    #[error("the private key is not valid {form}: {fault}")]
    Encoding {
        /// PKCS#8, PKCS#1 or SEC1.
        form: &'static str,
        /// What is wrong with it.
        fault: DerError,
    },
    /// Ed25519, P-521, RSA of other sizes and so on.
    #[error("the private key is {0}, expected P-256, P-384 or RSA with 2048, 3072 or 4096 bits")]
    Unsupported(String),
    /// SEC1 allows it to be absent, `ring` needs it.
    #[error(
        "the elliptic curve key carries no public key: write it again with one (openssl ec -in key.pem -out new.pem)"
    )]
    NoPublicKey,
    /// The provider refuses it.
    #[error("the private key cannot be used")]
    Crypto(#[from] CryptoError),
}

/// A private key that can sign. See the module documentation for where copies of it are.
pub struct PrivateKey {
    key_type: KeyType,
    pkcs8: Zeroizing<Vec<u8>>,
    signer: Signer,
}

impl PrivateKey {
    /// Makes a new key. RSA takes from a tenth of a second to seconds of pure computation: call it where blocking is allowed.
    pub fn generate(key_type: KeyType) -> Result<Self, KeyError> {
        key_type.ensure_generatable()?;
        crypto::swept(|| {
            let pkcs8 = crypto::generate_pkcs8(key_type)?;
            // Through the same door as keys from files: what leaves is PKCS#8 version 1 whatever the provider writes.
            Self::from_pkcs8(&pkcs8)
        })
    }

    /// Reads PKCS#8, PKCS#1 or SEC1. Other blocks beside the key (`EC PARAMETERS`, certificates) are skipped.
    pub fn from_pem(text: &str) -> Result<Self, KeyError> {
        if text.contains("-----BEGIN ENCRYPTED PRIVATE KEY-----") || text.contains("Proc-Type: 4,ENCRYPTED") {
            return Err(KeyError::Encrypted);
        }
        let mut found = None;
        for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(text.as_bytes()) {
            let (kind, der) = section.map_err(|error| KeyError::Armour(armour_fault(&error)))?;
            let der = Zeroizing::new(der);
            let read: fn(&[u8]) -> Result<Self, KeyError> = match kind {
                SectionKind::PrivateKey => Self::from_pkcs8,
                SectionKind::RsaPrivateKey => Self::from_pkcs1,
                SectionKind::EcPrivateKey => |der| Self::from_sec1(der, None),
                _ => continue,
            };
            if found.is_some() {
                return Err(KeyError::SeveralKeys);
            }
            found = Some(read(&der)?);
        }
        found.ok_or(KeyError::NoKey)
    }

    /// PKCS#8 version 1 in PEM. Version 2 (with a public key beside the private one) is never written: BoringSSL,
    /// and so Envoy, refuses it.
    pub fn to_pkcs8_pem(&self) -> Zeroizing<String> {
        pem::encode("PRIVATE KEY", &self.pkcs8)
    }

    /// The type.
    pub fn key_type(&self) -> KeyType {
        self.key_type
    }

    /// The public key as DER `SubjectPublicKeyInfo`.
    pub fn spki_der(&self) -> Vec<u8> {
        self.subject_public_key_info()
    }

    /// For rcgen, which signs certificates and requests with it.
    pub fn signing_key(&self) -> &(impl SigningKey + use<>) {
        self
    }

    fn from_pkcs8(der: &[u8]) -> Result<Self, KeyError> {
        let fault = |fault| KeyError::Encoding { form: "PKCS#8", fault };
        let mut reader = Reader::whole(der, der::SEQUENCE).map_err(fault)?;
        match reader.unsigned().map_err(fault)? {
            [0 | 1] => {}
            _ => return Err(fault(DerError::Value("version"))),
        }
        let algorithm = reader.read(der::SEQUENCE).map_err(fault)?.value;
        let inner = reader.read(der::OCTET_STRING).map_err(fault)?.value;
        // Attributes and, in version 2, a public key may follow. They are dropped: the key itself says all.
        if algorithm == alg_id::RSA_ENCRYPTION.as_ref() {
            return Self::from_pkcs1(inner);
        }
        match KeyType::from_curve(algorithm) {
            Some(curve) => Self::from_sec1(inner, Some(curve)),
            None => Err(KeyError::Unsupported(algorithm_name(algorithm))),
        }
    }

    fn from_pkcs1(der: &[u8]) -> Result<Self, KeyError> {
        let fault = |fault| KeyError::Encoding { form: "PKCS#1", fault };
        let mut reader = Reader::whole(der, der::SEQUENCE).map_err(fault)?;
        if reader.unsigned().map_err(fault)? != [0] {
            return Err(fault(DerError::Value("version")));
        }
        let bits = crypto::bit_length(reader.unsigned().map_err(fault)?);
        let key_type =
            KeyType::from_rsa_bits(bits).ok_or_else(|| KeyError::Unsupported(format!("RSA with {bits} bits")))?;
        Self::wrap(key_type, alg_id::RSA_ENCRYPTION.as_ref(), der)
    }

    /// `outer` is the curve that an enclosing PKCS#8 names; without one the key must name it itself.
    fn from_sec1(der: &[u8], outer: Option<KeyType>) -> Result<Self, KeyError> {
        let fault = |fault| KeyError::Encoding { form: "SEC1", fault };
        let mut reader = Reader::whole(der, der::SEQUENCE).map_err(fault)?;
        if reader.unsigned().map_err(fault)? != [1] {
            return Err(fault(DerError::Value("version")));
        }
        let scalar = reader.read(der::OCTET_STRING).map_err(fault)?.value;
        let named = if reader.at(der::CONTEXT_0) {
            let parameters = reader.read(der::CONTEXT_0).map_err(fault)?.value;
            Some(curve_of(parameters)?)
        } else {
            None
        };
        let curve = match (outer, named) {
            (Some(outer), Some(named)) if outer != named => return Err(fault(DerError::Value("curve"))),
            (Some(curve), _) | (None, Some(curve)) => curve,
            (None, None) => {
                return Err(KeyError::Unsupported(
                    "an elliptic curve key without a curve".to_owned(),
                ));
            }
        };
        if reader.is_empty() {
            return Err(KeyError::NoPublicKey);
        }
        let point = reader.enter(der::CONTEXT_1).and_then(|mut r| {
            let bits = r.read(der::BIT_STRING)?.raw;
            r.end().map(|()| bits)
        });
        let point = point.map_err(fault)?;
        reader.end().map_err(fault)?;

        // Some writers drop leading zeros of the scalar, some prepend one. The providers want the curve's length.
        let length = curve.scalar_length().unwrap_or_default();
        let skip = scalar
            .iter()
            .take_while(|b| **b == 0)
            .count()
            .min(scalar.len().saturating_sub(length));
        let digits = scalar.get(skip..).unwrap_or_default();
        let padding = length
            .checked_sub(digits.len())
            .ok_or_else(|| fault(DerError::Value("scalar")))?;
        let scalar = der::element(der::OCTET_STRING, &[[0; 48].get(..padding).unwrap_or_default(), digits]);
        let point = der::element(der::CONTEXT_1, &[point]);
        let sec1 = der::element(der::SEQUENCE, &[&[der::INTEGER, 1, 1], &scalar, &point]);
        let algorithm = if curve == KeyType::P384 {
            alg_id::ECDSA_P384
        } else {
            alg_id::ECDSA_P256
        };
        Self::wrap(curve, algorithm.as_ref(), &sec1)
    }

    /// Puts a key into PKCS#8 version 1 and hands it to the provider, which checks that its parts belong together.
    fn wrap(key_type: KeyType, algorithm: &[u8], inner: &[u8]) -> Result<Self, KeyError> {
        let algorithm = der::element(der::SEQUENCE, &[algorithm]);
        let inner = der::element(der::OCTET_STRING, &[inner]);
        let pkcs8 = der::element(der::SEQUENCE, &[&[der::INTEGER, 1, 0], &algorithm, &inner]);
        let signer = Signer::from_pkcs8(key_type, &pkcs8)?;
        Ok(Self {
            key_type,
            pkcs8,
            signer,
        })
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PrivateKey")
            .field("type", &self.key_type.as_str())
            .finish_non_exhaustive()
    }
}

impl PublicKeyData for PrivateKey {
    fn der_bytes(&self) -> &[u8] {
        self.signer.public_key()
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        self.key_type.signature_algorithm()
    }
}

impl SigningKey for PrivateKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        crypto::swept(|| self.signer.sign(message)).map_err(|_| rcgen::Error::RemoteKeyError)
    }
}

/// The curve that SEC1 parameters name.
fn curve_of(parameters: &[u8]) -> Result<KeyType, KeyError> {
    [KeyType::P256, KeyType::P384]
        .into_iter()
        .zip([alg_id::ECDSA_P256, alg_id::ECDSA_P384])
        .find(|(_, algorithm)| {
            !parameters.is_empty() && algorithm.as_ref().ends_with(parameters) && parameters.first() == Some(&der::OID)
        })
        .map(|(curve, _)| curve)
        .ok_or_else(|| KeyError::Unsupported("on another elliptic curve".to_owned()))
}

/// A name for the content of an `AlgorithmIdentifier` that we do not support.
pub(crate) fn algorithm_name(algorithm: &[u8]) -> String {
    if algorithm == alg_id::ED25519.as_ref() {
        // BoringSSL as Envoy ships it has no Ed25519 for TLS certificates.
        return "Ed25519 (which Envoy does not accept)".to_owned();
    }
    if algorithm == alg_id::ECDSA_P521.as_ref() {
        return "P-521".to_owned();
    }
    match Reader::new(algorithm).read(der::OID) {
        Ok(oid) => format!("of algorithm {}", oid_text(oid.value)),
        Err(_) => "of an unreadable algorithm".to_owned(),
    }
}

/// The dotted form of an OID, bounded: a refused request does not fill the log.
pub(crate) fn oid_text(oid: &[u8]) -> String {
    const LONGEST: usize = 40;
    if oid.is_empty() || oid.len() > LONGEST {
        return "of an unreadable name".to_owned();
    }
    Oid::new(oid.into()).to_id_string()
}

/// The library quotes lines of the input in some faults. A line of a key must not reach a log, so only the kind does.
fn armour_fault(error: &rustls_pki_types::pem::Error) -> String {
    use rustls_pki_types::pem::Error;
    match error {
        Error::MissingSectionEnd { .. } => "a BEGIN line has no END line".to_owned(),
        Error::IllegalSectionStart { .. } => "a BEGIN line is malformed".to_owned(),
        Error::Base64Decode(_) => "its content is not base64".to_owned(),
        _ => "unreadable".to_owned(),
    }
}

#[cfg(test)]
mod tests;
