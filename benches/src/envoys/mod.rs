//! Figure 4: what a node full of Envoys costs the agent in memory, and how fast all of them have a new bundle.
//!
//! Spread over workloads as on a node: each has its own socket, key and certificate.

pub(crate) mod client;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::ensure;
use ensign_testbed::folder::Folder;
use ensign_testbed::world::World;
use tokio::time::sleep;

use self::client::{Question, Seen};
use crate::authority;
use crate::peer::Peer;
use crate::proc::{self, Memory};
use crate::report::{Table, verdict};
use crate::scale::Scale;
use crate::stats::{Spread, float, float_len, median};

/// Measurements at one number of Envoys.
#[derive(Debug)]
struct Level {
    envoys: usize,
    memory: Memory,
    grown_ms: u64,
    /// Half of the Envoys, and the last one; medians of the rounds, in ms.
    pushed: (f64, f64),
}

/// The file that the agent is told to take the roots from, and what is in it.
struct Pin {
    folder: Arc<Folder>,
    roots: Vec<String>,
    extra: String,
}

/// Runs it.
pub(crate) async fn run(scale: &Scale) -> anyhow::Result<Table> {
    let idle = idle(scale).await?;
    let folder = Arc::new(Folder::new()?);
    let mut pin = Pin {
        roots: vec![authority::plug_in(&folder)?],
        extra: authority::root("another root")?.0,
        folder: Arc::clone(&folder),
    };
    pin.write()?;
    let spec = authority::world(scale.workloads, true);
    let path = folder.join(PIN).display().to_string();
    let most = scale.envoys.iter().max().copied().unwrap_or_default();
    let spec = spec
        .agent_env("ENSIGN_PINNED_BUNDLES", &format!("{}={path}", authority::SIGNER))
        // More on a socket than a pod has.
        .agent_env("ENSIGN_SHARED_CONNECTIONS", &most.to_string());
    let mut world = World::start_in(folder, spec).await?;
    let names: Vec<String> = (0..scale.workloads).map(authority::name).collect();
    for name in &names {
        world.issued_at_least(name, 1).await?;
    }
    let sockets: Vec<PathBuf> = names.iter().map(|name| world.socket(name)).collect();
    let agent = world.agent().pid()?;
    sleep(scale.settle).await;
    let warm = proc::memory(agent)?;

    let mut client = Peer::start("client-envoys")?;
    let mut levels = Vec::new();
    for &envoys in scale.envoys {
        let sockets = sockets.clone();
        let seen: Seen = client.ask(&Question::Grow { envoys, sockets }).await?;
        sleep(scale.settle).await;
        let memory = proc::memory(agent)?;
        let mut spreads = Vec::new();
        for _ in 0..scale.rounds {
            spreads.push(pin.push(&mut client, envoys).await?);
        }
        let middle = |pick: fn(&Spread) -> std::time::Duration| {
            median(spreads.iter().map(|spread| pick(spread).as_secs_f64() * 1e3).collect())
        };
        levels.push(Level {
            envoys,
            memory,
            grown_ms: seen.grown_ms,
            pushed: (middle(|spread| spread.p50), middle(|spread| spread.max)),
        });
    }
    drop(client);
    world.finish().await?;
    Ok(table(scale, idle, warm, &levels))
}

/// Memory of an agent without workloads.
async fn idle(scale: &Scale) -> anyhow::Result<Memory> {
    let mut world = World::start(authority::world(0, true)).await?;
    sleep(scale.settle).await;
    let memory = proc::memory(world.agent().pid()?)?;
    world.finish().await?;
    Ok(memory)
}

impl Pin {
    fn write(&self) -> anyhow::Result<()> {
        self.folder.write(PIN, self.roots.concat()).map(drop)
    }

    /// Changes the bundle and waits until every Envoy has it: when each did, from the rename of the file on.
    async fn push(&mut self, client: &mut Peer, envoys: usize) -> anyhow::Result<Spread> {
        if self.roots.len() > 1 {
            self.roots.pop();
        } else {
            self.roots.push(self.extra.clone());
        }
        let roots = self.roots.len();
        let _: Seen = client.ask(&Question::Arm { roots }).await?;
        let began = u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos())?;
        self.write()?;
        let seen: Seen = client.ask(&Question::Pushed).await?;
        ensure!(
            seen.at.len() == envoys,
            "{} of {envoys} Envoys have the bundle",
            seen.at.len()
        );
        Ok(Spread::of_micros(
            seen.at.iter().map(|at| at.saturating_sub(began) / 1000).collect(),
        ))
    }
}

fn table(scale: &Scale, idle: Memory, warm: Memory, levels: &[Level]) -> Table {
    let text = format!(
        "Simulated Envoys in one process of their own, spread over the sockets of {} workloads of one agent, each with a \
         certificate of its own: one connection, two streams (`default`, `ROOTCA`), a node of 61 kB on each, every \
         response ACKed. RSS as in `/proc/<pid>/status`, {} s after the last one came; kB per stream is the growth over \
         the warm agent without Envoys. Push: the pinned bundle file is replaced by one with another root; the time from its \
         rename until half of the Envoys, and the last one, have the new `ROOTCA` (median of {} rounds).",
        scale.workloads,
        scale.settle.as_secs_f64(),
        scale.rounds
    );
    let head = &[
        "Envoys",
        "streams",
        "RSS",
        "of it private",
        "kB/stream",
        "all connected in",
        "push, half",
        "push, last",
        "goal",
    ];
    let mut table = Table::new("Memory of the agent, and pushes", text, head);
    let blank = || "–".to_owned();
    for (what, memory) in [
        ("0, no workload", idle),
        (&*format!("0, {} workloads", scale.workloads), warm),
    ] {
        let goal = if what.ends_with("no workload") {
            verdict("≤ 10 MB", memory.rss <= 10_000)
        } else {
            blank()
        };
        table.row([
            what.to_owned(),
            "0".to_owned(),
            megabytes(memory.rss),
            megabytes(memory.anon),
            blank(),
            blank(),
            blank(),
            blank(),
            goal,
        ]);
    }
    for level in levels {
        let growth = float(level.memory.rss.saturating_sub(warm.rss));
        let per_stream = growth / (2.0 * float_len(level.envoys));
        let mut goal = verdict("≤ 20 kB/stream", per_stream <= 20.0);
        if level.envoys == 250 {
            goal = format!("{}; {goal}", verdict("≤ 20 MB", level.memory.rss <= 20_000));
        }
        table.row([
            level.envoys.to_string(),
            (2 * level.envoys).to_string(),
            megabytes(level.memory.rss),
            megabytes(level.memory.anon),
            format!("{per_stream:.1}"),
            format!("{} ms", level.grown_ms),
            format!("{:.0} ms", level.pushed.0),
            format!("{:.0} ms", level.pushed.1),
            goal,
        ]);
    }
    table
}

fn megabytes(kilobytes: u64) -> String {
    format!("{:.1} MB", float(kilobytes) / 1000.0)
}

/// Within the world's folder.
const PIN: &str = "pin.pem";
