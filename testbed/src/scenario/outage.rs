//! The RA is away while renewals fall due: the old certificates are served on, and renewed once it is back.

use anyhow::ensure;

use super::Mesh;
use crate::{load::Load, story::Story, wait, world::World};

/// Takes the RA away before the renewals are due, waits until they fail, and brings it back.
pub async fn ra_is_away_when_renewals_are_due(world: &mut World, mesh: &Mesh, story: &mut Story) -> anyhow::Result<()> {
    story.chapter("The RA is away while certificates are due for renewal");
    let envoys = [&mesh.httpbin, &mesh.sleep, &mesh.ratings];
    let load = Load::start(mesh.sleep.outbound("httpbin")?, 2);
    wait::until_true("load", wait::PATIENCE, async || Ok(load.report().ok > 20)).await?;
    world.ra().kill().await?;
    story.tell("the RA is dead; waiting for the renewals that are due");
    // What was on its way when the RA died counts as before.
    let mark = world.agent().log().mark();
    for envoy in envoys {
        let uid = format!("fixed/{}", envoy.name());
        let failed = |line: &str| line.contains("certificate not issued") && line.contains(&uid);
        world
            .agent()
            .log()
            .wait_after(mark, &format!("a failed renewal of {uid}"), failed)
            .await?;
    }
    let held = envoys.map(|envoy| world.issued(envoy.name()));
    for (envoy, held) in envoys.into_iter().zip(&held) {
        let loaded = envoy.admin().leaf_serials().await?;
        ensure!(
            loaded.iter().all(|serial| Some(serial) == held.last()),
            "{} has {loaded:?} instead of the last issued of {held:?}",
            envoy.name()
        );
    }
    story.claim(
        "each renewal failed, and each Envoy keeps its certificate",
        "`certificate not issued` in the agent's log",
    );

    world.restart_ra().await?;
    for (envoy, held) in envoys.into_iter().zip(&held) {
        let issued = world.issued_at_least(envoy.name(), held.len() + 1).await?;
        ensure!(
            issued[held.len() - 1] == held[held.len() - 1],
            "{} got a certificate from nowhere",
            envoy.name()
        );
    }
    let report = load.stop().await;
    report.check_flawless()?;
    story.claim(
        "once the RA was back, all were renewed, and no request failed",
        &format!("{} requests on connections of their own, 0 failed", report.ok),
    );
    Ok(())
}
