//! A replica that is killed in a burst of requests: no client gets a wrong answer or none, no request outlives its end.

use anyhow::{Context as _, ensure};
use ensign_testbed::cluster::Cluster;
use ensign_testbed::cluster::instant_signer::Answer;
use ensign_testkit::Gate;
use tokio::task::JoinSet;
use tonic::Code;

use crate::fleet::{Fleet, endpoints};

type Result = anyhow::Result<()>;

/// So many clients ask at once, every fourth of which dies with the replica.
const CLIENTS: usize = 120;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_is_killed_in_a_burst_leaves_no_client_and_no_request_behind() -> Result {
    let bed = Cluster::shared().await?;
    // Soon enough that its janitor can be waited for, late enough that no busy machine meets it.
    let fleet = Fleet::new(&bed, "30s", "5s").await?;
    let (mut first, second) = (fleet.start().await?, fleet.start().await?);
    let endpoints = endpoints(&[&first, &second])?;
    let ca = fleet.ca(&endpoints).await?;
    let pods = fleet.pods(CLIENTS, 12).await?;

    // Nothing is signed before the end of the replica, so that it meets requests at every step.
    let gate = Gate::new();
    fleet.signer.script().set_default(Answer::default().after(&gate).into());
    let (mut staying, mut dying) = (JoinSet::new(), JoinSet::new());
    for (number, pod) in pods.iter().enumerate() {
        let mut client = fleet.client(&ca, pod);
        let group = if number % 4 == 0 { &mut dying } else { &mut staying };
        group.spawn(async move { client.ask().await });
    }
    fleet.signer.saw(CLIENTS / 2).await?;
    first.program.kill().await?;
    endpoints.set(&[second.address("grpc")?]);
    dying.shutdown().await;
    gate.open();

    let (mut unharmed, mut moved) = (0, 0);
    while let Some(answer) = staying.join_next().await {
        match answer?? {
            Ok(signed) if signed.before.is_empty() => unharmed += 1,
            Ok(_) => moved += 1,
            Err(gave_up) => {
                let clear = [Code::Unavailable, Code::DeadlineExceeded].contains(&gave_up.code());
                ensure!(clear, "no clear answer: {gave_up}");
            }
        }
    }
    ensure!(unharmed > 0, "every client was with the replica that was killed");
    ensure!(moved > 0, "nobody came from the replica that was killed");

    // What the dead clients and the dead replica left is swept by the one that leads next.
    ensure!(!fleet.requests().await?.is_empty(), "nothing to sweep");
    fleet.nothing_is_left().await?;
    let swept = second
        .metric("ensign_ra_object_removals_total{outcome=\"swept\"}")
        .await?;
    ensure!(swept.context("no such series")? > 0.0, "nothing was swept");

    // The one that was killed comes back and serves.
    first.restart().await?;
    first.ready().await?;
    let ca = fleet.ca_of(&[&first]).await?;
    fleet.client(&ca, &pods[0]).certificate().await?;
    first.finish().await?;
    second.finish().await?;
    fleet.finish();
    bed.finish().await
}
