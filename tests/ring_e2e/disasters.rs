//! The agent goes away in each way that a node knows: old sockets come back, what waited is served, registration heals, and pods that talk
//! notice nothing.

use std::os::unix::fs::MetadataExt as _;

use anyhow::{Context, ensure};
use ensign_testbed::cluster::Component;
use ensign_testbed::wait::{PATIENCE, until};
use kube::ResourceExt as _;
use rustix::process::Signal;
use serde_json::json;

use crate::agents::{Holder, agents};
use crate::alone::Alone;
use crate::asked;
use crate::traffic::Traffic;

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_killed_by_the_kernel_or_loses_its_state_or_its_pod_comes_back() -> anyhow::Result<()> {
    let alone = Alone::start().await?;
    let place = alone.cluster.namespace("foo").await?;
    let holder = Holder::start(&alone, &place, "httpbin").await?;
    let folder = std::fs::metadata(&holder.mount)?.ino();
    let issued = alone.issued(&place);
    let traffic = Traffic::alone(&alone).await?;

    // Out of memory.
    alone.node.run(&["/bin/sh", "-c", NO_MORE_MEMORY]).await?;
    let reason = until("the kernel to kill it", PATIENCE, async || {
        // Whoever comes needs some.
        let mut guests = Vec::new();
        while let Ok(envoy) = holder.connect().await
            && guests.len() < 50
        {
            guests.push(envoy.subscribe_holding(&["default"], &holder.held).await);
        }
        last_end(&alone).await.context("it lives")
    })
    .await?;
    ensure!(reason == "OOMKilled", "it ended for {reason}");
    holder.come_back().await?;
    alone.agent_ready().await?;
    traffic.flows("the agent was killed for its memory")?;

    // Without its state it knows nothing until kubelet looks at the pod again.
    alone.node.run(&["/bin/sh", "-c", "rm -f /run/ensign/csi.json"]).await?;
    alone.node.kill("ensign-agent").await?;
    holder.come_back().await?;
    alone.agent_ready().await?;
    traffic.flows("the agent lost its state")?;

    // Nobody left to ask, and the pod made again around the same name.
    alone.ra.signal(Signal::STOP)?;
    alone.cluster.kill(Component::ApiServer).await?;
    alone.node.run(&["/bin/sh", "-c", WHOLE_POD]).await?;
    holder.come_back().await?;
    traffic.flows("the agent's pod was made again with nobody to ask")?;
    alone.cluster.restart(Component::ApiServer)?;
    alone.cluster.ready().await?;
    alone.ra.signal(Signal::CONT)?;
    alone.agent_ready().await?;
    traffic.finish(|place| alone.issued(place)).await?;
    let more = alone.issued(&place) - issued;
    ensure!(more == 0, "{more} certificates for an Envoy that holds one");
    ensure!(
        std::fs::metadata(&holder.mount)?.ino() == folder,
        "the folder was made again"
    );
    Holder::start(&alone, &place, "another").await?;
    goes_while_its_request_runs(&alone).await?;
    asked::nothing(&alone.cluster).await?;
    alone.finish().await
}

/// A pod goes while the authority has its request, and one of its name comes. The agent is connected to an authority that hangs.
async fn goes_while_its_request_runs(alone: &Alone) -> anyhow::Result<()> {
    let place = alone.cluster.namespace("hasty").await?;
    let agent = alone.agent_ready().await?;
    alone.ra.signal(Signal::STOP)?;
    let first = alone.pod(&place, "web", json!({ "signer": "foo" })).await?;
    let of_first = format!("csi/{place}/web/{}", first.uid().context("a pod has a uid")?);
    let workload = async || {
        let status = alone.status(&agent).await?;
        let mut all = status["workloads"].as_array().into_iter().flatten();
        let found = all.find(|workload| {
            workload["workload"]
                .as_str()
                .is_some_and(|name| name.starts_with(&of_first))
        });
        anyhow::Ok(found.cloned())
    };
    until("the request to run", PATIENCE, async || {
        let workload = workload().await?.context("the agent does not know the pod")?;
        ensure!(workload["certificates"][0]["state"] == "issuing", "{workload}");
        Ok(())
    })
    .await?;
    alone.delete(&place, "web").await?;
    ensure!(
        std::fs::symlink_metadata(alone.mount(&first)?).is_err(),
        "its folder is left"
    );
    until("the agent to forget it", PATIENCE, async || {
        ensure!(workload().await?.is_none(), "it is there");
        Ok(())
    })
    .await?;
    alone.ra.signal(Signal::CONT)?;
    Holder::start(alone, &place, "web").await?;
    ensure!(workload().await?.is_none(), "the first one is back");
    // What the first one had asked for may have been issued before its end was heard.
    let issued = alone.issued(&place);
    ensure!(
        (1..=2).contains(&issued),
        "{issued} certificates for two pods, of which one went"
    );
    alone.delete(&place, "web").await
}

/// Why the agent's container ended last.
async fn last_end(alone: &Alone) -> Option<String> {
    let agents = agents(alone).await.ok()?;
    let status = agents.first()?.status.as_ref()?.container_statuses.as_ref()?.first()?;
    status.last_state.as_ref()?.terminated.as_ref()?.reason.clone()
}

/// The agent's control group of memory gets a limit just above what it holds, as far as the kernel lets it come down.
const NO_MORE_MEMORY: &str = "for process in /proc/[0-9]*; do
    if [ \"$(cat \"$process/comm\" 2>/dev/null)\" = ensign-agent ]; then
        group=/sys/fs/cgroup/memory$(sed -n 's/^[0-9]*:memory://p' \"$process/cgroup\")
        held=$(sed -n 's/^rss //p' \"$group/memory.stat\")
        for more in 262144 1048576 4194304; do
            echo $((held + more)) > \"$group/memory.limit_in_bytes\" && exit 0
        done
    fi
done
exit 1";

/// Every process of the agent's pod ends, its sandbox included.
const WHOLE_POD: &str = "for process in /proc/[0-9]*; do
    if [ \"$(cat \"$process/comm\" 2>/dev/null)\" = ensign-agent ]; then
        group=/sys/fs/cgroup/memory$(sed -n 's/^[0-9]*:memory://p' \"$process/cgroup\")
        kill -KILL $(cat \"$(dirname \"$group\")\"/*/cgroup.procs)
    fi
done";
