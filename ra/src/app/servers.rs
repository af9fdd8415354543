//! The three servers: certificates over gRPC, health, metrics.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use ensign_daemon::{Readiness, Supervisor, http};
use ensign_proto::istio::v1::auth::istio_certificate_service_server::IstioCertificateServiceServer;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tower::util::{MapRequestLayer, MapResponseLayer};

use super::Boot;
use crate::config::ListenConfig;
use crate::edge;
use crate::limits::LimitsConfig;
use crate::metrics::Metrics;
use crate::policy;
use crate::service::Service;
use crate::serving::{Acceptor, Incoming, Serving, TlsLimits};

/// The bound sockets.
pub(super) struct Listeners {
    grpc: TcpListener,
    readyz: TcpListener,
    metrics: TcpListener,
    readiness_path: Option<String>,
}

/// What the gRPC server serves, and how.
pub(super) struct Served {
    pub(super) service: Service,
    pub(super) serving: Serving,
    pub(super) asks_for_certificates: bool,
    pub(super) limits: LimitsConfig,
    pub(super) signer_timeout: Duration,
}

// === impl Listeners ===

impl Listeners {
    pub(super) async fn bind(config: &ListenConfig) -> anyhow::Result<Self> {
        Ok(Self {
            grpc: http::bind(config.grpc, "certificate requests, --grpc-addr").await?,
            readyz: http::bind(config.readyz, "health, --readyz-addr").await?,
            metrics: http::bind(config.metrics, "metrics, --metrics-addr").await?,
            readiness_path: config.readiness_path.clone(),
        })
    }

    pub(super) fn addresses(&self) -> anyhow::Result<BTreeMap<&'static str, SocketAddr>> {
        Ok(BTreeMap::from([
            ("grpc", self.grpc.local_addr()?),
            ("readyz", self.readyz.local_addr()?),
            ("metrics", self.metrics.local_addr()?),
        ]))
    }
}

/// Hands everything that was begun to the supervisor, which runs it.
pub(super) fn start(listeners: Listeners, served: Served, boot: Boot) -> anyhow::Result<(Supervisor, Readiness)> {
    let Boot {
        mut supervisor,
        readiness,
        registry,
        metrics,
        ..
    } = boot;
    let stop = supervisor.stop_token();
    let tls_limits = TlsLimits {
        connections: served.limits.connections,
        ..TlsLimits::default()
    };
    let (mut acceptor, incoming) = Acceptor::new(listeners.grpc, served.serving.server_config()?, tls_limits);
    if served.asks_for_certificates {
        acceptor = acceptor.ask_for_certificates(served.serving);
    }
    supervisor.spawn("tls acceptor", acceptor.run(stop.clone()));
    let grace = grace(served.signer_timeout);
    let grpc_server = serve(served.service, incoming, served.limits, grace, metrics, stop);
    supervisor.spawn("grpc server", grpc_server);

    let mut health = http::health_router(readiness.clone());
    if let Some(path) = &listeners.readiness_path {
        health = health.merge(http::readiness_router(path, readiness.clone()));
    }
    spawn_http(&mut supervisor, "health server", listeners.readyz, health);
    let scrapes = http::metrics_router(Arc::new(registry));
    spawn_http(&mut supervisor, "metrics server", listeners.metrics, scrapes);
    Ok((supervisor, readiness))
}

/// Serves until `stop`, then until the last request in flight is answered.
async fn serve(
    service: Service,
    incoming: Incoming,
    limits: LimitsConfig,
    grace: Duration,
    metrics: Metrics,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let service = IstioCertificateServiceServer::new(service).max_decoding_message_size(limits.message_bytes);
    Server::builder()
        .max_concurrent_streams(STREAMS_PER_CONNECTION)
        .max_connection_age(limits.connection_age)
        .max_connection_age_grace(grace)
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .http2_max_header_list_size(MAX_HEADER_BYTES)
        .layer(MapRequestLayer::new(edge::patient))
        .layer(MapResponseLayer::new(move |answer| edge::uniform(answer, &metrics)))
        .add_service(service)
        .serve_with_incoming_shutdown(incoming, stop.cancelled_owned())
        .await
        .context("the gRPC server failed")
}

/// What a request may still need when its connection is asked to go: its message, and as long as any signer may take.
fn grace(signer_timeout: Duration) -> Duration {
    edge::PATIENCE + signer_timeout.max(policy::LONGEST_REQUEST)
}

fn spawn_http(supervisor: &mut Supervisor, name: &'static str, listener: TcpListener, router: axum::Router) {
    let (stop, connections) = (supervisor.stop_token(), supervisor.connections());
    supervisor.spawn(name, http::serve(listener, router, stop, connections));
}

/// One agent asks for the certificates of one node over one connection.
const STREAMS_PER_CONNECTION: u32 = 256;
/// A token and a few words; the default of 16 MiB is for others.
const MAX_HEADER_BYTES: u32 = 64 * 1024;
/// Finds peers that vanished without a word.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_outlives_every_request_on_it() {
        let (short, long) = (Duration::from_secs(1), 2 * policy::LONGEST_REQUEST);
        assert!(grace(short) >= edge::PATIENCE + policy::LONGEST_REQUEST);
        assert!(grace(long) >= edge::PATIENCE + long);
    }
}
