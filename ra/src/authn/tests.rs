//! Who is let in, by the metadata of a call.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ensign_pki::Clock;
use ensign_testkit::tokens::{self, AUDIENCE, Claims, ISSUER, TokenMint};
use futures::FutureExt as _;
use test_case::test_case;
use tokio::sync::watch;
use tonic::metadata::MetadataValue;

use super::clusters::{Crowds, Judge, Member, Remotes};
use super::offline::Offline;
use super::review::Reviewer;
use super::*;
use crate::kubernetes::testing;

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

fn claims() -> Claims {
    Claims::service_account_at(now(), "foo", "httpbin")
}

fn keys_of(issuer: &TokenMint) -> Jwks {
    Jwks::parse(tokens::jwks(&[issuer]).as_bytes()).unwrap()
}

/// By a JWKS file that holds the keys of `issuer`, in a cluster with a remote one that knows no token.
fn authenticator(issuer: &TokenMint) -> (Authenticator, watch::Sender<Arc<Jwks>>) {
    authenticator_with(issuer, |remotes| remotes)
}

fn expected() -> Arc<Expectations> {
    Arc::new(Expectations {
        audiences: vec![AUDIENCE.to_owned()],
        leeway: Duration::from_secs(10),
    })
}

fn authenticator_with(
    issuer: &TokenMint,
    change: impl FnOnce(Remotes) -> Remotes,
) -> (Authenticator, watch::Sender<Arc<Jwks>>) {
    let member = |id: &str, jwks| {
        let offline = Offline::new(jwks, ISSUER.to_owned(), expected(), Arc::new(At(now())));
        Member::new(id.into(), Judge::Offline(offline), None, &Crowds::of(4))
    };
    let (sender, jwks) = watch::channel(Arc::new(keys_of(issuer)));
    let no_keys = watch::channel(Arc::new(Jwks::default())).1;
    let remotes = Remotes::connected([("remote".to_owned(), member("remote", no_keys))])
        .and_refused("broken", "secret istio-system/a: its kubeconfig has exec")
        .and_connecting("absent", "no route to host");
    let aliases = [("alias", "Kubernetes"), ("far", "remote"), ("nowhere", "none")];
    let aliases = aliases.map(|(alias, id)| (alias.to_owned(), id.to_owned()));
    let authenticator = Authenticator {
        clusters: Clusters::new(
            member("Kubernetes", jwks),
            aliases.into(),
            watch::channel(Arc::new(change(remotes))).1,
        ),
        certificates: None,
        patience: Duration::from_secs(1),
        metrics: AuthnMetrics::default(),
    };
    (authenticator, sender)
}

