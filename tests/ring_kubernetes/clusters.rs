//! Two clusters, each with an API server of its own: which one a token is judged by, and Istio's remote secrets as they
//! come, change and go.

use anyhow::ensure;
use ensign_testbed::{
    cluster::{Access, Cluster, ClusterOptions, TokenOf, unique},
    wait::{PATIENCE, until},
};
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, Patch, PatchParams},
};
use serde_json::json;
use test_case::test_case;
use tonic::Code::Unauthenticated;

use crate::authority::{Ask, Authority, INFORMERS, REVIEWS_AND_PODS, remote_kubeconfig};

type Result = anyhow::Result<()>;

/// One namespace and account of the same names in both clusters, a pod of it in each, and a ztunnel beside each pod.
struct Side {
    namespace: String,
    web: String,
    ztunnel: String,
}

impl Side {
    async fn new(bed: &Access, namespace: &str, system: &str) -> anyhow::Result<Self> {
        bed.namespace_named(namespace).await?;
        bed.namespace_named(system).await?;
        bed.service_account(namespace, "web").await?;
        bed.service_account(system, "ztunnel").await?;
        let node = bed.node(&unique("node")).await?.name_any();
        let web = bed.pod(namespace, "web-0", "web", &node).await?;
        let ztunnel = bed.pod(system, "ztunnel-0", "ztunnel", &node).await?;
        Ok(Self {
            namespace: namespace.to_owned(),
            web: bed.token(&TokenOf::new(namespace, "web").pod(&web)).await?,
            ztunnel: bed.token(&TokenOf::new(system, "ztunnel").pod(&ztunnel)).await?,
        })
    }

    fn own(&self) -> Ask {
        Ask::own(&self.namespace, "web", &self.web)
    }

    fn for_pod(&self) -> Ask {
        Ask::for_pod(&self.namespace, "web", &self.ztunnel)
    }
}

async fn remote_cluster() -> anyhow::Result<Cluster> {
    Cluster::start(ClusterOptions {
        cert_manager: false,
        ..ClusterOptions::default()
    })
    .await
}

/// As `istioctl create-remote-secret` makes it.
async fn remote_secret(bed: &Access, namespace: &str, name: &str, clusters: &[(&str, &str)]) -> Result {
    let data: serde_json::Map<_, _> = clusters
        .iter()
        .map(|(id, text)| ((*id).to_owned(), json!(text)))
        .collect();
    let secret = json!({"apiVersion": "v1", "kind": "Secret",
        "metadata": {"name": name, "namespace": namespace, "labels": {"istio/multiCluster": "true"}},
        "stringData": data});
    let secrets = Api::<Secret>::namespaced(bed.admin(), namespace);
    // Whole each time: a key that is left out is gone.
    _ = secrets.delete(name, &DeleteParams::default()).await;
    let apply = PatchParams::apply("ring");
    secrets.patch(name, &apply, &Patch::Apply(&secret)).await?;
    Ok(())
}

