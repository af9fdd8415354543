//! `helm upgrade` while pods of two nodes talk: every agent and every replica of the RA is replaced, and no Envoy notices.

use std::collections::BTreeSet;

use anyhow::{Context, ensure};
use ensign_testbed::cluster::unique;
use ensign_testbed::envoy::{EnvoySpec, Home};
use ensign_testbed::load::Load;
use ensign_testbed::wait::{PATIENCE, until};
use ensign_testkit::patience;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::ListParams;
use serde_json::json;

use crate::apart::answered;
use crate::asked;
use crate::install::{self, AGENTS, RA};
use crate::mesh::Mesh;
use crate::pod::address;
use crate::workload::{Workload, id};

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_of_the_release_fails_no_request_between_pods_and_renews_nothing() -> anyhow::Result<()> {
    let mesh = Mesh::join().await?;
    let foo = mesh.namespace_with("foo", "foo").await?;
    let host = format!("httpbin.{foo}.svc.cluster.local");
    let signer = || json!({ "signer": "foo" });
    let httpbin = Workload::new(&foo, "httpbin").on("node2").attributes(signer());
    mesh.proxy(httpbin, EnvoySpec::serving).await?;
    let sleep = Workload::new(&foo, "sleep").on("node1").attributes(signer());
    let sleep = mesh
        .proxy(sleep, |envoy| envoy.calling_by_name("httpbin", &host, 80, &id(&foo)))
        .await?;
    answered(&sleep, 0).await?;

    let before = ours(&mesh).await?;
    ensure!(before.len() == 4, "two agents and two replicas, not {before:?}");
    let mark = mesh.audit().mark().await?;
    let load = Load::start(address(&sleep.pod, Home::OUTBOUND)?, 2);
    let generation = json!({ "generation": unique("upgrade") });
    let mut values = install::values();
    values["podAnnotations"] = generation.clone();
    values["agent"]["podAnnotations"] = generation;
    let upgrade = install::release(&mesh, "upgrade", &values);
    // A pod that comes in the middle of it.
    let newcomer = async {
        until("the upgrade to begin", PATIENCE, async || {
            let now = ours(&mesh).await?;
            ensure!(!now.is_subset(&before), "nothing is new");
            Ok(())
        })
        .await?;
        mesh.start(&Workload::new(&foo, "comes").on("node2").attributes(signer()))
            .await
    };
    let (_, comes) = tokio::try_join!(upgrade, newcomer)?;
    until("everything older to be gone", PATIENCE, async || {
        let now = ours(&mesh).await?;
        ensure!(now.is_disjoint(&before) && now.len() == 4, "{now:?} after {before:?}");
        Ok(())
    })
    .await?;

    // The Envoys have come to the new agents with what they hold, and go on.
    for node in ["node1", "node2"] {
        until("its Envoy to come to the new agent", PATIENCE, async || {
            let adopted = mesh.metrics(node).await?.sum("ensign_agent_adoptions_total", &[]);
            ensure!(adopted >= Some(1.0), "{node}: {adopted:?} were adopted");
            Ok(())
        })
        .await?;
    }
    let so_far = load.report().ok;
    until("requests after it", PATIENCE, async || {
        let more = load.report().ok - so_far;
        ensure!(more > 20, "{more} requests");
        Ok(())
    })
    .await?;
    let report = load.stop().await;
    report.check_flawless()?;
    ensure!(
        report.client_serials.len() == 1 && report.server_serials.len() == 1,
        "certificates changed: {:?} and {:?}",
        report.client_serials,
        report.server_serials
    );

    let mut stream = mesh.envoy(&comes).await?.subscribe(&["default"]).await;
    stream.next_secret(patience()).await;
    let after = mesh.start(&Workload::new(&foo, "after").attributes(signer())).await?;
    let mut stream = mesh.envoy(&after).await?.subscribe(&["default"]).await;
    stream.next_secret(patience()).await;
    // Of the two new pods; for the one that came in the middle perhaps one more, fetched by the older agent in vain.
    let user = format!("system:serviceaccount:{RA}:ensign-ra");
    let requests = mesh.audit().requests_by(&user).since(mark).await?;
    let issued = requests.count("create", "certificatesigningrequests");
    ensure!(
        (2..=3).contains(&issued),
        "{issued} certificates: {:?}",
        requests.counts()
    );
    asked::nothing(&mesh).await?;
    mesh.finish().await
}

/// The pods of RA and agents, by their UIDs.
async fn ours(mesh: &Mesh) -> anyhow::Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    for namespace in [RA, AGENTS] {
        let pods = Api::<Pod>::namespaced(mesh.admin(), namespace);
        for pod in pods.list(&ListParams::default()).await?.items {
            found.insert(pod.metadata.uid.context("a pod has a uid")?);
        }
    }
    Ok(found)
}
