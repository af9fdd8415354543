//! Files that change while the authority runs, and what its HTTP servers say.

use std::time::{Duration, SystemTime};

use ensign_pki::Certificate;
use ensign_testkit::TestCa;
use ensign_testkit::eventually::eventually;
use ensign_testkit::metrics::Metrics;
use ensign_testkit::tokens::{self, TokenMint};
use tonic::Code;

use crate::authority::{Authority, POLICY, all_logs, log_of};

/// Waits for an event outside of this process's control: notification of a changed file.
async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    for _ in 0..300 {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("{what} did not happen");
}

#[tokio::test]
async fn a_new_policy_counts_and_a_bad_one_does_not() {
    let (authority, _ca) = Authority::start(&[]).await;
    authority.send(authority.ask()).await.unwrap();
    let policy = authority.folder.path().join("policy.yaml");
    std::fs::write(&policy, "apiVersion: nonsense").unwrap();
    until("the bad policy is noticed", || async {
        authority
            .http("metrics", "/metrics")
            .await
            .contains("file_loaded{file=\"policy\"} 0")
    })
    .await;
    authority.send(authority.ask()).await.unwrap();
    assert!(authority.http("readyz", "/readyz").await.starts_with("HTTP/1.1 200"));

    std::fs::write(
        &policy,
        POLICY.replace("serviceAccounts: [httpbin]", "serviceAccounts: [other]"),
    )
    .unwrap();
    until("the new policy is in effect", || async {
        authority.send(authority.ask()).await.is_err()
    })
    .await;
    let status = authority.send(authority.ask()).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    assert_eq!(log_of(&status)["reason"], "no_rule");
    authority.stop().await;
}

#[tokio::test]
async fn new_keys_of_the_issuer_count_and_bad_ones_do_not() {
    let (mut authority, _ca) = Authority::start(&[]).await;
    let jwks = authority.folder.path().join("jwks.json");
    std::fs::write(&jwks, "{\"keys\":[]}").unwrap();
    until("the bad keys are noticed", || async {
        authority
            .http("metrics", "/metrics")
            .await
            .contains("file_loaded{file=\"jwks\"} 0")
    })
    .await;
    authority.send(authority.ask()).await.unwrap();

    let next = TokenMint::es256("b");
    std::fs::write(&jwks, tokens::jwks(&[&next])).unwrap();
    until("the old key is gone", || async {
        authority.send(authority.ask()).await.is_err()
    })
    .await;
    authority.tokens = next;
    authority.send(authority.ask()).await.unwrap();
    authority.stop().await;
}

#[tokio::test]
async fn metrics_count_what_happened() {
    let (authority, _ca) = Authority::start(&[]).await;
    let mut ask = authority.ask();
    ask.ttl = i64::MAX;
    authority.send(ask).await.unwrap();
    authority
        .send(authority.ask().with("CertSigner", "bar"))
        .await
        .unwrap_err();
    let metrics = authority.http("metrics", "/metrics").await;
    for line in [
        "ensign_ra_requests_total{code=\"ok\",reason=\"issued\"} 1",
        "ensign_ra_requests_total{code=\"permission_denied\",reason=\"signer_not_allowed\"} 1",
        "ensign_ra_signer_requests_total{signer=\"foo\",outcome=\"issued\"} 1",
        "ensign_ra_ttl_changes_total{change=\"clamped\"} 1",
        "ensign_ra_requests_in_flight 0",
        "ensign_ra_reloads_total{file=\"policy\"} 1",
        "ensign_ra_root_expiry_timestamp_seconds{signer=\"foo\"}",
        "ensign_ra_serving_certificate_expiry_timestamp_seconds ",
        "citadel_server_root_cert_expiry_timestamp ",
        "citadel_server_root_cert_expiry_seconds 2",
        "citadel_server_csr_count 2",
        "citadel_server_success_cert_issuance_count 1",
    ] {
        assert!(metrics.contains(line), "{metrics} lacks {line}");
    }
    authority.stop().await;
}

const TWO_CAS: &str = r#"
apiVersion: ensign.mesh/v1
trustDomain: cluster.local
signers:
- name: foo
  local: {dir: FOLDER/first}
- name: bar
  local: {dir: FOLDER/long}
rules:
- namespace: foo
  serviceAccounts: ["*"]
  signers: [foo, bar]
  default: foo
"#;

/// TestRecordCertsExpiryMetrics: one bundle after the other.
#[tokio::test]
async fn the_gauges_of_expiry_follow_the_roots() {
    let folder = tempfile::tempdir().unwrap();
    let end_of = |name: &str| {
        let ca = TestCa::new(name);
        ca.write_to(&folder.path().join(name)).unwrap();
        Certificate::parse_pem(&ca.root_pem()).unwrap().not_after()
    };
    let first = end_of("first");
    // Ends are whole seconds.
    let mut second = end_of("second");
    while second == first {
        tokio::time::sleep(Duration::from_millis(100)).await;
        second = end_of("second");
    }
    let long = end_of("long");
    let policy = TWO_CAS.replace("FOLDER", &folder.path().display().to_string());
    let authority = Authority::start_real(&policy).await;
    let of = [("signer", "foo")];
    until_gauge(&authority, "ensign_ra_root_expiry_timestamp_seconds", &of, first).await;
    until_gauge(&authority, "citadel_server_root_cert_expiry_timestamp", &[], first).await;
    authority.write_policy(&policy.replace("/first", "/second"));
    until_gauge(&authority, "ensign_ra_root_expiry_timestamp_seconds", &of, second).await;
    until_gauge(&authority, "ensign_ra_ca_expiry_timestamp_seconds", &of, second).await;
    until_gauge(
        &authority,
        "citadel_server_root_cert_expiry_timestamp",
        &[],
        second.min(long),
    )
    .await;
    authority.stop().await;
}

/// Waits until a gauge of the metrics page says this time.
async fn until_gauge(authority: &Authority, name: &str, labels: &[(&str, &str)], at: SystemTime) {
    let seconds = at.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64();
    let page = authority.addresses["metrics"];
    eventually(name, async || {
        let seen = Metrics::scrape(page).await.unwrap().sum(name, labels);
        if seen == Some(seconds) {
            Ok(())
        } else {
            Err(format!("{name} is {seen:?}, expected {seconds}"))
        }
    })
    .await;
}

#[tokio::test]
async fn a_policy_with_a_signer_in_the_folder_of_the_serving_ca_is_refused_whole() {
    let (authority, _ca) = Authority::start(&[]).await;
    let inside = authority.folder.path().join("serving/foo").display().to_string();
    let text = POLICY
        .replace("/nowhere/foo", &inside)
        .replace("serviceAccounts: [httpbin]", "serviceAccounts: [other]");
    std::fs::write(authority.folder.path().join("policy.yaml"), text).unwrap();
    until("the policy is refused", || async {
        authority
            .http("metrics", "/metrics")
            .await
            .contains("file_loaded{file=\"policy\"} 0")
    })
    .await;
    authority.send(authority.ask()).await.unwrap();
    assert!(all_logs().contains(&format!("overlaps {inside}")));
    authority.stop().await;
}
