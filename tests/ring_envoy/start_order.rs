//! Envoy before agent, agent before Envoy.

use ensign_testbed::{
    envoy::{Envoy, EnvoySpec},
    folder::Folder,
    world::{World, WorldSpec},
};
use std::sync::Arc;

#[tokio::test]
async fn an_envoy_that_is_there_first_gets_its_certificate_once_the_agent_comes() -> anyhow::Result<()> {
    let folder = Arc::new(Folder::new()?);
    let socket = folder.join("httpbin.sock");
    let spec = EnvoySpec::new("httpbin", "foo", "httpbin", socket)
        .signer("foo")
        .serving();
    let envoy = Envoy::start(spec, folder.path()).await?;
    assert!(envoy.admin().ready().await.is_err(), "ready without an agent");
    let world = World::start_in(folder, WorldSpec::foo_and_bar(&[("foo", "httpbin")])).await?;
    envoy.ready().await?;
    assert_eq!(envoy.admin().leaf_serials().await?, world.issued("httpbin"));
    drop(envoy);
    world.finish().await
}

#[tokio::test]
async fn an_envoy_that_comes_later_gets_its_certificate() -> anyhow::Result<()> {
    let world = World::start(WorldSpec::foo_and_bar(&[("foo", "httpbin")])).await?;
    let envoy = world.start_envoy(world.envoy("httpbin")?.serving()).await?;
    envoy.ready().await?;
    assert_eq!(envoy.admin().leaf_serials().await?, world.issued("httpbin"));
    drop(envoy);
    world.finish().await
}

#[tokio::test]
async fn incremental_sds_works_as_well() -> anyhow::Result<()> {
    let world = World::start(WorldSpec::foo_and_bar(&[("foo", "httpbin")])).await?;
    let envoy = world.start_envoy(world.envoy("httpbin")?.serving().delta()).await?;
    envoy.ready().await?;
    assert_eq!(envoy.admin().leaf_serials().await?, world.issued("httpbin"));
    drop(envoy);
    world.finish().await
}
