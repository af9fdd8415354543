//! The local CA: making itself, layouts, rotation, and what its leaves look like.

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
use tokio_util::{sync::CancellationToken, task::TaskTracker};
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

const RSA_PKCS1: &str = include_str!("testdata/rsa-ca.pkcs1.pem");
const P256_SEC1: &str = include_str!("testdata/p256-ca.sec1.pem");
const P384_SEC1: &str = include_str!("testdata/p384-ca.sec1.pem");
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
    let host = Host {
        clock: Arc::clone(&clock) as SharedClock,
        tasks: TaskTracker::new(),
        stop: CancellationToken::new(),
        files: WatchMetrics::default(),
    };
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
    let key = IdempotencyKey::derive(&"foo".parse().unwrap(), &id, &originator, csr.der());
    let deadline = Instant::now() + Duration::from_secs(600);
    Issuance {
        csr: Arc::new(csr),
        id,
        ttl,
        originator,
        idempotency_key: key,
        deadline,
    }
}

/// Signs and checks as the service does.
async fn issue(running: &Running, issuance: Issuance, at: SystemTime) -> Vec<CertificateDer<'static>> {
    let (id, spki) = (issuance.id.clone(), issuance.csr.spki_der().to_vec());
    let chain = running.signer().sign(issuance).await.unwrap();
    let parsed = Chain::from_ders(&chain).unwrap();
    verify_issued(&parsed, running.trust().current().bundle(), &id, &spki, at).unwrap();
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

// === making itself ===

#[tokio::test]
async fn a_self_made_ca_appears_with_narrow_modes_signs_and_is_found_again() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("foo");
    let (host, _) = host();
    let first = open(&spec(&dir, true, None), &host).await.unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&dir), mode(&dir.join(CA_KEY))), (0o700, 0o600));
    assert_eq!(names(parent.path()), BTreeSet::from(["foo".to_owned()]));
    let holds_key = |name: &String| std::fs::read_to_string(dir.join(name)).unwrap().contains("PRIVATE KEY");
    assert_eq!(
        names(&dir).iter().filter(|name| holds_key(name)).collect::<Vec<_>>(),
        [CA_KEY]
    );
    // A root needs no intermediates.
    assert_eq!(issue(&first, request(KeyType::P256, DAY), now()).await.len(), 1);
    let again = open(&spec(&dir, true, None), &host).await.unwrap();
    assert_eq!(again.trust().current().pem(), first.trust().current().pem());
}

#[test]
fn a_crash_at_any_step_leaves_nothing_or_a_whole_ca_and_the_next_start_mends_it() {
    let mut crashes = 0;
    for crash_at in 0.. {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("foo");
        if crash_at % 2 == 0 {
            std::fs::create_dir(&dir).unwrap();
        }
        let (mut step, mut seen) = (0, None);
        let crashed = ensure_with(&dir, material, &mut |at: Step| {
            seen = Some(at);
            step += 1;
            if step > crash_at {
                Err(io::Error::other("power cut"))
            } else {
                Ok(())
            }
        });
        if crashed.is_ok() {
            break;
        }
        crashes += 1;
        let whole = names_or_none(&dir).len() == 4;
        assert!(
            whole || names_or_none(&dir).is_empty(),
            "after {seen:?}: {:?}",
            names_or_none(&dir)
        );
        let outcome = ensure(&dir, material).unwrap();
        assert_eq!(
            outcome,
            if whole { Outcome::Found } else { Outcome::Made },
            "after {seen:?}"
        );
        assert_eq!(
            names(parent.path()),
            BTreeSet::from(["foo".to_owned()]),
            "after {seen:?}"
        );
        assert_eq!(names(&dir).len(), 4);
    }
    assert_eq!(crashes, 8, "every step was a crash once");
}

fn names_or_none(dir: &Path) -> BTreeSet<String> {
    if dir.exists() { names(dir) } else { BTreeSet::new() }
}

