//! Objects that are there already, or vanish.

use serde_json::json;

use super::*;

/// The object that a request would make, as it is after somebody made it.
async fn made(wish: &Wish) -> Value {
    let server = Server::default();
    let replica = Replica::with(&server, false);
    let asked = replica.ask(wish);
    server.until(|server| server.names() == [wish.name()]).await;
    asked.abort();
    server.get(&wish.name())
}

#[tokio::test(start_paused = true)]
async fn a_retry_goes_on_with_what_is_there_and_asks_for_nothing() {
    let server = Server::default();
    let wish = Wish::new();
    server.put(made(&wish).await);
    let replica = Replica::new(&server);
    let asked = replica.ask(&wish);
    server.until(|server| is_approved(server, &wish.name())).await;
    server.sign(&wish.name(), &wish.certificate());
    let issued = asked.await.unwrap().unwrap();
    issued.receipt.settle();
    replica.settled().await;
    assert!(server.names().is_empty());
    assert_eq!(server.count("create"), 0);
}

#[tokio::test(start_paused = true)]
async fn an_object_that_the_watch_shows_late_is_waited_for() {
    let server = Server::default();
    let wish = Wish::new();
    let replica = Replica::new(&server);
    server.until(|server| server.count("watch") == 1).await;
    server.hold_back();
    server.put(made(&wish).await);
    let asked = replica.ask(&wish);
    server.until(|server| server.count("create") == 1).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    server.let_go();
    server.until(|server| is_approved(server, &wish.name())).await;
    server.sign(&wish.name(), &wish.certificate());
    assert_eq!(reason(asked.await.unwrap()), "issued");
    assert_eq!(server.names(), [wish.name()], "no second object");
}

#[tokio::test(start_paused = true)]
async fn while_the_watch_is_brought_back_no_second_object_is_made() {
    let server = Server::default();
    let wish = Wish::new();
    for _ in 0..8 {
        server.next("watch", Reaction::Refuse(500, "InternalError"));
    }
    let replica = Replica::new(&server);
    server.until(|server| server.count("watch") == 1).await;
    server.put(made(&wish).await);
    let began = Instant::now();
    let asked = replica.ask(&wish);
    server.until(|server| is_approved(server, &wish.name())).await;
    assert!(
        began.elapsed() > Duration::from_secs(10),
        "the watch came back too soon for this test"
    );
    server.sign(&wish.name(), &wish.certificate());
    assert_eq!(reason(asked.await.unwrap()), "issued");
    assert_eq!(server.names(), [wish.name()]);
}

#[tokio::test(start_paused = true)]
async fn an_object_that_a_sound_watch_never_shows_is_somebody_elses() {
    let server = Server::default();
    let wish = Wish::new();
    let replica = Replica::new(&server);
    server.until(|server| server.count("watch") == 1).await;
    // Without our label, a real server would not show it to us.
    server.hold_back();
    server.put(made(&wish).await);
    server.forget_held_back();
    let asked = replica.ask(&wish);
    let second = format!("{}-2", wish.name());
    server.until(|server| is_approved(server, &second)).await;
    asked.abort();
    assert_eq!(server.names().len(), 2);
}

/// What the test changes of the object before it is found, and the reason for which another name is used.
#[test_case::test_case("username", "somebody"; "another made it")]
#[test_case::test_case("username", ""; "nobody knows who made it")]
#[test_case::test_case("signerName", "example.com/bar"; "another signer")]
#[test_case::test_case("expirationSeconds", "7200"; "another lifetime")]
#[test_case::test_case("usages", "client auth"; "other usages")]
#[test_case::test_case("request", "another"; "another key")]
#[tokio::test(start_paused = true)]
async fn what_is_not_ours_or_not_the_same_is_left_alone(field: &str, value: &str) {
    let server = Server::default();
    let wish = Wish::new();
    let mut object = made(&wish).await;
    object["spec"][field] = match field {
        "expirationSeconds" => json!(7200),
        "usages" => json!([value]),
        "request" => made(&Wish::new()).await["spec"]["request"].clone(),
        _ => json!(value),
    };
    server.put(object.clone());
    let before = server.get(&wish.name());
    let replica = Replica::new(&server);
    let asked = replica.ask(&wish);
    let second = format!("{}-2", wish.name());
    server.until(|server| is_approved(server, &second)).await;
    server.sign(&second, &wish.certificate());
    asked.await.unwrap().unwrap().receipt.settle();
    replica.settled().await;
    assert_eq!(server.names(), [wish.name()]);
    assert_eq!(server.get(&wish.name()), before);
    assert_eq!(server.count("create"), 1, "the watch said that the first name is taken");
}

