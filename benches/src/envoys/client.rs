//! The simulated Envoys of figure 4, all in one process of their own: one connection each, two streams, ACKs.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail, ensure};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::net::UnixStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::wire::{Event, Wire};
use crate::{peer, sds};

/// What the client is asked to do.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) enum Question {
    /// Have so many Envoys, the new ones on these sockets in turn, and wait until each has both secrets.
    Grow {
        /// How many there are then.
        envoys: usize,
        /// Sockets of the workloads.
        sockets: Vec<PathBuf>,
    },
    /// Take the time of bundles with so many roots from now on.
    Arm {
        /// Roots in the bundle.
        roots: usize,
    },
    /// Wait until every Envoy has such a bundle.
    Pushed,
}

/// What it saw.
#[derive(Debug, Default, Deserialize, Serialize)]
pub(crate) struct Seen {
    /// Milliseconds that growing took.
    pub(crate) grown_ms: u64,
    /// When each Envoy had the bundle, in nanoseconds since 1970.
    pub(crate) at: Vec<u64>,
}

/// What all Envoys write into.
#[derive(Debug, Default)]
struct Tally {
    /// Streams that have had their first secret.
    first: AtomicUsize,
    armed: Mutex<Armed>,
    failed: Mutex<Option<String>>,
}

#[derive(Debug, Default)]
struct Armed {
    roots: usize,
    at: Vec<u64>,
}

/// What each Envoy sends first.
struct Words {
    headers: Vec<u8>,
    first: [Vec<u8>; 2],
}

/// Serves the questions of the parent.
pub(crate) async fn run() -> anyhow::Result<()> {
    let words = Arc::new(Words {
        headers: sds::headers(),
        first: sds::NAMES.map(sds::first),
    });
    let tally = Arc::new(Tally::default());
    let turns = Arc::new(Semaphore::new(STARTING_AT_ONCE));
    let mut envoys = JoinSet::new();
    peer::answer(async |question: Question| match question {
        Question::Grow { envoys: count, sockets } => {
            let began = Instant::now();
            for number in envoys.len()..count {
                let socket = sockets
                    .get(number % sockets.len().max(1))
                    .context("no sockets")?
                    .clone();
                let turn = Arc::clone(&turns).acquire_owned().await?;
                let (words, tally) = (Arc::clone(&words), Arc::clone(&tally));
                envoys.spawn(async move {
                    if let Err(error) = envoy(socket, &words, &tally, turn).await {
                        tally.failed.lock().get_or_insert(format!("{error:#}"));
                    }
                });
            }
            let first = || tally.first.load(Ordering::Relaxed);
            tally.until("first secrets", 2 * count, first).await?;
            Ok(Seen {
                grown_ms: u64::try_from(began.elapsed().as_millis())?,
                ..Seen::default()
            })
        }
        Question::Arm { roots } => {
            *tally.armed.lock() = Armed { roots, at: Vec::new() };
            Ok(Seen::default())
        }
        Question::Pushed => {
            let pushed = || tally.armed.lock().at.len();
            tally.until("pushed bundles", envoys.len(), pushed).await?;
            Ok(Seen {
                at: std::mem::take(&mut tally.armed.lock().at),
                ..Seen::default()
            })
        }
    })
    .await
}

/// One Envoy, for as long as the process lives. `turn` is let go when it has both secrets.
async fn envoy(socket: PathBuf, words: &Words, tally: &Tally, turn: OwnedSemaphorePermit) -> anyhow::Result<()> {
    let mut turn = Some(turn);
    let mut missing = [true; 2];
    let mut wire = Wire::new(UnixStream::connect(socket).await?, 4 * 1024).with_long_streams();
    for (stream, first) in [1, 3].into_iter().zip(&words.first) {
        wire.request(stream, &words.headers, first, false);
    }
    loop {
        let (stream, bytes) = match wire.next().await? {
            Event::Message { stream, bytes } => (stream, bytes),
            Event::Ended { stream } => bail!("the agent ended stream {stream}"),
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
        let which = usize::from(stream == 3);
        let name = sds::NAMES.get(which).copied().context("a third stream")?;
        let received = sds::read(name, bytes)?;
        if received.roots > 0 {
            tally.bundle(received.roots, now)?;
        }
        if let Some(first) = missing.get_mut(which)
            && std::mem::take(first)
        {
            tally.first.fetch_add(1, Ordering::Relaxed);
        }
        if missing == [false; 2] {
            turn.take();
        }
        wire.send(stream, &sds::ack(name, received), false);
        wire.flush().await?;
    }
}

impl Tally {
    fn bundle(&self, roots: usize, now: Duration) -> anyhow::Result<()> {
        let mut armed = self.armed.lock();
        if armed.roots == roots {
            armed.at.push(u64::try_from(now.as_nanos())?);
        }
        Ok(())
    }

    /// Waits for a count; says what is missing if it does not come.
    async fn until(&self, what: &str, wanted: usize, count: impl Fn() -> usize) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let seen = count();
            if let Some(why) = self.failed.lock().clone() {
                bail!("an Envoy failed: {why}; {seen} of {wanted} {what}");
            }
            if seen >= wanted {
                ensure!(seen == wanted, "{seen} {what}, expected {wanted}");
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "only {seen} of {wanted} {what}");
            sleep(Duration::from_millis(2)).await;
        }
    }
}

/// The kernel queues as many connections as an accept loop lets it; more would be refused, not slow.
const STARTING_AT_ONCE: usize = 64;
const PATIENCE: Duration = Duration::from_secs(90);
