//! A signer that takes longer than its clients wait: whoever gives up and comes back, to whichever replica, gets the answer
//! to what he asked first.
//!
//! A signer of 90 s and a client of 60 s, with the order of events for their times: the client gives up once the signer has
//! the request, and the signer answers once the client is with the other replica.

use anyhow::{Context as _, ensure};
use ensign_testbed::cluster::Cluster;
use ensign_testbed::cluster::instant_signer::Answer;
use ensign_testbed::wait::{self, PATIENCE};
use ensign_testkit::Gate;

use crate::fleet::{Fleet, Wish};

type Result = anyhow::Result<()>;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_gives_up_and_asks_the_other_replica_gets_the_first_signature() -> Result {
    let bed = Cluster::shared().await?;
    let fleet = Fleet::new(&bed, "10m", "10m").await?;
    let (here, there) = (fleet.start().await?, fleet.start().await?);
    let pod = fleet.pods(1, 1).await?.pop().context("no pod")?;
    let gate = Gate::new();
    fleet.signer.script().push(Answer::default().after(&gate).into());

    let wish = Wish::new(&pod.id)?;
    let mut client = fleet.client(&fleet.ca_of(&[&here]).await?, &pod);
    let asking = tokio::spawn({
        let wish = wish.clone();
        async move { client.ask_for(&wish).await }
    });
    fleet.signer.saw(1).await?;
    asking.abort();
    ensure!(asking.await.is_err_and(|error| error.is_cancelled()));
    // The replica has noticed, too.
    wait::until_true("the first replica to be left", PATIENCE, async || {
        Ok(here.metric("ensign_ra_requests_in_flight").await? == Some(0.0))
    })
    .await?;

    let mut client = fleet.client(&fleet.ca_of(&[&there]).await?, &pod);
    let asking = tokio::spawn(async move { client.ask_for(&wish).await });
    wait::until_true("the other replica to find the request", PATIENCE, async || {
        let adopted = "ensign_ra_object_events_total{signer=\"mesh\",event=\"adopted\"}";
        Ok(there.metric(adopted).await? == Some(1.0))
    })
    .await?;
    gate.open();
    let signed = asking.await??.context("no certificate")?;
    ensure!(signed.before.is_empty(), "{:?}", signed.before);
    assert_eq!(fleet.signer.seen().len(), 1, "one object");
    fleet.signer.answered_just(1).await?;
    fleet.nothing_is_left().await?;
    here.finish().await?;
    there.finish().await?;
    fleet.finish();
    bed.finish().await
}
