//! The small HTTP server of a daemon: `/metrics`, `/healthz`, `/readyz`, and routers of its owner.
//!
//! Meant for scrapers, probes and an operator's browser, so it is bounded in every direction: number
//! of connections, size of a request's head, time for each step. Liveness is "the process answers"; it
//! depends on nothing else. What a route shows is its owner's responsibility.

use std::{convert::Infallible, fmt, net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use prometheus_client::registry::Registry;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{exposition, readiness::Readiness};

/// A socket could not be bound.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} ({purpose}); choose another address or stop what uses it")]
pub struct BindError {
    address: SocketAddr,
    purpose: &'static str,
    #[source]
    source: std::io::Error,
}

/// Binds `address`; `purpose` is for the error text.
pub async fn bind(address: SocketAddr, purpose: &'static str) -> Result<TcpListener, BindError> {
    TcpListener::bind(address).await.map_err(|source| BindError {
        address,
        purpose,
        source,
    })
}

/// `/metrics` from `registry`.
pub fn metrics_router(registry: Arc<Registry>) -> Router {
    Router::new().route(
        "/metrics",
        get(move |headers: HeaderMap| async move { metrics(&registry, &headers) }),
    )
}

/// `/healthz` (the process answers) and `/readyz` (200, or 503 with one line per pending gate).
pub fn health_router(readiness: Readiness) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(move || async move { ready(&readiness) }))
}

/// The answer of `/readyz` at another path, for those who look for it there; one without variables.
pub fn readiness_router(path: &str, readiness: Readiness) -> Router {
    Router::new().route(path, get(move || async move { ready(&readiness) }))
}

/// Serves `router` on `listener` until `stop`; connections are tracked by `connections`.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    stop: CancellationToken,
    connections: TaskTracker,
) -> anyhow::Result<()> {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, mostly: accepting again at once would spin.
                tracing::warn!(%error, "cannot accept an HTTP connection");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // One too many is closed, not queued: a probe that waits in line would look like a hang.
        if let Ok(slot) = Arc::clone(&slots).try_acquire_owned() {
            let connection = connection(stream, router.clone(), stop.clone());
            connections.spawn(async move {
                connection.await;
                drop(slot);
            });
        }
    }
}

/// One connection: bounded head, bounded answer time, bounded life.
async fn connection(stream: TcpStream, router: Router, stop: CancellationToken) {
    let service = tower_service(router);
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(served);
    let outcome = tokio::select! {
        outcome = served.as_mut() => outcome,
        () = either(stop.cancelled(), sleep(CONNECTION_LIFE)) => {
            served.as_mut().graceful_shutdown();
            timeout(ANSWER_TIMEOUT, served).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = outcome {
        tracing::debug!(%error, "HTTP connection ended");
    }
}

/// The router with a time limit on each answer.
fn tower_service(
    router: Router,
) -> impl hyper::service::Service<hyper::Request<hyper::body::Incoming>, Response = Response, Error = Infallible, Future: Send>
{
    let service = TowerToHyperService::new(router);
    hyper::service::service_fn(move |request| {
        let answer = hyper::service::Service::call(&service, request);
        async move {
            let late = || StatusCode::SERVICE_UNAVAILABLE.into_response();
            timeout(ANSWER_TIMEOUT, answer).await.unwrap_or_else(|_| Ok(late()))
        }
    })
}

async fn either(first: impl Future<Output = ()>, second: impl Future<Output = ()>) {
    tokio::select! { () = first => {}, () = second => {} }
}

fn metrics(registry: &Registry, headers: &HeaderMap) -> Response {
    match exposition::of(registry, headers) {
        Ok((kind, text)) => ([(header::CONTENT_TYPE, kind)], text).into_response(),
        Err(fmt::Error) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

fn ready(readiness: &Readiness) -> Response {
    let pending = readiness.pending();
    if pending.is_empty() {
        return "ready\n".into_response();
    }
    let lines: Vec<_> = pending
        .iter()
        .map(|one| format!("{}: {}\n", one.name, one.reason))
        .collect();
    (StatusCode::SERVICE_UNAVAILABLE, lines.concat()).into_response()
}

const MAX_CONNECTIONS: usize = 64;
const MAX_HEADERS: usize = 64;
/// hyper's minimum is 8 KiB; a browser's cookies for `localhost` may be some.
const MAX_HEAD_BYTES: usize = 16 * 1024;
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// A client that reads nothing cannot hold a slot for longer; scrapers reconnect.
const CONNECTION_LIFE: Duration = Duration::from_mins(5);
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn get(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn metrics_health_and_readiness() {
        let readiness = Readiness::new();
        let gate = readiness.gate("ca-roots", "no roots yet");
        let router = health_router(readiness).merge(metrics_router(Arc::new(Registry::default())));
        let listener = bind("127.0.0.1:0".parse().unwrap(), "test").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, tracker) = (CancellationToken::new(), TaskTracker::new());
        let server = serve(listener, router, stop.clone(), tracker.clone());
        tracker.spawn(async move { server.await.unwrap() });

        assert!(get(address, "/healthz").await.starts_with("HTTP/1.1 200"));
        let answer = get(address, "/readyz").await;
        assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
        assert!(answer.ends_with("ca-roots: no roots yet\n"), "{answer}");
        gate.open();
        assert!(get(address, "/readyz").await.starts_with("HTTP/1.1 200"));
        assert!(get(address, "/metrics").await.starts_with("HTTP/1.1 200"));
        assert!(get(address, "/other").await.starts_with("HTTP/1.1 404"));

        stop.cancel();
        tracker.close();
        tracker.wait().await;
    }

    #[tokio::test]
    async fn an_address_in_use_is_named() {
        let listener = bind("127.0.0.1:0".parse().unwrap(), "test").await.unwrap();
        let address = listener.local_addr().unwrap();
        let error = bind(address, "metrics").await.unwrap_err();
        assert!(error.to_string().contains(&address.to_string()));
    }
}
