//! Many at once: who waits, who is turned away, and what a signer that is away costs.

use std::sync::{Arc, Mutex};

use ensign_proto::istio::v1::auth::istio_certificate_service_client::IstioCertificateServiceClient;
use ensign_ra::signer::SignerError;
use ensign_testkit::eventually::eventually;
use ensign_testkit::metrics::Metrics;
use ensign_testkit::tokens::Claims;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tonic::{Code, Status};

use crate::authority::{Ask, Authority, POLICY, log_of};
use crate::ca::{Ca, Leaf};

/// The defaults but for this: a machine under load may take its time, and nothing here is about deadlines.
const PATIENT: &str = "--signer-timeout=1h";

/// A gate of the signer's own: it answers one request for each permit, and writes down whose it was.
struct Held {
    permits: Arc<Semaphore>,
    order: Arc<Mutex<Vec<String>>>,
}

fn hold(authority: &Authority, ca: &Arc<Ca>) -> Held {
    let held = Held {
        permits: Arc::new(Semaphore::new(0)),
        order: Arc::default(),
    };
    let (ca, permits, order) = (Arc::clone(ca), Arc::clone(&held.permits), Arc::clone(&held.order));
    authority.script(move |issuance| {
        order.lock().unwrap().push(issuance.id.namespace().to_owned());
        let chain = ca.sign(&Leaf::of(issuance.csr.spki_der(), issuance.id.as_str()));
        let permits = Arc::clone(&permits);
        Box::pin(async move {
            permits.acquire().await.unwrap().forget();
            Ok(chain)
        })
    });
    held
}

fn with_limits(limits: &str) -> String {
    let bar = "- namespace: bar\n  serviceAccounts: [httpbin]\n  signers: [foo]\n  default: foo\n";
    format!("{POLICY}{bar}limits: {limits}\n")
}

/// Waits until a number of the metrics page is this.
async fn until(authority: &Authority, name: &str, labels: &[(&str, &str)], value: f64) {
    let page = authority.addresses["metrics"];
    eventually(name, async || {
        let seen = Metrics::scrape(page).await.unwrap().sum(name, labels);
        if seen == Some(value) {
            Ok(())
        } else {
            Err(format!("{name} is {seen:?}, expected {value}"))
        }
    })
    .await;
}

/// (waiting, in flight) of signer foo.
async fn until_counts(authority: &Authority, waiting: f64, in_flight: f64) {
    let signer = [("signer", "foo")];
    until(authority, "ensign_ra_signer_queued", &signer, waiting).await;
    until(authority, "ensign_ra_signer_in_flight", &signer, in_flight).await;
}

fn in_namespace(authority: &Authority, namespace: &str) -> Ask {
    let mut ask = authority.ask_for(&format!("spiffe://cluster.local/ns/{namespace}/sa/httpbin"));
    let token = authority.tokens.mint(&Claims::service_account(namespace, "httpbin"));
    ask.headers = vec![("authorization", format!("Bearer {token}"))];
    ask
}

#[tokio::test]
async fn two_thousand_at_once_of_one_account_and_none_is_shed() {
    let (authority, ca) = Authority::start(&[PATIENT]).await;
    let held = hold(&authority, &ca);
    let mut requests = JoinSet::new();
    for _ in 0..20 {
        let client = IstioCertificateServiceClient::new(authority.channel().await);
        for _ in 0..100 {
            let (mut client, ask) = (client.clone(), authority.ask());
            requests.spawn(async move { client.create_certificate(ask.into_request()).await });
        }
    }
    until_counts(&authority, 1800.0, 200.0).await;
    held.permits.add_permits(2000);
    while let Some(outcome) = requests.join_next().await {
        assert_eq!(outcome.unwrap().unwrap().into_inner().cert_chain.len(), 2);
    }
    until_counts(&authority, 0.0, 0.0).await;
    authority.stop().await;
}

