//! A tap between an Envoy and its SDS socket: passes bytes on unchanged and notes the gRPC messages of both directions.
//!
//! For recordings of real Envoys. Of the answers only their bytes are noted; who keeps a recording must not keep the keys in it. With
//! [`Tap::spoil`], the next certificate is made unreadable on its way, which no agent of ours would do: Envoy refuses it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;

/// Sent by clients before their first frame.
const PREFACE: usize = 24;
const FRAME_HEADER: usize = 9;
const GRPC_HEADER: usize = 5;

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tapped {
    /// Counted from 0 in the order of their opening.
    pub connection: usize,
    /// HTTP/2 stream id.
    pub stream: u32,
    /// True if Envoy sent it.
    pub from_envoy: bool,
    /// Without gRPC's prefix.
    pub message: Vec<u8>,
}

/// A running tap. Dropping it closes its connections.
#[derive(Debug)]
pub struct Tap {
    shared: Arc<Shared>,
    _task: JoinSet<()>,
}

#[derive(Debug, Default)]
struct Shared {
    messages: Mutex<Vec<Tapped>>,
    spoil: AtomicBool,
}

impl Tap {
    /// Listens at `path` and connects to `target` for each connection.
    pub fn start(path: &Path, target: PathBuf) -> std::io::Result<Self> {
        let listener = UnixListener::bind(path)?;
        let shared = Arc::new(Shared::default());
        let mut task = JoinSet::new();
        task.spawn(accept(listener, target, Arc::clone(&shared)));
        Ok(Self { shared, _task: task })
    }

    /// Makes the next certificate unreadable.
    pub fn spoil(&self) {
        self.shared.spoil.store(true, Ordering::SeqCst);
    }

    /// What passed so far.
    pub fn messages(&self) -> Vec<Tapped> {
        self.shared.messages.lock().unwrap().clone()
    }
}

async fn accept(listener: UnixListener, target: PathBuf, shared: Arc<Shared>) {
    let mut pumps = JoinSet::new();
    let mut connection = 0;
    while let Ok((near, _)) = listener.accept().await {
        // Closed at once if nobody is behind us, as without a tap.
        let Ok(far) = UnixStream::connect(&target).await else {
            continue;
        };
        let ((near_read, near_write), (far_read, far_write)) = (near.into_split(), far.into_split());
        pumps.spawn(pump(
            near_read,
            far_write,
            Frames::of(connection, true),
            Arc::clone(&shared),
        ));
        pumps.spawn(pump(
            far_read,
            near_write,
            Frames::of(connection, false),
            Arc::clone(&shared),
        ));
        connection += 1;
    }
}

async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut frames: Frames, shared: Arc<Shared>) {
    let mut buffer = vec![0; 256 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        let bytes = &mut buffer[..count];
        if !frames.from_envoy {
            spoil(bytes, &shared.spoil);
        }
        let messages = frames.take(bytes);
        shared.messages.lock().unwrap().extend(messages);
        if to.write_all(bytes).await.is_err() {
            return;
        }
    }
}

/// Turns the first certificate's label into another of the same length.
fn spoil(bytes: &mut [u8], wanted: &AtomicBool) {
    let label = b"-----BEGIN CERTIFICATE-----";
    let found = bytes.windows(label.len()).position(|window| window == label);
    if let Some(at) = found
        && wanted.swap(false, Ordering::SeqCst)
    {
        bytes[at + 11..at + 22].copy_from_slice(b"SPOILED ONE");
    }
}

/// One direction of one connection.
struct Frames {
    connection: usize,
    from_envoy: bool,
    skip: usize,
    bytes: Vec<u8>,
    bodies: HashMap<u32, Vec<u8>>,
}

impl Frames {
    fn of(connection: usize, from_envoy: bool) -> Self {
        Self {
            connection,
            from_envoy,
            skip: if from_envoy { PREFACE } else { 0 },
            bytes: Vec::new(),
            bodies: HashMap::new(),
        }
    }

    fn take(&mut self, bytes: &[u8]) -> Vec<Tapped> {
        self.bytes.extend_from_slice(bytes);
        if self.bytes.len() >= self.skip {
            self.bytes.drain(..std::mem::take(&mut self.skip));
        } else {
            return Vec::new();
        }
        let mut messages = Vec::new();
        while self.bytes.len() >= FRAME_HEADER {
            let length =
                usize::from(self.bytes[0]) << 16 | usize::from(self.bytes[1]) << 8 | usize::from(self.bytes[2]);
            if self.bytes.len() < FRAME_HEADER + length {
                break;
            }
            let frame: Vec<u8> = self.bytes.drain(..FRAME_HEADER + length).collect();
            let (kind, flags) = (frame[3], frame[4]);
            let stream = u32::from_be_bytes([frame[5] & 0x7f, frame[6], frame[7], frame[8]]);
            // DATA; neither Envoy nor we pad.
            if kind == 0 && flags & 0x8 == 0 {
                self.bodies.entry(stream).or_default().extend(&frame[FRAME_HEADER..]);
                messages.extend(self.whole(stream));
            }
        }
        messages
    }

    fn whole(&mut self, stream: u32) -> Vec<Tapped> {
        let body = self.bodies.entry(stream).or_default();
        let mut messages = Vec::new();
        while body.len() >= GRPC_HEADER {
            let length = u32::from_be_bytes([body[1], body[2], body[3], body[4]]) as usize;
            if body.len() < GRPC_HEADER + length {
                break;
            }
            let message = body.drain(..GRPC_HEADER + length).skip(GRPC_HEADER).collect();
            messages.push(Tapped {
                connection: self.connection,
                stream,
                from_envoy: self.from_envoy,
                message,
            });
        }
        messages
    }
}
