//! Remote secrets as they come, change and go, against an API server that says what a test wants.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ensign_pki::SystemClock;
use futures::FutureExt as _;
use tokio::sync::Notify;
use tokio_util::task::TaskTracker;

use super::*;
use crate::authn::metrics::AuthnMetrics;
use crate::kubernetes::KubernetesMetrics;
use crate::kubernetes::testing::{self, Answer};

fn secret(name: &str, data: &[(&str, &str)]) -> (ObjectKey, Arc<RemoteSecret>) {
    let data: BTreeMap<_, _> = data.iter().map(|(id, value)| (*id, STANDARD.encode(value))).collect();
    let object = serde_json::json!({"metadata": {"name": name, "namespace": "istio-system"}, "data": data});
    let object: RemoteSecret = serde_json::from_value(object).unwrap();
    (ObjectKey::of(&object), Arc::new(object))
}

fn judged(secrets: &[(ObjectKey, Arc<RemoteSecret>)]) -> BTreeMap<String, String> {
    let reserved = BTreeSet::from(["Kubernetes".to_owned(), "alias".to_owned()]);
    let word = |claim| match claim {
        Claim::Kubeconfig { secret, .. } => format!("by {}", secret.name),
        Claim::Refused { why } => why,
    };
    let claims = claims(secrets, &reserved).into_iter();
    claims.map(|(id, claim)| (id, word(claim))).collect()
}

#[tokio::test]
async fn names_are_unknown_only_once_the_secrets_are_listed() {
    let answers = Arc::new(Notify::new());
    let answer = Arc::clone(&answers);
    let (client, _asked) = testing::client(move |what, _| {
        if what.contains("watch=") {
            return futures::future::pending().boxed();
        }
        let answer = Arc::clone(&answer);
        async move {
            answer.notified().await;
            let list = serde_json::json!({"metadata": {"resourceVersion": "1"}, "items": []});
            Some(Answer::ok(list))
        }
        .boxed()
    });
    let stop = CancellationToken::new();
    let mut remotes = keep(RemoteConfig {
        client,
        namespace: "istio-system".to_owned(),
        reserved: BTreeSet::new(),
        open: Arc::new(|_, _, _| unreachable!("no secret names a cluster")),
        surroundings: Surroundings {
            kubernetes: KubernetesMetrics::default(),
            metrics: AuthnMetrics::default(),
            tasks: TaskTracker::new(),
            clock: SystemClock::shared(),
        },
        stop: stop.clone(),
    });
    assert!(!remotes.borrow().are_listed());
    answers.notify_one();
    assert!(remotes.wait_for(|remotes| remotes.are_listed()).await.is_ok());
    stop.cancel();
}

#[test]
fn each_key_of_a_secret_is_a_cluster() {
    let claims = judged(&[
        secret("a", &[("one", "x"), ("two", "y")]),
        secret("b", &[("three", "z")]),
    ]);
    let expected = [("one", "by a"), ("three", "by b"), ("two", "by a")];
    assert_eq!(claims, expected.map(|(id, by)| (id.to_owned(), by.to_owned())).into());
}

#[test]
fn an_id_that_two_secrets_name_is_refused_in_both_and_both_are_named() {
    let claims = judged(&[secret("b", &[("one", "x")]), secret("a", &[("one", "x"), ("two", "y")])]);
    assert!(
        claims["one"].contains("istio-system/a and istio-system/b"),
        "{claims:?}"
    );
    assert_eq!(claims["two"], "by a");
}

#[test]
fn nobody_can_take_the_local_clusters_name_or_an_alias() {
    let claims = judged(&[secret("a", &[("Kubernetes", "x"), ("alias", "y")])]);
    for id in ["Kubernetes", "alias"] {
        assert!(
            claims[id].contains("istio-system/a") && claims[id].contains("own name"),
            "{claims:?}"
        );
    }
}

#[test]
fn a_changed_kubeconfig_is_another_claim_and_a_touched_secret_is_not() {
    let of = |value| claims(&[secret("a", &[("one", value)])], &BTreeSet::new());
    assert_eq!(of("x"), of("x"));
    assert_ne!(of("x"), of("y"));
}

#[test]
fn a_value_that_is_no_base64_is_a_refusal_and_no_secret_is_shown() {
    let object =
        serde_json::json!({"metadata": {"name": "a", "namespace": "istio-system"}, "data": {"one": "s3cr3t!"}});
    let object: RemoteSecret = serde_json::from_value(object).unwrap();
    assert!(!format!("{object:?}").contains("s3cr3t"));
    let claims = judged(&[(ObjectKey::of(&object), Arc::new(object))]);
    assert!(
        claims["one"].contains("no base64") && !claims["one"].contains("s3cr3t"),
        "{claims:?}"
    );
}
