//! Kubelet's three calls in each phase of a surge that can be held on a real node: before it; while the new agent has taken all over and
//! is not ready; while the old one is to end and cannot; afterwards.
//!
//! The steps between these last milliseconds on a node; `ring_agent::handover` has them, with a kubelet of its own.

use anyhow::{Context, ensure};
use ensign_testbed::wait::{PATIENCE, until};
use ensign_testkit::metrics::Metrics;
use ensign_testkit::patience;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::api::{DeleteParams, PostParams};
use kube::{Api, ResourceExt as _};
use serde_json::json;

use crate::agents::{Holder, agents, change, name, rolled_out};
use crate::alone::{Alone, PLACE};
use crate::asked;
use crate::pod::address;
use crate::traffic::Traffic;

/// Each has a pod of its own that comes in it, and one that goes.
const PHASES: [&str; 4] = ["before", "unready", "ending", "after"];

/// What makes a new agent ready.
const ROOTS: &str = "istio-ca-root-cert";

/// Where the pods are that come and go.
struct Scene<'a> {
    alone: &'a Alone,
    place: String,
    goes: Vec<Holder>,
}

#[tokio::test(flavor = "multi_thread")]
async fn each_call_of_kubelet_in_each_phase_of_a_surge_is_answered_and_kept() -> anyhow::Result<()> {
    let alone = Alone::start().await?;
    // An agent that is to end may take its time, as long as this test holds it.
    let first: Vec<_> = agents(&alone).await?.iter().map(name).collect();
    change(&alone, json!({ "spec": { "terminationGracePeriodSeconds": 600 } })).await?;
    rolled_out(&alone, &first).await?;
    let place = alone.cluster.namespace("foo").await?;
    let mut goes = Vec::new();
    for phase in PHASES {
        goes.push(Holder::start(&alone, &place, &format!("goes-{phase}")).await?);
    }
    let scene = Scene {
        alone: &alone,
        place,
        goes,
    };
    let traffic = Traffic::alone(&alone).await?;
    let old = alone.agent_ready().await?;
    scene.calls("before", &old).await?;

    // The new one has taken everything over, and is not ready for want of roots.
    let maps = Api::<ConfigMap>::namespaced(alone.cluster.admin(), PLACE);
    let roots = maps.get(ROOTS).await?;
    maps.delete(ROOTS, &DeleteParams::default()).await?;
    let [process] = alone.node.processes("ensign-agent").await?[..] else {
        anyhow::bail!("there is not one agent on the node");
    };
    change(&alone, json!({ "metadata": { "annotations": { "generation": "3" } } })).await?;
    let new = until("the new agent to want for roots alone", PATIENCE, async || {
        let agents = agents(&alone).await?;
        let new = agents.into_iter().find(|agent| agent.uid() != old.uid());
        let new = new.context("there is none yet")?;
        let status = alone.status(&new).await?;
        let pending = status["pending"].as_array().context("no list")?;
        let names: Vec<_> = pending.iter().map(|pending| &pending["name"]).collect();
        ensure!(names == ["ca-roots"], "it wants for {names:?}");
        Ok(new)
    })
    .await?;
    scene.calls("unready", &new).await?;
    traffic.flows("beside an agent that is not ready")?;

    // The new one is ready, and the old one hears nothing of its end.
    let signal = async |name: &str| alone.node.run(&["/bin/kill", "-s", name, &process.to_string()]).await;
    signal("STOP").await?;
    let mut again = ConfigMap::default();
    (again.metadata.name, again.data) = (roots.metadata.name, roots.data);
    maps.create(&PostParams::default(), &again).await?;
    let pods = alone.pods(PLACE);
    until("the old agent to be told to end", PATIENCE * 2, async || {
        let old = pods.get(&old.name_any()).await?;
        old.metadata.deletion_timestamp.map(drop).context("it is not")
    })
    .await?;
    scene.calls("ending", &new).await?;
    ensure!(
        pods.get_opt(&old.name_any()).await?.is_some(),
        "the old agent went before its time"
    );
    traffic.flows("beside an agent that does not end")?;
    signal("CONT").await?;
    rolled_out(&alone, &[old.name_any()]).await?;
    scene.calls("after", &new).await?;

    scene.all_is_kept(&new).await?;
    traffic.finish(|place| alone.issued(place)).await?;
    asked::nothing(&alone.cluster).await?;
    alone.finish().await
}

