//! The election and the count of replicas, with several candidates in this process and the rights to two Leases by name that deploy/optional/rbac.yaml grants.
//!
//! In this process because a replica's times are part of what is tested, and they are not for operators to set.

use std::{sync::Arc, time::Duration};

use ensign_ra::{
    kubernetes::{Cluster as Connection, ClusterSource, KubernetesMetrics, connect},
    leader::{Candidate, LeaderMetrics, Timing, count_replicas, elect, identity},
};
use ensign_testbed::{
    cluster::{Cluster, ClusterOptions, Component, Places},
    wait::{PATIENCE, until, until_true},
};
use k8s_openapi::api::coordination::v1::Lease;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::json;
use tokio::{sync::watch, task::JoinHandle};
use tokio_util::sync::CancellationToken;

type Result = anyhow::Result<()>;

const LEASE: &str = "ensign-ra";
/// Short enough that a test sees a Lease expire.
const TIMING: Timing = Timing {
    retry: Duration::from_millis(200),
    renew: Duration::from_millis(500),
    deadline: Duration::from_secs(2),
    lease: Duration::from_secs(3),
};

/// One replica.
struct Replica {
    leading: watch::Receiver<bool>,
    count: watch::Receiver<usize>,
    stop: CancellationToken,
    tasks: [JoinHandle<()>; 2],
}

impl Replica {
    fn start(cluster: &Connection, namespace: &str, name: &str) -> Self {
        let candidate = Candidate {
            cluster: cluster.clone(),
            namespace: namespace.to_owned(),
            lease: LEASE.to_owned(),
            identity: identity(Some(name)),
            clock: ensign_pki::SystemClock::shared(),
            timing: TIMING,
            metrics: LeaderMetrics::default(),
        };
        let stop = CancellationToken::new();
        let (leading, election) = elect(candidate.clone(), stop.clone());
        let (count, counting) = count_replicas(candidate, leading.clone(), stop.clone());
        let tasks = [tokio::spawn(election), tokio::spawn(counting)];
        Self {
            leading,
            count,
            stop,
            tasks,
        }
    }

    fn leads(&self) -> bool {
        *self.leading.borrow()
    }

    async fn stop(self) -> Result {
        self.stop.cancel();
        for task in self.tasks {
            task.await?;
        }
        Ok(())
    }

    /// As `kill -9`: nothing is given back.
    async fn kill(self) {
        for task in self.tasks {
            task.abort();
            _ = task.await;
        }
    }
}

/// A connection as the RA's account, with what every RA may do.
async fn limited(bed: &Cluster, namespace: &str) -> anyhow::Result<Arc<Connection>> {
    let account = Places::in_one(namespace).grant(bed, &["base"]).await?;
    let path = bed.folder().join("candidate.kubeconfig");
    std::fs::write(&path, account.kubeconfig)?;
    let source = ClusterSource::Kubeconfig { path, context: None };
    Ok(Arc::new(connect(&source, &KubernetesMetrics::default()).await?))
}

/// Waits until exactly one of them leads. That two lead at once is a failure at any time.
async fn the_leader(replicas: &[&Replica]) -> anyhow::Result<usize> {
    until("one leader", PATIENCE, async || {
        let leaders: Vec<usize> = (0..replicas.len()).filter(|n| replicas[*n].leads()).collect();
        assert!(leaders.len() < 2, "replicas {leaders:?} lead at once");
        leaders.first().copied().ok_or_else(|| anyhow::anyhow!("nobody leads"))
    })
    .await
}

async fn holder(bed: &Cluster, namespace: &str) -> anyhow::Result<String> {
    let lease = Api::<Lease>::namespaced(bed.admin(), namespace).get(LEASE).await?;
    Ok(lease.spec.and_then(|spec| spec.holder_identity).unwrap_or_default())
}

async fn hand_to(bed: &Cluster, namespace: &str, holder: &str) -> Result {
    let lease = json!({"spec": {"holderIdentity": holder, "leaseDurationSeconds": 3}});
    Api::<Lease>::namespaced(bed.admin(), namespace)
        .patch(LEASE, &PatchParams::default(), &Patch::Merge(lease))
        .await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn one_leads_and_another_follows_however_it_ends() -> Result {
    let bed = Cluster::start(ClusterOptions {
        cert_manager: false,
        ..ClusterOptions::default()
    })
    .await?;
    let namespace = bed.namespace("leader").await?;
    let cluster = limited(&bed, &namespace).await?;
    let mut replicas: Vec<Replica> = ["a", "b", "c"]
        .iter()
        .map(|name| Replica::start(&cluster, &namespace, name))
        .collect();
    let leader = the_leader(&replicas.iter().collect::<Vec<_>>()).await?;
    until_true("all to be counted", PATIENCE, async || {
        Ok(replicas.iter().all(|replica| *replica.count.borrow() == 3))
    })
    .await?;

    // Stopped: the Lease is given back, and taken without waiting for its end.
    replicas.remove(leader).stop().await?;
    let leader = the_leader(&replicas.iter().collect::<Vec<_>>()).await?;
    until_true("the one that stopped to be forgotten", PATIENCE, async || {
        Ok(replicas.iter().all(|replica| *replica.count.borrow() == 2))
    })
    .await?;

    // Killed: the Lease has to expire, and so has its beat.
    replicas.remove(leader).kill().await;
    let last = replicas.remove(0);
    the_leader(&[&last]).await?;
    until_true("the one that was killed to be missed", PATIENCE, async || {
        Ok(*last.count.borrow() == 1)
    })
    .await?;

    // Somebody else, such as istio-csr: we step down, and come back once it has not moved for as long as it said.
    let mut leading = last.leading.clone();
    hand_to(&bed, &namespace, "istio-csr-0_uuid").await?;
    tokio::time::timeout(PATIENCE, leading.wait_for(|leads| !leads)).await??;
    the_leader(&[&last]).await?;
    assert_ne!(holder(&bed, &namespace).await?, "istio-csr-0_uuid");

    // The API server stops answering: nobody leads before anybody else could; then it goes on.
    bed.pause(Component::ApiServer).await?;
    tokio::time::timeout(PATIENCE, leading.wait_for(|leads| !leads)).await??;
    assert_eq!(*last.count.borrow(), 1);
    bed.resume(Component::ApiServer)?;
    the_leader(&[&last]).await?;
    last.stop().await?;
    assert_eq!(holder(&bed, &namespace).await?, "", "given back");
    bed.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn many_who_start_at_once_get_one_leader() -> Result {
    let bed = Cluster::start(ClusterOptions {
        cert_manager: false,
        ..ClusterOptions::default()
    })
    .await?;
    let namespace = bed.namespace("leader").await?;
    let cluster = limited(&bed, &namespace).await?;
    let replicas: Vec<Replica> = (0..10)
        .map(|n| Replica::start(&cluster, &namespace, &format!("r{n}")))
        .collect();
    let all: Vec<&Replica> = replicas.iter().collect();
    let leader = the_leader(&all).await?;
    // Over several renewals it stays the same one.
    for _ in 0..40 {
        tokio::time::sleep(TIMING.renew / 10).await;
        assert_eq!(the_leader(&all).await?, leader);
    }
    until_true("all to be counted", PATIENCE, async || {
        Ok(replicas.iter().all(|replica| *replica.count.borrow() == 10))
    })
    .await?;
    for replica in replicas {
        replica.stop().await?;
    }
    bed.finish().await
}
