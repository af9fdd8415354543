//! Creating, approving and waiting, while the server is away, busy, or somebody else writes.

use serde_json::json;
use test_case::test_case;

use super::*;

#[tokio::test(start_paused = true)]
async fn the_plain_way() {
    let server = Server::default();
    let replica = Replica::new(&server);
    let wish = Wish::new();
    let asked = replica.ask(&wish);
    server.until(|server| is_approved(server, &wish.name())).await;
    server.sign(&wish.name(), &wish.certificate());
    let issued = asked.await.unwrap().unwrap();
    assert_eq!(issued.receipt.object(), Some(&*wish.name()));
    assert_eq!(server.names(), [wish.name()], "it stays until it is delivered");
    issued.receipt.settle();
    replica.settled().await;
    assert!(server.names().is_empty());
    assert_eq!(
        ["list", "create", "approve", "delete"].map(|kind| server.count(kind)),
        [1, 1, 1, 1]
    );
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_never_left_the_house_leaves_the_object() {
    let server = Server::default();
    let replica = Replica::new(&server);
    let wish = Wish::new();
    let asked = replica.ask(&wish);
    server.until(|server| is_approved(server, &wish.name())).await;
    server.sign(&wish.name(), &wish.certificate());
    // The caller went away while its certificate was on its way.
    drop(asked.await.unwrap().unwrap());
    replica.settled().await;
    assert_eq!(server.names(), [wish.name()]);
    assert_eq!(reason(replica.ask(&wish).await.unwrap()), "issued");
    assert_eq!(server.count("create"), 1);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_created_for_a_caller_who_left_before_the_watch_stood() {
    let server = Server::default();
    server.next("list", Reaction::Hang);
    let replica = Replica::new(&server);
    let asked = replica.ask(&Wish::new());
    server.until(|server| server.count("list") == 1).await;
    asked.abort();
    assert!(asked.await.unwrap_err().is_cancelled());
    // The request for the list ends at its own bound, and the next one is answered.
    server.until(|server| server.count("watch") == 1).await;
    tokio::time::sleep(DEADLINE).await;
    assert_eq!(server.count("create"), 0);
}

#[test_case(403, "grant both verbs"; "no right to watch")]
#[test_case(404, "install their CRD"; "no such kind")]
#[tokio::test(start_paused = true)]
async fn nothing_is_created_where_the_answer_could_not_be_seen(code: u16, named: &str) {
    let server = Server::default();
    for _ in 0..100 {
        server.next("list", Reaction::Refuse(code, "No"));
    }
    let replica = Replica::new(&server);
    let error = replica.ask(&Wish::new()).await.unwrap().unwrap_err();
    assert_eq!(error.reason(), "unavailable");
    assert!(error.to_string().contains(named), "{error}");
    assert_eq!(server.count("create"), 0);
}

#[tokio::test(start_paused = true)]
async fn a_busy_server_is_waited_for_and_the_gate_is_told() {
    let server = Server::default();
    let replica = Replica::new(&server);
    let pushback = replica.backends.pushback().follow();
    server.next("create", Reaction::Throttle(3));
    server.next("create", Reaction::Throttle(2));
    server.next("create", Reaction::Refuse(503, "ServiceUnavailable"));
    server.next("approve", Reaction::Throttle(1));
    server.next("approve", Reaction::Refuse(500, "InternalError"));
    let began = Instant::now();
    let wish = Wish::new();
    let asked = replica.ask(&wish);
    server.until(|server| is_approved(server, &wish.name())).await;
    assert!(began.elapsed() >= Duration::from_secs(6), "{:?}", began.elapsed());
    assert!(pushback.borrow().is_some());
    server.sign(&wish.name(), &wish.certificate());
    assert_eq!(reason(asked.await.unwrap()), "issued");
    assert_eq!((server.count("create"), server.count("approve")), (4, 3));
}

#[tokio::test(start_paused = true)]
async fn a_server_that_stays_busy_fails_nobody_before_the_deadline() {
    let server = Server::default();
    for _ in 0..1000 {
        server.next("create", Reaction::Throttle(1));
    }
    let replica = Replica::new(&server);
    let began = Instant::now();
    let error = replica.ask(&Wish::new()).await.unwrap().unwrap_err();
    assert_eq!(began.elapsed(), DEADLINE);
    assert_eq!(error.reason(), "unavailable");
    assert!(error.to_string().contains("429"), "{error}");
}

#[test_case(403, "Forbidden", "unavailable"; "forbidden")]
#[test_case(401, "Unauthorized", "unavailable"; "unknown to the server")]
#[test_case(404, "NotFound", "unavailable"; "no place for it")]
#[test_case(422, "Invalid", "failed"; "not acceptable")]
#[test_case(400, "BadRequest", "failed"; "not even readable")]
#[test_case(406, "NotAcceptable", "unavailable"; "something else")]
#[tokio::test(start_paused = true)]
async fn a_no_to_a_create_is_final(code: u16, why: &'static str, expected: &str) {
    let server = Server::default();
    server.next("create", Reaction::Refuse(code, why));
    let replica = Replica::new(&server);
    let began = Instant::now();
    assert_eq!(reason(replica.ask(&Wish::new()).await.unwrap()), expected);
    assert!(began.elapsed() < Duration::from_secs(1));
    assert!(server.names().is_empty());
}

#[test_case(403, "Forbidden", "unavailable", true; "forbidden")]
#[test_case(422, "Invalid", "approval_denied", true; "refused by admission")]
#[test_case(401, "Unauthorized", "unavailable", false; "unknown to the server")]
#[tokio::test(start_paused = true)]
async fn a_no_to_an_approval_is_final(code: u16, why: &'static str, expected: &str, removed: bool) {
    let server = Server::default();
    server.next("approve", Reaction::Refuse(code, why));
    let replica = Replica::new(&server);
    assert_eq!(reason(replica.ask(&Wish::new()).await.unwrap()), expected);
    replica.settled().await;
    assert_eq!(server.names().is_empty(), removed);
}

#[tokio::test(start_paused = true)]
async fn a_create_whose_answer_was_lost_is_found_again() {
    let server = Server::default();
    server.next("create", Reaction::LoseAnswer);
    let replica = Replica::new(&server);
    let wish = Wish::new();
    let asked = replica.ask(&wish);
    server.until(|server| is_approved(server, &wish.name())).await;
    server.sign(&wish.name(), &wish.certificate());
    assert_eq!(reason(asked.await.unwrap()), "issued");
    assert_eq!(server.names(), [wish.name()]);
    assert_eq!(server.count("approve"), 1);
}

#[tokio::test(start_paused = true)]
async fn an_approval_whose_answer_was_lost_is_not_written_again() {
    let server = Server::default();
    server.next("approve", Reaction::LoseAnswer);
    let replica = Replica::new(&server);
    let wish = Wish::new();
    let asked = replica.ask(&wish);
    server.until(|server| is_approved(server, &wish.name())).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    server.sign(&wish.name(), &wish.certificate());
    assert_eq!(reason(asked.await.unwrap()), "issued");
    assert_eq!(server.count("approve"), 1);
}

#[tokio::test(start_paused = true)]
async fn an_approval_over_somebodys_write_keeps_that_write() {
    let server = Server::default();
    let wish = Wish::new();
    let name = wish.name();
    server.next(
        "approve",
        Reaction::Before(Box::new(move |server| {
            server.change(&name, |object| object["metadata"]["labels"]["theirs"] = json!("yes"));
        })),
    );
    let replica = Replica::new(&server);
    let asked = replica.ask(&wish);
    server.until(|server| is_approved(server, &wish.name())).await;
    let object = server.get(&wish.name());
    assert_eq!(object["metadata"]["labels"]["theirs"], "yes");
    assert_eq!(object["metadata"]["labels"]["ensign.mesh/installation"], "ensign");
    assert_eq!(server.count("approve"), 2);
    assert_eq!(server.count("list"), 1, "no read");
    server.sign(&wish.name(), &wish.certificate());
    assert_eq!(reason(asked.await.unwrap()), "issued");
}

#[test_case("Denied", "approval_denied"; "denied")]
#[test_case("Approved", "issued"; "approved")]
#[tokio::test(start_paused = true)]
async fn somebody_decides_just_before_us(kind: &'static str, expected: &str) {
    let server = Server::default();
    let wish = Wish::new();
    let (name, certificate) = (wish.name(), wish.certificate());
    server.next(
        "approve",
        Reaction::Before(Box::new(move |server| {
            server.decide(&name, kind, "Somebody");
            if kind == "Approved" {
                server.sign(&name, &certificate);
            }
        })),
    );
    let replica = Replica::new(&server);
    let began = Instant::now();
    assert_eq!(reason(replica.ask(&wish).await.unwrap()), expected);
    assert!(began.elapsed() < Duration::from_secs(1), "with the event");
    assert_eq!(server.count("approve"), 1);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_faster_than_that_to_the_create_is_not_missed() {
    let server = Server::default();
    let wish = Wish::new();
    let (name, certificate) = (wish.name(), wish.certificate());
    server.next(
        "create",
        Reaction::After(Box::new(move |server| {
            server.decide(&name, "Approved", "Somebody");
            server.sign(&name, &certificate);
        })),
    );
    let replica = Replica::with(&server, false);
    let began = Instant::now();
    assert_eq!(reason(replica.ask(&wish).await.unwrap()), "issued");
    assert!(began.elapsed() < Duration::from_secs(1));
}

#[test_case(true, "not_issued"; "approved")]
#[test_case(false, "not_approved"; "not approved")]
#[tokio::test(start_paused = true)]
async fn the_deadline_says_what_is_missing_and_leaves_the_object(approve: bool, expected: &str) {
    let server = Server::default();
    let replica = Replica::with(&server, approve);
    let began = Instant::now();
    assert_eq!(reason(replica.ask(&Wish::new()).await.unwrap()), expected);
    assert_eq!(began.elapsed(), DEADLINE);
    replica.settled().await;
    assert_eq!(server.names().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_caller_with_less_patience_gets_its_answer_when_it_is_over() {
    let server = Server::default();
    let replica = Replica::new(&server);
    let began = Instant::now();
    let mut issuance = Wish::new().issuance();
    issuance.deadline = began + Duration::from_secs(7);
    assert_eq!(reason(replica.signer.sign(issuance).await), "not_issued");
    assert_eq!(began.elapsed(), Duration::from_secs(7));
}

#[test_case("Failed", "failed")]
#[test_case("Denied", "approval_denied")]
#[tokio::test(start_paused = true)]
async fn a_decision_against_it_removes_it_at_once(kind: &str, expected: &str) {
    let server = Server::default();
    let replica = Replica::with(&server, false);
    let wish = Wish::new();
    let asked = replica.ask(&wish);
    server.until(|server| server.names() == [wish.name()]).await;
    server.decide(&wish.name(), kind, "Why");
    let error = asked.await.unwrap().unwrap_err();
    assert_eq!(error.reason(), expected);
    assert!(error.to_string().contains("Why: said somebody"), "{error}");
    replica.settled().await;
    assert!(server.names().is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_stands_around_the_certificates_is_left_out() {
    let server = Server::default();
    let replica = Replica::new(&server);
    let wish = Wish::new();
    let asked = replica.ask(&wish);
    server.until(|server| is_approved(server, &wish.name())).await;
    let text = format!("subject: x\n{}more text\n", wish.certificate());
    server.sign(&wish.name(), &text);
    let issued = asked.await.unwrap().unwrap();
    let expected = ensign_pki::Certificate::parse_pem(&wish.certificate()).unwrap();
    assert_eq!(issued.chain.len(), 1);
    // Made anew each time, so not the same but for its key.
    let seen = ensign_pki::Certificate::parse_der(&issued.chain[0]).unwrap();
    assert_eq!(seen.spki_der(), expected.spki_der());
}

#[test_case("", "no text of a certificate"; "empty is no answer yet")]
#[test_case("garbage", "unreadable_answer"; "no PEM")]
#[test_case("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "unreadable_answer"; "no certificate in it")]
#[tokio::test(start_paused = true)]
async fn what_is_no_certificate(pem: &str, expected: &str) {
    let server = Server::default();
    let replica = Replica::new(&server);
    let wish = Wish::new();
    let asked = replica.ask(&wish);
    server.until(|server| is_approved(server, &wish.name())).await;
    server.sign(&wish.name(), pem);
    let expected = if pem.is_empty() { "not_issued" } else { expected };
    assert_eq!(reason(asked.await.unwrap()), expected);
    replica.settled().await;
    assert_eq!(server.names().is_empty(), !pem.is_empty());
}
