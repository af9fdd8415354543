//! `istio-ca-root-cert` and the ClusterTrustBundle on a real API server, written by the RA's account with the two
//! modes of deploy/optional/rbac.yaml that this needs.
//!
//! In this process, so that a test can change roots and leadership; the whole program is in `program`.

mod bed;

use std::{collections::BTreeMap, time::Duration};

use ensign_ra::{
    distribution::{self, DistributionConfig},
    trust::Roots,
};
use ensign_testbed::wait::{PATIENCE, until, until_true};
use k8s_openapi::api::{
    certificates::v1beta1::ClusterTrustBundle,
    core::v1::{ConfigMap, Namespace},
};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use serde_json::json;

use self::bed::*;

#[tokio::test(flavor = "multi_thread")]
async fn every_namespace_gets_the_roots_and_what_is_wrong_is_put_right() -> Result {
    let bed = Bed::start().await?;
    let before = bed.cluster.namespace("before").await?;
    // Of a migration: another CA's roots, another key and another label in it.
    let old = root("istiod");
    let found = json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": NAME, "namespace": before, "labels": {"team": "a"}},
        "data": {KEY: old, "ca-crl.pem": "theirs"}});
    bed.cluster.apply_yaml(&found.to_string()).await?;
    let roots = root("a");
    let leader = bed.leader(config_maps_only(None), &roots).await?;
    let object = bed.holds(&before, &[&roots]).await?;
    assert_eq!(
        object.data.as_ref().unwrap()["ca-crl.pem"],
        "theirs",
        "keys of others are theirs"
    );
    assert_eq!(object.labels()["team"], "a");
    bed.holds("kube-system", &[&roots]).await?;
    let after = bed.cluster.namespace("after").await?;
    bed.holds(&after, &[&roots]).await?;
    for skipped in ["kube-public", "kube-node-lease"] {
        assert!(bed.config_maps(skipped).get_opt(NAME).await?.is_none(), "{skipped}");
    }

    // A foreign root beside ours, the key gone, the label gone, all of it gone.
    let foreign = root("foreign");
    bed.write_as(
        "kubectl-edit",
        &after,
        &json!({"data": {KEY: format!("{roots}{foreign}")}}),
    )
    .await?;
    bed.holds(&after, &[&roots]).await?;
    bed.write_as("kubectl-edit", &before, &json!({"data": {KEY: null}}))
        .await?;
    bed.holds(&before, &[&roots]).await?;
    bed.write_as(
        "kubectl-edit",
        "kube-system",
        &json!({"metadata": {"labels": {"istio.io/config": null}}}),
    )
    .await?;
    bed.holds("kube-system", &[&roots]).await?;
    bed.config_maps(&after).delete(NAME, &DeleteParams::default()).await?;
    bed.holds(&after, &[&roots]).await?;
    let metrics = leader.metrics();
    assert!(!metrics.contains("contested{"), "{metrics}");
    leader.stop().await?;
    bed.cluster.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn old_roots_stay_beside_new_ones_over_a_change_of_leader_until_somebody_retires_them() -> Result {
    let bed = Bed::start().await?;
    let namespace = bed.cluster.namespace("foo").await?;
    let (first, second) = (root("first"), root("second"));
    let leader = bed.leader(config_maps_only(None), &first).await?;
    bed.holds(&namespace, &[&first]).await?;
    leader.rotate(&second);
    bed.holds(&namespace, &[&first, &second]).await?;
    // While the sources are silent nothing is taken away.
    *leader.roots.lock() = None;
    leader.stop().await?;

    let leader = bed.leader(config_maps_only(None), &second).await?;
    bed.holds(&namespace, &[&first, &second]).await?;
    let own = bed.config_maps(&bed.own);
    let history = own.get("ensign-ra-roots").await?.data.unwrap_or_default();
    assert_eq!(history.len(), 2);

    // A root that somebody adds there under a name of his own is none of ours.
    let foreign = json!({"data": {"mine.pem": root("foreign")}});
    own.patch("ensign-ra-roots", &PatchParams::default(), &Patch::Merge(foreign))
        .await?;
    // Retired by hand.
    let (retired, _) = history.iter().find(|(_, pem)| same(pem, &first)).unwrap();
    let patch = json!({"data": {retired.clone(): null}});
    own.patch("ensign-ra-roots", &PatchParams::default(), &Patch::Merge(patch))
        .await?;
    bed.holds(&namespace, &[&second]).await?;
    // One in use comes back.
    let (used, _) = history.iter().find(|(_, pem)| same(pem, &second)).unwrap();
    let patch = json!({"data": {used.clone(): null}});
    own.patch("ensign-ra-roots", &PatchParams::default(), &Patch::Merge(patch))
        .await?;
    until_true("the root in use to be remembered again", PATIENCE, async || {
        Ok(own
            .get("ensign-ra-roots")
            .await?
            .data
            .unwrap_or_default()
            .contains_key(used))
    })
    .await?;
    bed.holds(&namespace, &[&second]).await?;
    leader.stop().await?;
    bed.cluster.finish().await
}

