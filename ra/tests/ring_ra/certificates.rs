//! Certificates of our signers as credentials: whom they let in, whom they do not, and that none of them ever keeps out
//! a caller whose token is good.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ensign_pki::{KeyType, PrivateKey, crypto};
use ensign_testkit::TestCa;
use ensign_testkit::ca::Leaf;
use ensign_testkit::eventually::eventually;
use rustls::SupportedProtocolVersion;
use rustls::client::ResolvesClientCert;
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tempfile::TempDir;
use test_case::test_case;
use tonic::Code::{self, PermissionDenied, Unauthenticated};
use tonic::Status;

use crate::authority::{Ask, Authority, all_logs, log_of};

const HTTPBIN: &str = "spiffe://cluster.local/ns/foo/sa/httpbin";
const BAR: &str = "spiffe://cluster.local/ns/bar/sa/httpbin";
const FLAG: &str = "--enable-client-cert-authenticator";

/// `foo` may sign for namespace foo, `bar` for both: a plugged-in CA each, whose keys the test has.
struct World {
    authority: Authority,
    foo: TestCa,
    bar: TestCa,
    folder: TempDir,
}

/// What a client shows, right or wrong.
#[derive(Debug)]
struct Shows(Arc<CertifiedKey>);

impl ResolvesClientCert for Shows {
    fn resolve(&self, _: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl World {
    async fn start(flags: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let [ours, others] = ["foo", "bar"].map(TestCa::new);
        for (name, ca) in [("foo", &ours), ("bar", &others)] {
            ca.write_to(&folder.path().join(name)).unwrap();
        }
        let policy = POLICY.replace("CAS", &folder.path().display().to_string());
        Self {
            authority: Authority::start_real_with(&policy, flags).await,
            foo: ours,
            bar: others,
            folder,
        }
    }

    /// Asks over a connection that shows this.
    async fn send(
        &self,
        version: &'static SupportedProtocolVersion,
        shows: Shows,
        ask: Ask,
    ) -> Result<Vec<String>, Status> {
        let channel = self.authority.channel_as(&[version], Arc::new(shows)).await;
        Authority::send_over(channel, ask).await
    }

    async fn refused(&self, shows: Shows, ask: Ask, code: Code, reason: &str) {
        let status = self.send(&TLS13, shows, ask).await.unwrap_err();
        assert_eq!(
            (status.code(), log_of(&status)["reason"].as_str()),
            (code, Some(reason))
        );
    }

    fn without_token(&self, id: &str) -> Ask {
        let mut ask = self.authority.ask_for(id);
        ask.headers.clear();
        ask
    }
}

fn leaf(id: &str) -> Leaf {
    Leaf::right(id, Duration::from_secs(3600), SystemTime::now())
}

fn signing_key(pem: &str) -> Arc<dyn rustls::sign::SigningKey> {
    let key = PrivateKeyDer::from_pem_slice(pem.as_bytes()).unwrap();
    crypto::provider().key_provider.load_private_key(key).unwrap()
}

/// A certificate of this CA for a key that the client has.
fn shows(ca: &TestCa, leaf: &Leaf) -> Shows {
    let key = PrivateKey::generate(KeyType::P256).unwrap();
    Shows(Arc::new(CertifiedKey::new(
        chain(ca, &key, leaf),
        signing_key(&key.to_pkcs8_pem()),
    )))
}

fn chain(ca: &TestCa, key: &PrivateKey, leaf: &Leaf) -> Vec<CertificateDer<'static>> {
    let pem = ca.issue(&key.spki_der(), leaf) + &ca.intermediate_pems().concat();
    CertificateDer::pem_slice_iter(pem.as_bytes())
        .map(|der| der.unwrap())
        .collect()
}

/// A good certificate, and another key than its own.
fn shows_without_its_key(ca: &TestCa) -> Shows {
    let (key, other) = (
        PrivateKey::generate(KeyType::P256).unwrap(),
        PrivateKey::generate(KeyType::P256).unwrap(),
    );
    let certified = CertifiedKey::new(chain(ca, &key, &leaf(HTTPBIN)), signing_key(&other.to_pkcs8_pem()));
    Shows(Arc::new(certified))
}

fn shows_garbage() -> Shows {
    let key = PrivateKey::generate(KeyType::P256).unwrap();
    let garbage = vec![CertificateDer::from(b"no certificate".to_vec())];
    Shows(Arc::new(CertifiedKey::new(garbage, signing_key(&key.to_pkcs8_pem()))))
}

/// S7 of istio-csr; the reply ends in the roots of the same signer.
#[test_case(&TLS13; "TLS 1.3")]
#[test_case(&TLS12; "TLS 1.2")]
#[tokio::test]
async fn a_certificate_renews_with_its_own_signer(version: &'static SupportedProtocolVersion) {
    let world = World::start(&[FLAG]).await;
    for (ca, name) in [(&world.foo, "foo"), (&world.bar, "bar")] {
        for wish in [None, Some(name)] {
            let mut ask = world.without_token(HTTPBIN);
            if let Some(wish) = wish {
                ask = ask.with("CertSigner", wish);
            }
            let reply = world.send(version, shows(ca, &leaf(HTTPBIN)), ask).await.unwrap();
            assert_eq!(reply.last(), Some(&ca.root_pem()), "{name} by wish {wish:?}");
        }
    }
    assert!(all_logs().contains("\"proof\":\"client_certificate\""));
    world.authority.stop().await;
}

#[tokio::test]
async fn a_foo_signed_certificate_that_names_bar_gets_nothing_and_foos_own_gets_nothing_of_bar() {
    let world = World::start(&[FLAG]).await;
    let forged = || shows(&world.foo, &leaf(BAR));
    let denied = PermissionDenied;
    world
        .refused(forged(), world.without_token(BAR), denied, "signer_not_allowed")
        .await;
    let asks_foo = world.without_token(BAR).with("CertSigner", "foo");
    world.refused(forged(), asks_foo, denied, "signer_not_allowed").await;
    let asks_bar = world.without_token(BAR).with("CertSigner", "bar");
    world
        .refused(forged(), asks_bar, denied, "certificate_of_other_signer")
        .await;
    // A token of foo/httpbin would get bar's signature; foo's certificate does not.
    let asks_bar = world.without_token(HTTPBIN).with("CertSigner", "bar");
    let own = || shows(&world.foo, &leaf(HTTPBIN));
    world
        .refused(own(), asks_bar, denied, "certificate_of_other_signer")
        .await;
    // S6: its own identity only, and nobody else's in its name.
    world
        .refused(own(), world.without_token(BAR), denied, "identity_mismatch")
        .await;
    let for_others = world.without_token(HTTPBIN).with("ImpersonatedIdentity", HTTPBIN);
    world.refused(own(), for_others, Unauthenticated, "impersonation").await;
    world.authority.stop().await;
}

type Wrong = fn(&World) -> Shows;

fn with(change: impl FnOnce(&mut Leaf)) -> Leaf {
    let mut leaf = leaf(HTTPBIN);
    change(&mut leaf);
    leaf
}

fn hours(hours: i64) -> SystemTime {
    let distance = Duration::from_secs(hours.unsigned_abs() * 3600);
    if hours < 0 {
        SystemTime::now() - distance
    } else {
        SystemTime::now() + distance
    }
}

#[test_case(|_| shows(&TestCa::new("foo"), &leaf(HTTPBIN)), "certificate_refused"; "of a CA that nobody knows")]
#[test_case(|w| shows(&w.foo, &with(|l| (l.not_before, l.not_after) = (hours(-2), hours(-1)))), "certificate_refused"; "expired")]
#[test_case(|w| shows(&w.foo, &with(|l| (l.not_before, l.not_after) = (hours(1), hours(2)))), "certificate_refused"; "not yet valid")]
#[test_case(|w| shows(&w.foo, &with(|l| l.client_auth = false)), "certificate_refused"; "not for clients")]
#[test_case(|w| shows(&w.foo, &with(|l| l.is_ca = true)), "certificate_refused"; "a CA")]
#[test_case(|w| shows(&w.foo, &with(|l| l.uris.push(BAR.to_owned()))), "certificate_refused"; "of two identities")]
#[test_case(|w| shows(&w.foo, &with(|l| l.uris.clear())), "certificate_refused"; "of no identity")]
#[test_case(|w| shows(&w.foo, &with(|l| l.dns_names.push("x.example".to_owned()))), "certificate_refused"; "with a host's name too")]
#[test_case(|w| shows(&w.foo, &leaf("spiffe://evil.example/ns/foo/sa/httpbin")), "certificate_trust_domain"; "of another trust domain")]
#[test_case(|_| shows_garbage(), "no_token"; "that is none, so nobody can have its key")]
#[test_case(|w| shows_without_its_key(&w.foo), "no_token"; "whose key the client does not have")]
#[tokio::test]
async fn a_wrong_certificate_lets_nobody_in_and_keeps_no_good_token_out(wrong: Wrong, reason: &str) {
    let world = World::start(&[FLAG]).await;
    for version in [&TLS13, &TLS12] {
        let status = world
            .send(version, wrong(&world), world.without_token(HTTPBIN))
            .await
            .unwrap_err();
        assert_eq!(
            (status.code(), log_of(&status)["reason"].as_str()),
            (Unauthenticated, Some(reason))
        );
        world.send(version, wrong(&world), world.authority.ask()).await.unwrap();
    }
    world.authority.stop().await;
}

#[tokio::test]
async fn a_good_token_wins_over_a_certificate_and_a_bad_one_does_not_spoil_it() {
    let world = World::start(&[FLAG]).await;
    let other = || shows(&world.foo, &leaf("spiffe://cluster.local/ns/foo/sa/other"));
    let ask = |id: &str| world.authority.ask_for(id);
    world.send(&TLS13, other(), ask(HTTPBIN)).await.unwrap();
    let as_certified = ask("spiffe://cluster.local/ns/foo/sa/other");
    world
        .refused(other(), as_certified, PermissionDenied, "identity_mismatch")
        .await;
    // VMs come with a token that has expired and a certificate that has not.
    let expired = world.authority.token_with(|claims| claims.with("/exp", 1));
    let own = || shows(&world.foo, &leaf(HTTPBIN));
    world
        .send(&TLS13, own(), world.authority.ask_with(&expired))
        .await
        .unwrap();
    // Both bad: the log says what is wrong with either.
    let unknown = shows(&TestCa::new("foo"), &leaf(HTTPBIN));
    let status = world
        .send(&TLS13, unknown, world.authority.ask_with(&expired))
        .await
        .unwrap_err();
    let line = log_of(&status);
    assert_eq!(line["reason"], "token_expired");
    assert!(
        line["detail"].as_str().unwrap().contains("client certificate"),
        "{line}"
    );
    world.authority.stop().await;
}

/// istiod makes its pool of roots once, at its start.
#[tokio::test]
async fn a_signers_new_roots_count_for_certificates_and_its_old_ones_do_not() {
    let world = World::start(&[FLAG]).await;
    let next = TestCa::new("foo");
    next.write_to(&world.folder.path().join("next")).unwrap();
    let ask = || world.without_token(HTTPBIN);
    world
        .refused(
            shows(&next, &leaf(HTTPBIN)),
            ask(),
            Unauthenticated,
            "certificate_refused",
        )
        .await;
    let policy = POLICY.replace("CAS/foo", "CAS/next");
    let folder = world.folder.path().display().to_string();
    world.authority.write_policy(&policy.replace("CAS", &folder));
    eventually("the new roots", async || {
        world.send(&TLS13, shows(&next, &leaf(HTTPBIN)), ask()).await
    })
    .await;
    world
        .refused(
            shows(&world.foo, &leaf(HTTPBIN)),
            ask(),
            Unauthenticated,
            "certificate_refused",
        )
        .await;
    world.authority.stop().await;
}

/// S5 of istio-csr, and the default.
#[tokio::test]
async fn no_certificate_is_asked_for_unless_the_operator_says_so() {
    let world = World::start(&[]).await;
    let own = || shows(&world.foo, &leaf(HTTPBIN));
    world
        .refused(own(), world.without_token(HTTPBIN), Unauthenticated, "no_token")
        .await;
    world.send(&TLS13, own(), world.authority.ask()).await.unwrap();
    world.authority.stop().await;
    let world = World::start(&[FLAG]).await;
    let status = world.authority.send(world.without_token(HTTPBIN)).await.unwrap_err();
    assert_eq!(log_of(&status)["reason"], "no_token");
    world.authority.stop().await;
}

const POLICY: &str = r#"
apiVersion: ensign.mesh/v1
trustDomain: cluster.local
signers:
- name: foo
  local: {dir: CAS/foo}
- name: bar
  local: {dir: CAS/bar}
rules:
- namespace: foo
  serviceAccounts: ["*"]
  signers: [foo, bar]
  default: foo
- namespace: bar
  serviceAccounts: ["*"]
  signers: [bar]
  default: bar
"#;
