//! The tests. Deadlines are short only where a test waits for one to pass.

use std::time::Duration;

use ensign_agent::csr_client::{Retry, SignError};
use ensign_testkit::TestCa;
use ensign_testkit::fake_ra::{Door, RaOutcome};
use tonic::Code;

use crate::client::{client, roots_in};

const LONG: Duration = Duration::from_mins(1);
const SHORT: Duration = Duration::from_secs(3);

#[tokio::test]
async fn a_request_looks_like_istios() {
    let client = client(LONG).await;
    let elements = client.ask(None).await.unwrap();
    assert!(elements.len() >= 2);
    client.ask(Some("foo")).await.unwrap();
    let requests = client.ra.requests();
    let [none, foo] = requests.as_slice() else {
        panic!("two requests")
    };
    assert_eq!(none.cert_signer.as_deref(), Some(""), "present even when empty");
    assert_eq!(foo.cert_signer.as_deref(), Some("foo"));
    assert_eq!(foo.impersonated_identity, None);
    assert_eq!(foo.validity_duration, 3600);
    assert_eq!(foo.authorization.as_deref(), Some("Bearer first-token"));
    assert_eq!(foo.cluster_ids, ["Kubernetes"]);
    assert_eq!(client.ra.connection_count(), 1, "one connection for all");
}

#[tokio::test]
async fn the_token_is_read_again_for_each_call() {
    let client = client(LONG).await;
    client.ask(None).await.unwrap();
    tokio::fs::write(&client.token, "second-token").await.unwrap();
    client.ask(None).await.unwrap();
    assert_eq!(
        client.ra.requests()[1].authorization.as_deref(),
        Some("Bearer second-token")
    );
    tokio::fs::remove_file(&client.token).await.unwrap();
    let error = client.ask(None).await.unwrap_err();
    assert_eq!(
        (error.reason(), error.retry(), error.resumable()),
        ("token", Retry::Soon, true)
    );
    assert_eq!(client.ra.request_count(), 2, "no call without a token");
}

#[tokio::test]
async fn a_call_without_an_answer_ends_at_its_deadline_and_the_next_takes_another_connection() {
    let client = client(SHORT).await;
    client.ra.script().push(RaOutcome::Hang);
    let error = client.ask(None).await.unwrap_err();
    assert!(matches!(error, SignError::Deadline { .. }), "{error}");
    assert!(error.resumable());
    let patient = client.ask(None).await;
    assert!(patient.is_ok(), "{patient:?}");
    assert_eq!(client.ra.connection_count(), 2);
}

#[tokio::test]
async fn a_port_that_says_nothing_meets_the_deadline_and_one_that_hangs_up_is_told() {
    let client = client(SHORT).await;
    client.ra.set_door(Door::Silent);
    assert!(matches!(client.ask(None).await, Err(SignError::Deadline { .. })));
    client.ra.set_door(Door::Slammed);
    let error = client.ask(None).await.unwrap_err();
    assert_eq!(error.reason(), "connect", "{error}");
    client.ra.set_door(Door::Open);
    client.ask(None).await.unwrap();
}

#[tokio::test]
async fn wrong_serving_certificates_are_refused_before_the_token_goes_out() {
    let client = client(LONG).await;
    for (what, serve) in [
        ("Expired", ensign_testkit::FakeRa::serve_expired as fn(&_)),
        ("NotValidForName", ensign_testkit::FakeRa::serve_wrong_name),
        ("UnknownIssuer", ensign_testkit::FakeRa::serve_stranger),
    ] {
        serve(&client.ra);
        let error = client.ask(None).await.unwrap_err();
        assert_eq!(error.reason(), "connect", "{what}: {error}");
        assert!(!error.to_string().contains("first-token"));
    }
    client.ra.serve_right();
    client.ask(None).await.unwrap();
    assert_eq!(client.ra.request_count(), 1, "no request before");
}

#[tokio::test]
async fn new_roots_are_taken_up_with_the_next_call() {
    let client = client(LONG).await;
    client.ask(None).await.unwrap();
    let right = client.ra.serving_root_pem();
    client
        .roots
        .send_replace(roots_in(&TestCa::root_only("other").root_pem()));
    assert_eq!(client.ask(None).await.unwrap_err().reason(), "connect");
    client.roots.send_replace(roots_in(&right));
    client.ask(None).await.unwrap();
}

#[tokio::test]
async fn statuses_are_sorted_and_an_unavailable_replica_is_left() {
    let client = client(LONG).await;
    for (code, retry) in [
        (Code::PermissionDenied, Retry::SlowCap),
        (Code::Unauthenticated, Retry::Soon),
        (Code::Unavailable, Retry::Later),
    ] {
        client.ra.script().push(RaOutcome::Refuse(code, "scripted".to_owned()));
        let error = client.ask(None).await.unwrap_err();
        assert!(
            matches!(&error, SignError::Status { code: seen, .. } if *seen == code),
            "{error}"
        );
        assert_eq!(error.retry(), retry);
    }
    assert_eq!(client.ra.connection_count(), 1);
    client.ask(None).await.unwrap();
    assert_eq!(client.ra.connection_count(), 2);
}

#[tokio::test]
async fn replies_out_of_bounds_are_malformed() {
    let client = client(LONG).await;
    client.ra.script().push(RaOutcome::Reply(vec![]));
    client.ra.script().push(RaOutcome::Reply(vec!["x".to_owned(); 17]));
    for _ in 0..2 {
        assert_eq!(client.ask(None).await.unwrap_err().reason(), "malformed_reply");
    }
    client
        .ra
        .script()
        .push(RaOutcome::Reply(vec!["x".repeat(2 * 1024 * 1024)]));
    client.ask(None).await.unwrap_err();
    client.ask(None).await.unwrap();
}

#[tokio::test]
async fn an_authority_that_comes_back_is_found_again() {
    let mut client = client(LONG).await;
    client.ask(None).await.unwrap();
    client.ra.stop().await;
    assert_eq!(client.ask(None).await.unwrap_err().reason(), "connect");
    client.ra.restart().await;
    client.ask(None).await.unwrap();
}
