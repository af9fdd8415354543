//! The Envoys of the victims: one connection, one stream, a node of 61 kB.

use std::path::Path;
use std::sync::Arc;

use anyhow::ensure;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use crate::sds;
use crate::wire::{self, Event, Wire};

#[derive(Clone)]
pub(super) struct Envoy {
    opening: Arc<[u8]>,
}

// === impl Envoy ===

impl Envoy {
    pub(super) fn new() -> anyhow::Result<Self> {
        Ok(Self {
            opening: wire::opening(&sds::headers(), &sds::first(DEFAULT))?.into(),
        })
    }

    /// Connects, asks for the certificate and waits for it.
    pub(super) async fn secret(&self, socket: &Path) -> anyhow::Result<()> {
        let mut stream = UnixStream::connect(socket).await?;
        stream.write_all(&self.opening).await?;
        let mut wire = Wire::begun(stream, 8 * 1024);
        let Event::Message { bytes, .. } = wire.next().await? else {
            anyhow::bail!("the stream ended without a secret")
        };
        sds::read(DEFAULT, bytes).map(drop)
    }
}

/// Whether somebody is there: the server speaks first.
pub(super) async fn is_answered(socket: &Path) -> anyhow::Result<()> {
    let mut head = [0; 9];
    let mut stream = UnixStream::connect(socket).await?;
    stream.read_exact(&mut head).await?;
    ensure!(head[3] == SETTINGS, "the first frame is of type {}", head[3]);
    Ok(())
}

const DEFAULT: &str = "default";
/// A frame's type (RFC 9113, 6.5).
const SETTINGS: u8 = 4;
