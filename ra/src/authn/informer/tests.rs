//! Tokens by the issuer's keys and live objects: rotated keys, keys that cannot be had, watches that cannot be relied on.

use std::time::Duration;

use ensign_pki::SystemClock;
use ensign_testkit::tokens::{self, AUDIENCE, Claims, ISSUER, TokenMint};
use futures::FutureExt as _;
use parking_lot::Mutex;
use tokio_util::task::TaskTracker;

use super::*;
use crate::authn::live::testing::{Teller, live, pod};
use crate::authn::metrics::AuthnMetrics;
use crate::authn::review::CacheConfig;
use crate::kubernetes::testing::{self, Answer, Asked};
use crate::kubernetes::{KubernetesMetrics, WatchState};

/// An API server with these keys; `None`: it does not hand them out.
struct Server {
    jwks: Arc<Mutex<Option<String>>>,
    asked: Asked,
}

struct World {
    informer: Informer,
    server: Server,
    teller: Teller,
    stop: CancellationToken,
}

fn keys(mints: &[&TokenMint]) -> Option<String> {
    Some(tokens::jwks(mints))
}

fn server(jwks: Option<String>) -> (Client, Server) {
    let jwks = Arc::new(Mutex::new(jwks));
    let held = Arc::clone(&jwks);
    let (client, asked) = testing::client(move |what, _| {
        let answer = match what.split(' ').next_back() {
            Some("/openid/v1/jwks") => held.lock().clone().map(Answer::ok),
            Some("/.well-known/openid-configuration") => Some(Answer::ok(
                serde_json::json!({"issuer": ISSUER, "jwks_uri": "https://elsewhere"}),
            )),
            _ => Some(Answer::ok(serde_json::json!({"status": {
                "authenticated": true, "audiences": [AUDIENCE],
                "user": {"username": "system:serviceaccount:foo:a", "groups": ["system:serviceaccounts"]},
            }}))),
        };
        async move { answer }.boxed()
    });
    (client, Server { jwks, asked })
}

/// With account `a` and pod `a-0` of namespace foo in place, as the claims of the tokens say.
fn open(jwks: Option<String>, issuer: Option<&str>) -> World {
    let (client, server) = server(jwks);
    let (live, teller) = live("Kubernetes");
    let claims = Claims::service_account("foo", "a");
    let uid = |what: &str| claims.json()["kubernetes.io"][what]["uid"].as_str().unwrap().to_owned();
    teller.account("foo", "a", &uid("serviceaccount"));
    teller.pod(pod("foo", "a-0", &uid("pod"), "a", Some("node-a"), "Running"));
    let surroundings = Surroundings {
        kubernetes: KubernetesMetrics::default(),
        metrics: AuthnMetrics::default(),
        tasks: TaskTracker::new(),
        clock: SystemClock::shared(),
    };
    let expected = Arc::new(Expectations {
        audiences: vec![AUDIENCE.to_owned()],
        leeway: Duration::from_secs(10),
    });
    let cache = CacheConfig {
        good: Duration::ZERO,
        bad: Duration::ZERO,
        entries: 2,
    };
    let reviewer = Reviewer::new(
        client.clone(),
        "Kubernetes".into(),
        Arc::clone(&expected),
        cache,
        SystemClock::shared(),
        AuthnMetrics::default(),
    );
    let stop = CancellationToken::new();
    let issuer = issuer.map(str::to_owned);
    World {
        informer: Informer::open(&client, issuer, live, reviewer, expected, &surroundings, &stop),
        server,
        teller,
        stop,
    }
}