fn same(a: &str, b: &str) -> bool {
    Roots::parse(a).unwrap() == Roots::parse(b).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_selector_speaks_kubernetes_whole_grammar() -> Result {
    let bed = Bed::start().await?;
    let mesh = bed
        .namespace_with("mesh", json!({"istio-injection": "enabled", "tier": "a"}))
        .await?;
    let other = bed
        .namespace_with("other", json!({"istio-injection": "enabled", "tier": "c"}))
        .await?;
    let none = bed.namespace_with("none", json!({})).await?;
    let selector = "istio-injection, tier in (a, b), !legacy";
    distribution::check(&config_maps_only(Some(selector)), &bed.home().await?).await?;
    let roots = root("a");
    let leader = bed.leader(config_maps_only(Some(selector)), &roots).await?;
    bed.holds(&mesh, &[&roots]).await?;
    // It comes into the selection, and goes out of it: what it has it keeps.
    let namespaces = Api::<Namespace>::all(bed.cluster.admin());
    let label = |value: &str| json!({"metadata": {"labels": {"tier": value}}});
    namespaces
        .patch(&other, &PatchParams::default(), &Patch::Merge(label("b")))
        .await?;
    bed.holds(&other, &[&roots]).await?;
    namespaces
        .patch(&mesh, &PatchParams::default(), &Patch::Merge(label("z")))
        .await?;
    let second = root("b");
    leader.rotate(&second);
    bed.holds(&other, &[&roots, &second]).await?;
    bed.holds(&mesh, &[&roots]).await?;
    assert!(bed.config_maps(&none).get_opt(NAME).await?.is_none());
    leader.stop().await?;

    let wrong = config_maps_only(Some("tier in (a"));
    let error = distribution::check(&wrong, &bed.home().await?)
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("--configmap-namespace-selector") && error.contains("tier in (a"),
        "{error}"
    );
    bed.cluster.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_that_ends_gets_nothing_and_delays_nobody() -> Result {
    let bed = Bed::start().await?;
    let ending = bed.cluster.namespace("ending").await?;
    // A finalizer that nobody removes keeps it Terminating.
    let held = json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "held", "namespace": ending, "finalizers": ["ensign.mesh/test"]}});
    bed.cluster.apply_yaml(&held.to_string()).await?;
    bed.cluster.delete_namespace(&ending).await?;
    let roots = root("a");
    let leader = bed.leader(config_maps_only(None), &roots).await?;
    let other = bed.cluster.namespace("other").await?;
    bed.holds(&other, &[&roots]).await?;
    let mark = bed.cluster.audit().mark().await?;
    leader.rotate(&root("b"));
    until_true("the next roots", PATIENCE, async || {
        let object = bed.config_maps(&other).get(NAME).await?;
        Ok(object.data.unwrap_or_default()[KEY].matches("BEGIN").count() == 2)
    })
    .await?;
    let requests = bed.cluster.audit().requests_by(&bed.user).since(mark).await?;
    let failed = requests.filter(|request| request.verb == "patch" && request.code >= 400);
    assert_eq!(failed.count("patch", "configmaps"), 0, "{:?}", failed.counts());
    assert!(bed.config_maps(&ending).get_opt(NAME).await?.is_none());
    leader.stop().await?;
    bed.config_maps(&ending)
        .patch(
            "held",
            &PatchParams::default(),
            &Patch::Merge(json!({"metadata": {"finalizers": null}})),
        )
        .await?;
    bed.cluster.finish().await
}

