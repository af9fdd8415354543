//! A peer that begins requests and sends half of each.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::{BufMut as _, Bytes, BytesMut};
use ensign_proto::sds_path;
use tokio::net::UnixStream;
use tokio::task::JoinSet;

/// One connection whose streams wait for their other half. Dropped, it is closed.
pub struct HalfwayEnvoy {
    ended: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

impl HalfwayEnvoy {
    /// Announces a request of so many bytes on each of so many streams.
    pub async fn connect(socket: &Path, streams: usize, length: usize) -> anyhow::Result<Self> {
        let stream = UnixStream::connect(socket).await?;
        let (mut sender, connection) = h2::client::handshake(stream).await?;
        let (ended, mut tasks) = (Arc::new(AtomicUsize::new(0)), JoinSet::new());
        tasks.spawn(async move {
            let _ = connection.await;
        });
        for _ in 0..streams {
            let request = http::Request::post(format!("http://envoy.invalid{}", sds_path::STREAM_SECRETS))
                .header("content-type", "application/grpc")
                .header("te", "trailers")
                .body(())?;
            sender = sender.ready().await?;
            let (response, mut body) = sender.send_request(request, false)?;
            body.send_data(half(length), false)?;
            let ended = Arc::clone(&ended);
            tasks.spawn(async move {
                if let Ok(response) = response.await {
                    let mut answer = response.into_body();
                    while let Some(Ok(_)) = answer.data().await {}
                }
                ended.fetch_add(1, Ordering::Relaxed);
                // Until then the request goes on.
                drop(body);
            });
        }
        Ok(Self { ended, _tasks: tasks })
    }

    /// How many of them the server has ended.
    pub fn ended(&self) -> usize {
        self.ended.load(Ordering::Relaxed)
    }
}

/// No compression, the length of the whole, half of it.
fn half(length: usize) -> Bytes {
    let mut frame = BytesMut::new();
    frame.put_u8(0);
    frame.put_u32(u32::try_from(length).unwrap());
    frame.put_bytes(b'z', length / 2);
    frame.freeze()
}
