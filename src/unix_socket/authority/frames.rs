//! The client's bytes as HTTP/2 frames (RFC 9113 4.1), of which only header blocks are looked into.
//!
//! Owns what was read and not understood yet, and what waits to be handed over. Payloads of other frames pass as they come.
//! Bounded: a header block by [`LARGEST_BLOCK`], its fields by [`LARGEST_FIELDS`], for a short block may stand for many fields.

use std::io;

use bytes::{Buf, BytesMut};
use http::uri::Authority;
use loona_hpack::Decoder;
use tokio::io::ReadBuf;

/// `PRI * HTTP/2.0…`, before the first frame.
const PREFACE: usize = 24;
/// Length, type, flags, stream.
const HEAD: usize = 9;
/// Bytes of a header block, continuations included. The library's limit for what it decodes to is lower.
const LARGEST_BLOCK: usize = 32 * 1024;
/// Bytes of a frame that no peer was allowed to exceed (SETTINGS_MAX_FRAME_SIZE's default).
const LARGEST_FRAME: usize = 16 * 1024;
/// Bytes of a block's fields.
const LARGEST_FIELDS: usize = 16 * 1024 - 64;
/// SETTINGS_HEADER_TABLE_SIZE's default: what the client may make us remember.
const TABLE: usize = 4096;

const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;

/// Reader and writer of frames.
pub(super) struct Frames {
    /// Not understood yet.
    inbox: BytesMut,
    /// Waits to be handed over.
    outbox: BytesMut,
    /// Bytes that pass without a look: the preface, the rest of a frame.
    passing: usize,
    decoder: Decoder<'static>,
    mode: Mode,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// Before the first request.
    Watching,
    /// The client's authorities are none.
    Rewriting,
    /// Nothing is to be done any more.
    Done,
}

/// A header block, joined from its frames.
struct Block {
    /// Bytes of all its frames.
    length: usize,
    stream: [u8; 4],
    ends_stream: bool,
    fragment: Vec<u8>,
}

// === impl Frames ===

impl Default for Frames {
    fn default() -> Self {
        let mut decoder = Decoder::new();
        decoder.set_max_allowed_table_size(TABLE);
        Self {
            inbox: BytesMut::new(),
            outbox: BytesMut::new(),
            passing: PREFACE,
            decoder,
            mode: Mode::Watching,
        }
    }
}

impl Frames {
    /// Copies what waits into `buf`; false if nothing does.
    pub(super) fn hand_over(&mut self, buf: &mut ReadBuf<'_>) -> bool {
        let length = self.outbox.len().min(buf.remaining());
        buf.put_slice(&self.outbox[..length]);
        self.outbox.advance(length);
        if self.outbox.is_empty() {
            // A large frame must not keep its memory for the life of the connection.
            self.outbox = BytesMut::new();
        }
        length > 0
    }

    /// Whether the rest may pass without us.
    pub(super) fn has_seen_enough(&self) -> bool {
        self.mode == Mode::Done
    }

    /// The client has ended: what is there is all there is.
    pub(super) fn end(&mut self) {
        self.let_all_pass();
    }

    /// Takes up more of the client's bytes.
    pub(super) fn take(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.inbox.extend_from_slice(bytes);
        while self.step()? {}
        Ok(())
    }

    /// Understands one piece; false if there is none.
    fn step(&mut self) -> io::Result<bool> {
        if self.passing > 0 {
            let length = self.passing.min(self.inbox.len());
            self.pass(length);
            self.passing -= length;
            return Ok(length > 0);
        }
        if self.mode == Mode::Done || self.inbox.len() < HEAD {
            return Ok(false);
        }
        if self.inbox[3] != HEADERS {
            self.passing = HEAD + length(&self.inbox);
            return Ok(true);
        }
        let Some(block) = self.block()? else {
            return Ok(false);
        };
        let fields = self.fields(&block.fragment);
        match (self.mode, fields) {
            // The library says what is wrong with it, better than we could.
            (Mode::Watching, None) => self.let_all_pass(),
            (Mode::Watching, Some(fields)) if fields.iter().all(acceptable) => self.let_all_pass(),
            (_, Some(fields)) => {
                self.mode = Mode::Rewriting;
                self.inbox.advance(block.length);
                self.write(&block, &fields)?;
            }
            (_, None) => return Err(refused("header block that is no HPACK, or too large")),
        }
        Ok(true)
    }