/// An agent without roots asks nobody, so that a selector which leaves its namespace out would stop all of them.
#[tokio::test(flavor = "multi_thread")]
async fn the_namespace_of_the_agents_gets_the_roots_whatever_the_selector_says() -> Result {
    let bed = Bed::start().await?;
    let mesh = bed.namespace_with("mesh", json!({"mesh": "yes"})).await?;
    let none = bed.namespace_with("none", json!({})).await?;
    let config = DistributionConfig {
        agents: Some("ensign-node".to_owned()),
        ..config_maps_only(Some("mesh=yes"))
    };
    let roots = root("a");
    let leader = bed.leader(config, &roots).await?;
    bed.holds(&mesh, &[&roots]).await?;
    // It comes after the leader, and is selected by its labels, too, later.
    bed.cluster.namespace_named("ensign-node").await?;
    bed.holds("ensign-node", &[&roots]).await?;
    let selected = json!({"metadata": {"labels": {"mesh": "yes"}}});
    Api::<Namespace>::all(bed.cluster.admin())
        .patch("ensign-node", &PatchParams::default(), &Patch::Merge(selected))
        .await?;
    let second = root("b");
    leader.rotate(&second);
    bed.holds("ensign-node", &[&roots, &second]).await?;
    until("each to be counted once", PATIENCE, async || {
        let metrics = leader.metrics();
        anyhow::ensure!(metrics.contains("distribution_targets 2"), "{metrics}");
        Ok(())
    })
    .await?;
    assert!(bed.config_maps(&none).get_opt(NAME).await?.is_none());
    leader.stop().await?;
    bed.cluster.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn another_writer_is_named_and_not_fought() -> Result {
    let bed = Bed::start().await?;
    let contested = bed.cluster.namespace("contested").await?;
    let quiet = bed.cluster.namespace("quiet").await?;
    let (ours, theirs) = (root("ours"), root("istiod"));
    let leader = bed.leader(config_maps_only(None), &ours).await?;
    for _ in 0..3 {
        bed.holds(&contested, &[&ours]).await?;
        // Our own look at it must be over, as between any two writes of a real controller.
        tokio::time::sleep(Duration::from_secs(6)).await;
        bed.write_as("pilot-discovery", &contested, &json!({"data": {KEY: theirs}}))
            .await?;
    }
    until("the writer in the metrics", PATIENCE, async || {
        let metrics = leader.metrics();
        anyhow::ensure!(
            metrics.contains(r#"distribution_contested{writer="pilot-discovery"} 1"#),
            "{metrics}"
        );
        Ok(())
    })
    .await?;
    tokio::time::sleep(Duration::from_secs(8)).await;
    bed.holds(&contested, &[&theirs]).await?;
    // Known by now, so one write is enough in the next namespace; others are served on.
    bed.holds(&quiet, &[&ours]).await?;
    bed.write_as("pilot-discovery", &quiet, &json!({"data": {KEY: theirs}}))
        .await?;
    tokio::time::sleep(Duration::from_secs(8)).await;
    bed.holds(&quiet, &[&theirs]).await?;
    let fresh = bed.cluster.namespace("fresh").await?;
    bed.holds(&fresh, &[&ours]).await?;
    leader.stop().await?;
    bed.cluster.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_trust_bundle_holds_the_same_roots() -> Result {
    let bed = Bed::start().await?;
    let config = DistributionConfig {
        config_maps: false,
        selector: None,
        agents: None,
        bundle: Some(BUNDLE.parse()?),
    };
    distribution::check(&config, &bed.home().await?).await?;
    let (first, second) = (root("first"), root("second"));
    let leader = bed.leader(config, &first).await?;
    let bundles = Api::<ClusterTrustBundle>::all(bed.cluster.admin());
    let holds = async |roots: &[&str]| {
        let wanted = Roots::parse(&roots.concat())?;
        until("the bundle", PATIENCE, async || {
            let bundle = bundles.get(BUNDLE).await?;
            anyhow::ensure!(
                bundle.spec.signer_name.as_deref() == Some("istio.io/istiod-ca"),
                "another signer"
            );
            anyhow::ensure!(bundle.spec.trust_bundle == **wanted.pem(), "other roots");
            Ok(())
        })
        .await
    };
    holds(&[&first]).await?;
    leader.rotate(&second);
    holds(&[&first, &second]).await?;
    let drift = json!({"spec": {"trustBundle": root("foreign")}});
    bundles
        .patch(BUNDLE, &PatchParams::default(), &Patch::Merge(drift))
        .await?;
    holds(&[&first, &second]).await?;
    bundles.delete(BUNDLE, &DeleteParams::default()).await?;
    holds(&[&first, &second]).await?;
    leader.stop().await?;
    bed.cluster.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_leads_no_more_writes_no_more() -> Result {
    let bed = Bed::start().await?;
    let namespace = bed.cluster.namespace("foo").await?;
    let (first, second) = (root("first"), root("second"));
    let leader = bed.leader(config_maps_only(None), &first).await?;
    bed.holds(&namespace, &[&first]).await?;
    leader.leading.send_replace(false);
    until_true("its metrics to be those of a follower", PATIENCE, async || {
        Ok(leader.metrics().contains("distribution_targets 0"))
    })
    .await?;
    let mark = bed.cluster.audit().mark().await?;
    leader.rotate(&second);
    tokio::time::sleep(Duration::from_secs(8)).await;
    let requests = bed.cluster.audit().requests_by(&bed.user).since(mark).await?;
    assert_eq!(requests.count("patch", "configmaps"), 0);
    bed.holds(&namespace, &[&first]).await?;
    leader.leading.send_replace(true);
    bed.holds(&namespace, &[&first, &second]).await?;
    leader.stop().await?;
    bed.cluster.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_namespaces_are_no_burden() -> Result {
    let bed = Bed::start().await?;
    let namespaces = Api::<Namespace>::all(bed.cluster.admin());
    let mut made = tokio::task::JoinSet::new();
    for n in 0..1000 {
        let namespaces = namespaces.clone();
        made.spawn(async move {
            let object: Namespace = serde_json::from_value(json!({"metadata": {"name": format!("n{n}")}}))?;
            namespaces.create(&kube::api::PostParams::default(), &object).await?;
            anyhow::Ok(())
        });
        if n % 20 == 19 {
            while let Some(one) = made.join_next().await {
                one??;
            }
        }
    }
    let roots = root("a");
    let mark = bed.cluster.audit().mark().await?;
    let leader = bed.leader(config_maps_only(None), &roots).await?;
    let all = Api::<ConfigMap>::all(bed.cluster.admin());
    let params = ListParams::default().fields(&format!("metadata.name={NAME}"));
    until_true("all of them", PATIENCE, async || {
        Ok(all.list(&params).await?.items.len() >= 1000)
    })
    .await?;
    until_true("all to be in step", PATIENCE, async || {
        let metrics = leader.metrics();
        let value = |name: &str| {
            let line = metrics
                .lines()
                .find_map(|line| line.strip_prefix(name).map(|value| value.trim().to_owned()));
            line.unwrap_or_default()
        };
        let (wanted, done) = (value("distribution_targets "), value("distribution_targets_in_step "));
        Ok(wanted == done && wanted.len() == 4)
    })
    .await?;
    let requests = bed.cluster.audit().requests_by(&bed.user).since(mark).await?;
    let counts: BTreeMap<_, _> = requests.counts();
    let patches = requests.count("patch", "configmaps");
    assert!((1000..1100).contains(&patches), "one write per namespace: {counts:?}");
    leader.stop().await?;
    bed.cluster.finish().await
}