#[tokio::test]
async fn namespaces_take_turns_at_a_signer() {
    let (authority, ca) = Authority::start_with_policy(&with_limits("{concurrency: 1}"), &[PATIENT]).await;
    let held = hold(&authority, &ca);
    let client = IstioCertificateServiceClient::new(authority.channel().await);
    let mut requests = JoinSet::new();
    for (waiting, namespace) in [(0.0, "foo"), (1.0, "foo"), (2.0, "foo"), (3.0, "bar")] {
        let (mut client, ask) = (client.clone(), in_namespace(&authority, namespace));
        requests.spawn(async move { client.create_certificate(ask.into_request()).await });
        until_counts(&authority, waiting, 1.0).await;
    }
    held.permits.add_permits(4);
    while let Some(outcome) = requests.join_next().await {
        outcome.unwrap().unwrap();
    }
    assert_eq!(*held.order.lock().unwrap(), ["foo", "foo", "bar", "foo"]);
    authority.stop().await;
}

#[tokio::test]
async fn a_request_that_waits_for_its_signer_takes_no_place_of_others() {
    let (authority, ca) = Authority::start(&["--max-in-flight=1", "--max-queued=0", PATIENT]).await;
    let held = hold(&authority, &ca);
    let client = IstioCertificateServiceClient::new(authority.channel().await);
    let mut requests = JoinSet::new();
    for in_flight in [1.0, 2.0, 3.0] {
        let (mut client, ask) = (client.clone(), authority.ask());
        requests.spawn(async move { client.create_certificate(ask.into_request()).await });
        until_counts(&authority, 0.0, in_flight).await;
    }
    held.permits.add_permits(3);
    while let Some(outcome) = requests.join_next().await {
        outcome.unwrap().unwrap();
    }
    authority.stop().await;
}

fn assert_opaque(status: &Status, code: Code, reason: &str) {
    assert_eq!(status.code(), code, "{status:?}");
    assert_eq!(log_of(status)["reason"], reason);
    assert_eq!(status.message(), ensign_ra::refusal::text(code));
}

#[tokio::test]
async fn one_more_than_may_wait_is_turned_away() {
    let (authority, ca) = Authority::start_with_policy(&with_limits("{concurrency: 1, queue: 1}"), &[PATIENT]).await;
    let held = hold(&authority, &ca);
    let client = IstioCertificateServiceClient::new(authority.channel().await);
    let mut requests = JoinSet::new();
    for waiting in [0.0, 1.0] {
        let (mut client, ask) = (client.clone(), authority.ask());
        requests.spawn(async move { client.create_certificate(ask.into_request()).await });
        until_counts(&authority, waiting, 1.0).await;
    }
    let status = authority.send(authority.ask()).await.unwrap_err();
    assert_opaque(&status, Code::ResourceExhausted, "signer_queue_full");
    let shed = [("signer", "foo"), ("outcome", "signer_queue_full")];
    until(&authority, "ensign_ra_signer_requests_total", &shed, 1.0).await;
    held.permits.add_permits(2);
    while let Some(outcome) = requests.join_next().await {
        outcome.unwrap().unwrap();
    }
    authority.stop().await;
}

#[tokio::test]
async fn the_deadline_of_a_request_ends_its_wait_for_a_turn() {
    let policy = with_limits("{rate: 0.001}");
    let (authority, ca) = Authority::start_with_policy(&policy, &["--signer-timeout=3s"]).await;
    let held = hold(&authority, &ca);
    held.permits.add_permits(2);
    authority.send(authority.ask()).await.unwrap();
    // The next token is a quarter of an hour away.
    let status = authority.send(authority.ask()).await.unwrap_err();
    assert_opaque(&status, Code::DeadlineExceeded, "signer_queue_deadline");
    let detail = log_of(&status)["detail"].to_string();
    assert!(
        detail.contains("in the signer's queue") && detail.contains("0.001"),
        "{detail}"
    );
    let late = [("signer", "foo"), ("outcome", "signer_queue_deadline")];
    until(&authority, "ensign_ra_signer_requests_total", &late, 1.0).await;
    until_counts(&authority, 0.0, 0.0).await;
    authority.stop().await;
}

