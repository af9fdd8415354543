//! Callers by their tokens, on a real API server, as an account with no more rights than the mode needs.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, ensure};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ensign_pki::crypto;
use ensign_testbed::{
    cluster::{Access, Cluster, ClusterOptions, Component, Places, TokenOf, unique},
    wait::{PATIENCE, until_true},
};
use futures::future::join_all;
use k8s_openapi::api::core::v1::{Pod, Secret, ServiceAccount};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, PostParams},
};
use rustls::{
    SignatureScheme,
    pki_types::{PrivateKeyDer, pem::PemObject as _},
};
use serde_json::{Value, json};
use test_case::test_case;
use tonic::Code::{Unauthenticated, Unavailable};

use crate::authority::{Ask, Authority, INFORMERS, REVIEWS};

type Result = anyhow::Result<()>;

/// A way to judge tokens.
#[derive(Clone, Copy, PartialEq)]
enum Mode {
    Review,
    Informer,
}

impl Mode {
    fn flag(self) -> &'static str {
        match self {
            Self::Review => "--authn=token-review",
            Self::Informer => "--authn=informer",
        }
    }

    /// Of rbac.yaml.
    fn modes(self) -> &'static [&'static str] {
        match self {
            Self::Review => REVIEWS,
            Self::Informer => INFORMERS,
        }
    }

    /// What a good token is proven by.
    fn proof(self) -> &'static str {
        match self {
            Self::Review => "token_review",
            Self::Informer => "informer",
        }
    }
}

/// A namespace with account `web` and a pod of it on a node of its own.
struct Place {
    namespace: String,
    pod: Pod,
}

impl Place {
    async fn new(bed: &Access) -> anyhow::Result<Self> {
        let namespace = bed.namespace("authn").await?;
        let node = bed.node(&unique("node")).await?;
        bed.service_account(&namespace, "web").await?;
        let pod = bed.pod(&namespace, "web-0", "web", &node.name_any()).await?;
        Ok(Self { namespace, pod })
    }

    async fn token(&self, bed: &Access) -> anyhow::Result<String> {
        bed.token(&TokenOf::new(&self.namespace, "web").pod(&self.pod)).await
    }

    fn ask(&self, token: &str) -> Ask {
        Ask::own(&self.namespace, "web", token)
    }

    /// An RA that is sure of this mode.
    async fn authority(&self, bed: &Access, mode: Mode, flags: &[&str]) -> anyhow::Result<Authority> {
        let rules = [(self.namespace.as_str(), &["foo"][..], "foo")];
        let flags: Vec<&str> = [mode.flag()].into_iter().chain(flags.iter().copied()).collect();
        let authority = Authority::start(bed, mode.modes(), &rules, &flags).await?;
        if mode == Mode::Informer {
            authority.informed(&self.ask(&self.token(bed).await?)).await?;
        }
        Ok(authority)
    }
}

#[test_case(Mode::Review; "token review")]
#[test_case(Mode::Informer; "informer")]
#[tokio::test]
async fn a_certificate_costs_one_review_at_most_and_none_with_informers(mode: Mode) -> Result {
    let bed = Cluster::shared().await?;
    let place = Place::new(&bed).await?;
    let authority = place.authority(&bed, mode, &[]).await?;
    let mut tokens = Vec::new();
    for _ in 0..5 {
        tokens.push(place.token(&bed).await?);
    }
    let mark = bed.audit().mark().await?;
    for token in &tokens {
        let granted = authority.granted(&place.ask(token)).await?;
        assert_eq!(
            (granted.proof.as_str(), granted.cluster.as_str()),
            (mode.proof(), "Kubernetes")
        );
        assert_eq!(
            (granted.namespace, granted.service_account),
            (place.namespace.clone(), "web".to_owned())
        );
    }
    // The same token again, many at once.
    let again: Vec<_> = tokens.iter().chain(&tokens).map(|token| place.ask(token)).collect();
    for answer in join_all(again.iter().map(|ask| authority.ask(ask))).await {
        ensure!(answer?.is_ok());
    }
    let requests = bed.audit().requests_by(&authority.user).since(mark).await?;
    let requests = requests.without_election();
    let expected = match mode {
        Mode::Review => tokens.len(),
        Mode::Informer => 0,
    };
    assert_eq!(requests.count("create", "tokenreviews"), expected, "{requests:?}");
    assert_eq!(requests.0.len(), expected, "{requests:?}");
    authority.finish().await?;
    bed.finish().await
}

