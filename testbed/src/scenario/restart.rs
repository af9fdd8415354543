//! The agent dies and comes back under load: no request fails, and nobody who still holds a certificate costs a CSR.
//!
//! Certificates must be due so late that no renewal falls into the gap, yet soon enough to be waited for afterwards:
//! [`RENEWAL`] is the world's setting for that.

use std::time::Duration;

use anyhow::ensure;

use super::Mesh;
use crate::{load::Load, story::Story, wait, world::World};

/// How long after its issue a certificate of this scenario is due.
pub const RENEWAL: Duration = Duration::from_mins(1);

/// SIGKILL and restart under load; then the renewals that were due anyway; then a new Envoy beside an old one.
pub async fn agent_is_killed_and_comes_back(world: &mut World, mesh: &Mesh, story: &mut Story) -> anyhow::Result<()> {
    story.chapter("The agent is killed under load and comes back");
    let envoys = [&mesh.httpbin, &mesh.sleep, &mesh.ratings];
    let before = envoys.map(|envoy| world.issued(envoy.name()));
    let load = Load::start(mesh.sleep.outbound("httpbin")?, 2);
    wait::until_true("load", wait::PATIENCE, async || Ok(load.report().ok > 20)).await?;

    let mark = world.agent().log().mark();
    world.agent().kill().await?;
    world.restart_agent().await?;
    for envoy in envoys {
        let uid = format!("fixed/{}", envoy.name());
        let adopted = |line: &str| line.contains("certificate adopted") && line.contains(&uid);
        world
            .agent()
            .log()
            .wait_after(mark, &format!("that it adopted the certificate of {uid}"), adopted)
            .await?;
    }
    let after = envoys.map(|envoy| world.issued(envoy.name()));
    ensure!(after == before, "the restart cost CSRs: {before:?} became {after:?}");
    story.claim(
        "three Envoys reconnected after SIGKILL, and none of them cost a CSR",
        "the agent's log says `certificate adopted` for each, and `certificate issued` for none",
    );

    story.tell("waiting for the renewals that are due anyway");
    for (envoy, before) in envoys.into_iter().zip(&before) {
        let issued = world.issued_at_least(envoy.name(), before.len() + 1).await?;
        let serial = issued[before.len()].clone();
        wait::until_true(
            &format!("{} to load {serial}", envoy.name()),
            wait::PATIENCE,
            async || Ok(envoy.admin().leaf_serials().await?.contains(&serial)),
        )
        .await?;
    }
    let report = load.stop().await;
    report.check_flawless()?;
    story.claim(
        "their certificates were renewed when they were due, and no request failed",
        &format!("{} requests on connections of their own, 0 failed", report.ok),
    );
    Ok(())
}

/// After a restart, an Envoy that holds nothing joins one that holds a certificate: one CSR, whose result goes to both.
pub async fn a_new_envoy_beside_an_adopted_one_costs_one_csr(
    world: &mut World,
    mesh: &Mesh,
    story: &mut Story,
) -> anyhow::Result<()> {
    let before = world.issued("httpbin");
    let mark = world.agent().log().mark();
    world.agent().kill().await?;
    world.restart_agent().await?;
    let adopted = |line: &str| line.contains("certificate adopted") && line.contains("fixed/httpbin");
    world
        .agent()
        .log()
        .wait_after(mark, "that it adopted the certificate of httpbin", adopted)
        .await?;

    let mut spec = world.envoy("httpbin")?;
    "httpbin-2".clone_into(&mut spec.name);
    let second = world.start_envoy(spec.serving()).await?;
    second.ready().await?;
    let issued = world.issued("httpbin");
    ensure!(
        issued.len() == before.len() + 1,
        "it cost {} CSRs",
        issued.len() - before.len()
    );
    let serial = issued[before.len()].clone();
    for envoy in [&mesh.httpbin, &second] {
        wait::until_true(
            &format!("{} to load {serial}", envoy.name()),
            wait::PATIENCE,
            async || {
                Ok(envoy
                    .admin()
                    .leaf_serials()
                    .await?
                    .iter()
                    .all(|loaded| *loaded == serial))
            },
        )
        .await?;
    }
    story.claim(
        "a new Envoy beside an adopted one cost exactly one CSR, for both",
        &format!("both loaded serial {serial}"),
    );
    Ok(())
}
