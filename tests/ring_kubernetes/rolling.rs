//! Two replicas that are restarted one after the other, as a Deployment does it, while clients ask.
//!
//! A Deployment's replica leaves its Service first (`preStop` in deploy/ra.yaml waits until every node knows) and gets its
//! SIGTERM then; connections that are open stay open until then.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use anyhow::ensure;
use ensign_testbed::cluster::Cluster;
use ensign_testbed::cluster::instant_signer::Answer;
use ensign_testbed::wait::{self, PATIENCE};
use ensign_testkit::Gate;
use rustix::process::Signal;
use tokio::task::JoinSet;

use crate::fleet::{Client, Fleet, endpoints};

type Result = anyhow::Result<()>;

const CLIENTS: usize = 12;

/// Clients that ask again and again, each over its own connection.
#[derive(Default)]
struct Load {
    stop: Arc<AtomicBool>,
    served: Vec<Arc<AtomicUsize>>,
    clients: JoinSet<Result>,
}

impl Load {
    fn add(&mut self, mut client: Client) {
        let (stop, served) = (Arc::clone(&self.stop), Arc::<AtomicUsize>::default());
        self.served.push(Arc::clone(&served));
        self.clients.spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                client.certificate().await?;
                served.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        });
    }

    /// Waits until each client has been served a few times more.
    async fn goes_on(&mut self) -> Result {
        let count = |served: &Arc<AtomicUsize>| served.load(Ordering::Relaxed);
        let before: Vec<_> = self.served.iter().map(count).collect();
        wait::until("every client to be served", PATIENCE, async || {
            // One that ended has failed: its error comes out in the end.
            let moved = |(served, before): (&Arc<AtomicUsize>, &usize)| count(served) > before + 2;
            let idle = self.served.iter().zip(&before).filter(|pair| !moved(*pair)).count();
            if let Some(ended) = self.clients.try_join_next() {
                return Ok(ended.map_err(anyhow::Error::from).flatten());
            }
            ensure!(idle == 0, "{idle} clients wait");
            Ok(Ok(()))
        })
        .await?
    }

    async fn stop(mut self) -> Result {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.clients.join_next().await {
            ended??;
        }
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_under_load_fails_no_request() -> Result {
    let bed = Cluster::shared().await?;
    let fleet = Fleet::new(&bed, "2m", "10s").await?;
    let mut replicas = [fleet.start().await?, fleet.start().await?];
    let service = endpoints(&[&replicas[0], &replicas[1]])?;
    let ca = fleet.ca(&service).await?;
    let mut load = Load::default();
    for pod in fleet.pods(CLIENTS, 4).await? {
        load.add(fleet.client(&ca, &pod));
    }
    load.goes_on().await?;
    for number in [0, 1] {
        service.set(&[replicas[1 - number].address("grpc")?]);
        load.goes_on().await?;
        replicas[number].restart_in_order().await?;
        load.goes_on().await?;
        service.set(&[replicas[0].address("grpc")?, replicas[1].address("grpc")?]);
    }
    load.goes_on().await?;
    load.stop().await?;
    fleet.nothing_is_left().await?;
    for replica in replicas {
        replica.finish().await?;
    }
    fleet.finish();
    bed.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_goes_answers_what_it_was_asked() -> Result {
    let bed = Cluster::shared().await?;
    let fleet = Fleet::new(&bed, "2m", "10s").await?;
    // Nothing that a busy machine could exceed.
    let going = fleet.start_with(&[("--drain-timeout", "90s")]).await?;
    let ca = fleet.ca_of(&[&going]).await?;
    let gate = Gate::new();
    fleet.signer.script().set_default(Answer::default().after(&gate).into());
    let mut asking = JoinSet::new();
    for pod in fleet.pods(8, 2).await? {
        let mut client = fleet.client(&ca, &pod);
        asking.spawn(async move { client.certificate().await });
    }
    fleet.signer.saw(8).await?;
    going.program.signal(Signal::TERM)?;
    wait::until("the replica to have heard it", PATIENCE, async || {
        let ready = going.readiness().await;
        ensure!(!ready.is_ok_and(|(status, _)| status == 200));
        Ok(())
    })
    .await?;
    gate.open();
    while let Some(answer) = asking.join_next().await {
        let met = answer??.before;
        ensure!(met.is_empty(), "asked a second time: {met:?}");
    }
    going.ended().await?;
    fleet.nothing_is_left().await?;
    fleet.finish();
    bed.finish().await
}
