//! A small HTTP/1 client for admin ports and for load: one connection, kept alive, one request at a time.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, ensure};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{net::TcpStream, task::JoinHandle, time::timeout};

/// No answer of a local peer takes this long; a hang must become an error with a name.
const LIMIT: Duration = Duration::from_secs(30);

/// One connection to a plain HTTP port.
#[derive(Debug)]
pub struct Connection {
    peer: SocketAddr,
    sender: SendRequest<Full<Bytes>>,
    driver: JoinHandle<()>,
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: StatusCode,
    /// Response headers.
    pub headers: HeaderMap,
    /// The whole body, lossily as text.
    pub body: String,
}

/// One GET on a connection of its own; anything but 2xx is an error that quotes the body.
pub async fn get(peer: SocketAddr, path: &str) -> anyhow::Result<String> {
    let answer = request(peer, Method::GET, path, &[]).await?;
    ensure!(
        answer.status.is_success(),
        "GET {path} at {peer} answered {}: {}",
        answer.status,
        answer.body.trim()
    );
    Ok(answer.body)
}

/// One POST of JSON on a connection of its own; anything but 2xx is an error that quotes the body.
pub async fn post(peer: SocketAddr, path: &str, json: &Value) -> anyhow::Result<Value> {
    let request = Request::post(path)
        .header(header::HOST, peer.to_string())
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::from(json.to_string()))
        .context("cannot build the request")?;
    let answer = Connection::open(peer).await?.exchange(path, request).await?;
    ensure!(
        answer.status.is_success(),
        "POST {path} at {peer} answered {}: {}",
        answer.status,
        answer.body.trim()
    );
    serde_json::from_str(&answer.body).with_context(|| format!("POST {path} at {peer} answered no JSON"))
}

/// One request on a connection of its own, whatever its status.
pub async fn request(peer: SocketAddr, method: Method, path: &str, headers: &[(&str, &str)]) -> anyhow::Result<Answer> {
    Connection::open(peer).await?.send(method, path, headers).await
}

impl Connection {
    /// Connects.
    pub async fn open(peer: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(peer)
            .await
            .with_context(|| format!("cannot connect to {peer}"))?;
        stream.set_nodelay(true).context("cannot set TCP_NODELAY")?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .with_context(|| format!("no HTTP at {peer}"))?;
        #[expect(clippy::disallowed_methods, reason = "aborted by Drop; an error reaches the sender")]
        let driver = tokio::spawn(async move { drop(connection.await) });
        Ok(Self { peer, sender, driver })
    }

    /// Sends one request and reads its whole answer.
    pub async fn send(&mut self, method: Method, path: &str, headers: &[(&str, &str)]) -> anyhow::Result<Answer> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, self.peer.to_string());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::default()).context("cannot build the request")?;
        self.exchange(path, request).await
    }

    async fn exchange(&mut self, path: &str, request: Request<Full<Bytes>>) -> anyhow::Result<Answer> {
        let exchange = async {
            self.sender.ready().await?;
            let (parts, body) = self.sender.send_request(request).await?.into_parts();
            let body = body.collect().await?.to_bytes();
            Ok::<_, hyper::Error>((parts, body))
        };
        let (parts, body) = timeout(LIMIT, exchange)
            .await
            .with_context(|| format!("{} did not answer {path} within {} s", self.peer, LIMIT.as_secs()))?
            .with_context(|| format!("the connection to {} broke while asking for {path}", self.peer))?;
        Ok(Answer {
            status: parts.status,
            headers: parts.headers,
            body: String::from_utf8_lossy(&body).into_owned(),
        })
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}
