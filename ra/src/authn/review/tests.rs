//! Reviews by an API server that throttles, breaks, falls silent or answers nonsense; and what is never asked.

use std::time::{SystemTime, UNIX_EPOCH};

use ensign_pki::Clock;
use ensign_testkit::tokens::{Claims, TokenMint};
use futures::future::BoxFuture;
use serde_json::{Value, json};
use test_case::test_case;

use super::*;
use crate::kubernetes::testing::{self, Answer, Asked};

const NOW: u64 = 1_800_000_000;

#[derive(Debug)]
struct At(SystemTime);

impl Clock for At {
    fn now(&self) -> SystemTime {
        self.0
    }
}

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(NOW)
}

fn reviewer<F>(answer: F) -> (Reviewer, Asked)
where
    F: Fn(usize) -> BoxFuture<'static, Option<Answer>> + Send + Sync + 'static,
{
    let (client, asked) = testing::client(move |_, number| answer(number));
    let expected = Expectations {
        audiences: vec!["istio-ca".to_owned()],
        leeway: Duration::from_secs(10),
    };
    let cache = CacheConfig {
        good: Duration::from_secs(10),
        bad: Duration::from_secs(5),
        entries: 100,
    };
    let reviewer = Reviewer::new(
        client,
        "Kubernetes".into(),
        Arc::new(expected),
        cache,
        Arc::new(At(now())),
        AuthnMetrics::default(),
    );
    (reviewer, asked)
}

fn answers(script: Vec<fn() -> Option<Answer>>) -> impl Fn(usize) -> BoxFuture<'static, Option<Answer>> {
    move |number| {
        let answer = script.get(number).or(script.last()).and_then(|answer| answer());
        async move { answer }.boxed()
    }
}

fn review(authenticated: bool) -> Value {
    json!({"kind": "TokenReview", "spec": {"token": "secret"}, "status": {
        "authenticated": authenticated, "audiences": ["istio-ca"],
        "user": {"username": "system:serviceaccount:foo:a", "groups": ["system:serviceaccounts"]},
    }})
}

fn good() -> Option<Answer> {
    Some(Answer::ok(review(true)))
}

fn bad() -> Option<Answer> {
    Some(Answer::ok(review(false)))
}