#[test_case(Mode::Review, "token_review_error"; "token review")]
#[test_case(Mode::Informer, "token_audience"; "informer")]
#[tokio::test]
async fn a_token_of_another_audience_is_refused(mode: Mode, reason: &str) -> Result {
    let bed = Cluster::shared().await?;
    let place = Place::new(&bed).await?;
    let authority = place.authority(&bed, mode, &[]).await?;
    for audience in [&["vault"][..], &[]] {
        let of = TokenOf::new(&place.namespace, "web")
            .pod(&place.pod)
            .audiences(audience);
        let token = bed.token(&of).await?;
        authority.refuses(&place.ask(&token), Unauthenticated, reason).await?;
    }
    authority.finish().await?;
    bed.finish().await
}

/// Signs what it is told to, as the API server would: with its key.
fn forge(bed: &Access, token: &str, change: impl FnOnce(&mut Value)) -> anyhow::Result<String> {
    let (signed, _) = token.rsplit_once('.').context("no signature")?;
    let (header, payload) = signed.split_once('.').context("no payload")?;
    let mut claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload)?)?;
    change(&mut claims);
    let signed = format!("{header}.{}", URL_SAFE_NO_PAD.encode(claims.to_string()));
    let key = PrivateKeyDer::from_pem_file(bed.folder().join("pki/service-accounts.key"))?;
    let key = crypto::provider().key_provider.load_private_key(key)?;
    let signer = key
        .choose_scheme(&[SignatureScheme::RSA_PKCS1_SHA256])
        .context("no RSA key")?;
    let signature = URL_SAFE_NO_PAD.encode(signer.sign(signed.as_bytes())?);
    Ok(format!("{signed}.{signature}"))
}

fn seconds_from_now(seconds: i64) -> anyhow::Result<i64> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    Ok(i64::try_from(now)? + seconds)
}

#[test_case(Mode::Review; "token review")]
#[test_case(Mode::Informer; "informer")]
#[tokio::test]
async fn an_expired_token_is_refused_and_its_twin_that_lives_is_not(mode: Mode) -> Result {
    let bed = Cluster::shared().await?;
    let place = Place::new(&bed).await?;
    let authority = place.authority(&bed, mode, &[]).await?;
    let token = place.token(&bed).await?;
    let (past, future) = (seconds_from_now(-60)?, seconds_from_now(600)?);
    let alive = forge(&bed, &token, |claims| claims["exp"] = json!(future))?;
    authority.granted(&place.ask(&alive)).await?;
    let expired = forge(&bed, &token, |claims| claims["exp"] = json!(past))?;
    authority
        .refuses(&place.ask(&expired), Unauthenticated, "token_expired")
        .await?;
    authority.finish().await?;
    bed.finish().await
}

#[test_case(Mode::Review, "token_review_error"; "token review")]
#[test_case(Mode::Informer, "token_signature"; "informer")]
#[tokio::test]
async fn a_token_that_somebody_else_signed_is_refused(mode: Mode, reason: &str) -> Result {
    let bed = Cluster::shared().await?;
    let place = Place::new(&bed).await?;
    let authority = place.authority(&bed, mode, &[]).await?;
    let token = place.token(&bed).await?;
    let (signed, signature) = token.rsplit_once('.').context("no signature")?;
    let (header, payload) = signed.split_once('.').context("no payload")?;
    let mut claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload)?)?;
    claims["sub"] = json!(format!("system:serviceaccount:{}:default", place.namespace));
    let payload = URL_SAFE_NO_PAD.encode(claims.to_string());
    let changed = format!("{header}.{payload}.{signature}");
    let ask = Ask::own(&place.namespace, "default", &changed);
    authority.refuses(&ask, Unauthenticated, reason).await?;
    authority.finish().await?;
    bed.finish().await
}

