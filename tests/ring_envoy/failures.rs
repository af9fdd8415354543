//! Parts fail under load: the agent is killed, the RA is away. No request may notice.

use std::time::Duration;

use ensign_testbed::{
    scenario::{
        self, Mesh,
        outage::ra_is_away_when_renewals_are_due,
        restart::{RENEWAL, a_new_envoy_beside_an_adopted_one_costs_one_csr, agent_is_killed_and_comes_back},
    },
    story::Story,
    world::{World, WorldSpec},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_agent_costs_no_request_and_no_csr() -> anyhow::Result<()> {
    let mut story = Story::default();
    let mut world = World::start(WorldSpec::foo_and_bar(&scenario::WORKLOADS).renewing_after(RENEWAL)).await?;
    let mesh = Mesh::start(&world, &mut story).await?;
    agent_is_killed_and_comes_back(&mut world, &mesh, &mut story).await?;
    a_new_envoy_beside_an_adopted_one_costs_one_csr(&mut world, &mesh, &mut story).await?;
    drop(mesh);
    world.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewal_that_fails_withdraws_nothing() -> anyhow::Result<()> {
    let mut story = Story::default();
    let spec = WorldSpec::foo_and_bar(&scenario::WORKLOADS).renewing_after(Duration::from_secs(10));
    let mut world = World::start(spec).await?;
    let mesh = Mesh::start(&world, &mut story).await?;
    ra_is_away_when_renewals_are_due(&mut world, &mesh, &mut story).await?;
    drop(mesh);
    world.finish().await
}
