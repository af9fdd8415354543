//! The demo's story as tests: signers kept apart, rotation under load.

use ensign_testbed::{
    scenario::{self, Mesh, apart::signers_are_kept_apart, rotation::rotation_under_load},
    story::Story,
    world::{World, WorldSpec},
};

/// Renewals per side that the rotation test wants to see.
const ROTATIONS: usize = 100;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn foo_and_bar_are_kept_apart_by_their_roots() -> anyhow::Result<()> {
    let mut story = Story::default();
    let world = World::start(WorldSpec::foo_and_bar(&scenario::WORKLOADS)).await?;
    let mesh = Mesh::start(&world, &mut story).await?;
    signers_are_kept_apart(&world, &mesh, &mut story).await?;
    drop(mesh);
    world.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_rotations_per_side_under_load_fail_no_request() -> anyhow::Result<()> {
    let mut story = Story::default();
    let world = World::start(WorldSpec::foo_and_bar(&scenario::WORKLOADS).rotating_every("500ms")).await?;
    let mesh = Mesh::start(&world, &mut story).await?;
    rotation_under_load(&world, &mesh, ROTATIONS, &mut story).await?;
    drop(mesh);
    world.finish().await
}
