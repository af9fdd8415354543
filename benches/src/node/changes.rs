//! For how long nobody answers on a pod's socket when the agent is replaced, and when it is killed.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::bed::Bed;
use super::envoy::is_answered;
use crate::report::Table;
use crate::scale::Scale;
use crate::stats::median;

/// What clients saw that connect to every socket again and again.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    /// Connections that nobody answered.
    refused: usize,
    /// The longest time between two that were answered on one socket.
    gap: Duration,
}

/// Those clients, until they are asked what they saw.
struct Knocking {
    clients: JoinSet<()>,
    seen: Arc<Mutex<Seen>>,
}

/// Runs it.
pub(super) async fn run(scale: &Scale, bed: &mut Bed) -> anyhow::Result<Table> {
    let pods = (0..SOCKETS).map(|_| bed.pod()).collect::<anyhow::Result<Vec<_>>>()?;
    for pod in &pods {
        bed.first_secret(pod).await?;
    }
    let sockets: Vec<_> = pods.iter().map(|pod| bed.socket(pod)).collect();
    let mut rows: [(&str, Vec<Seen>); 3] = [("none", vec![]), ("handover", vec![]), ("kill", vec![])];
    for _ in 0..scale.rounds {
        for (what, seen) in &mut rows {
            let knocking = Knocking::start(&sockets);
            match *what {
                "handover" => {
                    let mut old = bed.succeed().await?;
                    old.terminate().await?;
                }
                "kill" => {
                    bed.agent.kill().await?;
                    drop(bed.succeed().await?);
                }
                _ => {}
            }
            // They are to see the end of it, too.
            sleep(AFTER).await;
            seen.push(knocking.stop());
        }
    }
    bed.unpublish(&pods).await?;
    Ok(table(scale, &rows))
}

// === impl Seen ===

impl Seen {
    fn answered_after(&mut self, gap: Duration) {
        self.gap = self.gap.max(gap);
    }
}

// === impl Knocking ===

impl Knocking {
    fn start(sockets: &[PathBuf]) -> Self {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let mut clients = JoinSet::new();
        for socket in sockets {
            clients.spawn(knock(socket.clone(), Arc::clone(&seen)));
        }
        Self { clients, seen }
    }

    fn stop(self) -> Seen {
        drop(self.clients);
        *self.seen.lock()
    }
}

async fn knock(socket: PathBuf, seen: Arc<Mutex<Seen>>) {
    let mut last = Instant::now();
    loop {
        if is_answered(&socket).await.is_ok() {
            seen.lock().answered_after(last.elapsed());
            last = Instant::now();
        } else {
            seen.lock().refused += 1;
        }
        sleep(EVERY).await;
    }
}

fn table(scale: &Scale, rows: &[(&str, Vec<Seen>); 3]) -> Table {
    let text = format!(
        "{SOCKETS} sockets; on each a client connects and waits for the agent's first frame, {} ms later again. Handover: a second agent starts on the \
         same paths, kubelet takes it up, the first gets SIGTERM, as the DaemonSet's surge does it. Kill: SIGKILL, and another agent is started at \
         once (kubelet would take a moment more). The longest time between two answers on one socket, and connections that nobody answered on \
         all of them; medians of {} rounds.",
        EVERY.as_millis(),
        scale.rounds
    );
    let head = &["change of agents", "longest gap", "connections that nobody answered"];
    let mut table = Table::new("Gap of a handover and of a kill", text, head);
    for (what, seen) in rows {
        let gap = median(seen.iter().map(|seen| seen.gap.as_secs_f64() * 1e3).collect());
        let mut refused: Vec<_> = seen.iter().map(|seen| seen.refused).collect();
        refused.sort_unstable();
        let refused = refused.get(refused.len() / 2).copied().unwrap_or_default();
        table.row([(*what).to_owned(), format!("{gap:.1} ms"), refused.to_string()]);
    }
    table
}

const SOCKETS: usize = 8;
const EVERY: Duration = Duration::from_millis(2);
const AFTER: Duration = Duration::from_millis(500);
