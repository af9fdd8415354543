//! Certificate signing requests: built by the agent, parsed strictly by the RA.
//!
//! The RA uses of a request its public key and its id (invariant I6). So [`Csr::parse_der`] accepts exactly the
//! requests that hold nothing else: an empty subject or the single `O=""` that Istio's agent writes, one attribute,
//! which asks for one extension, the subject alternative name, with one URI. Everything else is refused, each with a
//! reason of its own; nothing is skipped, filled in or normalised. What a [`Csr`] hands out is the same DER that was
//! checked, in fresh armour.

use rcgen::{CertificateParams, DistinguishedName, SanType};
use rustls_pki_types::{AlgorithmIdentifier, alg_id};

use crate::{
    crypto::{self, CryptoError},
    der::{self, DerError, Reader},
    key::{self, KeyType, PrivateKey},
    pem::{self, PemError},
    san::{self, SanError},
    spiffe_id::SpiffeId,
};

/// Far above any honest request: RSA-4096 with the longest id needs below 3 kB.
const MAX_DER: usize = 8 * 1024;
const MAX_PEM: usize = 12 * 1024;
const LABEL: &str = "CERTIFICATE REQUEST";

/// `extensionRequest`, 1.2.840.113549.1.9.14, as the content of an OID.
const EXTENSION_REQUEST: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x0e];
/// `O=""` as the content of a `Name`, in the two string types that encoders choose.
const EMPTY_ORGANIZATION: [&[u8]; 2] = [
    &[0x31, 0x09, 0x30, 0x07, 0x06, 0x03, 0x55, 0x04, 0x0a, 0x13, 0x00],
    &[0x31, 0x09, 0x30, 0x07, 0x06, 0x03, 0x55, 0x04, 0x0a, 0x0c, 0x00],
];

/// Why a request is refused, or was not built.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum CsrError {
    /// Larger than any honest request.
    #[error("the request has {seen} bytes, at most {limit} are accepted")]
    TooLarge {
        /// Its size.
        seen: usize,
        /// The bound.
        limit: usize,
    },
    /// Not exactly one PEM block.
    #[error("the request is not exactly one PEM block {LABEL}: {0}")]
    Armour(PemError),
    /// Not DER of the right shape, or bytes left over.
    #[error("the {part} of the request is not valid DER: {fault}")]
    Encoding {
        /// Where.
        part: &'static str,
        /// What.
        fault: DerError,
    },
    /// PKCS#10 knows version 0 only.
    #[error("the request is of an unknown version, expected 0")]
    Version,
    /// Names in the subject.
    #[error(
        "the request has a subject, expected none (or O=\"\"): the identity stands in the subject alternative name"
    )]
    Subject,
    /// Ed25519, P-521, DSA and so on.
    #[error("the public key of the request is {0}, expected P-256, P-384 or RSA with 2048, 3072 or 4096 bits")]
    KeyType(String),
    /// RSA of another size.
    #[error("the public key of the request is RSA with {0} bits, expected 2048, 3072 or 4096")]
    RsaKeySize(usize),
    /// An attribute other than `extensionRequest`.
    #[error("the request has an attribute other than extensionRequest, expected none")]
    Attribute,
    /// No `extensionRequest`, or one without extensions.
    #[error("the request asks for no subject alternative name, expected one")]
    NoSan,
    /// `extensionRequest` twice, or with several values.
    #[error("the request has more than one extensionRequest, expected one")]
    SeveralExtensionRequests,
    /// Key usage, basic constraints or anything else.
    #[error("the request asks for extension {0}, expected the subject alternative name only")]
    Extension(String),
    /// The subject alternative name twice.
    #[error("the request has more than one subject alternative name extension, expected one")]
    SeveralSans,
    /// The one extension holds something else than one id.
    #[error("in the request, {0}")]
    San(SanError),
    /// MD5, SHA-1, PSS, or an algorithm of another key type.
    #[error(
        "the signature algorithm of the request does not go with its {0} key, expected PKCS#1 v1.5 or ECDSA with SHA-256, SHA-384 or SHA-512"
    )]
    SignatureAlgorithm(KeyType),
    /// The requester does not hold the private key, or the request was changed.
    #[error("the signature of the request does not fit its public key and content")]
    Signature,
    /// Building failed.
    #[error("the request cannot be built: {0}")]
    Build(String),
}

