//! Tokens, pods and nodes: real as far as the API server goes, with no kubelet behind them.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, ensure};
use ensign_testbed::cluster::{Access, Cluster, TokenOf, unique};
use k8s_openapi::api::{
    authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus},
    core::v1::{Node, Pod},
};
use kube::{Api, ResourceExt as _, api::PostParams};

#[tokio::test]
async fn a_bound_token_says_who_and_where_and_ends_with_its_pod() -> anyhow::Result<()> {
    let bed = Cluster::shared().await?;
    let namespace = bed.namespace("token").await?;
    let node = bed.node(&unique("node")).await?;
    bed.service_account(&namespace, "web").await?;
    let pod = bed.pod(&namespace, "web-0", "web", &node.name_any()).await?;
    let token = bed.token(&TokenOf::new(&namespace, "web").pod(&pod)).await?;

    let status = review(&bed, &token, "istio-ca").await?;
    assert_eq!(status.authenticated, Some(true), "{status:?}");
    assert_eq!(status.audiences, Some(vec!["istio-ca".to_owned()]));
    let user = status.user.context("a user")?;
    assert_eq!(user.username, Some(format!("system:serviceaccount:{namespace}:web")));
    let extra = user.extra.context("extras")?;
    let of = |key: &str| {
        extra
            .get(&format!("authentication.kubernetes.io/{key}"))
            .cloned()
            .unwrap_or_default()
    };
    assert_eq!(of("pod-name"), ["web-0"]);
    assert_eq!(of("pod-uid"), [pod.uid().context("a pod without a UID")?]);
    assert_eq!(of("node-name"), [node.name_any()]);
    assert_eq!(of("node-uid"), [node.uid().context("a node without a UID")?]);

    let status = review(&bed, &token, "another").await?;
    ensure!(status.authenticated != Some(true), "for another audience: {status:?}");

    bed.delete_pod(&namespace, "web-0").await?;
    ensign_testbed::wait::until_true(
        "the token to end with its pod",
        ensign_testbed::wait::PATIENCE,
        async || Ok(review(&bed, &token, "istio-ca").await?.authenticated != Some(true)),
    )
    .await?;
    bed.finish().await
}

#[tokio::test]
async fn tokens_are_bound_to_what_is_asked_for_and_to_nothing_else() -> anyhow::Result<()> {
    let bed = Cluster::shared().await?;
    let namespace = bed.namespace("token").await?;
    let node = bed.node(&unique("node")).await?;
    bed.service_account(&namespace, "web").await?;
    let of = TokenOf::new(&namespace, "web").expiry(Duration::from_mins(10));
    for (token, key) in [
        (bed.token(&of).await?, None),
        (
            bed.token(&of.clone().node(&node)).await?,
            Some("authentication.kubernetes.io/node-name"),
        ),
    ] {
        let status = review(&bed, &token, "istio-ca").await?;
        assert_eq!(status.authenticated, Some(true), "{status:?}");
        let extra: BTreeMap<_, _> = status.user.context("a user")?.extra.unwrap_or_default();
        let places: Vec<_> = extra
            .keys()
            .filter(|key| key.contains("pod") || key.contains("node-name"))
            .collect();
        assert_eq!(places, key.iter().copied().collect::<Vec<_>>());
    }
    bed.finish().await
}

#[tokio::test]
async fn accounts_come_by_token_with_the_rights_that_they_have() -> anyhow::Result<()> {
    let bed = Cluster::shared().await?;
    let namespace = bed.namespace("account").await?;
    bed.service_account(&namespace, "nobody").await?;
    let kubeconfig = bed.kubeconfig_of_service_account(&namespace, "nobody").await?;
    let pods = Api::<Pod>::namespaced(bed.client(&kubeconfig).await?, &namespace);
    let error = pods.get("none").await.err().context("it may read pods")?.to_string();
    ensure!(
        error.contains(&format!("system:serviceaccount:{namespace}:nobody")) && error.contains("forbidden"),
        "{error}"
    );

    // A node may read its own pods and no other's: the Node authorizer is on.
    bed.service_account(&namespace, "web").await?;
    let [own, other] = [unique("node"), unique("node")];
    for node in [&own, &other] {
        bed.node(node).await?;
        bed.pod(&namespace, node, "web", node).await?;
    }
    let kubelet = bed.kubeconfig_of_user(&format!("system:node:{own}"), Some("system:nodes"))?;
    let kubelet = bed.client(&kubelet).await?;
    Api::<Pod>::namespaced(kubelet.clone(), &namespace)
        .get(&own)
        .await
        .context("its own pod")?;
    ensure!(
        Api::<Pod>::namespaced(kubelet.clone(), &namespace)
            .get(&other)
            .await
            .is_err(),
        "another node's pod"
    );
    Api::<Node>::all(kubelet).get(&own).await.context("itself")?;
    bed.finish().await
}

async fn review(bed: &Access, token: &str, audience: &str) -> anyhow::Result<TokenReviewStatus> {
    let review = TokenReview {
        spec: TokenReviewSpec {
            token: Some(token.to_owned()),
            audiences: Some(vec![audience.to_owned()]),
        },
        ..TokenReview::default()
    };
    let answer = Api::all(bed.admin()).create(&PostParams::default(), &review).await?;
    answer.status.context("a review without a status")
}
