//! No agent on the node for so long that kubelet has tried many times and waits as long as it ever does: what was there comes
//! back, what waited is served, what went meanwhile is cleared away, and pods that talk notice nothing.
//!
//! Minutes of it are waiting, so this runs beside other tests (`.config/nextest.toml`).

use std::time::Duration;

use anyhow::ensure;
use ensign_testbed::wait::{PATIENCE, until};
use kube::api::DeleteParams;
use serde_json::json;

use crate::agents::{Holder, agents, change};
use crate::alone::Alone;
use crate::traffic::Traffic;

/// Longer than kubelet waits between two tries at most, which is some two minutes.
const ABSENCE: Duration = Duration::from_mins(5);

#[tokio::test(flavor = "multi_thread")]
async fn pods_come_and_go_while_the_agent_is_away_and_are_made_up_for() -> anyhow::Result<()> {
    let alone = Alone::start().await?;
    let place = alone.cluster.namespace("foo").await?;
    let stays = Holder::start(&alone, &place, "stays").await?;
    let goes = Holder::start(&alone, &place, "goes").await?;
    let issued = alone.issued(&place);
    let traffic = Traffic::alone(&alone).await?;
    let nowhere = |value| json!({ "spec": { "nodeSelector": { "ensign.mesh/nowhere": value } } });
    change(&alone, nowhere(json!("true"))).await?;
    until("the agent to go", PATIENCE, async || {
        let left = agents(&alone).await?.len();
        ensure!(left == 0, "{left} agents");
        Ok(())
    })
    .await?;
    ensure!(stays.connect().await.is_err(), "somebody serves without an agent");
    alone.create(&place, "waits", json!({ "signer": "foo" })).await?;
    let pods = alone.pods(&place);
    pods.delete("goes", &DeleteParams::default()).await?;
    let said = alone.event(&place, "waits", "FailedMount").await?;
    ensure!(said.contains("csi.ensign.mesh"), "{said}");
    tokio::time::sleep(ABSENCE).await;
    traffic.flows("without an agent")?;

    change(&alone, nowhere(json!(null))).await?;
    alone.agent_ready().await?;
    stays.come_back().await?;
    alone.running(&place, "waits").await?;
    until("pod `goes` to be gone", PATIENCE * 2, async || {
        ensure!(pods.get_opt("goes").await?.is_none(), "it is there");
        Ok(())
    })
    .await?;
    ensure!(std::fs::symlink_metadata(&goes.mount).is_err(), "its folder is left");
    let more = alone.issued(&place) - issued;
    ensure!(more == 1, "{more} certificates for one new pod");
    let volumes = alone.metrics().await?.sum("ensign_agent_csi_volumes", &[]);
    ensure!(volumes == Some(4.0), "{volumes:?} volumes");
    traffic.finish(|place| alone.issued(place)).await?;
    alone.finish().await
}
