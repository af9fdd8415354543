//! Pods of the RA without a kubelet: what their Deployment asks for, as processes of this machine.
//!
//! A node on which the scheduler puts pods, and for each pod whose image is the RA's: our own binary with the pod's arguments, its
//! environment from ConfigMaps and fields, its volumes as folders, and a token of its account that is bound to it. Readiness is
//! what the pod's probe says; a deleted pod's process is told to stop and waited for; `kubectl logs` answers. So `kubectl apply`
//! and `kubectl rollout` do what a person expects.
//!
//! Not here: images, isolation (paths of volumes are rewritten in arguments, environment and the volumes' own files), a network (the ports are kernel-picked ones of
//! loopback, the pod's address is of nobody, and [`PodRunner::service`] stands for the Service), liveness, `preStop`. Nodes with all of
//! that are `node`'s.

mod front;
mod logs;
mod parts;
mod replica;
mod status;

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{
    Api, ResourceExt as _,
    api::{ListParams, Patch, PatchParams},
};
use parking_lot::Mutex;
use serde_json::json;
use tokio::{
    sync::watch,
    task::{JoinHandle, JoinSet},
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

use self::{front::Front, logs::Logs, replica::Replica};
use super::Access;
use crate::process::Log;

/// How often the pods are looked at.
const LOOK: Duration = Duration::from_millis(250);

/// What the processes printed, by namespace and pod; also of pods that are gone.
type AllLogs = Arc<Mutex<BTreeMap<(String, String), Log>>>;

/// A node's worth of pods, until it is dropped.
pub struct PodRunner {
    front: Front,
    stop: CancellationToken,
    work: JoinHandle<anyhow::Result<()>>,
    logs: AllLogs,
    _logs: Logs,
}

// === impl PodRunner ===

impl PodRunner {
    /// Makes the node and begins to run what the scheduler puts there. Call it from a runtime whose threads live as long as the
    /// pods: a process ends with the thread that started it.
    pub async fn start(access: &Access, node: &str) -> anyhow::Result<Self> {
        let logs = AllLogs::default();
        let server = Logs::serve(&access.serving_certificate()?, Arc::clone(&logs)).await?;
        let object = access.schedulable_node(node, &BTreeMap::new()).await?;
        let endpoints = json!({ "status": {
            "addresses": [{ "type": "InternalIP", "address": server.address().ip() }],
            "daemonEndpoints": { "kubeletEndpoint": { "Port": server.address().port() } },
        } });
        Api::<Node>::all(access.admin())
            .patch_status(&object.name_any(), &PatchParams::default(), &Patch::Merge(&endpoints))
            .await
            .context("cannot say where the node's logs are")?;
        let (targets, front) = Front::open().await?;
        let stop = CancellationToken::new();
        let work = Work {
            access: access.clone(),
            node: node.to_owned(),
            targets,
            logs: Arc::clone(&logs),
            replicas: BTreeMap::new(),
            ending: JoinSet::new(),
            leaving: BTreeSet::new(),
        };
        #[expect(clippy::disallowed_methods, reason = "ended by `finish`, aborted by Drop")]
        let work = tokio::spawn(work.run(stop.clone()));
        Ok(Self {
            front,
            stop,
            work,
            logs,
            _logs: server,
        })
    }

    /// What leads to any replica that is ready, as the Service does in a cluster.
    pub fn service(&self) -> SocketAddr {
        self.front.address()
    }

    /// What the processes of a namespace printed.
    pub fn printed(&self, namespace: &str) -> Vec<String> {
        let logs = self.logs.lock();
        let of_namespace = logs.iter().filter(|((of, _), _)| of == namespace);
        of_namespace.flat_map(|(_, log)| log.lines()).collect()
    }

    /// Ends all processes in the orderly way. The pods stay as they were.
    pub async fn finish(mut self) -> anyhow::Result<()> {
        self.stop.cancel();
        (&mut self.work).await.context("the pods' task failed")?
    }
}

impl Drop for PodRunner {
    /// Dropping a process kills it.
    fn drop(&mut self) {
        self.work.abort();
    }
}

/// What goes on in the background.
struct Work {
    access: Access,
    node: String,
    targets: watch::Sender<Vec<SocketAddr>>,
    logs: AllLogs,
    /// By the pod's uid.
    replicas: BTreeMap<String, Replica>,
    /// Processes that were told to stop, each with its pod's uid.
    ending: JoinSet<anyhow::Result<String>>,
    leaving: BTreeSet<String>,
}

// === impl Work ===

impl Work {
    async fn run(mut self, stop: CancellationToken) -> anyhow::Result<()> {
        let mut ticks = interval(LOOK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                _ = ticks.tick() => {}
            }
            // An API server that is away or restarts is looked at again.
            if let Ok(pods) = self.pods().await {
                self.look(pods).await?;
            }
        }
        for (uid, replica) in std::mem::take(&mut self.replicas) {
            self.stop(uid, replica);
        }
        while let Some(ended) = self.ending.join_next().await {
            ended.context("a pod's task failed")??;
        }
        Ok(())
    }

    fn stop(&mut self, uid: String, replica: Replica) {
        self.leaving.insert(uid.clone());
        self.ending.spawn(async move { replica.stop().await.map(|()| uid) });
    }

    async fn pods(&self) -> kube::Result<Vec<Pod>> {
        let mine = ListParams::default().fields(&format!("spec.nodeName={}", self.node));
        Ok(Api::all(self.access.admin()).list(&mine).await?.items)
    }

    async fn look(&mut self, pods: Vec<Pod>) -> anyhow::Result<()> {
        while let Some(ended) = self.ending.try_join_next() {
            self.leaving.remove(&ended.context("a pod's task failed")??);
        }
        for pod in pods.iter().filter(|pod| parts::is_ours(pod)) {
            let Some(uid) = pod.uid() else { continue };
            if pod.metadata.deletion_timestamp.is_some() {
                if let Some(replica) = self.replicas.remove(&uid) {
                    self.stop(uid, replica);
                } else if !self.leaving.contains(&uid) {
                    status::confirm_end(&self.access, pod).await;
                }
                continue;
            }
            let replica = match self.replicas.entry(uid) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(new) => new.insert(Replica::new(&self.access, pod)?),
            };
            replica.look(&self.access, pod).await;
            if let Some(log) = replica.log() {
                let name = (pod.namespace().unwrap_or_default(), pod.name_any());
                self.logs.lock().insert(name, log);
            }
        }
        let ready: Vec<SocketAddr> = self.replicas.values().filter_map(Replica::ready_grpc).collect();
        self.targets.send_if_modified(|targets| {
            let changed = *targets != ready;
            *targets = ready;
            changed
        });
        Ok(())
    }
}
