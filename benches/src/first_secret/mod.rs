//! Figure 3: how long a new Envoy waits for its first certificate where one is there already.

pub(crate) mod client;

use std::path::PathBuf;
use std::time::Duration;

use ensign_testbed::world::World;

use self::client::Question;
use crate::authority;
use crate::peer::Peer;
use crate::report::{Table, verdict};
use crate::scale::Scale;
use crate::stats::{Spread, median};

/// Runs it.
pub(crate) async fn run(scale: &Scale) -> anyhow::Result<Table> {
    let world = World::start(authority::world(WORKLOADS, true)).await?;
    let names: Vec<String> = (0..WORKLOADS).map(authority::name).collect();
    for name in &names {
        world.issued_at_least(name, 1).await?;
    }
    let sockets: Vec<PathBuf> = names.iter().map(|name| world.socket(name)).collect();
    let mut client = Peer::start("client-opens")?;

    let mut rounds: [Vec<Spread>; AT_ONCE.len()] = Default::default();
    for _ in 0..scale.rounds {
        for (spreads, at_once) in rounds.iter_mut().zip(AT_ONCE) {
            let question = Question {
                sockets: sockets.clone(),
                at_once,
                times: scale.opens,
            };
            let micros: Vec<u64> = client.ask(&question).await?;
            anyhow::ensure!(
                micros.len() == scale.opens,
                "{} of {} secrets came",
                micros.len(),
                scale.opens
            );
            spreads.push(Spread::of_micros(micros));
        }
    }
    world.finish().await?;
    Ok(table(scale, &rounds))
}

fn table(scale: &Scale, rounds: &[Vec<Spread>; AT_ONCE.len()]) -> Table {
    let text = format!(
        "From before `connect` until the whole first response for `default` is there: a new connection, one \
         `StreamSecrets` with a node of 61 kB, a workload whose certificate is there already. {} times in each of {} rounds \
         over {WORKLOADS} workloads; medians of the rounds' percentiles. The client is another process on the same processors.",
        scale.opens, scale.rounds
    );
    let mut table = Table::new(
        "First secret of a warmed workload",
        text,
        &["at once", "p50", "p99", "longest", "goal"],
    );
    for (spreads, at_once) in rounds.iter().zip(AT_ONCE) {
        let middle = |pick: fn(&Spread) -> Duration| {
            median(spreads.iter().map(|spread| pick(spread).as_secs_f64() * 1e3).collect())
        };
        let (p50, p99) = (middle(|spread| spread.p50), middle(|spread| spread.p99));
        let goal = if at_once == 1 {
            verdict("p50 ≤ 1 ms", p50 <= 1.0)
        } else {
            verdict("p99 ≤ 5 ms", p99 <= 5.0)
        };
        table.row([
            at_once.to_string(),
            format!("{p50:.2} ms"),
            format!("{p99:.2} ms"),
            format!("{:.2} ms", middle(|spread| spread.max)),
            goal,
        ]);
    }
    table
}

const AT_ONCE: [usize; 2] = [1, 32];
const WORKLOADS: usize = 32;