impl CsrError {
    /// A fixed word for metrics and log fields.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "too_large",
            Self::Armour(_) => "armour",
            Self::Encoding { .. } => "encoding",
            Self::Version => "version",
            Self::Subject => "subject",
            Self::KeyType(_) => "key_type",
            Self::RsaKeySize(_) => "rsa_key_size",
            Self::Attribute => "attribute",
            Self::NoSan => "san_missing",
            Self::SeveralExtensionRequests => "several_extension_requests",
            Self::Extension(_) => "extension",
            Self::SeveralSans => "several_sans",
            Self::San(san) => san.reason(),
            Self::SignatureAlgorithm(_) => "signature_algorithm",
            Self::Signature => "signature",
            Self::Build(_) => "build",
        }
    }
}

/// A request that holds one public key, one id and nothing else, signed by that key.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Csr {
    der: Vec<u8>,
    id: SpiffeId,
    spki_der: Vec<u8>,
    key_type: KeyType,
}

/// A request for `id`, signed by `key`: empty subject and, since the subject is empty, a critical subject
/// alternative name.
pub fn build(key: &PrivateKey, id: &SpiffeId) -> Result<Csr, CsrError> {
    let fault = |error: rcgen::Error| CsrError::Build(error.to_string());
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![SanType::URI(id.as_str().try_into().map_err(fault)?)];
    let request = params.serialize_request(key).map_err(fault)?;
    Ok(Csr {
        der: request.der().to_vec(),
        id: id.clone(),
        spki_der: key.spki_der(),
        key_type: key.key_type(),
    })
}

impl Csr {
    /// Parses exactly one PEM block of label `CERTIFICATE REQUEST`, with nothing but white space around it.
    pub fn parse_pem(text: &str) -> Result<Self, CsrError> {
        if text.len() > MAX_PEM {
            return Err(CsrError::TooLarge {
                seen: text.len(),
                limit: MAX_PEM,
            });
        }
        Self::parse_der(&pem::decode_one(LABEL, text).map_err(CsrError::Armour)?)
    }

    /// Parses DER with nothing after it. The costly check, the signature, comes last.
    pub fn parse_der(der: &[u8]) -> Result<Self, CsrError> {
        if der.len() > MAX_DER {
            return Err(CsrError::TooLarge {
                seen: der.len(),
                limit: MAX_DER,
            });
        }
        let fault = at("outer structure");
        let mut request = Reader::whole(der, der::SEQUENCE).map_err(fault)?;
        let content = request.read(der::SEQUENCE).map_err(fault)?;
        let signature_algorithm = request.read(der::SEQUENCE).map_err(fault)?.value;
        let signature = request.bits().map_err(fault)?;
        request.end().map_err(fault)?;

        let fault = at("content");
        let mut fields = Reader::new(content.value);
        if fields.unsigned().map_err(fault)? != [0] {
            return Err(CsrError::Version);
        }
        let subject = fields.read(der::SEQUENCE).map_err(fault)?.value;
        let spki = fields.read(der::SEQUENCE).map_err(fault)?;
        let attributes = fields.enter(der::CONTEXT_0).map_err(fault)?;
        fields.end().map_err(fault)?;

        if !subject.is_empty() && !EMPTY_ORGANIZATION.contains(&subject) {
            return Err(CsrError::Subject);
        }
        let key = PublicKey::parse(spki.value)?;
        let id = requested_id(attributes)?;
        key.verify(signature_algorithm, content.raw, signature)?;
        Ok(Self {
            der: der.to_vec(),
            id,
            spki_der: spki.raw.to_vec(),
            key_type: key.key_type,
        })
    }

    /// The id that it asks for. Whether the caller may have it is the RA's to decide.
    pub fn spiffe_id(&self) -> &SpiffeId {
        &self.id
    }

    /// The public key as DER `SubjectPublicKeyInfo`.
    pub fn spki_der(&self) -> &[u8] {
        &self.spki_der
    }

    /// The type of the key.
    pub fn key_type(&self) -> KeyType {
        self.key_type
    }

    /// The bytes that were checked.
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// The same bytes in fresh armour.
    pub fn to_pem(&self) -> String {
        pem::encode(LABEL, &self.der).to_string()
    }
}

/// The key of a request while it is being checked.
struct PublicKey<'a> {
    key_type: KeyType,
    bits: &'a [u8],
}

