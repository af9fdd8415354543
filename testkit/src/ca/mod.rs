//! A certificate authority for tests: right by default, wrong on demand.
//!
//! Owns roots, intermediates and leaves made with rcgen, and the replies that an Istio CA would give.
//! Independent of `pki`'s own reading and checking on purpose: a mistake there must not hide here.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType, SerialNumber, SubjectPublicKeyInfo,
};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;

use crate::Fault;

/// How much earlier a certificate begins than it is made: as Istio backdates.
pub const BACKDATE: Duration = Duration::from_mins(2);
const YEAR: Duration = Duration::from_hours(365 * 24);
const HOUR: Duration = Duration::from_hours(1);

/// A root with its intermediates. Clones share the keys.
#[derive(Clone, Debug)]
pub struct TestCa(Arc<Authorities>);

/// Root first; the last one issues.
#[derive(Debug)]
struct Authorities(Vec<Authority>);

struct Authority {
    certificate: Certificate,
    params: CertificateParams,
    key: KeyPair,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Authority")
            .field(&self.params.distinguished_name)
            .finish()
    }
}

/// What goes into a leaf. [`Leaf::right`] is what Istio would issue.
#[derive(Clone, Debug)]
pub struct Leaf {
    /// URI names.
    pub uris: Vec<String>,
    /// DNS names, for serving certificates.
    pub dns_names: Vec<String>,
    /// A CA certificate instead of an end entity's.
    pub is_ca: bool,
    /// serverAuth.
    pub server_auth: bool,
    /// clientAuth.
    pub client_auth: bool,
    /// Begin.
    pub not_before: SystemTime,
    /// End.
    pub not_after: SystemTime,
}

impl Leaf {
    /// For one id, valid from two minutes ago for `ttl` from now.
    pub fn right(uri: &str, ttl: Duration, now: SystemTime) -> Self {
        Self {
            uris: vec![uri.to_owned()],
            dns_names: Vec::new(),
            is_ca: false,
            server_auth: true,
            client_auth: true,
            not_before: now - BACKDATE,
            not_after: now + ttl,
        }
    }
}

/// A key and its certificate chain, for servers in tests.
#[derive(Clone)]
pub struct Identity {
    /// Leaf first, intermediates after it.
    pub chain_pem: String,
    /// PKCS#8.
    pub key_pem: String,
}

impl TestCa {
    /// A root that issues through one intermediate. Two of one name have one subject and different keys.
    pub fn new(name: &str) -> Self {
        Self::with_intermediates(name, 1)
    }

    /// A root that issues itself.
    pub fn root_only(name: &str) -> Self {
        Self::with_intermediates(name, 0)
    }

    /// A root and a path of intermediates below it.
    pub fn with_intermediates(name: &str, count: usize) -> Self {
        let mut all = vec![Authority::new(name, None)];
        for number in 1..=count {
            let next = Authority::new(&format!("{name} intermediate {number}"), all.last());
            all.push(next);
        }
        Self(Arc::new(Authorities(all)))
    }

    /// The root.
    pub fn root_pem(&self) -> String {
        self.0.0[0].certificate.pem()
    }

    /// The intermediates, the issuing one first.
    pub fn intermediate_pems(&self) -> Vec<String> {
        self.0.0[1..]
            .iter()
            .rev()
            .map(|authority| authority.certificate.pem())
            .collect()
    }

    /// The key of the issuing authority, PKCS#8.
    pub fn issuing_key_pem(&self) -> String {
        self.issuer().key.serialize_pem()
    }

    /// Signs a public key. Returns the leaf in PEM.
    pub fn issue(&self, spki_der: &[u8], leaf: &Leaf) -> String {
        let public_key = SubjectPublicKeyInfo::from_der(spki_der).expect("a public key of a kind that rcgen knows");
        let issuer = self.issuer();
        let certificate = params_of(leaf).signed_by(&public_key, &Issuer::from_params(&issuer.params, &issuer.key));
        certificate.unwrap().pem()
    }