/// istio-csr's W2 to W4.
#[test_case::test_case("Denied", "approval_denied")]
#[test_case::test_case("Failed", "failed")]
#[test_case::test_case("Approved", "issued")]
#[tokio::test(start_paused = true)]
async fn what_was_decided_before_we_came_counts_at_once(kind: &str, expected: &str) {
    let server = Server::default();
    let wish = Wish::new();
    server.put(made(&wish).await);
    server.decide(&wish.name(), kind, "Somebody");
    if kind == "Approved" {
        server.sign(&wish.name(), &wish.certificate());
    }
    let replica = Replica::new(&server);
    let began = Instant::now();
    assert_eq!(reason(replica.ask(&wish).await.unwrap()), expected);
    assert!(began.elapsed() < Duration::from_secs(1));
    assert_eq!((server.count("create"), server.count("approve")), (0, 0));
}

#[test_case::test_case("Denied", "approval_denied")]
#[test_case::test_case("Failed", "failed")]
#[tokio::test(start_paused = true)]
async fn what_was_decided_against_is_asked_for_anew(kind: &str, expected: &str) {
    let server = Server::default();
    let replica = Replica::with(&server, false);
    let wish = Wish::new();
    let asked = replica.ask(&wish);
    server.until(|server| server.names() == [wish.name()]).await;
    server.decide(&wish.name(), kind, "Somebody");
    assert_eq!(reason(asked.await.unwrap()), expected);
    server.until(|server| server.names().is_empty()).await;
    // The same request again is another object, whose own decision counts.
    let asked = replica.ask(&wish);
    server.until(|server| server.names() == [wish.name()]).await;
    server.decide(&wish.name(), "Approved", "Somebody");
    server.sign(&wish.name(), &wish.certificate());
    assert_eq!(reason(asked.await.unwrap()), "issued");
    assert_eq!(server.count("create"), 2);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_was_signed_again_is_the_same() {
    let server = Server::default();
    let wish = Wish::new();
    let object = made(&wish).await;
    // The next CSR of the same key has another signature.
    assert_ne!(wish.issuance().csr.der(), wish.issuance().csr.der());
    server.put(object);
    let replica = Replica::new(&server);
    let asked = replica.ask(&wish);
    server.until(|server| is_approved(server, &wish.name())).await;
    server.sign(&wish.name(), &wish.certificate());
    assert_eq!(reason(asked.await.unwrap()), "issued");
}

#[tokio::test(start_paused = true)]
async fn a_leftover_past_its_end_gives_its_name_to_a_new_one() {
    let server = Server::default();
    let wish = Wish::new();
    let mut object = made(&wish).await;
    object["metadata"]["annotations"]["ensign.mesh/expires-at"] = json!("2020-01-01T00:00:00Z");
    server.put(object);
    let old = server.get(&wish.name());
    let replica = Replica::new(&server);
    let asked = replica.ask(&wish);
    server.until(|server| is_approved(server, &wish.name())).await;
    assert_ne!(server.get(&wish.name())["metadata"]["uid"], old["metadata"]["uid"]);
    server.sign(&wish.name(), &wish.certificate());
    assert_eq!(reason(asked.await.unwrap()), "issued");
    assert_eq!((server.count("delete"), server.count("create")), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_strangers_object_past_its_end_is_not_deleted() {
    let server = Server::default();
    let wish = Wish::new();
    let mut object = made(&wish).await;
    object["metadata"]["annotations"]["ensign.mesh/expires-at"] = json!("2020-01-01T00:00:00Z");
    object["spec"]["username"] = json!("somebody");
    server.put(object);
    let replica = Replica::new(&server);
    let asked = replica.ask(&wish);
    let second = format!("{}-2", wish.name());
    server.until(|server| is_approved(server, &second)).await;
    asked.abort();
    assert_eq!(server.count("delete"), 0);
    assert_eq!(server.names().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_kept_object_answers_a_retry_and_no_later_request() {
    let server = Server::default();
    let wish = Wish::new();
    let mut object = made(&wish).await;
    object["metadata"]["annotations"]["ensign.mesh/expires-at"] = json!("never");
    object["metadata"]["creationTimestamp"] = json!("2020-01-01T00:00:00Z");
    server.put(object);
    let replica = Replica::new(&server);
    let asked = replica.ask(&wish);
    let second = format!("{}-2", wish.name());
    server.until(|server| is_approved(server, &second)).await;
    asked.abort();
}

#[tokio::test(start_paused = true)]
async fn ours_that_vanishes_is_gone_and_an_earlier_ones_is_made_again() {
    let server = Server::default();
    let replica = Replica::new(&server);
    let wish = Wish::new();
    let asked = replica.ask(&wish);
    server.until(|server| is_approved(server, &wish.name())).await;
    server.delete(&wish.name());
    let error = asked.await.unwrap().unwrap_err();
    assert_eq!(error.reason(), "gone");
    assert!(error.to_string().contains(&wish.name()), "{error}");

    server.put(made(&wish).await);
    let asked = replica.ask(&wish);
    server.until(|server| is_approved(server, &wish.name())).await;
    // Its own caller was served elsewhere, or a janitor came by.
    server.delete(&wish.name());
    server.until(|server| is_approved(server, &wish.name())).await;
    server.sign(&wish.name(), &wish.certificate());
    assert_eq!(reason(asked.await.unwrap()), "issued");
}

#[tokio::test(start_paused = true)]
async fn an_answer_outlives_its_object() {
    let server = Server::default();
    let replica = Replica::new(&server);
    let wish = Wish::new();
    let asked = replica.ask(&wish);
    server.until(|server| is_approved(server, &wish.name())).await;
    server.hold_back();
    server.sign(&wish.name(), &wish.certificate());
    // Another replica saw it first, and delivered it; a third has made a new one already.
    server.delete(&wish.name());
    server.put(made(&wish).await);
    server.let_go();
    assert_eq!(reason(asked.await.unwrap()), "issued");
}

#[tokio::test(start_paused = true)]
async fn a_successor_that_comes_with_the_news_of_the_deletion_is_gone_on_with() {
    let server = Server::default();
    let wish = Wish::new();
    server.put(made(&wish).await);
    let replica = Replica::new(&server);
    let asked = replica.ask(&wish);
    server.until(|server| is_approved(server, &wish.name())).await;
    server.hold_back();
    server.delete(&wish.name());
    server.put(made(&wish).await);
    server.let_go();
    server.until(|server| is_approved(server, &wish.name())).await;
    assert_eq!(server.count("create"), 0);
    server.sign(&wish.name(), &wish.certificate());
    assert_eq!(reason(asked.await.unwrap()), "issued");
}

#[tokio::test(start_paused = true)]
async fn a_predecessor_that_the_watch_still_shows_says_nothing_about_ours() {
    let server = Server::default();
    let wish = Wish::new();
    let name = wish.name();
    let mut old = made(&wish).await;
    old["metadata"]["annotations"]["ensign.mesh/expires-at"] = json!("2020-01-01T00:00:00Z");
    server.put(old);
    let replica = Replica::new(&server);
    server.until(|server| server.count("watch") == 1).await;
    // Neither the end of the old one nor the new one is shown before the new one is approved.
    server.hold_back();
    let asked = replica.ask(&wish);
    server.until(|server| is_approved(server, &name)).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!asked.is_finished(), "the old one is not taken for ours");
    server.let_go();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(
        !asked.is_finished(),
        "the end of the old one is not taken for that of ours"
    );
    server.sign(&name, &wish.certificate());
    assert_eq!(reason(asked.await.unwrap()), "issued");
}

#[tokio::test(start_paused = true)]
async fn when_every_name_is_taken_somebody_must_look() {
    let server = Server::default();
    let wish = Wish::new();
    let mut object = made(&wish).await;
    object["spec"]["username"] = json!("somebody");
    for name in Names::of(&wish.issuance().idempotency_key).all() {
        object["metadata"]["name"] = json!(name);
        server.put(object.clone());
    }
    let replica = Replica::new(&server);
    let error = replica.ask(&wish).await.unwrap().unwrap_err();
    assert_eq!(error.reason(), "names_taken");
    assert!(error.to_string().contains("all taken"), "{error}");
    // One request's bad luck is no sign that the signer is away.
    assert!(error.outcome().is_none());
    assert_eq!(server.count("create"), 0);
}