#[test_case(Mode::Review, "token_review_error"; "token review")]
#[test_case(Mode::Informer, "pod_not_seen"; "informer")]
#[tokio::test]
async fn the_token_of_a_deleted_pod_ends_and_a_namesake_does_not_bring_it_back(mode: Mode, reason: &str) -> Result {
    let bed = Cluster::shared().await?;
    let place = Place::new(&bed).await?;
    let authority = place.authority(&bed, mode, &[]).await?;
    let token = place.token(&bed).await?;
    authority.granted(&place.ask(&token)).await?;
    bed.delete_pod(&place.namespace, "web-0").await?;
    authority
        .comes_to_refuse(&place.ask(&token), Unauthenticated, reason)
        .await?;

    let node = place
        .pod
        .spec
        .as_ref()
        .and_then(|spec| spec.node_name.clone())
        .context("a node")?;
    let pod = bed.pod(&place.namespace, "web-0", "web", &node).await?;
    let again = Place { pod, ..place };
    authority.granted(&again.ask(&again.token(&bed).await?)).await?;
    let reason = match mode {
        Mode::Review => reason,
        Mode::Informer => "pod_changed",
    };
    authority.refuses(&again.ask(&token), Unauthenticated, reason).await?;
    authority.finish().await?;
    bed.finish().await
}

#[test_case(Mode::Review, "token_review_error"; "token review")]
#[test_case(Mode::Informer, "account_not_seen"; "informer")]
#[tokio::test]
async fn the_token_of_a_deleted_account_ends_whether_a_pod_holds_it_or_not(mode: Mode, reason: &str) -> Result {
    let bed = Cluster::shared().await?;
    let place = Place::new(&bed).await?;
    let authority = place.authority(&bed, mode, &[]).await?;
    let bound = place.token(&bed).await?;
    let unbound = bed.token(&TokenOf::new(&place.namespace, "web")).await?;
    authority.granted(&place.ask(&bound)).await?;
    authority.granted(&place.ask(&unbound)).await?;
    let accounts = Api::<ServiceAccount>::namespaced(bed.admin(), &place.namespace);
    accounts.delete("web", &DeleteParams::default()).await?;
    for token in [&bound, &unbound] {
        authority
            .comes_to_refuse(&place.ask(token), Unauthenticated, reason)
            .await?;
    }
    // Made anew it has another uid: its new tokens count, its old ones never again.
    bed.service_account(&place.namespace, "web").await?;
    let new = bed.token(&TokenOf::new(&place.namespace, "web")).await?;
    authority.granted(&place.ask(&new)).await?;
    let reason = match mode {
        Mode::Review => reason,
        Mode::Informer => "account_changed",
    };
    authority.refuses(&place.ask(&unbound), Unauthenticated, reason).await?;
    authority.finish().await?;
    bed.finish().await
}

#[tokio::test]
async fn informers_take_no_token_whose_life_hangs_on_what_they_do_not_see() -> Result {
    let bed = Cluster::shared().await?;
    let place = Place::new(&bed).await?;
    let authority = place.authority(&bed, Mode::Informer, &[]).await?;
    let node = bed.node(&unique("node")).await?;
    let secrets = Api::<Secret>::namespaced(bed.admin(), &place.namespace);
    let secret = Secret {
        metadata: kube::api::ObjectMeta {
            name: Some("bound".to_owned()),
            ..kube::api::ObjectMeta::default()
        },
        ..Secret::default()
    };
    let secret = secrets.create(&PostParams::default(), &secret).await?;
    let of = || TokenOf::new(&place.namespace, "web");
    for token in [
        bed.token(&of().node(&node)).await?,
        bed.token(&of().secret(&secret)).await?,
    ] {
        authority
            .refuses(&place.ask(&token), Unauthenticated, "token_binding")
            .await?;
    }
    // A pod that has finished has nobody left to hold its token.
    let token = place.token(&bed).await?;
    authority.granted(&place.ask(&token)).await?;
    bed.pod_phase(&place.namespace, "web-0", "Succeeded").await?;
    authority
        .comes_to_refuse(&place.ask(&token), Unauthenticated, "pod_finished")
        .await?;
    authority.finish().await?;
    bed.finish().await
}