// === impl Scene ===

impl Scene<'_> {
    /// A publish, an unpublish, and a republish of every volume, which this agent answers.
    async fn calls(&self, phase: &str, agent: &Pod) -> anyhow::Result<()> {
        let Self { alone, place, goes } = self;
        let index = PHASES
            .iter()
            .position(|known| *known == phase)
            .context("no such phase")?;
        let context = || format!("{phase}; the agents' log:\n{}", alone.log(PLACE, "ensign-agent"));
        let before = answered(agent, "NodePublishVolume").await?;
        let unpublished = answered(agent, "NodeUnpublishVolume").await?;
        alone
            .pod(place, &format!("comes-{phase}"), json!({ "signer": "foo" }))
            .await
            .with_context(context)?;
        alone
            .delete(place, &format!("goes-{phase}"))
            .await
            .with_context(context)?;
        let folder = &goes[index].mount;
        ensure!(
            std::fs::symlink_metadata(folder).is_err(),
            "{phase}: {} is left",
            folder.display()
        );
        let unpublished = answered(agent, "NodeUnpublishVolume").await? - unpublished;
        ensure!(unpublished >= 1.0, "{phase}: another agent answered the unpublish");
        // Kubelet looks at each pod in turn: twice as many calls as there are volumes are each one's.
        let volumes = f64::from(u32::try_from(PHASES.len())? + 2);
        until("kubelet to publish each volume again", PATIENCE, async || {
            let calls = answered(agent, "NodePublishVolume").await? - before;
            ensure!(calls > 2.0 * volumes, "{calls} calls");
            Ok(())
        })
        .await
        .with_context(context)
    }

    /// Of every pod that came there is a certificate and a note for the next agent, of none that went; and no call failed.
    async fn all_is_kept(&self, agent: &Pod) -> anyhow::Result<()> {
        let Self { alone, place, .. } = self;
        let state = alone.node.run(&["/bin/cat", "/run/ensign/csi.json"]).await?;
        for phase in PHASES {
            let pod = alone.pods(place).get(&format!("comes-{phase}")).await?;
            let mut stream = alone.envoy(&pod).await?.subscribe(&["default"]).await;
            stream.next_secret(patience()).await;
            let uid = pod.uid().context("a pod has a uid")?;
            ensure!(state.contains(&uid), "comes-{phase} is not in the state:\n{state}");
        }
        for holder in &self.goes {
            let mount = holder.mount.display().to_string();
            let uid = mount.split("/pods/").nth(1).and_then(|rest| rest.split('/').next());
            let uid = uid.context("no uid in a volume's path")?;
            ensure!(!state.contains(uid), "{mount} is in the state:\n{state}");
        }
        let metrics = Metrics::scrape(address(agent, 9402)?).await?;
        let volumes = metrics.sum("ensign_agent_csi_volumes", &[]);
        // Those of the two Envoys that talk, too.
        ensure!(volumes == Some(6.0), "{volumes:?} volumes");
        Ok(())
    }
}

/// How many calls of this method the agent has answered well.
async fn answered(agent: &Pod, method: &str) -> anyhow::Result<f64> {
    let metrics = Metrics::scrape(address(agent, 9402)?).await?;
    let labels = [("method", method), ("outcome", "ok")];
    Ok(metrics.sum("ensign_agent_csi_calls_total", &labels).unwrap_or_default())
}
