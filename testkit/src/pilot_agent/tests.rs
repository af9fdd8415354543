//! The agent against a CA that refuses, breaks and moves.

use ensign_pki::{KeyType, PrivateKey, csr};

use super::*;
use crate::fake_ra::{Door, RaOutcome};
use crate::{FakeRa, TestCa};

fn csr_pem() -> String {
    let id = "spiffe://cluster.local/ns/foo/sa/httpbin".parse().unwrap();
    let key = PrivateKey::generate(KeyType::P256).unwrap();
    csr::build(&key, &id).unwrap().to_pem()
}

fn agent(fake: &FakeRa) -> PilotAgent {
    let endpoints = Endpoints::new(&[fake.address()]);
    let ca = Ca::new(&endpoints, "localhost", &fake.serving_root_pem()).unwrap();
    PilotAgent::new(&ca, "token").of_signer("foo")
}

fn refuse(code: Code) -> RaOutcome {
    RaOutcome::Refuse(code, "no".to_owned())
}

#[tokio::test]
async fn five_attempts_are_made_and_the_last_may_succeed() {
    let fake = FakeRa::start(TestCa::new("mesh")).await;
    let codes = [
        Code::Unavailable,
        Code::Internal,
        Code::ResourceExhausted,
        Code::Aborted,
    ];
    for code in codes {
        fake.script().push(refuse(code));
    }
    let signed = agent(&fake).sign(&csr_pem()).await.unwrap();
    assert!(signed.chain.len() >= 2);
    let met: Vec<_> = signed.before.iter().map(|one| (one.code, one.by_ca)).collect();
    assert_eq!(met, codes.map(|code| (code, true)));
    let seen = fake.requests();
    assert_eq!(seen.len(), 5);
    assert_eq!(seen[0].cert_signer.as_deref(), Some("foo"));
    assert_eq!(seen[0].authorization.as_deref(), Some("Bearer token"));
    assert_eq!(seen[0].cluster_ids, ["Kubernetes"]);
}

#[tokio::test]
async fn after_five_attempts_it_gives_up_and_connects_anew() {
    let fake = FakeRa::start(TestCa::new("mesh")).await;
    for _ in 0..5 {
        fake.script().push(refuse(Code::Unavailable));
    }
    let mut agent = agent(&fake);
    let gave_up = agent.sign(&csr_pem()).await.unwrap_err();
    assert_eq!((gave_up.0.len(), gave_up.code()), (5, Code::Unavailable));
    let connections = fake.connection_count();
    agent.sign(&csr_pem()).await.unwrap();
    assert_eq!(fake.connection_count(), connections + 1);
}

#[tokio::test]
async fn some_codes_end_it_at_once() {
    let fake = FakeRa::start(TestCa::new("mesh")).await;
    for code in [
        Code::DeadlineExceeded,
        Code::Cancelled,
        Code::PermissionDenied,
        Code::Unauthenticated,
        Code::InvalidArgument,
        Code::FailedPrecondition,
    ] {
        fake.script().push(refuse(code));
        let gave_up = agent(&fake).sign(&csr_pem()).await.unwrap_err();
        assert_eq!((gave_up.0.len(), gave_up.code()), (1, code));
    }
}

#[tokio::test]
async fn a_connection_that_cannot_be_made_is_unavailable_and_not_tried_again_at_once() {
    let fake = FakeRa::start(TestCa::new("mesh")).await;
    fake.set_door(Door::Slammed);
    let gave_up = agent(&fake).sign(&csr_pem()).await.unwrap_err();
    assert_eq!((gave_up.0.len(), gave_up.code()), (5, Code::Unavailable));
    assert!(gave_up.0.iter().all(|one| !one.by_ca), "{gave_up}");
    assert!(gave_up.to_string().contains("not tried again yet"), "{gave_up}");
    assert_eq!(fake.requests().len(), 0);
}

#[tokio::test]
async fn a_new_connection_goes_to_whoever_is_there() {
    let (mut one, two) = (
        FakeRa::start(TestCa::new("mesh")).await,
        FakeRa::start(TestCa::new("mesh")).await,
    );
    let roots = one.serving_root_pem() + &two.serving_root_pem();
    let endpoints = Endpoints::new(&[one.address()]);
    let ca = Ca::new(&endpoints, "localhost", &roots).unwrap();
    let mut agent = PilotAgent::new(&ca, "token");
    agent.sign(&csr_pem()).await.unwrap();
    endpoints.set(&[two.address()]);
    agent.sign(&csr_pem()).await.unwrap();
    assert_eq!(
        (one.requests().len(), two.requests().len()),
        (2, 0),
        "an open one stays"
    );
    one.stop().await;
    agent.sign(&csr_pem()).await.unwrap();
    assert_eq!(two.requests().len(), 1);
}
