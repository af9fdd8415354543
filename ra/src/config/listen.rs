//! Where each server listens.

use std::net::SocketAddr;

use clap::Args;
use ensign_daemon::settings::Checker;

use super::values::address;

/// The addresses to listen on.
#[derive(Debug, Clone)]
pub struct ListenConfig {
    /// gRPC over TLS.
    pub grpc: SocketAddr,
    /// /healthz and /readyz.
    pub readyz: SocketAddr,
    /// /metrics.
    pub metrics: SocketAddr,
}

#[derive(Debug, Clone, Args)]
pub(super) struct ListenArgs {
    /// Where certificates are requested (gRPC over TLS)
    #[arg(
        long,
        env = "ENSIGN_RA_GRPC_ADDR",
        default_value = "0.0.0.0:6443",
        value_name = "ADDR"
    )]
    grpc_addr: String,
    /// Where /healthz and /readyz answer
    #[arg(
        long,
        env = "ENSIGN_RA_READYZ_ADDR",
        default_value = "0.0.0.0:6060",
        value_name = "ADDR"
    )]
    readyz_addr: String,
    /// Where /metrics answers
    #[arg(
        long,
        env = "ENSIGN_RA_METRICS_ADDR",
        default_value = "0.0.0.0:9402",
        value_name = "ADDR"
    )]
    metrics_addr: String,
}

impl ListenArgs {
    pub(super) fn check(&self, c: &mut Checker<'_>) -> Option<ListenConfig> {
        let grpc = address(c, "grpc_addr", &self.grpc_addr);
        let readyz = address(c, "readyz_addr", &self.readyz_addr);
        let metrics = address(c, "metrics_addr", &self.metrics_addr);
        Some(ListenConfig {
            grpc: grpc?,
            readyz: readyz?,
            metrics: metrics?,
        })
    }
}
