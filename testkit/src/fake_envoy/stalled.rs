//! A peer that subscribes and then never reads: neither data nor pings, while its socket stays open.

use std::path::Path;
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use ensign_proto::envoy::service::discovery::v3::DiscoveryRequest;
use ensign_proto::{SECRET_TYPE_URL, sds_path};
use h2::client::{Connection, SendRequest};
use prost::Message as _;
use tokio::net::UnixStream;

/// A connection that is open and unread.
pub struct StalledEnvoy {
    connection: Connection<UnixStream, Bytes>,
    _sender: SendRequest<Bytes>,
    _streams: Vec<(h2::client::ResponseFuture, h2::SendStream<Bytes>)>,
}

impl StalledEnvoy {
    /// Subscribes to `names` on one stream each, with a window of nothing, and falls silent.
    pub async fn connect(socket: &Path, node: &Bytes, names: &[&str]) -> anyhow::Result<Self> {
        let stream = UnixStream::connect(socket).await?;
        let (mut sender, mut connection) = h2::client::Builder::new()
            .initial_window_size(0)
            .handshake(stream)
            .await?;
        let mut streams = Vec::new();
        for name in names {
            let request = http::Request::post(format!("http://envoy.invalid{}", sds_path::STREAM_SECRETS))
                .header("content-type", "application/grpc")
                .header("te", "trailers")
                .body(())?;
            let (response, mut body) = sender.send_request(request, false)?;
            body.send_data(frame(node, name), false)?;
            streams.push((response, body));
        }
        // Long enough for the requests to leave; after this nobody turns the connection.
        let _ = tokio::time::timeout(Duration::from_millis(500), &mut connection).await;
        Ok(Self {
            connection,
            _sender: sender,
            _streams: streams,
        })
    }

    /// Reads again: whether the server has dropped the connection, or does so in time.
    pub async fn dropped_within(self, timeout: Duration) -> bool {
        tokio::time::timeout(timeout, self.connection).await.is_ok()
    }
}

/// One gRPC message: no compression, length, content.
fn frame(node: &Bytes, name: &str) -> Bytes {
    let request = DiscoveryRequest {
        node: node.clone(),
        resource_names: vec![name.to_owned()],
        type_url: SECRET_TYPE_URL.to_owned(),
        ..DiscoveryRequest::default()
    };
    let mut frame = BytesMut::new();
    frame.put_u8(0);
    frame.put_u32(u32::try_from(request.encoded_len()).unwrap());
    request.encode(&mut frame).unwrap();
    frame.freeze()
}