#[tokio::test]
async fn a_signer_that_is_away_is_not_asked_again_and_again() {
    let (authority, _ca) = Authority::start(&[]).await;
    let asked = Arc::new(Mutex::new(0));
    let count = Arc::clone(&asked);
    authority.script(move |_| {
        *count.lock().unwrap() += 1;
        let signer = "foo".parse().unwrap();
        let detail = "no route to host".to_owned();
        Box::pin(async move { Err(SignerError::Unavailable { signer, detail }) })
    });
    for _ in 0..5 {
        let status = authority.send(authority.ask()).await.unwrap_err();
        assert_opaque(&status, Code::Unavailable, "unavailable");
    }
    // The cool-down may be over before the next comes on a slow machine; then that one is asked, and opens it again.
    let status = eventually("a request that is not passed on", async || {
        let status = authority.send(authority.ask()).await.unwrap_err();
        match log_of(&status)["reason"].as_str() {
            Some("signer_circuit_open") => Ok(status),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    assert_opaque(&status, Code::Unavailable, "signer_circuit_open");
    let detail = log_of(&status)["detail"].to_string();
    assert!(
        detail.contains("no route to host") && detail.contains("foo"),
        "{detail}"
    );
    let asked = f64::from(*asked.lock().unwrap());
    let unavailable = [("signer", "foo"), ("outcome", "unavailable")];
    until(&authority, "ensign_ra_signer_requests_total", &unavailable, asked).await;
    authority.stop().await;
}

#[tokio::test]
async fn a_signer_that_says_when_it_is_ready_is_believed_at_once() {
    let (authority, ca) = Authority::start(&[]).await;
    authority.script(|_| {
        let signer = "foo".parse().unwrap();
        let detail = "ClusterIssuer foo is not Ready".to_owned();
        Box::pin(async move { Err(SignerError::NotReady { signer, detail }) })
    });
    for _ in 0..10 {
        let status = authority.send(authority.ask()).await.unwrap_err();
        assert_opaque(&status, Code::Unavailable, "not_ready");
    }
    let held = hold(&authority, &ca);
    held.permits.add_permits(1);
    authority.send(authority.ask()).await.unwrap();
    authority.stop().await;
}

#[tokio::test]
async fn a_signer_that_takes_longer_than_a_request_is_not_away() {
    let (authority, ca) = Authority::start(&[]).await;
    authority.script(|_| {
        let signer = "foo".parse().unwrap();
        let detail = "not approved yet".to_owned();
        Box::pin(async move { Err(SignerError::TimedOut { signer, detail }) })
    });
    for _ in 0..10 {
        let status = authority.send(authority.ask()).await.unwrap_err();
        assert_opaque(&status, Code::DeadlineExceeded, "timed_out");
    }
    // The retry that fetches what was signed meanwhile is let in.
    let held = hold(&authority, &ca);
    held.permits.add_permits(1);
    authority.send(authority.ask()).await.unwrap();
    authority.stop().await;
}

const REAL: &str = r#"
apiVersion: ensign.mesh/v1
trustDomain: cluster.local
signers:
- name: foo
  local: {dir: FOLDER/foo, selfSigned: true}
  limits: {rate: 0.001}
rules:
- namespace: foo
  serviceAccounts: ["*"]
  signers: [foo]
  default: foo
"#;

#[tokio::test]
async fn new_limits_reach_those_who_wait_and_restart_no_signer() {
    let authority = Authority::start_real(REAL).await;
    let root = authority.send(authority.ask()).await.unwrap().pop();
    // The next token is a quarter of an hour away.
    let (chain, ()) = tokio::join!(authority.send(authority.ask()), async {
        until_counts(&authority, 1.0, 0.0).await;
        authority.write_policy(&REAL.replace("rate: 0.001", "rate: 1000"));
    });
    assert_eq!(chain.unwrap().pop(), root);
    let waits = [("signer", "foo")];
    until(&authority, "ensign_ra_signer_queue_wait_seconds_count", &waits, 2.0).await;
    authority.stop().await;
}