#[test_case(Mode::Review; "token review")]
#[test_case(Mode::Informer; "informer")]
#[tokio::test]
async fn a_token_that_is_bound_to_nothing_is_its_accounts(mode: Mode) -> Result {
    let bed = Cluster::shared().await?;
    let place = Place::new(&bed).await?;
    let authority = place.authority(&bed, mode, &[]).await?;
    let token = bed.token(&TokenOf::new(&place.namespace, "web")).await?;
    let granted = authority.granted(&place.ask(&token)).await?;
    assert_eq!(granted.proof, mode.proof());
    authority
        .refuses(
            &Ask::own(&place.namespace, "default", &token),
            tonic::Code::PermissionDenied,
            "identity_mismatch",
        )
        .await?;
    authority.finish().await?;
    bed.finish().await
}

#[test_case(Mode::Review; "token review")]
#[test_case(Mode::Informer; "informer")]
#[tokio::test]
async fn what_is_no_token_of_an_account_is_refused(mode: Mode) -> Result {
    let bed = Cluster::shared().await?;
    let place = Place::new(&bed).await?;
    let authority = place.authority(&bed, mode, &[]).await?;
    let token = place.token(&bed).await?;
    let none = Ask {
        token: None,
        ..place.ask("")
    };
    authority.refuses(&none, Unauthenticated, "no_token").await?;
    let mark = bed.audit().mark().await?;
    for word in ["opaque", "a.b.c", &token[..token.len() - 300]] {
        let refused = authority.ask(&place.ask(word)).await?.err().context("granted")?;
        assert_eq!(refused.code, Unauthenticated, "{refused:?}");
        ensure!(
            !refused.detail.contains(word) && refused.reason.starts_with("token_"),
            "{refused:?}"
        );
    }
    let elsewhere = place.ask(&token).in_cluster("elsewhere");
    let refused = authority
        .refuses(&elsewhere, Unauthenticated, "unknown_cluster")
        .await?;
    ensure!(
        refused.detail.contains("elsewhere") && refused.detail.contains("Kubernetes"),
        "{refused:?}"
    );
    let requests = bed.audit().requests_by(&authority.user).since(mark).await?;
    let requests = requests.without_election();
    ensure!(requests.0.len() <= 1, "what is no JWT costs no request: {requests:?}");
    authority.finish().await?;
    bed.finish().await
}

#[tokio::test]
async fn informers_that_may_not_list_fall_back_to_reviews_until_they_may() -> Result {
    let bed = Cluster::shared().await?;
    let place = Place::new(&bed).await?;
    let rules = [(place.namespace.as_str(), &["foo"][..], "foo")];
    let authority = Authority::start(&bed, REVIEWS, &rules, &["--authn=informer"]).await?;
    let token = place.token(&bed).await?;
    let granted = authority.granted(&place.ask(&token)).await?;
    assert_eq!(granted.proof, "token_review");
    ensure!(
        authority
            .metric("ensign_ra_authn_informer_fallbacks_total{cluster=\"Kubernetes\"}")
            .await?
            > 0
    );
    assert_eq!(
        authority
            .metric("ensign_ra_authn_informer_fresh{cluster=\"Kubernetes\"}")
            .await?,
        0
    );
    Places::in_one(&authority.namespace).grant(&bed, INFORMERS).await?;
    authority.informed(&place.ask(&token)).await?;
    assert_eq!(
        authority
            .metric("ensign_ra_authn_informer_fresh{cluster=\"Kubernetes\"}")
            .await?,
        1
    );
    authority
        .log()
        .wait("the change to be told", |line| {
            line.contains("tokens are judged by informers")
        })
        .await?;
    authority.finish().await?;
    bed.finish().await
}