#[test]
fn of_many_threads_one_makes_the_ca() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("foo");
    let barrier = std::sync::Barrier::new(8);
    let outcomes: Vec<Outcome> = std::thread::scope(|scope| {
        let start = || {
            barrier.wait();
            ensure(&dir, material).unwrap()
        };
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(start)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(
        outcomes.iter().filter(|outcome| **outcome == Outcome::Made).count(),
        1,
        "{outcomes:?}"
    );
    assert_eq!(names(parent.path()), BTreeSet::from(["foo".to_owned()]));
}

/// Not a test of its own: what `of_two_processes_one_makes_the_ca` runs as another process.
#[test]
fn child_process_makes_the_ca() {
    if let Some(dir) = std::env::var_os("ENSIGN_TEST_CA_DIR") {
        ensure(Path::new(&dir), material).unwrap();
    }
}

#[test]
fn of_two_processes_one_makes_the_ca() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("foo");
    let start = || {
        std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "signer::local::tests::child_process_makes_the_ca"])
            .env("ENSIGN_TEST_CA_DIR", &dir)
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap()
    };
    let mut children = [start(), start(), start()];
    assert!(children.iter_mut().all(|child| child.wait().unwrap().success()));
    assert_eq!(ensure(&dir, material).unwrap(), Outcome::Found);
    assert_eq!(names(parent.path()), BTreeSet::from(["foo".to_owned()]));
    let files = [CA_CERT, ROOT_CERT].map(|name| std::fs::read_to_string(dir.join(name)).unwrap());
    assert_eq!(files[0], files[1]);
}

#[test]
fn half_a_ca_a_foreign_folder_and_an_open_key_stop_the_start() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("foo");
    std::fs::create_dir(&dir).unwrap();
    write(&dir, &[("notes.txt", "mine")]);
    let refusal = |dir: &Path| ensure(dir, material).unwrap_err().to_string();
    assert!(refusal(&dir).contains("notes.txt"), "{}", refusal(&dir));
    write(&dir, &[(CA_KEY, "x")]);
    assert!(
        refusal(&dir).contains("lacks ca-cert.pem, root-cert.pem"),
        "{}",
        refusal(&dir)
    );
    assert_eq!(std::fs::read_to_string(dir.join(CA_KEY)).unwrap(), "x");
    std::fs::remove_dir_all(&dir).unwrap();
    ensure(&dir, material).unwrap();
    std::fs::set_permissions(dir.join(CA_KEY), std::fs::Permissions::from_mode(0o644)).unwrap();
    assert!(refusal(&dir).contains("make it 0600"), "{}", refusal(&dir));
    assert_eq!(names(parent.path()), BTreeSet::from(["foo".to_owned()]));
}

// === plugged in ===

#[tokio::test]
async fn plugged_in_keys_of_every_form() {
    let (host, _) = host();
    for (text, intermediate) in [(RSA_PKCS1, true), (P256_SEC1, true), (P384_SEC1, false)] {
        let root = TestCa::root("root");
        let key = || PrivateKey::from_pem(text).unwrap();
        let params = TestCa::params("issuing", 30 * DAY);
        let (ca, roots) = if intermediate {
            let issuer = rcgen::Issuer::from_params(&root.params, root.key.signing_key());
            let certificate = params.signed_by(key().signing_key(), &issuer).unwrap();
            (
                TestCa {
                    key: key(),
                    params,
                    certificate,
                },
                root.pem(),
            )
        } else {
            let ca = TestCa::root_with(key(), params);
            let pem = ca.pem();
            (ca, pem)
        };
        for form in [text.to_owned(), ca.key.to_pkcs8_pem().to_string()] {
            let dir = plugged_in(&ca, &form, &ca.pem(), &roots);
            let running = open(&spec(dir.path(), false, None), &host).await.unwrap();
            let chain = issue(&running, request(KeyType::P384, DAY), now()).await;
            assert_eq!(chain.len(), if intermediate { 2 } else { 1 });
        }
    }
}