fn metadata(pairs: &[(&'static str, &str)]) -> MetadataMap {
    let mut metadata = MetadataMap::new();
    for (name, value) in pairs {
        metadata.append(*name, MetadataValue::try_from(*value).unwrap());
    }
    metadata
}

async fn verdict(pairs: &[(&'static str, &str)]) -> Result<Caller, AuthnError> {
    let issuer = TokenMint::es256("a");
    let token = issuer.mint(&claims());
    let pairs: Vec<_> = pairs
        .iter()
        .map(|(name, value)| (*name, value.replace("TOKEN", &token)))
        .collect();
    let pairs: Vec<_> = pairs.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let (authenticator, _keys) = authenticator(&issuer);
    authenticator.authenticate(&metadata(&pairs), None, None).await
}

#[tokio::test]
async fn a_caller_is_all_that_its_token_says() {
    let caller = verdict(&[("authorization", "Bearer TOKEN")]).await.unwrap();
    assert_eq!((&*caller.namespace, &*caller.service_account), ("foo", "httpbin"));
    let (pod, node) = (caller.pod.unwrap(), caller.node.unwrap());
    let claims = claims();
    let claimed = &claims.json()["kubernetes.io"];
    assert_eq!(
        (&*pod.name, Some(&*pod.uid)),
        ("httpbin-0", claimed["pod"]["uid"].as_str())
    );
    assert_eq!(
        (&*node.name, node.uid.as_deref()),
        ("node-a", claimed["node"]["uid"].as_str())
    );
    assert_eq!(
        (caller.cluster.as_deref(), caller.token_id.as_deref(), caller.proof),
        (Some("Kubernetes"), claims.json()["jti"].as_str(), Proof::Signature)
    );
}

#[test_case(&[], "no_token"; "no authorization")]
#[test_case(&[("authorization", "Basic dTpw")], "not_bearer"; "another scheme")]
#[test_case(&[("authorization", "Bearer")], "not_bearer"; "no token")]
#[test_case(&[("authorization", "Bearer ")], "not_bearer"; "an empty token")]
#[test_case(&[("authorization", "TOKEN")], "not_bearer"; "no scheme")]
#[test_case(&[("authorization", "Bearer TOKEN"), ("authorization", "Bearer TOKEN")], "many_tokens"; "two tokens")]
#[test_case(&[("authorization", "Basic dTpw"), ("authorization", "Bearer TOKEN")], "many_tokens"; "two schemes")]
#[test_case(&[("authorization", "Bearer abc")], "token_form"; "no JWT")]
#[test_case(&[("authorization", "Bearer TOKEN"), ("clusterid", "other")], "unknown_cluster"; "another cluster")]
#[test_case(&[("authorization", "Bearer TOKEN"), ("clusterid", "kubernetes")], "unknown_cluster"; "another case")]
#[test_case(&[("authorization", "Bearer TOKEN"), ("clusterid", ""), ("clusterid", "")], "many_clusters"; "two clusters, which upstream takes for none")]
#[test_case(&[("authorization", "Bearer TOKEN"), ("clusterid", "nowhere")], "unknown_cluster"; "an alias of nothing")]
#[test_case(&[("authorization", "Bearer TOKEN"), ("clusterid", "remote")], "token_kid_unknown"; "a token under the name of a cluster that does not know it")]
#[test_case(&[("authorization", "Bearer TOKEN"), ("clusterid", "far")], "token_kid_unknown"; "the same by an alias of it")]
#[test_case(&[("authorization", "Bearer TOKEN"), ("clusterid", "broken")], "cluster_refused"; "a cluster whose secret is refused")]
#[test_case(&[("authorization", "Bearer TOKEN"), ("clusterid", "absent")], "cluster_away"; "a cluster that is not connected")]
#[tokio::test]
async fn who_is_not_let_in(pairs: &[(&'static str, &str)], reason: &str) {
    assert_eq!(verdict(pairs).await.unwrap_err().reason(), reason);
}

#[tokio::test]
async fn a_cluster_that_is_away_is_no_bad_token() {
    let mut pairs = vec![("authorization", "Bearer TOKEN"), ("clusterid", "absent")];
    assert!(verdict(&pairs).await.unwrap_err().is_passing());
    pairs[1].1 = "broken";
    assert!(!verdict(&pairs).await.unwrap_err().is_passing());
}

#[tokio::test]
async fn no_cluster_is_unknown_before_all_are_listed() {
    let issuer = TokenMint::es256("a");
    let (authenticator, _keys) = authenticator_with(&issuer, Remotes::not_listed);
    let token = format!("Bearer {}", issuer.mint(&claims()));
    let said = async |cluster| {
        let call = metadata(&[("authorization", &token), ("clusterid", cluster)]);
        let outcome = authenticator.authenticate(&call, None, None).await;
        outcome.map_or_else(|error| (error.reason(), error.is_passing()), |_| ("let in", false))
    };
    assert_eq!(said("other").await, ("clusters_not_listed", true));
    assert_eq!(said("nowhere").await, ("clusters_not_listed", true));
    assert_eq!(said("remote").await, ("token_kid_unknown", false));
    assert_eq!(said("alias").await, ("let in", false));
}

#[tokio::test(start_paused = true)]
async fn a_remote_server_that_is_silent_keeps_a_quarter_of_the_places_and_the_others_are_told() {
    let issuer = TokenMint::es256("a");
    let (client, _asked) = testing::client(|_, _| futures::future::pending().boxed());
    let cache = CacheConfig {
        good: Duration::ZERO,
        bad: Duration::ZERO,
        entries: 2,
    };
    let clock = Arc::new(At(now()));
    let reviewer = Reviewer::new(client, "far".into(), expected(), cache, clock, AuthnMetrics::default());
    let member = Member::new("far".into(), Judge::Review(Box::new(reviewer)), None, &Crowds::of(8));
    let far = Remotes::connected([("far".to_owned(), member)]);
    let (mut authenticator, _keys) = authenticator_with(&issuer, |_| far);
    authenticator.patience = Duration::from_secs(10);
    let token = format!("Bearer {}", issuer.mint(&claims()));
    let call = |cluster| metadata(&[("authorization", &token), ("clusterid", cluster)]);
    let began = Instant::now();
    let ends = futures::future::join_all((0..8).map(|_| async {
        let error = authenticator.authenticate(&call("far"), None, None).await.unwrap_err();
        assert!(error.is_passing(), "{error}");
        (error.reason(), began.elapsed().as_secs())
    }));
    let ends = ends.await;
    let of = |reason| {
        ends.iter()
            .filter(|(said, _)| *said == reason)
            .map(|(_, after)| *after)
            .collect::<Vec<_>>()
    };
    assert_eq!(
        (of("crowded").len(), of("review_timeout")),
        (6, vec![10, 10]),
        "{ends:?}"
    );
    assert!(of("crowded").iter().all(|&after| after < 5), "{ends:?}");
    authenticator
        .authenticate(&call("Kubernetes"), None, None)
        .await
        .unwrap();
}

#[tokio::test]
async fn an_unknown_cluster_is_told_with_those_that_are_known() {
    let error = verdict(&[("authorization", "Bearer TOKEN"), ("clusterid", "x")])
        .await
        .unwrap_err();
    let text = error.to_string();
    for name in ["\"x\"", "Kubernetes", "remote", "broken", "absent"] {
        assert!(text.contains(name), "{text}");
    }
}

#[test_case(&[("authorization", "bearer TOKEN")]; "lower case")]
#[test_case(&[("authorization", "BEARER TOKEN")]; "upper case")]
#[test_case(&[("authorization", "Bearer TOKEN"), ("clusterid", "")]; "an empty cluster")]
#[test_case(&[("authorization", "Bearer TOKEN"), ("clusterid", "Kubernetes")]; "our cluster")]
#[test_case(&[("authorization", "Bearer TOKEN"), ("clusterid", "alias")]; "an alias of our cluster")]
#[tokio::test]
async fn who_is_let_in(pairs: &[(&'static str, &str)]) {
    verdict(pairs).await.unwrap();
}

#[tokio::test]
async fn new_keys_count_from_the_next_call() {
    let (old, new) = (TokenMint::es256("a"), TokenMint::es256("b"));
    let (authenticator, keys) = authenticator(&old);
    let token = format!("Bearer {}", new.mint(&claims()));
    let call = metadata(&[("authorization", &token)]);
    let refused = authenticator.authenticate(&call, None, None).await.unwrap_err();
    assert_eq!(refused.reason(), "token_kid_unknown");
    keys.send_replace(Arc::new(keys_of(&new)));
    authenticator.authenticate(&call, None, None).await.unwrap();
}
