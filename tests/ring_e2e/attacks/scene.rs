//! The node with its attackers' namespace and its neighbours', and what every attack needs.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, ensure};
use ensign_testbed::wait::{PATIENCE, until};
use ensign_testkit::fake_envoy::certificate;
use ensign_testkit::patience;
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::Api;
use kube::api::{DeleteParams, ListParams, PostParams};
use serde_json::json;

use super::guard::Guard;
use super::pods::Attacker;
use crate::alone::Alone;
use crate::pod;

pub(super) struct Scene<'a> {
    pub(super) alone: &'a Alone,
    /// Where the attackers are.
    pub(super) place: String,
    /// Where those are who do no harm.
    pub(super) quiet: String,
    /// The first of them, after whose socket attackers are.
    pub(super) victim: Pod,
    guard: Guard,
    neighbours: AtomicUsize,
}

// === impl Scene ===

impl<'a> Scene<'a> {
    pub(super) async fn open(alone: &'a Alone) -> anyhow::Result<Self> {
        let mut scene = Self {
            guard: Guard::of(alone).await?,
            alone,
            place: alone.cluster.namespace("attackers").await?,
            quiet: alone.cluster.namespace("quiet").await?,
            victim: Pod::default(),
            neighbours: AtomicUsize::new(0),
        };
        scene.victim = scene.unharmed("before any attack").await?;
        Ok(scene)
    }

    /// How many volumes the agent has.
    pub(super) async fn volumes(&self) -> anyhow::Result<usize> {
        let volumes = self.alone.metrics().await?.sum("ensign_agent_csi_volumes", &[]);
        Ok(format!("{}", volumes.context("no such series")?).parse()?)
    }

    pub(super) fn neighbours(&self) -> usize {
        self.neighbours.load(Ordering::Relaxed)
    }

    pub(super) fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.alone.cluster.admin(), &self.place)
    }

    /// What a pod's volume is mounted from, or will be: there is one node, for pods without one, too.
    pub(super) fn mount(&self, pod: &Pod) -> anyhow::Result<PathBuf> {
        Ok(self.alone.node.path(&pod::volume(pod)?))
    }

    pub(super) async fn create(&self, attacker: &Attacker) -> anyhow::Result<Pod> {
        let object = serde_json::from_value(attacker.object())?;
        Ok(self.pods().create(&PostParams::default(), &object).await?)
    }

    /// Makes an attacker and waits until it has printed such a line; gives all that it printed.
    pub(super) async fn told(&self, attacker: &Attacker, says: impl Fn(&str) -> bool) -> anyhow::Result<String> {
        self.create(attacker).await?;
        let name = attacker.name();
        until(&format!("what attacker {name} tells"), PATIENCE * 2, async || {
            let log = self.alone.log(&self.place, name);
            ensure!(log.lines().any(&says), "it printed:\n{log}");
            Ok(log)
        })
        .await
        .with_context(|| self.agent_tells())
    }

    /// Waits until kubelet has told of each of these pods that its volume was refused, for these words.
    pub(super) async fn refused(&self, names: &[String], words: &[&str]) -> anyhow::Result<()> {
        let events = Api::<Event>::namespaced(self.alone.cluster.admin(), &self.place);
        until("refusals of the pods' volumes", PATIENCE * 2, async || {
            let all = events.list(&ListParams::default()).await?.items;
            for name in names {
                let mut texts = all.iter().filter(|event| {
                    event.involved_object.name.as_deref() == Some(name)
                        && event.reason.as_deref() == Some("FailedMount")
                });
                let told = texts.any(|event| {
                    let message = event.message.as_deref().unwrap_or_default();
                    words.iter().all(|word| message.contains(word))
                });
                ensure!(told, "none of pod {name} with {words:?}");
            }
            Ok(())
        })
        .await
        .with_context(|| self.agent_tells())
    }

    /// Deletes attackers, and waits until they are gone.
    pub(super) async fn delete(&self, names: &[String]) -> anyhow::Result<()> {
        for name in names {
            self.pods()
                .delete(name, &DeleteParams::default().grace_period(1))
                .await?;
        }
        until("attackers to be gone", PATIENCE * 2, async || {
            let left = self.pods().list(&ListParams::default()).await?.items;
            let left: Vec<_> = left.iter().filter_map(|pod| pod.metadata.name.as_ref()).collect();
            ensure!(names.iter().all(|name| !left.contains(&name)), "left: {left:?}");
            Ok(())
        })
        .await
        .with_context(|| self.agent_tells())
    }

    /// A pod that comes now gets its first certificate, and the agent is as it was. Gives the pod.
    pub(super) async fn unharmed(&self, during: &str) -> anyhow::Result<Pod> {
        let number = self.neighbours.fetch_add(1, Ordering::Relaxed);
        let name = format!("neighbour-{number}");
        let served = async {
            let pod = self.alone.pod(&self.quiet, &name, json!({ "signer": "foo" })).await?;
            let mut stream = self.alone.envoy(&pod).await?.subscribe(&["default"]).await;
            let answer = stream
                .next(patience())
                .await
                .map_err(|silence| anyhow::anyhow!("{silence}"))?;
            let (chain, _) = certificate(answer.only()).context("no certificate in it")?;
            names(&chain, &self.quiet)?;
            anyhow::Ok(pod)
        };
        let pod = served.await;
        // The agent first: without it no neighbour is served.
        let peak = self.same_agent(during).await?;
        println!("{during}: {name} was served, the agent held {} MB at most", peak >> 20);
        pod.with_context(|| format!("{name}, {during}; {}", self.agent_tells()))
    }

    /// The agent is the one that it was, and below its limit; gives the most memory that it held.
    pub(super) async fn same_agent(&self, during: &str) -> anyhow::Result<u64> {
        let peak = self.guard.unharmed(self.alone).await;
        peak.with_context(|| format!("{during}; {}", self.agent_tells()))
    }

    fn agent_tells(&self) -> String {
        let log = self.alone.log(crate::alone::PLACE, "ensign-agent");
        let lines: Vec<_> = log.lines().collect();
        let last = lines[lines.len().saturating_sub(30)..].join("\n");
        format!("the agent's last lines:\n{last}")
    }
}

/// Whether a certificate is of the default account of this namespace.
pub(super) fn names(chain: &str, namespace: &str) -> anyhow::Result<()> {
    let id = crate::workload::id(namespace);
    let der = rustls_pki_types::pem::PemObject::from_pem_slice(chain.as_bytes());
    let der: rustls_pki_types::CertificateDer<'_> = der.ok().context("no PEM certificate")?;
    let there = der.windows(id.len()).any(|part| part == id.as_bytes());
    ensure!(there, "the certificate does not name {id}");
    Ok(())
}

/// The certificate chain that whoever is on this pod's socket gets.
pub(super) async fn chain_of(alone: &Alone, pod: &Pod) -> anyhow::Result<String> {
    let mut stream = pod::envoy(&alone.mount(pod)?).await?.subscribe(&["default"]).await;
    let answer = stream
        .next(patience())
        .await
        .map_err(|silence| anyhow::anyhow!("{silence}"))?;
    Ok(certificate(answer.only()).context("no certificate in it")?.0)
}