    /// What an Istio CA answers: leaf, intermediates one by one, the root last. `fault` makes it wrong in one way.
    pub fn reply(&self, csr_pem: &str, ttl: Duration, fault: Option<Fault>) -> Vec<String> {
        self.reply_at(SystemTime::now(), csr_pem, ttl, fault)
    }

    /// As [`TestCa::reply`], for tests that move their clock.
    pub fn reply_at(&self, now: SystemTime, csr_pem: &str, ttl: Duration, fault: Option<Fault>) -> Vec<String> {
        let csr = CsrFacts::of(csr_pem);
        let uri = csr.uris.first().cloned().unwrap_or_default();
        let mut leaf = Leaf {
            uris: csr.uris,
            ..Leaf::right(&uri, ttl, now)
        };
        let mut spki = csr.spki_der;
        match fault {
            Some(Fault::OtherKey) => spki = spki_of(&new_key()),
            Some(Fault::OtherSan) => leaf.uris = vec![format!("{uri}-other")],
            Some(Fault::ExtraSan) => leaf.uris.push(format!("{uri}-extra")),
            Some(Fault::CaLeaf) => leaf.is_ca = true,
            Some(Fault::MissingServerAuth) => leaf.server_auth = false,
            Some(Fault::MissingClientAuth) => leaf.client_auth = false,
            Some(Fault::Expired) => (leaf.not_before, leaf.not_after) = (now - 2 * HOUR, now - HOUR),
            Some(Fault::NotYetValid) => (leaf.not_before, leaf.not_after) = (now + HOUR, now + 2 * HOUR),
            Some(
                Fault::ForeignChain
                | Fault::ForeignRoot
                | Fault::Empty
                | Fault::RootOnly
                | Fault::LeafNotFirst
                | Fault::MissingIntermediate
                | Fault::Garbage,
            )
            | None => {}
        }
        let elements = |ca: &Self| -> Vec<String> {
            std::iter::once(ca.issue(&spki, &leaf))
                .chain(ca.intermediate_pems())
                .chain([ca.root_pem()])
                .collect()
        };
        let stranger = || Self::with_intermediates("stranger", self.0.0.len() - 1);
        match fault {
            Some(Fault::ForeignRoot) => elements(&stranger()),
            Some(Fault::ForeignChain) => {
                let mut reply = elements(&stranger());
                *reply.last_mut().unwrap() = self.root_pem();
                reply
            }
            Some(Fault::Empty) => Vec::new(),
            Some(Fault::RootOnly) => vec![self.root_pem()],
            Some(Fault::LeafNotFirst) => {
                let mut reply = elements(self);
                assert!(reply.len() > 2, "needs a CA with an intermediate");
                reply.swap(0, 1);
                reply
            }
            Some(Fault::MissingIntermediate) => {
                let mut reply = elements(self);
                assert!(reply.len() > 2, "needs a CA with an intermediate");
                reply.remove(1);
                reply
            }
            Some(Fault::Garbage) => vec!["no certificate\n".to_owned(), self.root_pem()],
            _ => elements(self),
        }
    }

    /// A key and certificate for a server in a test, for example with DNS name `localhost`.
    pub fn serving(&self, dns_names: &[&str], not_after: SystemTime) -> Identity {
        let key = new_key();
        let leaf = Leaf {
            uris: Vec::new(),
            dns_names: dns_names.iter().map(|&name| name.to_owned()).collect(),
            not_after,
            not_before: not_after.min(SystemTime::now()) - HOUR,
            ..Leaf::right("", HOUR, SystemTime::now())
        };
        let chain_pem = self.issue(&spki_of(&key), &leaf) + &self.intermediate_pems().concat();
        Identity {
            chain_pem,
            key_pem: key.serialize_pem(),
        }
    }