    /// The header block that the inbox begins with, once it is complete.
    fn block(&self) -> io::Result<Option<Block>> {
        let mut rest = &self.inbox[..];
        let mut block: Option<Block> = None;
        loop {
            if rest.len() < HEAD {
                return Ok(None);
            }
            let (size, kind, flags) = (length(rest), rest[3], rest[4]);
            let stream = [rest[5], rest[6], rest[7], rest[8]];
            let so_far = block.as_ref().map_or(0, |block| block.length);
            if size > LARGEST_FRAME || so_far + HEAD + size > LARGEST_BLOCK {
                return Err(refused("header block of more than 32 KiB"));
            }
            let Some(payload) = rest.get(HEAD..HEAD + size) else {
                return Ok(None);
            };
            let current = match &mut block {
                None => block.insert(Block {
                    length: 0,
                    stream,
                    ends_stream: flags & END_STREAM != 0,
                    fragment: fragment(payload, flags)?.to_vec(),
                }),
                Some(current) if kind == CONTINUATION && current.stream == stream => {
                    current.fragment.extend_from_slice(payload);
                    current
                }
                Some(_) => return Err(refused("another frame within a header block")),
            };
            current.length += HEAD + size;
            rest = &rest[HEAD + size..];
            if flags & END_HEADERS != 0 {
                return Ok(block);
            }
        }
    }

    /// The fields of a block in their order; none if they are no HPACK, or too much.
    fn fields(&mut self, fragment: &[u8]) -> Option<Vec<(Vec<u8>, Vec<u8>)>> {
        let (mut fields, mut size) = (Vec::new(), 0_usize);
        let decoded = self.decoder.decode_with_cb(fragment, |name, value| {
            size = size.saturating_add(name.len() + value.len());
            if size <= LARGEST_FIELDS {
                fields.push((name.into_owned(), value.into_owned()));
            }
        });
        (decoded.is_ok() && size <= LARGEST_FIELDS).then_some(fields)
    }

    /// Writes a block as one frame of literals, with our authority.
    fn write(&mut self, block: &Block, fields: &[(Vec<u8>, Vec<u8>)]) -> io::Result<()> {
        let mut payload = Vec::with_capacity(block.fragment.len() * 2);
        for field in fields {
            let value = if acceptable(field) { &field.1 } else { &b"localhost"[..] };
            // A literal without indexing, its name written out (RFC 7541 6.2.2).
            payload.push(0);
            string(&mut payload, &field.0);
            string(&mut payload, value);
        }
        let size = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        if payload.len() > LARGEST_FRAME {
            return Err(refused("header fields of more than 16 KiB"));
        }
        let ends = if block.ends_stream { END_STREAM } else { 0 };
        self.outbox.extend_from_slice(&size.to_be_bytes()[1..]);
        self.outbox.extend_from_slice(&[HEADERS, END_HEADERS | ends]);
        self.outbox.extend_from_slice(&block.stream);
        self.outbox.extend_from_slice(&payload);
        Ok(())
    }

    fn pass(&mut self, length: usize) {
        let piece = self.inbox.split_to(length);
        if self.outbox.is_empty() {
            self.outbox = piece;
        } else {
            self.outbox.extend_from_slice(&piece);
        }
    }

    fn let_all_pass(&mut self) {
        self.pass(self.inbox.len());
        self.mode = Mode::Done;
    }
}

/// Whether a field is anything but an authority that the library would refuse.
fn acceptable((name, value): &(Vec<u8>, Vec<u8>)) -> bool {
    name != b":authority" || Authority::try_from(value.as_slice()).is_ok()
}

/// The length in the head of a frame, which must be there.
fn length(frame: &[u8]) -> usize {
    usize::from(frame[0]) << 16 | usize::from(frame[1]) << 8 | usize::from(frame[2])
}

/// The payload of HEADERS without padding and priority (RFC 9113 6.2).
fn fragment(mut payload: &[u8], flags: u8) -> io::Result<&[u8]> {
    let mut padding = 0;
    if flags & PADDED != 0 {
        let (first, rest) = payload
            .split_first()
            .ok_or_else(|| refused("HEADERS frame that is cut"))?;
        (padding, payload) = (usize::from(*first), rest);
    }
    if flags & PRIORITY != 0 {
        payload = payload.get(5..).ok_or_else(|| refused("HEADERS frame that is cut"))?;
    }
    let end = payload.len().checked_sub(padding);
    end.map(|end| &payload[..end])
        .ok_or_else(|| refused("HEADERS frame with more padding than payload"))
}

/// A string without Huffman coding (RFC 7541 5.2).
fn string(out: &mut Vec<u8>, text: &[u8]) {
    let mut rest = text.len();
    if rest < 127 {
        #[expect(clippy::cast_possible_truncation, reason = "it is below 127")]
        out.push(rest as u8);
    } else {
        out.push(127);
        rest -= 127;
        while rest >= 128 {
            #[expect(clippy::cast_possible_truncation, reason = "the remainder is below 128")]
            out.push((rest % 128) as u8 | 128);
            rest /= 128;
        }
        #[expect(clippy::cast_possible_truncation, reason = "it is below 128")]
        out.push(rest as u8);
    }
    out.extend_from_slice(text);
}

fn refused(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the client sent a {what}"))
}
