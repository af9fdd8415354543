//! The DaemonSet's rolling update on a real kubelet, and one that goes wrong: what pods and kubelet notice of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use ensign_testbed::wait::{PATIENCE, until};
use ensign_testkit::patience;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use serde_json::json;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::agents::{Holder, agents, change, name, rolled_out};
use crate::alone::Alone;
use crate::traffic::Traffic;

/// Comes back at once whenever its stream ends, as often as that happens until `stop`, and is never refused.
async fn hold_on(holder: Holder, stop: CancellationToken) -> anyhow::Result<usize> {
    let mut comebacks = 0;
    loop {
        let envoy = holder.connect().await.context("a socket refused its Envoy")?;
        let mut stream = envoy.subscribe_holding(&["default"], &holder.held).await;
        loop {
            match stop.run_until_cancelled(stream.next(PATIENCE * 10)).await {
                None => return Ok(comebacks),
                // The agent that made it may say it again.
                Some(Ok(received)) if received.version == holder.held => stream.ack(&received).await,
                Some(Ok(another)) => bail!("an Envoy that holds a certificate got another: {another:?}"),
                Some(Err(_)) => break,
            }
        }
        comebacks += 1;
    }
}

/// Connects anew again and again, and is never refused; each time the server speaks first.
async fn knock(holder: Holder, count: Arc<AtomicUsize>, stop: CancellationToken) -> anyhow::Result<()> {
    while !stop.is_cancelled() {
        let envoy = holder.connect().await.context("a socket refused a newcomer")?;
        drop(envoy.open());
        count.fetch_add(1, Ordering::Relaxed);
        // The machine has other work.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_update_refuses_nobody_and_loses_no_call_of_kubelet() -> anyhow::Result<()> {
    let alone = Alone::start().await?;
    let place = alone.cluster.namespace("foo").await?;
    let (stop, count) = (CancellationToken::new(), Arc::new(AtomicUsize::new(0)));
    let mut goes = Vec::new();
    for turn in 0..3 {
        goes.push(Holder::start(&alone, &place, &format!("goes-{turn}")).await?);
    }
    let (mut holding, mut knocking) = (JoinSet::new(), JoinSet::new());
    for pod in ["holds-0", "holds-1"] {
        let holder = Holder::start(&alone, &place, pod).await?;
        holding.spawn(hold_on(holder, stop.clone()));
    }
    let holder = Holder::start(&alone, &place, "knocks").await?;
    knocking.spawn(knock(holder, Arc::clone(&count), stop.clone()));
    let traffic = Traffic::alone(&alone).await?;
    let issued = alone.issued(&place);
    ensure!(issued == 6, "{issued} certificates for six pods");

    // Kubelet publishes and unpublishes all the while.
    let before: Vec<_> = agents(&alone).await?.iter().map(name).collect();
    change(&alone, json!({ "metadata": { "annotations": { "generation": "2" } } })).await?;
    let mut side_by_side = 0;
    for turn in 0..3 {
        let fixed = json!({ "signer": "foo" });
        alone.create(&place, &format!("comes-{turn}"), fixed).await?;
        alone.delete(&place, &format!("goes-{turn}")).await?;
        side_by_side = side_by_side.max(agents(&alone).await?.len());
    }
    rolled_out(&alone, &before).await?;
    ensure!(side_by_side == 2, "at most {side_by_side} agents were seen at once");
    let seen = count.load(Ordering::Relaxed);
    until("newcomers of the new agent", PATIENCE, async || {
        let more = count.load(Ordering::Relaxed) - seen;
        ensure!(more > 100, "{more} newcomers");
        Ok(())
    })
    .await?;

    // Nobody was refused, and who held a certificate came back once.
    stop.cancel();
    while let Some(ended) = knocking.join_next().await {
        ended??;
    }
    while let Some(ended) = holding.join_next().await {
        let comebacks = ended??;
        ensure!(comebacks == 1, "an Envoy came back {comebacks} times");
    }
    for turn in 0..3 {
        let pods = Api::<Pod>::namespaced(alone.cluster.admin(), &place);
        let pod = pods.get(&format!("comes-{turn}")).await?;
        until("the pod's folder", PATIENCE, async || {
            Ok(std::fs::metadata(alone.mount(&pod)?)?)
        })
        .await?;
        let mut stream = alone.envoy(&pod).await?.subscribe(&["default"]).await;
        stream.next_secret(patience()).await;
    }
    // One for each pod. For the three that came meanwhile perhaps one more: fetched by the old agent, for an Envoy that came to
    // the new one and held none.
    let issued = alone.issued(&place);
    ensure!((9..=12).contains(&issued), "{issued} certificates");

    // The new one knows exactly what there is, and who talks did not notice it.
    let volumes = alone.metrics().await?.sum("ensign_agent_csi_volumes", &[]);
    ensure!(volumes == Some(8.0), "{volumes:?} volumes");
    traffic.finish(|place| alone.issued(place)).await?;
    for holder in &goes {
        ensure!(
            std::fs::symlink_metadata(&holder.mount).is_err(),
            "{} is left",
            holder.mount.display()
        );
    }
    for turn in 0..3 {
        alone.delete(&place, &format!("comes-{turn}")).await?;
    }
    alone.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_that_cannot_start_leaves_the_old_agent_at_work() -> anyhow::Result<()> {
    let alone = Alone::start().await?;
    let place = alone.cluster.namespace("foo").await?;
    let holder = Holder::start(&alone, &place, "httpbin").await?;
    let before: Vec<_> = agents(&alone).await?.iter().map(name).collect();
    // A setting that the agent refuses.
    let broken = |value| json!({ "spec": { "containers": [{ "name": "agent", "env": [value] }] } });
    change(&alone, broken(json!({ "name": "SECRET_TTL", "value": "soon" }))).await?;
    until("the new agent to fail", PATIENCE, async || {
        let pods = agents(&alone).await?;
        let statuses = pods.iter().filter(|pod| !before.contains(&name(pod)));
        let mut statuses = statuses.filter_map(|pod| pod.status.as_ref()?.container_statuses.as_ref()?.first());
        let restarts = statuses.next().context("it is not there yet")?.restart_count;
        ensure!(restarts > 0, "it has not ended yet");
        Ok(())
    })
    .await?;
    holder.come_back().await?;
    Holder::start(&alone, &place, "another").await?;
    let gone = json!({ "name": "SECRET_TTL", "$patch": "delete" });
    change(&alone, broken(gone)).await?;
    until("the failed agent to go", PATIENCE, async || {
        let names: Vec<_> = agents(&alone).await?.iter().map(name).collect();
        ensure!(names == before, "agents: {names:?}");
        Ok(())
    })
    .await?;
    holder.come_back().await?;
    alone.finish().await
}