/// And Istio's remote secrets.
fn with_secrets(modes: &[&'static str]) -> Vec<&'static str> {
    [modes, &["remote-clusters"]].concat()
}

#[test_case("--authn=token-review", REVIEWS_AND_PODS, "token_review_error"; "token review")]
#[test_case("--authn=informer", INFORMERS, "token_kid_unknown"; "informer")]
#[tokio::test]
async fn a_token_counts_in_its_own_cluster_for_as_long_as_that_is_known(
    mode: &str,
    modes: &[&'static str],
    unknown: &str,
) -> Result {
    let primary = Cluster::shared().await?;
    let remote = remote_cluster().await?;
    let (apps, system) = (unique("apps"), unique("system"));
    let near = Side::new(&primary, &apps, &system).await?;
    let far = Side::new(&remote, &apps, &system).await?;
    let rules = [(apps.as_str(), &["foo"][..], "foo")];
    let trusted = format!("--ca-trusted-node-accounts={system}/ztunnel");
    let flags = [
        mode,
        "--remote-clusters",
        "--cluster-aliases=far=remote,near=Kubernetes",
        &trusted,
    ];
    let authority = Authority::start(&primary, &with_secrets(modes), &rules, &flags).await?;
    authority.ready().await?;

    // Not before its secret is there.
    authority
        .refuses(&far.own().in_cluster("remote"), Unauthenticated, "unknown_cluster")
        .await?;
    let kubeconfig = remote_kubeconfig(&remote, modes).await?;
    remote_secret(&primary, &authority.namespace, "remote", &[("remote", &kubeconfig)]).await?;
    let granted = until("the remote cluster", PATIENCE, async || {
        authority.granted(&far.own().in_cluster("remote")).await
    })
    .await?;
    assert_eq!(
        (granted.cluster.as_str(), granted.namespace.as_str()),
        ("remote", &*apps)
    );
    assert_eq!(authority.granted(&far.own().in_cluster("far")).await?.cluster, "remote");
    for local in [
        near.own(),
        near.own().in_cluster("Kubernetes"),
        near.own().in_cluster("near"),
    ] {
        assert_eq!(authority.granted(&local).await?.cluster, "Kubernetes");
    }
    if mode == "--authn=informer" {
        authority.informed(&near.own()).await?;
        authority.informed(&far.own().in_cluster("remote")).await?;
    }

    // A token under the other's name is judged by the other, which does not know it: same names, same pod names.
    authority
        .refuses(&near.own().in_cluster("remote"), Unauthenticated, unknown)
        .await?;
    authority.refuses(&far.own(), Unauthenticated, unknown).await?;
    authority
        .refuses(&far.own().in_cluster("elsewhere"), Unauthenticated, "unknown_cluster")
        .await?;

    // Each ztunnel for the pods of its own cluster; a pod that is only in the other is not seen.
    until("the remote pods", PATIENCE, async || {
        authority.granted(&far.for_pod().in_cluster("remote")).await
    })
    .await?;
    authority.granted(&near.for_pod()).await?;
    remote.service_account(&apps, "only").await?;
    let node = remote.node(&unique("node")).await?.name_any();
    remote.pod(&apps, "only-0", "only", &node).await?;
    let through_the_primary = Ask::for_pod(&apps, "only", &near.ztunnel);
    authority
        .refuses(&through_the_primary, Unauthenticated, "impersonation_not_seen")
        .await?;
    let through_its_own = Ask::for_pod(&apps, "only", &far.ztunnel).in_cluster("remote");
    authority
        .refuses(&through_its_own, Unauthenticated, "impersonation_other_node")
        .await?;

    // The secret goes, and with it the cluster.
    let secrets = Api::<Secret>::namespaced(primary.admin(), &authority.namespace);
    secrets.delete("remote", &DeleteParams::default()).await?;
    for gone in [far.own().in_cluster("remote"), far.for_pod().in_cluster("remote")] {
        authority
            .comes_to_refuse(&gone, Unauthenticated, "unknown_cluster")
            .await?;
    }
    authority.granted(&near.own()).await?;
    authority.finish().await?;
    remote.finish().await?;
    primary.finish().await
}

#[tokio::test]
async fn a_remote_secret_that_is_wrong_is_named_and_a_better_one_counts() -> Result {
    let primary = Cluster::shared().await?;
    let remote = remote_cluster().await?;
    let (apps, system) = (unique("apps"), unique("system"));
    let far = Side::new(&remote, &apps, &system).await?;
    let rules = [(apps.as_str(), &["foo"][..], "foo")];
    let flags = ["--authn=token-review", "--remote-clusters"];
    let authority = Authority::start(&primary, &with_secrets(REVIEWS_AND_PODS), &rules, &flags).await?;
    let good = remote_kubeconfig(&remote, REVIEWS_AND_PODS).await?;
    let ask = far.own().in_cluster("remote");
    let refused = async |name: &str, why: &str| {
        until(&format!("a refusal because of {why}"), PATIENCE, async || {
            let refused = authority.refuses(&ask, Unauthenticated, "cluster_refused").await?;
            ensure!(
                refused.detail.contains(why) && refused.detail.contains(name),
                "{refused:?}"
            );
            Ok(())
        })
        .await
    };

    // It would run a program, with a token in its arguments.
    let runs = good.replace("\"token\":", "\"exec\": {\"apiVersion\": \"client.authentication.k8s.io/v1\", \"command\": \"sh\", \"args\": [\"s3cr3t\"]}, \"token\":");
    ensure!(runs != good, "{}", good.len());
    remote_secret(&primary, &authority.namespace, "one", &[("remote", &runs)]).await?;
    refused("one", "exec").await?;
    let unverified = good.replace("\"server\":", "\"insecure-skip-tls-verify\": true, \"server\":");
    remote_secret(&primary, &authority.namespace, "one", &[("remote", &unverified)]).await?;
    refused("one", "insecure-skip-tls-verify").await?;

    // A good one in its place.
    remote_secret(&primary, &authority.namespace, "one", &[("remote", &good)]).await?;
    let granted = async || authority.granted(&ask).await.map(drop);
    until("the remote cluster", PATIENCE, granted).await?;

    // Two that claim one name: neither, and both are named. One of them goes: the other counts again.
    remote_secret(
        &primary,
        &authority.namespace,
        "two",
        &[("remote", &good), ("Kubernetes", &good)],
    )
    .await?;
    refused("one", "two").await?;
    authority
        .log()
        .wait("the claim of the local name to be told", |line| {
            line.contains("remote cluster is refused") && line.contains("own name") && line.contains("/two")
        })
        .await?;
    let secrets = Api::<Secret>::namespaced(primary.admin(), &authority.namespace);
    secrets.delete("two", &DeleteParams::default()).await?;
    until("the remote cluster again", PATIENCE, granted).await?;

    // Credentials that end: the API server of the remote cluster says no to us, which is no word about the token.
    let token = good
        .split("\"token\": \"")
        .nth(1)
        .and_then(|rest| rest.split('"').next())
        .unwrap_or_default();
    ensure!(!token.is_empty(), "no token in the kubeconfig");
    let stale = good.replace(token, "stale");
    remote_secret(&primary, &authority.namespace, "one", &[("remote", &stale)]).await?;
    let away = async || {
        authority
            .refuses(&ask, tonic::Code::Unavailable, "cluster_away")
            .await
            .map(drop)
    };
    until("the remote cluster to be away", PATIENCE, away).await?;

    let said = authority.log().lines().join("\n");
    ensure!(
        !said.contains("s3cr3t") && !said.contains(token),
        "a secret is in the log"
    );
    authority.finish().await?;
    remote.finish().await?;
    primary.finish().await
}