#[tokio::test]
async fn an_api_server_that_is_away_is_no_bad_token_and_its_return_is_noticed() -> Result {
    let bed = Cluster::start(ClusterOptions {
        cert_manager: false,
        ..ClusterOptions::default()
    })
    .await?;
    let place = Place::new(&bed).await?;
    let reviewing = place.authority(&bed, Mode::Review, &["--token-cache-ttl=0s"]).await?;
    let informed = place.authority(&bed, Mode::Informer, &[]).await?;
    let token = place.token(&bed).await?;
    reviewing.granted(&place.ask(&token)).await?;

    bed.kill(Component::ApiServer).await?;
    // Who asks nobody goes on for a while.
    assert_eq!(informed.granted(&place.ask(&token)).await?.proof, "informer");
    let short = place.ask(&token).within(Duration::from_secs(2));
    reviewing.refuses(&short, Unavailable, "away").await?;
    // Informers that hear nothing are relied on for a bounded time.
    informed.comes_to_refuse(&short, Unavailable, "away").await?;
    informed
        .log()
        .wait("the change to be told", |line| {
            line.contains("informers cannot be relied on")
        })
        .await?;

    // Whoever waits gets an answer as soon as there is one: no token was called bad meanwhile.
    let patient = place.ask(&token).within(PATIENCE);
    let (first, second, restarted) = tokio::join!(reviewing.granted(&patient), informed.granted(&patient), async {
        bed.restart(Component::ApiServer)?;
        bed.ready().await
    });
    restarted?;
    if let Err(error) = [first.map(drop), second.map(drop)]
        .into_iter()
        .collect::<anyhow::Result<Vec<_>>>()
    {
        // A server that needs longer than --authn-timeout is away, not a bad token.
        ensure!(error.to_string().contains("Unavailable"), "{error:#}");
    }
    until_true("reviews again", PATIENCE, async || {
        Ok(reviewing.ask(&place.ask(&token)).await?.is_ok())
    })
    .await?;
    informed.informed(&place.ask(&token)).await?;
    reviewing.finish().await?;
    informed.finish().await?;
    bed.finish().await
}

/// Rotation of the cluster's keys, as far as a token can show it: a `kid` that is not known is asked for once.
#[tokio::test]
async fn an_unknown_key_costs_a_fetch_at_most_and_never_a_review() -> Result {
    let bed = Cluster::shared().await?;
    let place = Place::new(&bed).await?;
    let authority = place.authority(&bed, Mode::Informer, &[]).await?;
    let token = place.token(&bed).await?;
    let (_, rest) = token.split_once('.').context("no payload")?;
    let header = URL_SAFE_NO_PAD.encode(json!({"alg": "RS256", "kid": "unknown"}).to_string());
    let forged = format!("{header}.{rest}");
    let mark = bed.audit().mark().await?;
    for _ in 0..10 {
        authority
            .refuses(&place.ask(&forged), Unauthenticated, "token_kid_unknown")
            .await?;
    }
    let requests = bed.audit().requests_by(&authority.user).since(mark).await?;
    let requests = requests.without_election();
    assert_eq!(requests.count("create", "tokenreviews"), 0, "{requests:?}");
    let fetches = requests
        .0
        .iter()
        .filter(|request| request.uri.contains("/openid/v1/jwks"))
        .count();
    ensure!(fetches <= 2, "{requests:?}");
    authority.granted(&place.ask(&token)).await?;
    authority.finish().await?;
    bed.finish().await
}