#[tokio::test]
async fn the_chain_file_leads_to_the_root_in_any_order_and_without_the_root_itself() {
    let (host, _) = host();
    let root = TestCa::root("root");
    let middle = root.child("middle", 60 * DAY);
    let issuing = middle.child("issuing", 30 * DAY);
    let chain = [root.pem(), issuing.pem(), middle.pem(), TestCa::root("stranger").pem()].concat();
    let dir = plugged_in(&issuing, &issuing.key.to_pkcs8_pem(), &chain, &root.pem());
    let running = open(&spec(dir.path(), false, None), &host).await.unwrap();
    let chain = issue(&running, request(KeyType::P256, DAY), now()).await;
    assert_eq!(
        chain[1..],
        [issuing.certificate.der().clone(), middle.certificate.der().clone()]
    );
    // The last second of the earliest end, and not one more.
    let long = issue(&running, request(KeyType::P256, 3650 * DAY), now()).await;
    assert_eq!(Certificate::parse_der(&long[0]).unwrap().not_after(), now() + 30 * DAY);
}

#[tokio::test]
async fn what_does_not_go_together_is_refused_with_its_place() {
    let (host, _) = host();
    let (root, other) = (TestCa::root("root"), TestCa::root("root"));
    let ca = root.child("issuing", 30 * DAY);
    let key = ca.key.to_pkcs8_pem();
    let leaf_like = TestCa {
        params: CertificateParams::default(),
        ..root.child("leaf", DAY)
    };
    let wrong_key = plugged_in(&ca, &other.key.to_pkcs8_pem(), "", &root.pem());
    let wrong_root = plugged_in(&ca, &key, "", &other.pem());
    let no_pem = plugged_in(&ca, "nonsense", "", &root.pem());
    let mut no_ca = TestCa::params("no ca", DAY);
    no_ca.is_ca = IsCa::NoCa;
    let issuer = rcgen::Issuer::from_params(&root.params, root.key.signing_key());
    let certificate = no_ca.signed_by(leaf_like.key.signing_key(), &issuer).unwrap();
    let leaf = TestCa {
        certificate,
        ..leaf_like
    };
    let not_a_ca = plugged_in(&leaf, &leaf.key.to_pkcs8_pem(), "", &root.pem());
    let missing = plugged_in(&ca, &key, "", &root.pem());
    std::fs::remove_file(missing.path().join(CA_KEY)).unwrap();
    for (dir, expected) in [
        (&wrong_key, "does not belong to the certificate"),
        (&wrong_root, "does not chain into the signer's roots"),
        (&no_pem, "holds no key that can sign"),
        (&not_a_ca, "may not sign certificates"),
        (&missing, "ca-key.pem"),
    ] {
        let error = open(&spec(dir.path(), false, None), &host).await.unwrap_err();
        assert!(error.contains(expected) && error.contains("signer foo"), "{error}");
        assert!(error.contains(dir.path().to_str().unwrap()), "{error}");
    }
}

#[tokio::test]
async fn a_ca_under_a_path_length_of_zero_is_found_out_at_load() {
    let (host, _) = host();
    let mut params = TestCa::params("root", 365 * DAY);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let root = TestCa::root_with(PrivateKey::generate(KeyType::P256).unwrap(), params);
    let middle = root.child("middle", DAY);
    let ca = middle.child("issuing", DAY);
    let dir = plugged_in(&ca, &ca.key.to_pkcs8_pem(), &middle.pem(), &root.pem());
    let error = open(&spec(dir.path(), false, None), &host).await.unwrap_err();
    assert!(error.contains("allows 0 CAs below it, but there are 2"), "{error}");
}

