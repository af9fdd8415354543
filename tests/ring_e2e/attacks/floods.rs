//! Floods over the pods' own sockets, each from a pod with as many volumes as it may have, and none ended before the last began.

use anyhow::{Context, ensure};
use ensign_testbed::wait::{PATIENCE, until};

use super::pods::Attacker;
use super::scene::Scene;

/// Sockets of one attacker.
const SOCKETS: usize = 4;

/// What an attacker counts: how much it tried, how much of that the agent ended, and connections that it lost.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    sent: u64,
    ended: u64,
    lost: u64,
}

/// A flood, and how its tally shows that the agent had to stand it and bounded it.
struct Flood {
    kind: &'static str,
    bounded: fn(Tally) -> bool,
}

/// The two that use a pool up come late: who comes after them has no more than its own.
const FLOODS: [Flood; 6] = [
    // Nothing is said on 500 connections for each socket; 64 of the pod's stay.
    Flood {
        kind: "connections",
        bounded: |seen| seen.lost > 1000,
    },
    Flood {
        kind: "names",
        bounded: |seen| seen.sent >= 20,
    },
    Flood {
        kind: "large",
        bounded: |seen| seen.ended >= 100,
    },
    // 256 requests of almost 1 MiB on each socket: a gigabyte in all.
    Flood {
        kind: "half",
        bounded: |seen| seen.sent > 500 && seen.ended > 400,
    },
    // 1600 on each socket; 1024 of the pod's at most stay, and 2048 of all beyond their own.
    Flood {
        kind: "streams",
        bounded: |seen| seen.sent > 4200 && seen.ended > 1000,
    },
    Flood {
        kind: "unread",
        bounded: |seen| seen.lost > 0,
    },
];

pub(super) async fn none_of_them_drowns_anybody(scene: &Scene<'_>) -> anyhow::Result<()> {
    let mut names = Vec::new();
    for Flood { kind, bounded } in FLOODS {
        let paths: Vec<_> = (0..SOCKETS).map(|number| format!("/v{number}/ensign.sock")).collect();
        let mut args = vec!["attack", kind];
        args.extend(paths.iter().map(String::as_str));
        let name = format!("floods-{kind}");
        scene.create(&Attacker::new(&name, &args).volumes(SOCKETS)).await?;
        let what = format!("flood {kind} to be under way");
        let under_way = until(&what, PATIENCE * 2, async || {
            let seen = tally(&scene.alone.log(&scene.place, &name)).context("it has not begun")?;
            ensure!(bounded(seen), "{seen:?}");
            Ok(())
        });
        if let Err(error) = under_way.await {
            // A flood that the agent did not live through is never bounded.
            scene.same_agent(kind).await?;
            return Err(error.context(format!("flood {kind}")));
        }
        names.push(name);
        scene.unharmed(&format!("under the floods up to `{kind}`")).await?;
    }
    bounds(scene).await?;
    scene.delete(&names).await?;
    scene.unharmed("after all floods").await.map(drop)
}

/// What the agent counts while they go on: all together no more than each one's own and the pool.
async fn bounds(scene: &Scene<'_>) -> anyhow::Result<()> {
    let metrics = scene.alone.metrics().await?;
    let refused = metrics.sum("ensign_agent_sds_refused_connections_total", &[]);
    ensure!(refused > Some(0.0), "no connection was refused");
    for (series, own, shared) in [
        ("ensign_agent_sds_connections", 2, 512),
        ("ensign_agent_sds_streams", 8, 2048),
    ] {
        let all: f64 = metrics.select(series, &[]).map(|sample| sample.value).sum();
        let sockets = FLOODS.len() * SOCKETS + scene.neighbours();
        let most = f64::from(u32::try_from(sockets * own + shared)?);
        ensure!(all <= most, "{all} of {series}, at most {most} are allowed");
    }
    Ok(())
}

/// The last line of a flood's log.
fn tally(log: &str) -> Option<Tally> {
    let line = log.lines().rev().find(|line| line.contains(" attack "))?;
    let number = |name: &str| {
        let (_, rest) = line.split_once(&format!("{name}="))?;
        rest.split(' ').next()?.parse().ok()
    };
    Some(Tally {
        sent: number("sent")?,
        ended: number("ended")?,
        lost: number("lost")?,
    })
}
