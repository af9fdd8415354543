//! What a node's volumes cost the agent in memory.

use futures::future::try_join_all;
use tokio::time::sleep;

use super::bed::Bed;
use crate::envoys::client::{Question, Seen};
use crate::peer::Peer;
use crate::proc::{self, Memory};
use crate::report::Table;
use crate::scale::Scale;
use crate::stats::{float, float_len};

/// Runs it.
pub(super) async fn run(scale: &Scale, bed: &Bed) -> anyhow::Result<Table> {
    let agent = bed.agent.pid()?;
    let mut rows = Vec::new();
    let mut look = async |what: &str| {
        sleep(scale.settle).await;
        rows.push((what.to_owned(), proc::memory(agent)?));
        anyhow::Ok(())
    };
    look("no volume any more").await?;
    let pods = (0..VOLUMES).map(|_| bed.pod()).collect::<anyhow::Result<Vec<_>>>()?;
    try_join_all(pods.iter().map(|pod| bed.first_secret(pod))).await?;
    look("100 volumes, each with a certificate").await?;
    let mut client = Peer::start("client-envoys")?;
    let sockets = pods.iter().map(|pod| bed.socket(pod)).collect();
    let grow = Question::Grow {
        envoys: VOLUMES,
        sockets,
    };
    let _: Seen = client.ask(&grow).await?;
    look("an Envoy on each, with two streams").await?;
    drop(client);
    bed.unpublish(&pods).await?;
    look("all of them gone again").await?;
    Ok(table(&rows))
}

fn table(rows: &[(String, Memory)]) -> Table {
    let text =
        "The agent of the table above, after its rounds: RSS and what of it is private, as in `/proc/<pid>/status`.";
    let head = &["when", "RSS", "of it private", "kB for each volume"];
    let mut table = Table::new("Memory of the agent with 100 volumes", text.to_owned(), head);
    let first = rows.first().map_or(0, |(_, memory)| memory.rss);
    for (what, memory) in rows {
        let each = float(memory.rss.saturating_sub(first)) / float_len(VOLUMES);
        table.row([
            what.clone(),
            format!("{:.1} MB", float(memory.rss) / 1e3),
            format!("{:.1} MB", float(memory.anon) / 1e3),
            format!("{each:.0}"),
        ]);
    }
    table
}

const VOLUMES: usize = 100;
