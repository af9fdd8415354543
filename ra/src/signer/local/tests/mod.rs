//! The local CA. Here are the parts that its tests share; each idea has a file of its own.

mod change;
mod leaf;
mod making;
mod plugged_in;

use std::{
    collections::BTreeSet,
    io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::UNIX_EPOCH,
};

use ensign_daemon::logging;
use ensign_pki::{Bundle, Certificate, Chain, Clock, Csr, KeyType, PrivateKey, SpiffeId, csr, verify_issued};
use parking_lot::Mutex;
use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, KeyUsagePurpose};
use tempfile::TempDir;
use tokio::time::Instant;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::{
    folder::{CA_CERT, CA_KEY, CERT_CHAIN, ROOT_CERT},
    selfmade::{Step, ensure, ensure_with},
    *,
};
use crate::{
    policy::{Backend, SignerSpec},
    signer::{Host, IdempotencyKey, Originator, Running, Signers},
};

const RSA_PKCS1: &str = include_str!("../testdata/rsa-ca.pkcs1.pem");
const P256_SEC1: &str = include_str!("../testdata/p256-ca.sec1.pem");
const P384_SEC1: &str = include_str!("../testdata/p384-ca.sec1.pem");
/// 2030, far from every edge that is not meant.
const NOW: u64 = 1_893_456_000;
const DAY: Duration = Duration::from_secs(24 * 3600);
const BACKDATE: Duration = Duration::from_secs(120);

#[derive(Debug)]
struct TestClock(Mutex<SystemTime>);

impl Clock for TestClock {
    fn now(&self) -> SystemTime {
        *self.0.lock()
    }
}

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(NOW)
}

fn trust_domain() -> TrustDomain {
    "cluster.local".parse().unwrap()
}

fn host() -> (Host, Arc<TestClock>) {
    let clock = Arc::new(TestClock(Mutex::new(now())));
    let host = Host::alone(Arc::clone(&clock) as SharedClock);
    (host, clock)
}

fn spec(dir: &Path, self_signed: bool, roots: Option<PathBuf>) -> SignerSpec {
    SignerSpec {
        name: "foo".parse().unwrap(),
        trust_domain: trust_domain(),
        backend: Backend::Local(LocalSpec {
            dir: dir.to_owned(),
            self_signed,
        }),
        roots,
        backdate: BACKDATE,
    }
}

async fn open(spec: &SignerSpec, host: &Host) -> Result<Arc<Running>, String> {
    let signers = Signers::open([spec], &Signers::default(), host).await;
    signers
        .map(|signers| Arc::clone(signers.get(&spec.name).unwrap()))
        .map_err(|error| error.to_string())
}

fn request(key_type: KeyType, ttl: Duration) -> Issuance {
    let key = PrivateKey::generate(key_type).unwrap();
    request_for(&key, ttl)
}

fn request_for(key: &PrivateKey, ttl: Duration) -> Issuance {
    let id = SpiffeId::new(&trust_domain(), "ns", "app").unwrap();
    let csr: Csr = csr::build(key, &id).unwrap();
    let originator = Originator {
        namespace: "ns".to_owned(),
        service_account: "app".to_owned(),
        pod: None,
        node: None,
        cluster: None,
    };
    let key = IdempotencyKey::derive(None, &id, &"foo".parse().unwrap(), csr.spki_der(), ttl);
    let deadline = Instant::now() + Duration::from_secs(600);
    Issuance {
        csr: Arc::new(csr),
        id,
        ttl,
        originator,
        idempotency_key: key,
        request_id: "test".into(),
        deadline,
    }
}

/// Signs and checks as the service does.
async fn issue(running: &Running, issuance: Issuance, at: SystemTime) -> Vec<CertificateDer<'static>> {
    let (id, spki) = (issuance.id.clone(), issuance.csr.spki_der().to_vec());
    let chain = running.signer().sign(issuance).await.unwrap().chain;
    let parsed = Chain::from_ders(&chain).unwrap();
    verify_issued(&parsed, running.trust().current().unwrap().bundle(), &id, &spki, at).unwrap();
    chain
}

/// A CA for plugging in.
struct TestCa {
    key: PrivateKey,
    params: CertificateParams,
    certificate: rcgen::Certificate,
}

impl TestCa {
    fn params(name: &str, life: Duration) -> CertificateParams {
        let mut params = CertificateParams::default();
        let mut subject = DistinguishedName::new();
        subject.push(DnType::CommonName, name);
        params.distinguished_name = subject;
        params.not_before = (now() - DAY).into();
        params.not_after = (now() + life).into();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.use_authority_key_identifier_extension = true;
        params
    }

    fn root(name: &str) -> Self {
        Self::root_with(
            PrivateKey::generate(KeyType::P256).unwrap(),
            Self::params(name, 365 * DAY),
        )
    }

    fn root_with(key: PrivateKey, params: CertificateParams) -> Self {
        let certificate = params.self_signed(key.signing_key()).unwrap();
        Self {
            key,
            params,
            certificate,
        }
    }

    fn child(&self, name: &str, life: Duration) -> Self {
        let (key, params) = (PrivateKey::generate(KeyType::P256).unwrap(), Self::params(name, life));
        let issuer = rcgen::Issuer::from_params(&self.params, self.key.signing_key());
        let certificate = params.signed_by(key.signing_key(), &issuer).unwrap();
        Self {
            key,
            params,
            certificate,
        }
    }

    fn pem(&self) -> String {
        self.certificate.pem()
    }
}

fn write(dir: &Path, files: &[(&str, &str)]) {
    for (name, content) in files {
        std::fs::write(dir.join(name), content).unwrap();
    }
}

/// A folder with an issuing CA, its key, a chain file and a root.
fn plugged_in(ca: &TestCa, key: &str, chain: &str, root: &str) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    write(
        dir.path(),
        &[
            (CA_CERT, &ca.pem()),
            (CA_KEY, key),
            (CERT_CHAIN, chain),
            (ROOT_CERT, root),
        ],
    );
    dir
}

fn material() -> Result<selfmade::Material, Box<dyn std::error::Error + Send + Sync>> {
    Ok(root::make("foo", &trust_domain(), now())?)
}

fn names(dir: &Path) -> BTreeSet<String> {
    std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

#[test]
fn nothing_prints_a_key() {
    let made = root::make("foo", &trust_domain(), now()).unwrap();
    let key = PrivateKey::from_pem(&made.key_pem).unwrap();
    let certificate = Certificate::parse_pem(&made.certificate_pem).unwrap();
    let bundle = Bundle::parse_pem(&made.certificate_pem).unwrap();
    let path = crate::trust::path::to_root(&certificate, &[], &bundle).unwrap();
    let issuer = Issuer::new(certificate.der(), key, path).unwrap();
    let line = made.key_pem.lines().nth(1).unwrap();
    assert!(!format!("{issuer:?}").contains(line));
    let error = LocalError::Interrupted;
    assert_eq!(logging::chain(&error), "the start was interrupted");
}
