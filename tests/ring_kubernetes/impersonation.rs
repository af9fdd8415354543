//! A node proxy (ztunnel) that asks for the pods of its node, on a real API server: real bound tokens, pods that are
//! where the scheduler put them.

use anyhow::Context as _;
use ensign_testbed::cluster::{Access, Cluster, Places, TokenOf, unique};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use test_case::test_case;
use tonic::Code::{PermissionDenied, Unauthenticated};

use crate::authority::{Ask, Authority, INFORMERS, REVIEWS, REVIEWS_AND_PODS, id};

type Result = anyhow::Result<()>;

/// Two nodes; a ztunnel on the first, and pods of account `web` on both.
struct Mesh {
    system: String,
    apps: String,
    here: String,
    elsewhere: String,
    ztunnel: Pod,
}

impl Mesh {
    async fn new(bed: &Access) -> anyhow::Result<Self> {
        let system = bed.namespace("system").await?;
        let apps = bed.namespace("apps").await?;
        let (here, elsewhere) = (bed.node(&unique("node")).await?, bed.node(&unique("node")).await?);
        bed.service_account(&system, "ztunnel").await?;
        bed.service_account(&apps, "web").await?;
        let ztunnel = bed.pod(&system, "ztunnel-here", "ztunnel", &here.name_any()).await?;
        bed.pod(&apps, "web-here", "web", &here.name_any()).await?;
        bed.pod(&apps, "web-elsewhere", "web", &elsewhere.name_any()).await?;
        Ok(Self {
            system,
            apps,
            here: here.name_any(),
            elsewhere: elsewhere.name_any(),
            ztunnel,
        })
    }

    /// An RA that trusts the ztunnels. Pods' own namespace may have `foo` only, the ztunnels' `bar` only.
    async fn authority(&self, bed: &Access, modes: &[&str], flags: &[&str]) -> anyhow::Result<Authority> {
        let trusted = format!("--ca-trusted-node-accounts= {}/ztunnel ", self.system);
        let rules = [
            (self.apps.as_str(), &["foo"][..], "foo"),
            (self.system.as_str(), &["bar"][..], "bar"),
        ];
        let flags: Vec<&str> = [trusted.as_str()].into_iter().chain(flags.iter().copied()).collect();
        let authority = Authority::start(bed, modes, &rules, &flags).await?;
        authority.ready().await?;
        Ok(authority)
    }

    async fn token(&self, bed: &Access) -> anyhow::Result<String> {
        bed.token(&TokenOf::new(&self.system, "ztunnel").pod(&self.ztunnel))
            .await
    }
}

#[test_case("--authn=token-review", REVIEWS_AND_PODS; "token review")]
#[test_case("--authn=informer", INFORMERS; "informer")]
#[tokio::test]
async fn a_pod_on_the_node_is_granted_by_its_own_policy_and_costs_no_read(mode: &str, modes: &[&str]) -> Result {
    let bed = Cluster::shared().await?;
    let mesh = Mesh::new(&bed).await?;
    let authority = mesh.authority(&bed, modes, &[mode]).await?;
    let token = mesh.token(&bed).await?;
    let ask = Ask::for_pod(&mesh.apps, "web", &token);
    if mode == "--authn=informer" {
        authority.informed(&ask).await?;
    }
    let mark = bed.audit().mark().await?;
    let granted = authority.granted(&ask).await?;
    // The caller stays who it is in the log; the policy is the pod's, not the ztunnel's.
    assert_eq!(
        (granted.namespace.as_str(), granted.service_account.as_str()),
        (&*mesh.system, "ztunnel")
    );
    assert_eq!(granted.signer, "foo");
    assert_eq!(authority.granted(&ask.clone().of_signer("foo")).await?.signer, "foo");
    let own = Ask::own(&mesh.system, "ztunnel", &token);
    assert_eq!(authority.granted(&own).await?.signer, "bar");
    authority
        .refuses(&ask.of_signer("bar"), PermissionDenied, "signer_not_allowed")
        .await?;
    let requests = bed.audit().requests_by(&authority.user).since(mark).await?;
    let requests = requests.without_election();
    let reviews = requests.count("create", "tokenreviews");
    assert!(reviews <= 1 && requests.0.len() == reviews, "{requests:?}");
    authority.finish().await?;
    bed.finish().await
}

