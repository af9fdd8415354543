//! Tests of authorities that are none: real requests through hyper's own client and server, and bytes of any kind.

use std::convert::Infallible;

use bytes::Bytes;
use h2::server;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use loona_hpack::Encoder;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

use super::frames::Frames;
use super::*;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let size = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = vec![size[1], size[2], size[3], kind, flags, 0, 0, 0, stream];
    frame.extend_from_slice(payload);
    frame
}

/// The block of a request, compressed with the state of earlier ones.
fn block(encoder: &mut Encoder<'static>, authority: &str) -> Vec<u8> {
    encoder.encode([
        (&b":method"[..], &b"POST"[..]),
        (b":scheme", b"http"),
        (b":path", b"/a.B/C"),
        (b":authority", authority.as_bytes()),
        (b"te", b"trailers"),
    ])
}

/// What the server behind it sees of two requests: authority and path.
async fn seen(authority: &str, chunk: usize) -> Vec<String> {
    let (mut client, server) = duplex(64 * 1024);
    let mut encoder = Encoder::new();
    let mut bytes = [PREFACE, &frame(4, 0, 0, &[])].concat();
    // The second is split over a padded frame with a priority, and a continuation.
    bytes.extend(frame(1, 0x4 | 0x1, 1, &block(&mut encoder, authority)));
    let second = block(&mut encoder, authority);
    let (head, tail) = second.split_at(2);
    let padded = [&[3][..], &[0, 0, 0, 0, 15], head, &[0, 0, 0]].concat();
    bytes.extend(frame(1, 0x1 | 0x8 | 0x20, 3, &padded));
    bytes.extend(frame(9, 0x4, 3, tail));
    let writing = tokio::spawn(async move {
        for piece in bytes.chunks(chunk) {
            client.write_all(piece).await.unwrap();
        }
        client
    });
    let mut connection = server::handshake(AnyAuthority::new(server)).await.unwrap();
    let mut seen = Vec::new();
    while seen.len() < 2 {
        let (request, mut respond) = connection.accept().await.unwrap().unwrap();
        seen.push(request.uri().to_string());
        respond.send_response(Response::new(()), true).unwrap();
    }
    drop(writing.await.unwrap());
    seen
}

#[tokio::test]
async fn paths_as_authorities_are_let_in_however_the_bytes_come() {
    for authority in ["tmp%2Fensign%2Fa.sock", "/tmp/ensign/a.sock", ""] {
        for chunk in [1, 7, 4096] {
            assert_eq!(
                seen(authority, chunk).await,
                ["http://localhost/a.B/C"; 2],
                "{authority} {chunk}"
            );
        }
    }
}

#[tokio::test]
async fn authorities_pass_as_they_are() {
    for chunk in [1, 4096] {
        assert_eq!(seen("sds-grpc", chunk).await, ["http://sds-grpc/a.B/C"; 2]);
    }
}

#[tokio::test]
async fn bodies_pass_in_both_directions() {
    let (client, server) = duplex(8 * 1024);
    tokio::spawn(async move {
        let echo = service_fn(|request: Request<hyper::body::Incoming>| async move {
            let body = request.into_body().collect().await.unwrap().to_bytes();
            Ok::<_, Infallible>(Response::new(Full::new(body)))
        });
        hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .serve_connection(TokioIo::new(AnyAuthority::new(server)), echo)
            .await
    });
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(client))
        .await
        .unwrap();
    tokio::spawn(connection);
    let body = Bytes::from(vec![7; 300_000]);
    let request = Request::post("http://sds-grpc/").body(Full::new(body.clone())).unwrap();
    let reply = sender.send_request(request).await.unwrap();
    assert_eq!(reply.into_body().collect().await.unwrap().to_bytes(), body);
}

#[test]
fn a_short_block_that_stands_for_many_fields_is_refused() {
    let mut encoder = Encoder::new();
    let mut first = block(&mut encoder, "/a.sock");
    // One entry of 4 kB in the table, then named a thousand times (index 62) by a byte each.
    first.extend([0x40, 1, b'x', 0x7f, 0x81, 0x1e]);
    first.extend(vec![b'y'; 4000]);
    first.extend(vec![0xbe; 1000]);
    let mut frames = Frames::default();
    frames.take(PREFACE).unwrap();
    // On a first request the library is the judge: all passes.
    frames.take(&frame(1, 0x4, 1, &first)).unwrap();
    assert!(frames.has_seen_enough());

    let mut frames = Frames::default();
    frames.take(PREFACE).unwrap();
    frames
        .take(&frame(1, 0x4, 1, &block(&mut Encoder::new(), "/a.sock")))
        .unwrap();
    let error = frames.take(&frame(1, 0x4, 3, &first)).unwrap_err();
    assert!(error.to_string().contains("too large"), "{error}");
}

#[test]
fn a_block_without_end_is_refused() {
    let mut frames = Frames::default();
    frames.take(PREFACE).unwrap();
    frames.take(&frame(1, 0, 1, &[0x82])).unwrap();
    let more = frame(9, 0, 1, &[0; 16_000]);
    frames.take(&more).unwrap();
    frames.take(&more).unwrap();
    assert!(frames.take(&more).is_err());
}

proptest! {
    #[test]
    fn any_bytes_end_in_bytes_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..2000), kind in 0_u8..12, flags: u8) {
        let mut frames = Frames::default();
        let _ = frames.take(PREFACE);
        let _ = frames.take(&frame(kind, flags, 1, &bytes));
        let _ = frames.take(&bytes);
        frames.end();
    }

    #[test]
    fn the_bytes_of_other_frames_are_the_same(payloads in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 0..8), chunk in 1_usize..400) {
        let mut bytes = PREFACE.to_vec();
        for payload in &payloads {
            bytes.extend(frame(0, 0, 1, payload));
        }
        let mut frames = Frames::default();
        let mut passed = Vec::new();
        for piece in bytes.chunks(chunk) {
            frames.take(piece).unwrap();
            let mut room = [0; 8192];
            let mut buf = ReadBuf::new(&mut room);
            frames.hand_over(&mut buf);
            passed.extend_from_slice(buf.filled());
        }
        prop_assert_eq!(passed, bytes);
    }
}

#[tokio::test]
async fn the_end_of_the_client_is_handed_on() {
    let (mut client, server) = duplex(1024);
    client.write_all(&PREFACE[..10]).await.unwrap();
    drop(client);
    let mut all = Vec::new();
    AnyAuthority::new(server).read_to_end(&mut all).await.unwrap();
    assert_eq!(all, PREFACE[..10]);
}
