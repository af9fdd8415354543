//! The one part of a kubelet's API that `kubectl logs` needs: `/containerLogs/<namespace>/<pod>/<container>`.
//!
//! The API server comes here by the node's address and port, and does not check our certificate. `--follow` ends at the log's end.

use std::{convert::Infallible, net::SocketAddr};

use anyhow::Context;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpListener, task::JoinSet};

use super::AllLogs;
use crate::cluster::{Credential, tls};

/// The server, for as long as it lives.
pub(super) struct Logs {
    address: SocketAddr,
    _tasks: JoinSet<()>,
}

// === impl Logs ===

impl Logs {
    pub(super) async fn serve(credential: &Credential, logs: AllLogs) -> anyhow::Result<Self> {
        let tls = tls::acceptor(credential)?;
        let listener = TcpListener::bind(("127.0.0.1", 0))
            .await
            .context("no free port on loopback")?;
        let address = listener.local_addr().context("no address")?;
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                while connections.try_join_next().is_some() {}
                let (tls, logs) = (tls.clone(), AllLogs::clone(&logs));
                connections.spawn(async move {
                    let Ok(stream) = tls.accept(stream).await else { return };
                    let service = service_fn(|request| {
                        let answer = answer(&request, &logs);
                        async move { Ok::<_, Infallible>(answer) }
                    });
                    let stream = TokioIo::new(stream);
                    drop(http1::Builder::new().serve_connection(stream, service).await);
                });
            }
        });
        Ok(Self { address, _tasks: tasks })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }
}

fn answer(request: &Request<Incoming>, logs: &AllLogs) -> Response<Full<Bytes>> {
    let query = request.uri().query().unwrap_or_default();
    let found = text(request.uri().path(), query, logs);
    let status = if found.is_some() {
        StatusCode::OK
    } else {
        StatusCode::NOT_FOUND
    };
    let mut response = Response::new(Full::from(found.unwrap_or_default()));
    *response.status_mut() = status;
    response
}

fn text(path: &str, query: &str, logs: &AllLogs) -> Option<String> {
    let mut parts = path.strip_prefix("/containerLogs/")?.split('/');
    let key = (parts.next()?.to_owned(), parts.next()?.to_owned());
    let lines = logs.lock().get(&key)?.lines();
    let tail = query.split('&').find_map(|pair| pair.strip_prefix("tailLines="));
    let tail = tail.and_then(|count| count.parse().ok()).unwrap_or(lines.len());
    let last = lines.iter().skip(lines.len().saturating_sub(tail));
    Some(last.flat_map(|line| [line.as_str(), "\n"]).collect())
}