impl<'a> PublicKey<'a> {
    fn parse(spki: &'a [u8]) -> Result<Self, CsrError> {
        let fault = at("public key");
        let mut fields = Reader::new(spki);
        let algorithm = fields.read(der::SEQUENCE).map_err(fault)?.value;
        let bits = fields.bits().map_err(fault)?;
        fields.end().map_err(fault)?;
        let key_type = if algorithm == alg_id::RSA_ENCRYPTION.as_ref() {
            let mut numbers = Reader::whole(bits, der::SEQUENCE).map_err(fault)?;
            let modulus = numbers.unsigned().map_err(fault)?;
            numbers.unsigned().map_err(fault)?;
            numbers.end().map_err(fault)?;
            let size = crypto::bit_length(modulus);
            KeyType::from_rsa_bits(size).ok_or(CsrError::RsaKeySize(size))?
        } else {
            KeyType::from_curve(algorithm).ok_or_else(|| CsrError::KeyType(key::algorithm_name(algorithm)))?
        };
        Ok(Self { key_type, bits })
    }

    fn verify(&self, algorithm: &[u8], message: &[u8], signature: &[u8]) -> Result<(), CsrError> {
        const ECDSA: &[AlgorithmIdentifier] = &[alg_id::ECDSA_SHA256, alg_id::ECDSA_SHA384];
        const RSA: &[AlgorithmIdentifier] = &[
            alg_id::RSA_PKCS1_SHA256,
            alg_id::RSA_PKCS1_SHA384,
            alg_id::RSA_PKCS1_SHA512,
        ];
        let (key, allowed) = match self.key_type {
            KeyType::P256 => (alg_id::ECDSA_P256, ECDSA),
            KeyType::P384 => (alg_id::ECDSA_P384, ECDSA),
            KeyType::Rsa2048 | KeyType::Rsa3072 | KeyType::Rsa4096 => (alg_id::RSA_ENCRYPTION, RSA),
        };
        let unfit = CsrError::SignatureAlgorithm(self.key_type);
        if !allowed.iter().any(|a| a.as_ref() == algorithm) {
            return Err(unfit);
        }
        crypto::verify_x509(key.as_ref(), self.bits, algorithm, message, signature).map_err(|error| {
            if error == CryptoError::Algorithm {
                unfit
            } else {
                CsrError::Signature
            }
        })
    }
}

/// The id in the one extension of the one attribute.
fn requested_id(mut attributes: Reader<'_>) -> Result<SpiffeId, CsrError> {
    let fault = at("attributes");
    let mut requests = Vec::new();
    while !attributes.is_empty() {
        let mut attribute = attributes.enter(der::SEQUENCE).map_err(fault)?;
        if attribute.read(der::OID).map_err(fault)?.value != EXTENSION_REQUEST {
            return Err(CsrError::Attribute);
        }
        requests.push(attribute.enter(der::SET).map_err(fault)?);
        attribute.end().map_err(fault)?;
    }
    let mut values = match requests.as_slice() {
        [] => return Err(CsrError::NoSan),
        [values] => values.clone(),
        _ => return Err(CsrError::SeveralExtensionRequests),
    };
    let mut extensions = values.enter(der::SEQUENCE).map_err(fault)?;
    if !values.is_empty() {
        return Err(CsrError::SeveralExtensionRequests);
    }

    let mut sans = Vec::new();
    while !extensions.is_empty() {
        let fault = at("extension");
        let mut extension = extensions.enter(der::SEQUENCE).map_err(fault)?;
        let oid = extension.read(der::OID).map_err(fault)?.value;
        if oid != san::OID {
            return Err(CsrError::Extension(key::oid_text(oid)));
        }
        // Critical or not is the requester's choice; but DER does not write the default, FALSE.
        if extension.at(der::BOOLEAN) && extension.read(der::BOOLEAN).map_err(fault)?.value != [0xff] {
            return Err(fault(DerError::Value("boolean")));
        }
        sans.push(extension.read(der::OCTET_STRING).map_err(fault)?.value);
        extension.end().map_err(fault)?;
    }
    match sans.as_slice() {
        [] => Err(CsrError::NoSan),
        [value] => san::single_id(value).map_err(CsrError::San),
        _ => Err(CsrError::SeveralSans),
    }
}

/// Makes an encoding fault of this part of a request.
fn at(part: &'static str) -> impl Fn(DerError) -> CsrError + Copy {
    move |fault| CsrError::Encoding { part, fault }
}

#[cfg(test)]
mod tests;
