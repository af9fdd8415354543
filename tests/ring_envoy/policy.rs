//! Which signer a workload may use is the operator's policy.

use ensign_testbed::{
    scenario::{
        self, Mesh,
        policy::{a_forbidden_wish_waits_and_harms_nobody, a_policy_that_forbids_the_signer_withdraws_nothing},
    },
    story::Story,
    world::{World, WorldSpec},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_policy_decides_and_its_change_withdraws_nothing() -> anyhow::Result<()> {
    let mut story = Story::default();
    let mut world = World::start(WorldSpec::foo_and_bar(&scenario::WORKLOADS).rotating_every("1s")).await?;
    let mesh = Mesh::start(&world, &mut story).await?;
    a_forbidden_wish_waits_and_harms_nobody(&mut world, &mesh, &mut story).await?;
    a_policy_that_forbids_the_signer_withdraws_nothing(&mut world, &mesh, &mut story).await?;
    drop(mesh);
    world.finish().await
}
