//! An API server that lets the RA have three requests at once and refuses the rest (429, Retry-After), as Priority and
//! Fairness does for whom a FlowSchema singles out: requests take longer, and none fails.

use anyhow::{Context as _, ensure};
use ensign_testbed::cluster::{Access, Cluster};
use ensign_testbed::wait::{self, PATIENCE};
use k8s_openapi::api::flowcontrol::v1::FlowSchema;
use kube::Api;
use serde_json::json;
use tokio::task::JoinSet;

use crate::fleet::Fleet;

type Result = anyhow::Result<()>;

const CLIENTS: usize = 60;

/// One share of all that there are comes to three places of 600, and none can be borrowed.
async fn few_seats(bed: &Access, own: &str) -> Result {
    let level = json!({
        "apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "PriorityLevelConfiguration",
        "metadata": { "name": own },
        "spec": { "type": "Limited", "limited": {
            "nominalConcurrencyShares": 1, "lendablePercent": 0, "borrowingLimitPercent": 0,
            "limitResponse": { "type": "Reject" },
        } },
    });
    let schema = json!({
        "apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "FlowSchema",
        "metadata": { "name": own },
        "spec": {
            "priorityLevelConfiguration": { "name": own },
            "matchingPrecedence": 100,
            "rules": [{
                "subjects": [{ "kind": "ServiceAccount", "serviceAccount": { "namespace": own, "name": "ensign-ra" } }],
                "resourceRules": [{
                    "verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "clusterScope": true, "namespaces": ["*"],
                }],
            }],
        },
    });
    bed.apply_yaml(&format!("{level}\n---\n{schema}")).await?;
    let schemas = Api::<FlowSchema>::all(bed.admin());
    wait::until("the FlowSchema to find its level", PATIENCE, async || {
        let conditions = schemas.get(own).await?.status.and_then(|status| status.conditions);
        let dangling = conditions.context("no conditions")?;
        let dangling = dangling.iter().find(|one| one.type_.as_deref() == Some("Dangling"));
        ensure!(
            dangling.is_some_and(|one| one.status.as_deref() == Some("False")),
            "{dangling:?}"
        );
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_refuses_most_requests_makes_them_slower_and_fails_none() -> Result {
    let bed = Cluster::shared().await?;
    let fleet = Fleet::new(&bed, "10m", "10s").await?;
    let ra = fleet.start().await?;
    let ca = fleet.ca_of(&[&ra]).await?;
    let pods = fleet.pods(CLIENTS, 6).await?;
    few_seats(&bed, &fleet.own).await?;
    let mut asking = JoinSet::new();
    for pod in &pods {
        let mut client = fleet.client(&ca, pod);
        asking.spawn(async move { client.certificate().await });
    }
    while let Some(answer) = asking.join_next().await {
        let met = answer??.before;
        ensure!(met.is_empty(), "told to come again: {met:?}");
    }
    let count = async |series: &str| anyhow::Ok(ra.metric(series).await?.unwrap_or_default());
    let refused =
        "ensign_ra_kubernetes_requests_total{verb=\"create\",resource=\"certificatesigningrequests\",code=\"429\"}";
    ensure!(count(refused).await? > 0.0, "no 429: {}", ra.metrics().await?);
    ensure!(
        count("ensign_ra_signer_pauses_total{signer=\"mesh\"}").await? > 0.0,
        "the queue never paused: {}",
        ra.metrics().await?
    );
    ensure!(count("ensign_ra_signer_circuit_openings_total{signer=\"mesh\"}").await? == 0.0);
    fleet.nothing_is_left().await?;
    ra.finish().await?;
    fleet.finish();
    bed.finish().await
}