#[tokio::test]
async fn a_ca_outside_its_time_loads_and_is_unavailable() {
    let (host, clock) = host();
    let root = TestCa::root("root");
    let ca = root.child("issuing", 30 * DAY);
    let dir = plugged_in(&ca, &ca.key.to_pkcs8_pem(), "", &root.pem());
    for (at, expected) in [(now() - 2 * DAY, "not valid before"), (now() + 31 * DAY, "expired")] {
        *clock.0.lock() = at;
        let running = open(&spec(dir.path(), false, None), &host).await.unwrap();
        let error = running.signer().sign(request(KeyType::P256, DAY)).await.unwrap_err();
        assert!(
            matches!(error, SignerError::Unavailable { .. }) && error.to_string().contains(expected),
            "{error}"
        );
    }
    // On the first second NotBefore is the issuer's own, although backdating asks for earlier.
    *clock.0.lock() = now() - DAY;
    let running = open(&spec(dir.path(), false, None), &host).await.unwrap();
    let chain = issue(&running, request(KeyType::P256, DAY), now() - DAY).await;
    assert_eq!(Certificate::parse_der(&chain[0]).unwrap().not_before(), now() - DAY);
}

// === what a leaf looks like ===

#[tokio::test]
async fn a_leaf_has_the_profile_and_serials_are_positive_and_differ() {
    let parent = tempfile::tempdir().unwrap();
    let (host, _) = host();
    let running = open(&spec(&parent.path().join("foo"), true, None), &host)
        .await
        .unwrap();
    let rsa = PrivateKey::from_pem(RSA_PKCS1).unwrap();
    let mut serials = BTreeSet::new();
    for number in 0..200 {
        let is_rsa = number == 0;
        let issuance = if is_rsa {
            request_for(&rsa, DAY)
        } else {
            request(KeyType::P256, DAY)
        };
        let chain = issue(&running, issuance, now()).await;
        let (rest, leaf) = X509Certificate::from_der(&chain[0]).unwrap();
        assert!(rest.is_empty());
        let serial = leaf.raw_serial();
        assert!(
            serial[0] & 0x80 == 0 && serial.len() <= 17 && serial.len() > 8,
            "{serial:02x?}"
        );
        assert!(serials.insert(serial.to_vec()));
        assert_eq!(leaf.subject().iter().count(), 0);
        let san = leaf.subject_alternative_name().unwrap().unwrap();
        assert!(san.critical);
        assert_eq!(
            san.value.general_names,
            [GeneralName::URI("spiffe://cluster.local/ns/ns/sa/app")]
        );
        let usage = leaf.key_usage().unwrap().unwrap();
        assert!(usage.critical && usage.value.digital_signature());
        assert_eq!(usage.value.key_encipherment(), is_rsa);
        let extended = leaf.extended_key_usage().unwrap().unwrap().value;
        assert!(extended.server_auth && extended.client_auth && extended.other.is_empty() && !extended.any);
        let constraints = leaf.basic_constraints().unwrap().unwrap();
        assert!(constraints.critical && !constraints.value.ca && constraints.value.path_len_constraint.is_none());
        assert_eq!(leaf.extensions().len(), 6);
        let parsed = Certificate::parse_der(&chain[0]).unwrap();
        assert_eq!(
            (parsed.not_before(), parsed.not_after()),
            (now() - BACKDATE, now() + DAY)
        );
    }
}

proptest::proptest! {
    #[test]
    fn a_leaf_never_leaves_the_life_of_its_chain(
        from in 0_u64..1_000_000, life in 2_u64..1_000_000, at in 0_u64..2_000_000,
        ttl in 0_u64..2_000_000, backdate in 0_u64..2_000_000,
    ) {
        let mut params = TestCa::params("root", DAY);
        params.not_before = (now() + Duration::from_secs(from)).into();
        params.not_after = (now() + Duration::from_secs(from + life)).into();
        let ca = TestCa::root_with(PrivateKey::generate(KeyType::P256).unwrap(), params);
        let bundle = Bundle::parse_pem(&ca.pem()).unwrap();
        let certificate = Certificate::parse_pem(&ca.pem()).unwrap();
        let path = crate::trust::path::to_root(&certificate, &[], &bundle).unwrap();
        let (spki, at) = (ca.key.spki_der(), now() + Duration::from_secs(at));
        let issuer = Issuer::new(certificate.der(), ca.key, path).unwrap();
        let leaf = Leaf {
            spki_der: &spki,
            rsa: false,
            names: &[Name::Uri("spiffe://cluster.local/ns/ns/sa/app")],
            purpose: Purpose::Workload,
            ttl: Duration::from_secs(ttl),
            backdate: Duration::from_secs(backdate),
        };
        match issuer.issue(&leaf, at) {
            Ok(der) => {
                let leaf = Certificate::parse_der(&der).unwrap();
                proptest::prop_assert!(leaf.not_before() >= certificate.not_before());
                proptest::prop_assert!(leaf.not_after() <= certificate.not_after());
                proptest::prop_assert!(leaf.is_valid_at(at) && leaf.not_after() > at);
            }
            Err(_) => proptest::prop_assert!(
                ttl == 0 || at < certificate.not_before() || at + Duration::from_secs(1) > certificate.not_after()
            ),
        }
    }
}

