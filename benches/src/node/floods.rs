//! What a pod that floods its agent does to its neighbours: the floods of `tests/ring_e2e/attacks`, on four sockets each.

use std::collections::BTreeMap;
use std::time::Duration;

use ensign_testbed::node::build_guest;
use ensign_testbed::process::{Program, Spec};
use tokio::time::sleep;

use super::bed::Bed;
use crate::proc;
use crate::report::Table;
use crate::scale::Scale;
use crate::stats::{Spread, float};

/// Runs it.
pub(super) async fn run(scale: &Scale, bed: &Bed) -> anyhow::Result<Table> {
    let guest = bed.folder().join("guest");
    build_guest(&guest)?;
    let mut rows = vec![("none".to_owned(), victims(scale, bed).await?, memory(bed)?)];
    for kind in FLOODS {
        // Volumes of one pod.
        let pod = bed.pod()?;
        let volumes: Vec<_> = (0..SOCKETS)
            .map(|number| ensign_testkit::kubelet::Pod {
                volume: format!("v{number}"),
                ..pod.clone()
            })
            .collect();
        let mut args = vec!["attack".to_owned(), kind.to_owned()];
        for volume in &volumes {
            bed.first_secret(volume).await?;
            args.push(bed.socket(volume).display().to_string());
        }
        let spec = Spec {
            name: format!("flood-{kind}"),
            binary: guest.clone(),
            args,
            env: BTreeMap::new(),
        };
        let mut flood = Program::start(spec, &bed.folder().join("agents"))?;
        flood
            .log()
            .wait("the flood", |line| line.contains("sent=") && !line.contains("sent=0"))
            .await?;
        sleep(scale.settle).await;
        rows.push((kind.to_owned(), victims(scale, bed).await?, memory(bed)?));
        flood.kill().await?;
        bed.unpublish(&volumes).await?;
    }
    Ok(table(scale, &rows))
}

/// Pods that come one after the other.
async fn victims(scale: &Scale, bed: &Bed) -> anyhow::Result<Spread> {
    let mut micros = Vec::new();
    for _ in 0..scale.victims {
        let pod = bed.pod()?;
        micros.push(bed.first_secret(&pod).await?);
        bed.unpublish(&[pod]).await?;
    }
    Ok(Spread::of_micros(micros))
}

fn memory(bed: &Bed) -> anyhow::Result<u64> {
    Ok(proc::memory(bed.agent.pid()?)?.rss)
}

fn table(scale: &Scale, rows: &[(String, Spread, u64)]) -> Table {
    let text = format!(
        "Another pod floods the agent over its four sockets, as fast as the machine lets it (no limit of processor time, unlike in a cluster). \
         Meanwhile {} new pods come one after the other: from the publish to the first secret. RSS of the agent at the end of each.",
        scale.victims
    );
    let head = &["flood", "p50", "p99", "longest", "RSS of the agent"];
    let mut table = Table::new("A neighbour's first secret under each flood", text, head);
    let millis = |time: Duration| format!("{:.1} ms", time.as_secs_f64() * 1e3);
    for (what, spread, rss) in rows {
        table.row([
            what.clone(),
            millis(spread.p50),
            millis(spread.p99),
            millis(spread.max),
            format!("{:.1} MB", float(*rss) / 1e3),
        ]);
    }
    table
}

const FLOODS: [&str; 6] = ["connections", "half", "streams", "names", "large", "unread"];
const SOCKETS: usize = 4;
