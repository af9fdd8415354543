//! The DaemonSet's pods, and Envoys that hold on to their certificates whatever becomes of them.

use std::path::PathBuf;

use anyhow::{Context, ensure};
use ensign_testbed::wait::{PATIENCE, until};
use ensign_testkit::{FakeEnvoy, patience};
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{ListParams, Patch, PatchParams};
use serde_json::{Value, json};

use crate::alone::{Alone, PLACE};
use crate::pod;

/// What an Envoy of a pod needs to come back.
#[derive(Clone, Debug)]
pub(crate) struct Holder {
    /// The folder that is mounted into the pod.
    pub(crate) mount: PathBuf,
    /// The version of the certificate that it holds.
    pub(crate) held: String,
}

impl Holder {
    /// Makes a pod whose signer is fixed, and gets its certificate.
    pub(crate) async fn start(alone: &Alone, namespace: &str, name: &str) -> anyhow::Result<Self> {
        let pod = alone.pod(namespace, name, json!({ "signer": "foo" })).await?;
        let mut stream = alone.envoy(&pod).await?.subscribe(&["default"]).await;
        stream.next_secret(patience()).await;
        Ok(Self {
            mount: alone.mount(&pod)?,
            held: stream.held_version().to_owned(),
        })
    }

    /// Connects, without a second try.
    pub(crate) async fn connect(&self) -> anyhow::Result<FakeEnvoy> {
        pod::connect(&self.mount).await
    }

    /// Comes back with what it holds as soon as it is let in. An agent that did not make it has nothing to say.
    pub(crate) async fn come_back(&self) -> anyhow::Result<()> {
        let envoy = until("the pod's socket to let its Envoy in", PATIENCE, async || {
            self.connect().await
        })
        .await?;
        let mut stream = envoy.subscribe_holding(&["default"], &self.held).await;
        if let Ok(said) = stream.next(A_WHILE).await {
            ensure!(
                said.version == self.held,
                "an Envoy that holds a certificate got another: {said:?}"
            );
            stream.ack(&said).await;
            stream.expect_silence(A_WHILE).await;
        }
        Ok(())
    }
}

/// Silence cannot be waited for as an event; what would come, comes in a fraction of this.
pub(crate) const A_WHILE: std::time::Duration = std::time::Duration::from_secs(1);

/// The agent's pods as they are now.
pub(crate) async fn agents(alone: &Alone) -> anyhow::Result<Vec<Pod>> {
    let pods = Api::<Pod>::namespaced(alone.cluster.admin(), PLACE);
    Ok(pods.list(&ListParams::default()).await?.items)
}

pub(crate) fn name(pod: &Pod) -> String {
    pod.metadata.name.clone().unwrap_or_default()
}

/// Changes the template of the agent's pods.
pub(crate) async fn change(alone: &Alone, template: Value) -> anyhow::Result<()> {
    let sets = Api::<DaemonSet>::namespaced(alone.cluster.admin(), PLACE);
    let patch = Patch::Strategic(json!({ "spec": { "template": template } }));
    sets.patch("ensign-agent", &PatchParams::default(), &patch).await?;
    Ok(())
}

/// Waits until one agent is left, a ready one that is not among these.
pub(crate) async fn rolled_out(alone: &Alone, before: &[String]) -> anyhow::Result<()> {
    until("the rollout", PATIENCE * 3, async || {
        let agents = agents(alone).await?;
        let names: Vec<_> = agents.iter().map(name).collect();
        ensure!(names.len() == 1 && !before.contains(&names[0]), "agents: {names:?}");
        Ok(())
    })
    .await
    .with_context(|| alone.log(PLACE, "ensign-agent"))?;
    alone.agent_ready().await.map(drop)
}