#[tokio::test]
async fn who_may_not_ask_for_a_pod() -> Result {
    let bed = Cluster::shared().await?;
    let mesh = Mesh::new(&bed).await?;
    let authority = mesh
        .authority(&bed, REVIEWS_AND_PODS, &["--authn=token-review"])
        .await?;
    let token = mesh.token(&bed).await?;

    // A node without that pod: its own answer, which names where the pods are.
    bed.service_account(&mesh.apps, "far").await?;
    bed.pod(&mesh.apps, "far-0", "far", &mesh.elsewhere).await?;
    let far = Ask::for_pod(&mesh.apps, "far", &token);
    let refused = authority
        .refuses(&far, Unauthenticated, "impersonation_other_node")
        .await?;
    assert!(
        refused.detail.contains(&mesh.here) && refused.detail.contains(&mesh.elsewhere),
        "{refused:?}"
    );

    // No pod at all: another.
    let nobody = Ask::for_pod(&mesh.apps, "nobody", &token);
    authority
        .refuses(&nobody, Unauthenticated, "impersonation_not_seen")
        .await?;

    // An account that nobody trusts, on the same node.
    bed.service_account(&mesh.apps, "curious").await?;
    let curious = bed.pod(&mesh.apps, "curious-0", "curious", &mesh.here).await?;
    let stranger = bed.token(&TokenOf::new(&mesh.apps, "curious").pod(&curious)).await?;
    let ask = Ask::for_pod(&mesh.apps, "web", &stranger);
    authority
        .refuses(&ask, Unauthenticated, "impersonation_not_trusted")
        .await?;

    // The trusted account by a token that says nothing of a pod, or only of a node.
    let node = kube::Api::<k8s_openapi::api::core::v1::Node>::all(bed.admin())
        .get(&mesh.here)
        .await?;
    for of in [
        TokenOf::new(&mesh.system, "ztunnel"),
        TokenOf::new(&mesh.system, "ztunnel").node(&node),
    ] {
        let unbound = bed.token(&of).await?;
        let ask = Ask::for_pod(&mesh.apps, "web", &unbound);
        authority
            .refuses(&ask, Unauthenticated, "impersonation_not_pod_bound")
            .await?;
    }

    // Another trust domain; no identity at all; one asked for and another in the CSR.
    let web = Ask::for_pod(&mesh.apps, "web", &token);
    let with = |impersonated: String| Ask {
        impersonated: Some(impersonated),
        ..web.clone()
    };
    let foreign = with(id(&mesh.apps, "web").replace("cluster.local", "evil.example"));
    authority
        .refuses(&foreign, Unauthenticated, "impersonation_trust_domain")
        .await?;
    let none = with("not-spiffe-idenditity".to_owned());
    authority
        .refuses(&none, Unauthenticated, "impersonation_identity")
        .await?;
    let other = Ask {
        id: id(&mesh.system, "ztunnel"),
        ..web.clone()
    };
    authority.refuses(&other, PermissionDenied, "identity_mismatch").await?;
    authority.granted(&web).await?;
    authority.finish().await?;
    bed.finish().await
}

#[tokio::test]
async fn a_pod_counts_from_its_schedule_to_its_end() -> Result {
    let bed = Cluster::shared().await?;
    let mesh = Mesh::new(&bed).await?;
    let authority = mesh
        .authority(&bed, REVIEWS_AND_PODS, &["--authn=token-review"])
        .await?;
    let token = mesh.token(&bed).await?;
    bed.service_account(&mesh.apps, "late").await?;
    let late = Ask::for_pod(&mesh.apps, "late", &token);
    // Asked for at once: the RA may not have heard of it yet, and waits.
    bed.pod(&mesh.apps, "late-0", "late", &mesh.here).await?;
    authority.granted(&late).await?;
    bed.pod_phase(&mesh.apps, "late-0", "Pending").await?;
    authority.granted(&late).await?;
    bed.pod_phase(&mesh.apps, "late-0", "Failed").await?;
    authority
        .comes_to_refuse(&late, Unauthenticated, "impersonation_finished")
        .await?;
    bed.delete_pod(&mesh.apps, "late-0").await?;
    authority
        .comes_to_refuse(&late, Unauthenticated, "impersonation_not_seen")
        .await?;

    // The ztunnel itself is gone: whatever its token says, it asks for nobody.
    let web = Ask::for_pod(&mesh.apps, "web", &token);
    authority.granted(&web).await?;
    bed.delete_pod(&mesh.system, "ztunnel-here").await?;
    authority
        .comes_to_refuse(&web, Unauthenticated, "token_review_error")
        .await?;
    authority.finish().await?;
    bed.finish().await
}

#[tokio::test]
async fn nobody_asks_for_others_where_nobody_is_trusted_and_nobody_reads_pods() -> Result {
    let bed = Cluster::shared().await?;
    let mesh = Mesh::new(&bed).await?;
    let rules = [(mesh.apps.as_str(), &["foo"][..], "foo")];
    let mark = bed.audit().mark().await?;
    let authority = Authority::start(&bed, REVIEWS, &rules, &[]).await?;
    authority.ready().await?;
    let token = mesh.token(&bed).await?;
    let ask = Ask::for_pod(&mesh.apps, "web", &token);
    authority.refuses(&ask, Unauthenticated, "impersonation").await?;
    let requests = bed.audit().requests_by(&authority.user).since(mark).await?;
    let requests = requests.without_election();
    assert_eq!(requests.count("create", "tokenreviews"), 1, "{requests:?}");
    let read = requests.filter(|request| ["pods", "serviceaccounts", "secrets"].contains(&&*request.resource));
    assert_eq!(read.0.len(), 0, "{read:?}");
    authority.finish().await?;
    bed.finish().await
}

#[tokio::test]
async fn pods_that_may_not_be_listed_keep_the_ra_unready_and_refuse_nobody_for_good() -> Result {
    let bed = Cluster::shared().await?;
    let mesh = Mesh::new(&bed).await?;
    let trusted = format!("--ca-trusted-node-accounts={}/ztunnel", mesh.system);
    let rules = [(mesh.apps.as_str(), &["foo"][..], "foo")];
    let authority = Authority::start(&bed, REVIEWS, &rules, &[&trusted]).await?;
    let token = mesh.token(&bed).await?;
    let ask = Ask::for_pod(&mesh.apps, "web", &token);
    authority
        .refuses(&ask, tonic::Code::Unavailable, "impersonation_stale")
        .await?;
    let missing = authority.missing().await?;
    assert!(missing.contains("pods"), "{missing}");
    Places::in_one(&authority.namespace)
        .grant(&bed, REVIEWS_AND_PODS)
        .await?;
    authority.ready().await?;
    authority.granted(&ask).await.context("once its pods are known")?;
    authority.finish().await?;
    bed.finish().await
}
