//! A raw HTTP/2 client for gRPC: just enough frames, nothing allocated that can be avoided.
//!
//! The client shares the processors with what is measured, so it must cost little: requests are literal bytes, response
//! headers are never decoded, and buffers are as small as one message. It keeps the connection's send window, gives
//! credit back, and answers PING and SETTINGS. Leaves the stream's send window alone: nothing sent here fills it.

use std::collections::{BTreeMap, VecDeque};

use anyhow::{Context, bail, ensure};
use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// What came.
#[derive(Debug)]
pub(crate) enum Event {
    /// A whole gRPC message.
    Message {
        /// On this stream.
        stream: u32,
        /// Without its prefix.
        bytes: Vec<u8>,
    },
    /// The server has ended the stream.
    Ended {
        /// This stream.
        stream: u32,
    },
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Wire<S> {
    io: S,
    input: BytesMut,
    chunk: usize,
    output: Vec<u8>,
    /// DATA frames that wait for the server's window.
    waiting: VecDeque<Vec<u8>>,
    window: i64,
    /// Received and not yet given back.
    credit: u32,
    long_streams: bool,
    partial: BTreeMap<u32, Vec<u8>>,
    events: VecDeque<Event>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    /// A connection whose preface goes out with the first flush. Reads at most `chunk` bytes at once.
    pub(crate) fn new(io: S, chunk: usize) -> Self {
        let mut wire = Self::begun(io, chunk);
        wire.output = preface();
        wire
    }

    /// For streams that live for long: gives their windows back too.
    pub(crate) fn with_long_streams(mut self) -> Self {
        self.long_streams = true;
        self
    }

    /// A connection on which somebody else has sent the preface and a request.
    pub(crate) fn begun(io: S, chunk: usize) -> Self {
        Self {
            io,
            input: BytesMut::new(),
            chunk,
            output: Vec::new(),
            waiting: VecDeque::new(),
            window: INITIAL_WINDOW,
            credit: 0,
            long_streams: false,
            partial: BTreeMap::new(),
            events: VecDeque::new(),
        }
    }

    /// Opens a stream with its first message. `headers` is a block from [`header_block`].
    pub(crate) fn request(&mut self, stream: u32, headers: &[u8], message: &[u8], end: bool) {
        frame(&mut self.output, HEADERS, END_HEADERS, stream, headers);
        self.send(stream, message, end);
    }

    /// Sends one more message.
    pub(crate) fn send(&mut self, stream: u32, message: &[u8], end: bool) {
        for frame in data_frames(stream, message, end) {
            self.waiting.push_back(frame);
        }
        self.release();
    }

    /// Writes what may go out.
    pub(crate) async fn flush(&mut self) -> anyhow::Result<()> {
        if !self.output.is_empty() {
            self.io.write_all(&self.output).await?;
            self.output.clear();
            // Envoys are many and idle: no buffer for the largest thing that they ever sent.
            self.output.shrink_to(self.chunk);
            self.io.flush().await?;
        }
        Ok(())
    }

    /// The next event. Cancel safe.
    pub(crate) async fn next(&mut self) -> anyhow::Result<Event> {
        loop {
            while self.one_frame()? {}
            if let Some(event) = self.events.pop_front() {
                return Ok(event);
            }
            self.flush().await?;
            self.input.reserve(self.chunk);
            let read = self.io.read_buf(&mut self.input).await?;
            ensure!(read > 0, "the server closed the connection");
        }
    }

    fn release(&mut self) {
        while let Some(frame) = self.waiting.front() {
            let size = i64::try_from(frame.len() - FRAME_HEAD).unwrap_or(i64::MAX);
            if size > self.window {
                return;
            }
            self.window -= size;
            self.output.extend_from_slice(frame);
            self.waiting.pop_front();
        }
    }

    /// Takes one frame out of the input, if a whole one is there.
    fn one_frame(&mut self) -> anyhow::Result<bool> {
        let Some(head) = self.input.first_chunk::<FRAME_HEAD>() else {
            return Ok(false);
        };
        let [l0, l1, l2, kind, flags, s0, s1, s2, s3] = *head;
        let length = usize::try_from(u32::from_be_bytes([0, l0, l1, l2]))?;
        if self.input.len() < FRAME_HEAD + length {
            return Ok(false);
        }
        let stream = u32::from_be_bytes([s0 & 0x7f, s1, s2, s3]);
        self.input.advance(FRAME_HEAD);
        let payload = self.input.split_to(length);
        match kind {
            DATA => self.data(stream, &payload)?,
            SETTINGS if flags & ACK == 0 => frame(&mut self.output, SETTINGS, ACK, 0, &[]),
            PING if flags & ACK == 0 => frame(&mut self.output, PING, ACK, 0, &payload),
            WINDOW_UPDATE if stream == 0 => {
                let bytes = *payload.first_chunk::<4>().context("a short WINDOW_UPDATE")?;
                self.window += i64::from(u32::from_be_bytes(bytes));
                self.release();
            }
            RST_STREAM => bail!("the server reset stream {stream}: {:?}", &payload[..]),
            GOAWAY => bail!("the server said goodbye: {:?}", &payload[..]),
            _ => {}
        }
        if matches!(kind, DATA | HEADERS) && flags & END_STREAM != 0 {
            self.partial.remove(&stream);
            self.events.push_back(Event::Ended { stream });
        }
        Ok(true)
    }

    fn data(&mut self, stream: u32, payload: &[u8]) -> anyhow::Result<()> {
        let size = u32::try_from(payload.len())?;
        self.credit += size;
        if self.credit >= CREDIT_AT_ONCE {
            let credit = std::mem::take(&mut self.credit).to_be_bytes();
            frame(&mut self.output, WINDOW_UPDATE, 0, 0, &credit);
        }
        if size > 0 && self.long_streams {
            frame(&mut self.output, WINDOW_UPDATE, 0, stream, &size.to_be_bytes());
        }
        let buffer = self.partial.entry(stream).or_default();
        buffer.extend_from_slice(payload);
        while let Some([compressed, n0, n1, n2, n3]) = buffer.first_chunk::<MESSAGE_HEAD>().copied() {
            ensure!(compressed == 0, "a compressed message");
            let end = MESSAGE_HEAD + usize::try_from(u32::from_be_bytes([n0, n1, n2, n3]))?;
            let Some(bytes) = buffer.get(MESSAGE_HEAD..end) else {
                break;
            };
            let bytes = bytes.to_vec();
            buffer.drain(..end);
            self.events.push_back(Event::Message { stream, bytes });
        }
        if buffer.is_empty() {
            self.partial.remove(&stream);
        }
        Ok(())
    }
}

/// The client's preface and its settings.
fn preface() -> Vec<u8> {
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    // SETTINGS_ENABLE_PUSH = 0; all else stays at its default.
    frame(&mut bytes, SETTINGS, 0, 0, &[0, 2, 0, 0, 0, 0]);
    bytes
}

/// Preface, settings and one request, ready to be written at once. The message must fit the initial window.
pub(crate) fn opening(headers: &[u8], message: &[u8]) -> anyhow::Result<Vec<u8>> {
    let fits = i64::try_from(message.len() + MESSAGE_HEAD)? <= INITIAL_WINDOW;
    ensure!(
        fits,
        "a first message of {} bytes does not fit the window",
        message.len()
    );
    let mut bytes = preface();
    frame(&mut bytes, HEADERS, END_HEADERS, 1, headers);
    for frame in data_frames(1, message, false) {
        bytes.extend_from_slice(&frame);
    }
    Ok(bytes)
}

/// HPACK of a gRPC request, all literal and nothing remembered: the server needs no state to read it.
pub(crate) fn header_block(scheme: &str, path: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let fixed = [
        (":method", "POST"),
        (":scheme", scheme),
        (":path", path),
        (":authority", "localhost"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    let mut block = Vec::new();
    for (name, value) in fixed.iter().chain(more) {
        block.push(0);
        string(&mut block, name);
        string(&mut block, value);
    }
    block
}

/// RFC 7541, 5.2, without Huffman.
fn string(block: &mut Vec<u8>, text: &str) {
    let mut rest = text.len();
    if rest < 127 {
        block.push(u8::try_from(rest).unwrap_or_default());
    } else {
        block.push(127);
        rest -= 127;
        while rest >= 128 {
            block.push(u8::try_from(rest % 128).unwrap_or_default() | 128);
            rest /= 128;
        }
        block.push(u8::try_from(rest).unwrap_or_default());
    }
    block.extend_from_slice(text.as_bytes());
}

fn data_frames(stream: u32, message: &[u8], end: bool) -> Vec<Vec<u8>> {
    let mut payload = Vec::with_capacity(MESSAGE_HEAD + message.len());
    payload.push(0);
    payload.extend_from_slice(&u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes());
    payload.extend_from_slice(message);
    let last = payload.len().div_ceil(MAX_FRAME) - 1;
    let parts = payload.chunks(MAX_FRAME).enumerate();
    parts
        .map(|(number, part)| {
            let mut bytes = Vec::with_capacity(FRAME_HEAD + part.len());
            let flags = if end && number == last { END_STREAM } else { 0 };
            frame(&mut bytes, DATA, flags, stream, part);
            bytes
        })
        .collect()
}

fn frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes();
    out.extend_from_slice(length.get(1..).unwrap_or_default());
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
}

const FRAME_HEAD: usize = 9;
const MESSAGE_HEAD: usize = 5;
const MAX_FRAME: usize = 16_384;
const INITIAL_WINDOW: i64 = 65_535;
const CREDIT_AT_ONCE: u32 = 8 * 1024;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;

const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_strings_have_a_length_of_several_bytes() {
        let mut block = Vec::new();
        string(&mut block, &"x".repeat(127 + 300));
        assert_eq!(block[..3], [127, 0xac, 0x02]);
        assert_eq!(block.len(), 3 + 427);
    }

    #[test]
    fn a_long_message_is_cut_into_frames() {
        let frames = data_frames(1, &vec![7; 40_000], true);
        let flags: Vec<u8> = frames.iter().map(|frame| frame[4]).collect();
        assert_eq!(flags, [0, 0, END_STREAM]);
        let total: usize = frames.iter().map(|frame| frame.len() - FRAME_HEAD).sum();
        assert_eq!(total, 40_005);
    }

    #[tokio::test]
    async fn messages_are_put_together_over_frames_and_the_window_is_kept() {
        let (ours, mut theirs) = tokio::io::duplex(1 << 20);
        let mut wire = Wire::new(ours, 4096).with_long_streams();
        for stream in [1, 3] {
            wire.request(stream, b"", &vec![0; 60_000], false);
        }
        wire.flush().await.unwrap();
        // The second stream does not fit the window of the connection.
        assert!(!wire.waiting.is_empty());
        let mut answer = Vec::new();
        frame(&mut answer, WINDOW_UPDATE, 0, 0, &100_000u32.to_be_bytes());
        frame(&mut answer, DATA, 0, 3, &[0, 0, 0, 0, 3, 1]);
        frame(&mut answer, DATA, END_STREAM, 3, &[2, 3]);
        theirs.write_all(&answer).await.unwrap();
        let Event::Message { stream, bytes } = wire.next().await.unwrap() else {
            panic!("no message")
        };
        assert_eq!((stream, bytes), (3, vec![1, 2, 3]));
        assert!(matches!(wire.next().await.unwrap(), Event::Ended { stream: 3 }));
        assert!(wire.waiting.is_empty());
    }
}
