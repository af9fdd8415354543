//! gRPC's framing over HTTP/2, as far as one service with three methods needs it.
//!
//! Owns the five-byte prefix in both directions, the bound on a message's size, and the memory that
//! half-received messages may take together. Promises that a buffer is let go the moment that its message is
//! complete: Envoy's first one has 61 kB and no later one has 200 bytes.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use tonic::Status;

use super::allowance::{Allowance, Taken};

/// One byte that says whether the message is compressed, four of length.
pub(crate) const PREFIX: usize = 5;

/// Allocated before anything of a message came: what it announces is not trusted.
const FIRST_ALLOCATION: usize = 64 * 1024;

/// Cuts a request body into messages.
#[derive(Debug)]
pub(crate) struct Deframer {
    limit: usize,
    /// How much all half-received messages of the pod may take.
    budget: Allowance,
    /// Received, not looked at.
    chunk: Bytes,
    prefix: [u8; PREFIX],
    prefix_len: usize,
    partial: Option<Partial>,
}

#[derive(Debug)]
struct Partial {
    missing: usize,
    buffer: BytesMut,
    reserved: Taken,
}

impl Deframer {
    pub(crate) fn new(limit: usize, budget: Allowance) -> Self {
        Self {
            limit,
            budget,
            chunk: Bytes::new(),
            prefix: [0; PREFIX],
            prefix_len: 0,
            partial: None,
        }
    }

    /// Takes what came. Call [`Deframer::message`] until it has none before the next chunk.
    pub(crate) fn feed(&mut self, chunk: Bytes) {
        debug_assert!(self.chunk.is_empty(), "the chunk before was used up");
        self.chunk = chunk;
    }

    /// The next whole message.
    pub(crate) fn message(&mut self) -> Result<Option<Bytes>, Status> {
        if self.partial.is_none() && !self.start()? {
            return Ok(None);
        }
        let Some(partial) = &mut self.partial else {
            return Ok(None);
        };
        let take = partial.missing.min(self.chunk.len());
        partial.buffer.put(self.chunk.split_to(take));
        partial.missing -= take;
        if !partial.reserved.grow_to(partial.buffer.capacity()) {
            return Err(out_of_budget());
        }
        if partial.missing > 0 {
            self.chunk = Bytes::new();
            return Ok(None);
        }
        if self.chunk.is_empty() {
            // Not even an empty slice: it would keep the whole chunk alive.
            self.chunk = Bytes::new();
        }
        Ok(self.partial.take().map(|partial| partial.buffer.freeze()))
    }

    /// Reads the prefix. True if a message has begun.
    fn start(&mut self) -> Result<bool, Status> {
        while self.prefix_len < PREFIX {
            if self.chunk.is_empty() {
                return Ok(false);
            }
            self.prefix[self.prefix_len] = self.chunk.get_u8();
            self.prefix_len += 1;
        }
        self.prefix_len = 0;
        let [compressed, length @ ..] = self.prefix;
        if compressed != 0 {
            return Err(Status::unimplemented(
                "compressed messages are not supported; send grpc-encoding: identity",
            ));
        }
        let length = u32::from_be_bytes(length) as usize;
        if length > self.limit {
            let text = format!("the request has {length} bytes, the limit is {}", self.limit);
            return Err(Status::resource_exhausted(text));
        }
        let first = length.min(FIRST_ALLOCATION);
        let reserved = self.budget.take(first).ok_or_else(out_of_budget)?;
        self.partial = Some(Partial {
            missing: length,
            buffer: BytesMut::with_capacity(first),
            reserved,
        });
        Ok(true)
    }
}

/// A message's prefix and the first part of it; `rest` bytes are sent after it.
pub(crate) fn prefixed(head: &[u8], rest: usize) -> Bytes {
    let mut framed = BytesMut::with_capacity(PREFIX + head.len());
    framed.put_u8(0);
    // A secret has some kilobytes, so the length always fits.
    framed.put_u32(u32::try_from(head.len() + rest).unwrap_or(u32::MAX));
    framed.put_slice(head);
    framed.freeze()
}

/// The headers of a response whose messages follow.
pub(crate) fn accepted<B>(body: B) -> Response<B> {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    // A client that compresses learns from it what to do instead (gRPC, doc/compression.md).
    headers.insert("grpc-accept-encoding", HeaderValue::from_static("identity"));
    response
}