fn token() -> String {
    TokenMint::es256("a").mint(&Claims::service_account_at(now(), "foo", "a"))
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

#[tokio::test(start_paused = true)]
async fn one_token_is_one_request_that_holds_it_and_our_audiences() {
    let (reviewer, asked) = reviewer(answers(vec![good]));
    let token = token();
    for _ in 0..3 {
        let subject = reviewer.review(&token, soon()).await.unwrap();
        assert_eq!((&*subject.namespace, &*subject.service_account), ("foo", "a"));
    }
    let asked = asked.lock();
    let [(what, body)] = &asked[..] else {
        panic!("{asked:?}")
    };
    assert_eq!(what, "POST /apis/authentication.k8s.io/v1/tokenreviews");
    let body: Value = serde_json::from_str(body).unwrap();
    let spec = json!({"token": token, "audiences": ["istio-ca"]});
    assert_eq!(
        body,
        json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": spec})
    );
}

#[tokio::test(start_paused = true)]
async fn a_bad_token_is_one_request_too() {
    let (reviewer, asked) = reviewer(answers(vec![bad]));
    let token = token();
    for _ in 0..3 {
        let error = reviewer.review(&token, soon()).await.unwrap_err();
        assert_eq!((error.reason(), error.is_passing()), ("token_not_authenticated", false));
    }
    assert_eq!(asked.lock().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn trouble_that_the_review_tells_of_is_no_verdict_and_is_not_remembered() {
    let trouble = || {
        let status = json!({"authenticated": false, "error": "[invalid bearer token, etcdserver: request timed out]"});
        Some(Answer::ok(json!({"kind": "TokenReview", "status": status})))
    };
    let (reviewer, asked) = reviewer(answers(vec![trouble, good]));
    let token = token();
    let error = reviewer.review(&token, soon()).await.unwrap_err();
    assert_eq!((error.reason(), error.is_passing()), ("token_review_failed", true));
    reviewer.review(&token, soon()).await.unwrap();
    assert_eq!(asked.lock().len(), 2);
}

#[test_case("no token at all", "token_form"; "no JWT")]
#[test_case("a.b.c", "token_form"; "three parts that are none")]
#[test_case(&"a".repeat(20_000), "token_length"; "too long")]
#[tokio::test(start_paused = true)]
async fn what_is_no_jwt_is_not_asked_for(token: &str, reason: &str) {
    let (reviewer, asked) = reviewer(answers(vec![good]));
    assert_eq!(reviewer.review(token, soon()).await.unwrap_err().reason(), reason);
    assert!(asked.lock().is_empty());
}

#[test_case(NOW - 10, 0, false; "expired: its answer is known")]
#[test_case(NOW - 9, 2, true; "expired by our clock and perhaps not by the server's: asked each time")]
#[test_case(NOW + 3600, 1, true; "alive")]
#[tokio::test(start_paused = true)]
async fn the_tokens_own_end_spares_a_question_and_bounds_an_answer(end: u64, asks: usize, passes: bool) {
    let (reviewer, asked) = reviewer(answers(vec![good]));
    let claims = Claims::service_account_at(now(), "foo", "a").with("/exp", end);
    let token = TokenMint::es256("a").mint(&claims);
    for _ in 0..2 {
        let verdict = reviewer.review(&token, soon()).await;
        assert_eq!(verdict.is_ok(), passes);
        if let Err(error) = verdict {
            assert_eq!(error.reason(), "token_expired");
        }
    }
    assert_eq!(asked.lock().len(), asks);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_asks_to_come_back_is_asked_again_when_it_says() {
    let throttled = || Some(Answer::no(429, "TooManyRequests").after(3));
    let unavailable = || Some(Answer::no(503, "ServiceUnavailable").after(2));
    let (reviewer, asked) = reviewer(answers(vec![throttled, unavailable, good]));
    let began = Instant::now();
    reviewer.review(&token(), soon()).await.unwrap();
    assert!(began.elapsed() >= Duration::from_secs(5), "{:?}", began.elapsed());
    assert_eq!(asked.lock().len(), 3);
}

#[test_case(|| None; "a broken connection")]
#[test_case(|| Some(Answer::no(500, "InternalError")); "an error of the server")]
#[test_case(|| Some(Answer::no(503, "ServiceUnavailable")); "away without a time")]
#[tokio::test(start_paused = true)]
async fn a_server_that_fails_is_asked_again_within_the_callers_time(failure: fn() -> Option<Answer>) {
    let (reviewer, asked) = reviewer(answers(vec![failure, failure, good]));
    reviewer.review(&token(), soon()).await.unwrap();
    assert_eq!(asked.lock().len(), 3);
}

#[test_case(|| None, "away"; "a server that is away")]
#[test_case(|| Some(Answer::no(429, "TooManyRequests").after(1)), "throttled"; "a server that is busy")]
#[tokio::test(start_paused = true)]
async fn when_the_time_is_over_the_token_is_not_called_bad(failure: fn() -> Option<Answer>, reason: &str) {
    let (reviewer, asked) = reviewer(answers(vec![failure]));
    let until = Instant::now() + Duration::from_secs(7);
    let error = reviewer.review(&token(), until).await.unwrap_err();
    assert_eq!((error.reason(), error.is_passing()), (reason, true));
    assert_eq!(Instant::now(), until);
    assert!(asked.lock().len() > 2);
    // Nothing is remembered of it.
    let before = asked.lock().len();
    reviewer
        .review(&token(), Instant::now() + Duration::from_secs(1))
        .await
        .unwrap_err();
    assert!(asked.lock().len() > before);
}

#[tokio::test(start_paused = true)]
async fn a_silent_server_is_no_verdict() {
    let (reviewer, _asked) = reviewer(|_| futures::future::pending().boxed());
    let error = reviewer.review(&token(), soon()).await.unwrap_err();
    assert!(error.is_passing(), "{error}");
}

#[test_case(|| Some(Answer::no(403, "Forbidden")), "forbidden"; "RBAC forbids reviews")]
#[test_case(|| Some(Answer::no(401, "Unauthorized")), "unauthorized"; "it does not know us")]
#[test_case(|| Some(Answer::ok("<html>")), "other"; "no TokenReview")]
#[tokio::test(start_paused = true)]
async fn what_asking_again_does_not_change_is_told_at_once_and_is_not_the_callers_fault(
    failure: fn() -> Option<Answer>,
    reason: &str,
) {
    let (reviewer, asked) = reviewer(answers(vec![failure]));
    let began = Instant::now();
    let error = reviewer.review(&token(), soon()).await.unwrap_err();
    assert_eq!((error.reason(), error.is_passing()), (reason, true));
    assert_eq!((began.elapsed(), asked.lock().len()), (Duration::ZERO, 1));
}

#[tokio::test(start_paused = true)]
async fn no_error_holds_the_token() {
    let token = token();
    for answer in [
        || Some(Answer::ok("{\"spec\":{\"token\":\"eyJhbGciOiJub25lIn0.e30.c2ln\"}")),
        bad,
        || Some(Answer::no(400, "BadRequest")),
    ] {
        let (reviewer, _) = reviewer(answers(vec![answer]));
        let error = reviewer.review(&token, soon()).await.unwrap_err();
        let said = format!("{error} {error:?} {reviewer:?}");
        assert!(!token.split('.').any(|part| said.contains(part)), "{said}");
        assert!(!said.contains("eyJhbGciOiJub25lIn0"), "{said}");
    }
}
