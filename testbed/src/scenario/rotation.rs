//! Rotation under load: many renewals on both sides, every one of them used on the wire, and no request fails.
//!
//! Each request is a TLS connection of its own with a full handshake. Without that, old connections would carry all requests and
//! the run would prove nothing; so the handshakes are counted too.

use std::collections::BTreeSet;

use anyhow::ensure;
use tokio::{
    select,
    time::{Duration, Instant},
};

use super::Mesh;
use crate::{
    envoy::Envoy,
    load::{Load, Report},
    story::Story,
    wait::{self, PATIENCE},
    world::World,
};

/// Requests at once. Two keep a handshake going at every moment; more only make the machine slow.
const WORKERS: usize = 2;

/// A rotation that takes this long is stuck.
const STUCK: Duration = Duration::from_mins(1);

/// At least `rotations` renewals of `sleep` and of `httpbin` while `sleep` calls `httpbin` without pause.
pub async fn rotation_under_load(
    world: &World,
    mesh: &Mesh,
    rotations: usize,
    story: &mut Story,
) -> anyhow::Result<()> {
    story.chapter(&format!("{rotations} renewals on each side under load"));
    let (client, server) = (&mesh.sleep, &mesh.httpbin);
    let before = client.admin().stats().await?;
    let load = Load::start(client.outbound(server.name())?, WORKERS);
    wait::until_true("load", PATIENCE, async || {
        Ok(load.report().ok + load.report().failed > 5)
    })
    .await?;
    // What is issued from here on meets load and an observer for its whole time.
    let first = [client, server].map(|envoy| world.issued(envoy.name()).len());
    let (mut client_loaded, mut server_loaded) = (BTreeSet::new(), BTreeSet::new());
    let report = select! {
        never = collect_loaded(client, &mut client_loaded) => never.map(|()| Report::default())?,
        never = collect_loaded(server, &mut server_loaded) => never.map(|()| Report::default())?,
        done = run_load(world, [client, server], first, rotations, load, story) => done?,
    };

    report.check_flawless()?;
    let sides = [
        (client, &report.client_serials, client_loaded),
        (server, &report.server_serials, server_loaded),
    ];
    for ((envoy, on_the_wire, loaded), first) in sides.into_iter().zip(first) {
        let issued = world.issued(envoy.name());
        let due = &issued[first..first + rotations];
        for serial in due {
            ensure!(
                on_the_wire.contains_key(serial),
                "{}: serial {serial} was never seen on the wire",
                envoy.name()
            );
            ensure!(
                loaded.contains(serial),
                "{}: serial {serial} was never seen in /certs",
                envoy.name()
            );
        }
        story.claim(
            &format!(
                "{}: each of {} certificates was used on the wire and shown by /certs",
                envoy.name(),
                due.len()
            ),
            &format!("serials {} … {}", due[0], due[due.len() - 1]),
        );
    }

    let after = client.admin().stats().await?;
    let delta = |name: &str| {
        let name = format!("cluster.{}.ssl.{name}", server.name());
        after.get(&name) - before.get(&name)
    };
    ensure!(
        delta("handshake") >= report.ok,
        "{} requests, but only {} handshakes",
        report.ok,
        delta("handshake")
    );
    ensure!(
        delta("session_reused") == 0,
        "{} handshakes were resumed",
        delta("session_reused")
    );
    for envoy in [client, server] {
        let stats = envoy.admin().stats().await?;
        let rejected = stats.get("sds.default.update_rejected") + stats.get("sds.ROOTCA.update_rejected");
        ensure!(rejected == 0, "{} rejected {rejected} secrets", envoy.name());
    }
    story.claim(
        "no request failed",
        &format!(
            "{} requests, 0 failed; {} full TLS handshakes, 0 resumed",
            report.ok,
            delta("handshake")
        ),
    );
    Ok(())
}

/// Waits for the renewals, then stops the load.
async fn run_load(
    world: &World,
    sides: [&Envoy; 2],
    first: [usize; 2],
    rotations: usize,
    load: Load,
    story: &mut Story,
) -> anyhow::Result<Report> {
    // One more than counted: only a certificate with a successor had its whole time.
    let renewals = || {
        let counts = sides
            .iter()
            .zip(first)
            .map(|(envoy, first)| world.issued(envoy.name()).len() - first);
        counts.min().unwrap_or_default().saturating_sub(1)
    };
    let (mut told, mut seen, mut since) = (0, 0, Instant::now());
    wait::until_true("the renewals", STUCK * u32::try_from(rotations)?, async || {
        let done = renewals();
        if load.report().failed > 0 || done >= rotations {
            return Ok(true);
        }
        if done > seen {
            (seen, since) = (done, Instant::now());
        }
        if done >= told + 25 {
            told = done;
            story.tell(&format!("{done} renewals, {} requests so far", load.report().ok));
        }
        // An error of this look would only be repeated, so a stuck rotation is reported after the loop.
        Ok(since.elapsed() > STUCK)
    })
    .await?;
    let report = load.stop().await;
    ensure!(
        report.failed > 0 || renewals() >= rotations,
        "stuck after {} of {rotations} renewals",
        renewals()
    );
    Ok(report)
}

/// Notes what `/certs` shows, again and again; ends only with an error.
async fn collect_loaded(envoy: &Envoy, seen: &mut BTreeSet<String>) -> anyhow::Result<()> {
    loop {
        seen.extend(envoy.admin().leaf_serials().await?);
        tokio::time::sleep(Duration::from_millis(60)).await;
    }
}