/// The end of a response.
pub(crate) fn trailers(status: &Status) -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(2);
    if status.add_header(&mut trailers).is_err() {
        // A text that no header can carry; the code says enough.
        trailers.insert("grpc-status", HeaderValue::from_static("13"));
    }
    trailers
}

/// What is wrong with the request as HTTP, before gRPC has a say.
pub(crate) fn http_fault(method: &Method, headers: &HeaderMap) -> Option<StatusCode> {
    let content_type = headers
        .get(header::CONTENT_TYPE)
        .map_or(&b""[..], HeaderValue::as_bytes);
    let suffix = content_type.strip_prefix(b"application/grpc");
    if method != Method::POST {
        Some(StatusCode::METHOD_NOT_ALLOWED)
    } else if !matches!(suffix, Some([] | [b'+' | b';', ..])) {
        Some(StatusCode::UNSUPPORTED_MEDIA_TYPE)
    } else {
        None
    }
}

fn out_of_budget() -> Status {
    Status::resource_exhausted("too many half-sent requests on this node's sockets")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tonic::Code;

    use super::super::allowance::Pool;
    use super::*;

    fn budget(bytes: usize) -> Allowance {
        Allowance::new(bytes, bytes, &Pool::new(0))
    }

    fn deframer(limit: usize, bytes: usize) -> Deframer {
        Deframer::new(limit, budget(bytes))
    }

    fn framed(message: &[u8]) -> Bytes {
        prefixed(message, 0)
    }

    proptest! {
        #[test]
        fn any_cut_yields_the_same_messages(
            messages in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 0..6),
            cut in 1usize..64,
        ) {
            let wire: Vec<u8> = messages.iter().flat_map(|message| framed(message)).collect();
            let budget = budget(1_000_000);
            let mut deframer = Deframer::new(1000, budget.clone());
            let mut seen = Vec::new();
            for chunk in wire.chunks(cut) {
                deframer.feed(Bytes::copy_from_slice(chunk));
                while let Some(message) = deframer.message().unwrap() {
                    seen.push(message.to_vec());
                }
            }
            prop_assert_eq!(seen, messages);
            prop_assert_eq!(budget.taken(), 0);
        }
    }

    #[test]
    fn too_long_compressed_and_too_much_are_refused() {
        let code = |mut deframer: Deframer, wire: &'static [u8]| {
            deframer.feed(Bytes::from_static(wire));
            deframer.message().unwrap_err().code()
        };
        assert_eq!(code(deframer(10, 100), &[0, 0, 0, 0, 11]), Code::ResourceExhausted);
        assert_eq!(
            code(deframer(10, 100), &[0, 0xff, 0xff, 0xff, 0xff]),
            Code::ResourceExhausted
        );
        assert_eq!(code(deframer(10, 5), &[0, 0, 0, 0, 6]), Code::ResourceExhausted);
        assert_eq!(code(deframer(10, 100), &[1, 0, 0, 0, 1, 7]), Code::Unimplemented);
    }

    #[test]
    fn only_grpc_posts_pass() {
        let headers =
            |value: &'static str| HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static(value))]);
        assert_eq!(http_fault(&Method::POST, &headers("application/grpc")), None);
        assert_eq!(http_fault(&Method::POST, &headers("application/grpc+proto")), None);
        assert_eq!(
            http_fault(&Method::GET, &headers("application/grpc")),
            Some(StatusCode::METHOD_NOT_ALLOWED)
        );
        for wrong in ["application/grpc-web", "application/json", ""] {
            assert_eq!(
                http_fault(&Method::POST, &headers(wrong)),
                Some(StatusCode::UNSUPPORTED_MEDIA_TYPE),
                "{wrong}"
            );
        }
        assert!(http_fault(&Method::POST, &HeaderMap::new()).is_some());
    }

    #[test]
    fn status_text_is_percent_encoded() {
        let trailers = trailers(&Status::unavailable("not yet: ü\n"));
        assert_eq!(trailers["grpc-status"], "14");
        assert_eq!(trailers["grpc-message"], "not%20yet:%20%C3%BC%0A");
    }
}
