//! Two thousand agents of Istio at once, each with a pod, a token and a connection of its own and without a deadline: all are
//! served, none is turned away.
//!
//! All else is as in production: the limits of the RA, TokenReview, the Kubernetes CSR API with its three requests for each
//! certificate. Only the signer is the test bed's, which answers at once: cert-manager would be what is measured.

use std::sync::Arc;

use anyhow::ensure;
use ensign_testbed::cluster::Cluster;
use tokio::sync::Barrier;
use tokio::task::JoinSet;

use crate::fleet::Fleet;

const CLIENTS: usize = 2_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_clients_at_once_are_all_served() -> anyhow::Result<()> {
    let bed = Cluster::shared().await?;
    // Nothing here is about a busy machine's pace.
    let fleet = Fleet::new(&bed, "10m", "10s").await?;
    let ra = fleet.start().await?;
    let ca = fleet.ca_of(&[&ra]).await?;
    let pods = fleet.pods(CLIENTS, 40).await?;
    let start = Arc::new(Barrier::new(CLIENTS));
    let mut asking = JoinSet::new();
    for pod in &pods {
        let (mut client, start) = (fleet.client(&ca, pod), Arc::clone(&start));
        asking.spawn(async move {
            start.wait().await;
            client.certificate().await
        });
    }
    let mut before = Vec::new();
    while let Some(answer) = asking.join_next().await {
        before.extend(answer??.before);
    }
    ensure!(
        before.is_empty(),
        "{} were told to come again: {:?}",
        before.len(),
        before[0]
    );
    let granted = ra
        .metric("ensign_ra_requests_total{code=\"ok\",reason=\"issued\"}")
        .await?;
    let granted = granted.map(|count| count.to_string());
    assert_eq!(granted, Some(CLIENTS.to_string()), "{}", ra.metrics().await?);
    fleet.nothing_is_left().await?;
    ra.finish().await?;
    fleet.finish();
    bed.finish().await
}