// === living with change ===

async fn until<T: PartialEq + fmt::Debug>(expected: &T, mut look: impl FnMut() -> T) {
    let patience = Duration::from_secs(60);
    let wait = async {
        while look() != *expected {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(patience, wait)
        .await
        .unwrap_or_else(|_| panic!("never became {expected:?}"));
}

#[tokio::test]
async fn an_ordered_root_rotation_with_two_roots_of_one_subject() {
    let (host, _) = host();
    let (first, second) = (TestCa::root("mesh root"), TestCa::root("mesh root"));
    let (old, new) = (first.child("issuing", 30 * DAY), second.child("issuing", 30 * DAY));
    let dir = plugged_in(&old, &old.key.to_pkcs8_pem(), "", &first.pem());
    let roots = dir.path().join("roots.pem");
    write(dir.path(), &[("roots.pem", &first.pem())]);
    let running = open(&spec(dir.path(), false, Some(roots.clone())), &host)
        .await
        .unwrap();
    let size = || running.trust().current().bundle().len();

    // A bundle without the root in use is refused whole.
    write(dir.path(), &[("roots.pem", &second.pem())]);
    let under_old = |chain: &[CertificateDer<'_>]| chain[1] == *old.certificate.der();
    assert!(under_old(&issue(&running, request(KeyType::P256, DAY), now()).await));
    write(dir.path(), &[("roots.pem", &[first.pem(), second.pem()].concat())]);
    until(&2, size).await;
    assert!(under_old(&issue(&running, request(KeyType::P256, DAY), now()).await));

    // Certificate first, key later: in between the old CA signs on.
    write(dir.path(), &[(CA_CERT, &new.pem())]);
    assert!(under_old(&issue(&running, request(KeyType::P256, DAY), now()).await));
    write(dir.path(), &[(CA_KEY, &new.key.to_pkcs8_pem())]);
    let switched = async {
        while issue(&running, request(KeyType::P256, DAY), now()).await[1] != *new.certificate.der() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), switched).await.unwrap();
    issue(&running, request(KeyType::P256, DAY), now()).await;

    write(dir.path(), &[("roots.pem", &second.pem())]);
    until(&1, size).await;
    issue(&running, request(KeyType::P256, DAY), now()).await;
    host.stop.cancel();
    host.tasks.close();
    host.tasks.wait().await;
}

#[tokio::test]
async fn a_reload_keeps_what_did_not_change_and_ends_what_is_gone() {
    let parent = tempfile::tempdir().unwrap();
    let (host, _) = host();
    let foo = spec(&parent.path().join("foo"), true, None);
    let mut bar = spec(&parent.path().join("bar"), true, None);
    bar.name = "bar".parse().unwrap();
    let before = Signers::open([&foo, &bar], &Signers::default(), &host).await.unwrap();
    bar.backdate = Duration::ZERO;
    let after = Signers::open([&foo, &bar], &before, &host).await.unwrap();
    let same = |name: &SignerName| Arc::ptr_eq(before.get(name).unwrap(), after.get(name).unwrap());
    assert!(same(&foo.name) && !same(&bar.name));
    assert_eq!(host.tasks.len(), 3);
    drop(before);
    drop(after);
    host.tasks.close();
    tokio::time::timeout(Duration::from_secs(60), host.tasks.wait())
        .await
        .unwrap();
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