    /// Writes `ca-cert.pem ca-key.pem cert-chain.pem root-cert.pem`, as Istio's plug-in CA reads them.
    pub fn write_to(&self, folder: &Path) -> std::io::Result<()> {
        std::fs::create_dir_all(folder)?;
        std::fs::write(folder.join("ca-cert.pem"), self.issuer().certificate.pem())?;
        std::fs::write(folder.join("ca-key.pem"), self.issuing_key_pem())?;
        std::fs::write(folder.join("cert-chain.pem"), self.intermediate_pems().concat())?;
        std::fs::write(folder.join("root-cert.pem"), self.root_pem())
    }

    fn issuer(&self) -> &Authority {
        self.0.0.last().unwrap()
    }
}

impl Authority {
    fn new(name: &str, parent: Option<&Self>) -> Self {
        let now = SystemTime::now();
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.not_before = (now - HOUR).into();
        params.not_after = (now + 10 * YEAR).into();
        params.use_authority_key_identifier_extension = true;
        params.serial_number = Some(serial());
        let key = new_key();
        let certificate = match parent {
            None => params.self_signed(&key),
            Some(parent) => params.signed_by(&key, &Issuer::from_params(&parent.params, &parent.key)),
        };
        Self {
            certificate: certificate.unwrap(),
            params,
            key,
        }
    }
}

fn params_of(leaf: &Leaf) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let uris = leaf
        .uris
        .iter()
        .map(|uri| SanType::URI(uri.as_str().try_into().unwrap()));
    let dns_names = leaf.dns_names.iter().map(|name| match name.parse() {
        Ok(address) => SanType::IpAddress(address),
        Err(_) => SanType::DnsName(name.as_str().try_into().unwrap()),
    });
    params.subject_alt_names = uris.chain(dns_names).collect();
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    if leaf.is_ca {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages.push(KeyUsagePurpose::KeyCertSign);
    } else {
        params.is_ca = IsCa::ExplicitNoCa;
    }
    if leaf.server_auth {
        params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
    }
    if leaf.client_auth {
        params.extended_key_usages.push(ExtendedKeyUsagePurpose::ClientAuth);
    }
    params.not_before = leaf.not_before.into();
    params.not_after = leaf.not_after.into();
    params.use_authority_key_identifier_extension = true;
    params.serial_number = Some(serial());
    params
}

/// The first URI name that a CSR asks for; empty if there is none.
pub(crate) fn requested_id(csr_pem: &str) -> String {
    CsrFacts::of(csr_pem).uris.into_iter().next().unwrap_or_default()
}

/// What of a CSR an answer is made from.
struct CsrFacts {
    spki_der: Vec<u8>,
    uris: Vec<String>,
}

impl CsrFacts {
    fn of(csr_pem: &str) -> Self {
        let (_, pem) = x509_parser::pem::parse_x509_pem(csr_pem.as_bytes()).expect("a CSR in PEM");
        let (_, csr) = X509CertificationRequest::from_der(&pem.contents).expect("a CSR");
        let mut uris = Vec::new();
        for extension in csr.requested_extensions().into_iter().flatten() {
            if let ParsedExtension::SubjectAlternativeName(names) = extension {
                for name in &names.general_names {
                    if let GeneralName::URI(uri) = name {
                        uris.push((*uri).to_owned());
                    }
                }
            }
        }
        Self {
            spki_der: csr.certification_request_info.subject_pki.raw.to_vec(),
            uris,
        }
    }
}

pub(crate) fn new_key() -> KeyPair {
    KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap()
}

fn spki_of(key: &KeyPair) -> Vec<u8> {
    use rcgen::PublicKeyData as _;
    key.subject_public_key_info()
}

/// rcgen's default serial depends on the key alone; renewals in tests must be told apart.
fn serial() -> SerialNumber {
    let mut bytes: [u8; 16] = ensign_pki::crypto::random_bytes().unwrap();
    bytes[0] = bytes[0] & 0x7f | 0x40;
    SerialNumber::from_slice(&bytes)
}

#[cfg(test)]
mod tests;