impl World {
    async fn judge(&self, token: &str) -> Result<&'static str, (&'static str, bool)> {
        let until = Instant::now() + Duration::from_secs(20);
        let verdict = self.informer.judge(token, until).await;
        let proof = verdict.map(|(_, proof)| proof.as_str());
        proof.map_err(|error| (error.reason(), error.is_passing()))
    }

    /// Lets the keeper have its turn.
    async fn settle(&self) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }

    fn fetches(&self) -> usize {
        let asked = self.server.asked.lock();
        asked
            .iter()
            .filter(|(what, _)| what.ends_with("/openid/v1/jwks"))
            .count()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn token(mint: &TokenMint) -> String {
    mint.mint(&Claims::service_account("foo", "a"))
}

#[tokio::test(start_paused = true)]
async fn the_servers_own_word_is_its_issuer_unless_the_operator_says_otherwise() {
    let mint = TokenMint::es256("k");
    let world = open(keys(&[&mint]), None);
    world.settle().await;
    assert_eq!(world.judge(&token(&mint)).await, Ok("informer"));
    let elsewhere = mint.mint(&Claims::service_account("foo", "a").with("/iss", "https://elsewhere"));
    assert_eq!(world.judge(&elsewhere).await, Err(("token_issuer", false)));

    let named = open(keys(&[&mint]), Some("https://elsewhere"));
    named.settle().await;
    assert_eq!(named.judge(&elsewhere).await, Ok("informer"));
    assert_eq!(named.judge(&token(&mint)).await, Err(("token_issuer", false)));
    let asked = named.server.asked.lock();
    assert!(asked.iter().all(|(what, _)| !what.contains("well-known")), "{asked:?}");
}

#[tokio::test(start_paused = true)]
async fn a_rotated_key_is_fetched_when_a_token_names_it_and_everybody_who_waits_gets_it() {
    let (old, new) = (TokenMint::es256("old"), TokenMint::es256("new"));
    let world = open(keys(&[&old]), None);
    world.settle().await;
    tokio::time::advance(Duration::from_secs(6)).await;
    *world.server.jwks.lock() = keys(&[&old, &new]);
    let token = token(&new);
    let (first, second) = tokio::join!(world.judge(&token), world.judge(&token));
    assert_eq!((first, second, world.fetches()), (Ok("informer"), Ok("informer"), 2));
}

#[tokio::test(start_paused = true)]
async fn names_that_nobody_knows_do_not_make_us_fetch_all_the_time() {
    let (ours, forger) = (TokenMint::es256("ours"), TokenMint::es256("unknown"));
    let world = open(keys(&[&ours]), None);
    world.settle().await;
    let before = Instant::now();
    for _ in 0..200 {
        assert_eq!(world.judge(&token(&forger)).await, Err(("token_kid_unknown", false)));
        tokio::time::advance(Duration::from_millis(100)).await;
    }
    let most = before.elapsed().as_secs() / 5 + 2;
    assert!(
        u64::try_from(world.fetches()).unwrap() <= most,
        "{} of {most}",
        world.fetches()
    );
    assert_eq!(world.judge(&token(&ours)).await, Ok("informer"));
}

#[tokio::test(start_paused = true)]
async fn a_withdrawn_key_stops_counting_by_itself() {
    let (old, new) = (TokenMint::es256("old"), TokenMint::es256("new"));
    let world = open(keys(&[&old, &new]), None);
    world.settle().await;
    assert_eq!(world.judge(&token(&old)).await, Ok("informer"));
    *world.server.jwks.lock() = keys(&[&new]);
    tokio::time::sleep(Duration::from_secs(130)).await;
    assert_eq!(world.judge(&token(&old)).await, Err(("token_kid_unknown", false)));
    assert_eq!(world.judge(&token(&new)).await, Ok("informer"));
}

#[tokio::test(start_paused = true)]
async fn keys_that_cannot_be_had_are_no_verdict_and_old_ones_count_for_a_while() {
    let (old, new) = (TokenMint::es256("old"), TokenMint::es256("new"));
    let world = open(keys(&[&old]), None);
    world.settle().await;
    *world.server.jwks.lock() = None;
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(
        world.judge(&token(&new)).await,
        Err(("issuer_keys", true)),
        "nobody can tell"
    );
    assert_eq!(world.judge(&token(&old)).await, Ok("informer"));
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(world.judge(&token(&old)).await, Ok("token_review"), "too old to count");
}

#[tokio::test(start_paused = true)]
async fn without_keys_or_watches_tokens_are_reviewed() {
    let mint = TokenMint::es256("k");
    let world = open(None, None);
    world.settle().await;
    assert_eq!(world.judge(&token(&mint)).await, Ok("token_review"));
    *world.server.jwks.lock() = keys(&[&mint]);
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(world.judge(&token(&mint)).await, Ok("informer"));

    world.teller.watch_is(WatchState::Starting);
    assert_eq!(world.judge(&token(&mint)).await, Ok("token_review"));
    world.teller.watch_is(WatchState::Broken { since: Instant::now() });
    assert_eq!(
        world.judge(&token(&mint)).await,
        Ok("informer"),
        "what it knew counts for a while"
    );
    tokio::time::sleep(Duration::from_secs(31)).await;
    assert_eq!(world.judge(&token(&mint)).await, Ok("token_review"));
    world.teller.watch_is(WatchState::Synced);
    assert_eq!(world.judge(&token(&mint)).await, Ok("informer"));
}

#[tokio::test(start_paused = true)]
async fn what_a_broken_watch_has_not_seen_is_reviewed_and_what_a_whole_one_has_not_seen_is_not_there() {
    let mint = TokenMint::es256("k");
    let world = open(keys(&[&mint]), None);
    world.settle().await;
    let unseen = mint.mint(&Claims::service_account("foo", "a").with("/kubernetes.io/pod/name", "a-1"));
    assert_eq!(world.judge(&unseen).await, Err(("pod_not_seen", false)));
    world.teller.watch_is(WatchState::Broken { since: Instant::now() });
    assert_eq!(world.judge(&unseen).await, Ok("token_review"));
}
