//! Where each server listens. istio-csr's ports are other words for the ports of our addresses.

use std::net::SocketAddr;

use clap::parser::ValueSource;
use clap::{ArgMatches, Args};
use ensign_daemon::settings::Checker;

use super::kubernetes::Noted;
use super::values::address;

/// The addresses to listen on.
#[derive(Debug, Clone)]
pub struct ListenConfig {
    /// gRPC over TLS.
    pub grpc: SocketAddr,
    /// /healthz and /readyz.
    pub readyz: SocketAddr,
    /// Where readiness answers beside /readyz, if somebody expects it elsewhere.
    pub readiness_path: Option<String>,
    /// /metrics.
    pub metrics: SocketAddr,
}

#[derive(Debug, Clone, Args)]
pub(super) struct ListenArgs {
    /// Where certificates are requested (gRPC over TLS)
    #[arg(
        long,
        visible_alias = "serving-address",
        short = 'a',
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
    /// As in istio-csr: the port of that address; unset: the address says it
    #[arg(long, env = "ENSIGN_RA_READINESS_PROBE_PORT", value_name = "PORT")]
    readiness_probe_port: Option<String>,
    /// As in istio-csr: where readiness answers, beside /readyz
    #[arg(
        long,
        env = "ENSIGN_RA_READINESS_PROBE_PATH",
        default_value = "/readyz",
        value_name = "PATH"
    )]
    readiness_probe_path: String,
    /// Where /metrics answers
    #[arg(
        long,
        env = "ENSIGN_RA_METRICS_ADDR",
        default_value = "0.0.0.0:9402",
        value_name = "ADDR"
    )]
    metrics_addr: String,
    /// As in istio-csr: the port of that address; unset: the address says it
    #[arg(long, env = "ENSIGN_RA_METRICS_PORT", value_name = "PORT")]
    metrics_port: Option<String>,
}

impl ListenArgs {
    pub(super) fn check(&self, c: &mut Checker<'_>, matches: &ArgMatches) -> Option<ListenConfig> {
        let grpc = address(c, "grpc_addr", &self.grpc_addr);
        let mut with_port = |id, seen, port_id, port: &Option<String>| {
            let address = address(c, id, seen)?;
            let Some(port) = port.as_deref().filter(|port| !port.is_empty()) else {
                return Some(address);
            };
            let number = c.parse(port_id, port, "a port")?;
            if matches.value_source(id) != Some(ValueSource::DefaultValue) && number != address.port() {
                let expected = format!("the port of {}, or only one of them", c.name(id));
                c.refuse(port_id, port, &expected, "both say where to listen");
            }
            Some(SocketAddr::new(address.ip(), number))
        };
        let readyz = with_port(
            "readyz_addr",
            &self.readyz_addr,
            "readiness_probe_port",
            &self.readiness_probe_port,
        );
        let metrics = with_port("metrics_addr", &self.metrics_addr, "metrics_port", &self.metrics_port);
        Some(ListenConfig {
            grpc: grpc?,
            readyz: readyz?,
            readiness_path: self.readiness_path(c).ok()?,
            metrics: metrics?,
        })
    }

    /// `None`: where it always is.
    fn readiness_path(&self, c: &mut Checker<'_>) -> Result<Option<String>, Noted> {
        let path = self.readiness_probe_path.as_str();
        if path == "/readyz" {
            return Ok(None);
        }
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-_.".contains(&byte);
        if path.len() < 2 || !path.starts_with('/') || !path.bytes().all(plain) || path == "/healthz" {
            let why =
                "it begins with a slash, is made of letters, digits, `-`, `_` and `.`, and is not that of liveness";
            c.refuse("readiness_probe_path", path, "a path such as /readyz", why);
            return Err(Noted);
        }
        Ok(Some(path.to_owned()))
    }
}
