//! The client of figure 3, in a process of its own: connects, asks for `default`, takes the time of the first answer.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::ensure;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixStream;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::wire::{self, Event, Wire};
use crate::{peer, sds};

/// What the client is asked to do.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Question {
    /// Used in turn.
    pub(super) sockets: Vec<PathBuf>,
    /// How many of these run at once, each beginning a new one when it has its secret.
    pub(super) at_once: usize,
    /// How many in all.
    pub(super) times: usize,
}

/// Serves the questions of the parent: microseconds of each.
pub(crate) async fn run() -> anyhow::Result<()> {
    let opening: Arc<[u8]> = wire::opening(&sds::headers(), &sds::first(DEFAULT))?.into();
    peer::answer(async |question: Question| {
        ensure!(!question.sockets.is_empty(), "no sockets");
        let question = Arc::new(question);
        let next = Arc::new(AtomicUsize::new(0));
        let mut running = JoinSet::new();
        for _ in 0..question.at_once {
            running.spawn(one_after_another(
                Arc::clone(&question),
                Arc::clone(&next),
                Arc::clone(&opening),
            ));
        }
        let mut micros = Vec::with_capacity(question.times);
        while let Some(done) = running.join_next().await {
            micros.append(&mut done??);
        }
        Ok(micros)
    })
    .await
}

async fn one_after_another(
    question: Arc<Question>,
    next: Arc<AtomicUsize>,
    opening: Arc<[u8]>,
) -> anyhow::Result<Vec<u64>> {
    let mut micros = Vec::new();
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        let socket = question.sockets.get(number % question.sockets.len());
        match socket {
            Some(socket) if number < question.times => micros.push(one(socket, &opening).await?),
            _ => return Ok(micros),
        }
    }
}

/// From before `connect` until the whole response is here. It is checked after that.
async fn one(socket: &Path, opening: &[u8]) -> anyhow::Result<u64> {
    let began = Instant::now();
    let mut stream = UnixStream::connect(socket).await?;
    stream.write_all(opening).await?;
    let mut wire = Wire::begun(stream, 8 * 1024);
    let event = wire.next().await?;
    let took = began.elapsed();
    let Event::Message { bytes, .. } = event else {
        anyhow::bail!("the stream ended without a secret")
    };
    sds::read(DEFAULT, bytes)?;
    Ok(u64::try_from(took.as_micros())?)
}

const DEFAULT: &str = "default";
