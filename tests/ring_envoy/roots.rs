//! The root of a signer is replaced under load; and the control that shows that the harness sees failures.

use ensign_testbed::{
    scenario::roots::{
        Pair, an_unordered_switch_is_seen_to_fail, ordered_root_rotation_fails_no_request, two_nodes,
        two_nodes_and_twin_roots,
    },
    story::Story,
    world::World,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ordered_root_rotation_fails_no_request() -> anyhow::Result<()> {
    let mut world = World::start(two_nodes()).await?;
    let pair = Pair::start(&world).await?;
    ordered_root_rotation_fails_no_request(&mut world, &pair, &mut Story::default()).await?;
    drop(pair);
    world.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_roots_of_one_subject_take_turns_and_fail_no_request() -> anyhow::Result<()> {
    let mut world = World::start(two_nodes_and_twin_roots()).await?;
    let pair = Pair::start(&world).await?;
    ordered_root_rotation_fails_no_request(&mut world, &pair, &mut Story::default()).await?;
    drop(pair);
    world.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn control_an_unordered_root_switch_fails_requests() -> anyhow::Result<()> {
    let mut world = World::start(two_nodes()).await?;
    let pair = Pair::start(&world).await?;
    an_unordered_switch_is_seen_to_fail(&mut world, &pair, &mut Story::default()).await?;
    drop(pair);
    world.finish().await
}
