//! The bootstrap of an Envoy, with the TLS parts as Istio writes them: static `sds-grpc` cluster on the workload's
//! socket, `default` and a combined validation context with `ROOTCA`, `initial_fetch_timeout: 0s`.
//!
//! Ours are only the parts that make tests exact: port 0 everywhere (in a pod, which has a network of its own, fixed ports), one
//! request per upstream connection and no session resumption, so that every request is a full handshake with the certificates
//! of that moment, and response headers that tell which certificates those were.

use std::{net::SocketAddr, path::PathBuf};

use anyhow::{Context, ensure};
use serde_json::{Value, json};

/// Name of the mTLS listener.
pub(super) const INBOUND: &str = "inbound";
/// Header set by the server: the client's certificate by serial.
pub(crate) const PEER_SERIAL: &str = "x-peer-serial";
/// Header set by the server: the client's certificate by URI SAN.
pub const PEER_URI: &str = "x-peer-uri";
/// Header set by the client: the server's certificate, percent-encoded PEM.
pub(crate) const SERVER_CERTIFICATE: &str = "x-server-certificate";

/// What one Envoy is.
#[derive(Debug, Clone)]
pub struct EnvoySpec {
    /// Name in logs and of its files.
    pub name: String,
    /// Namespace of its workload (only told in its node; no identity).
    pub namespace: String,
    /// Service account of its workload (only told in its node; no identity).
    pub service_account: String,
    /// The agent's socket for its workload.
    pub socket: PathBuf,
    /// `CERT_SIGNER` in its node metadata: the workload's wish.
    pub cert_signer: Option<String>,
    /// SDS transport.
    pub api: Api,
    /// Where it runs.
    pub home: Home,
    /// Whether it has an mTLS listener that accepts any id of the mesh.
    pub serves: bool,
    /// Whom it calls.
    pub upstreams: Vec<Upstream>,
}

/// Where an Envoy runs, which decides what it binds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Home {
    /// A process of the machine: loopback, ports of the kernel's choice.
    Machine,
    /// A pod: every address, and the ports of [`Home`].
    Pod,
}

/// A peer that it calls over mTLS, through a plain listener of the same name.
#[derive(Debug, Clone)]
pub struct Upstream {
    /// Name of the listener and the cluster.
    pub name: String,
    /// The peer's mTLS port.
    pub address: Address,
    /// The peer's real id, as Istio's secure naming pins it.
    pub id: String,
}

/// Where a peer is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// At an address.
    Socket(SocketAddr),
    /// Where the name leads that DNS has now, and a port.
    Name(String, u16),
}

/// Which of Envoy's two SDS transports it uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Api {
    /// State of the world, as Istio configures.
    Grpc,
    /// Incremental.
    DeltaGrpc,
}

// === impl EnvoySpec ===

impl EnvoySpec {
    /// An Envoy without listeners.
    pub fn new(name: &str, namespace: &str, service_account: &str, socket: impl Into<PathBuf>) -> Self {
        Self {
            name: name.to_owned(),
            namespace: namespace.to_owned(),
            service_account: service_account.to_owned(),
            socket: socket.into(),
            cert_signer: None,
            api: Api::Grpc,
            home: Home::Machine,
            serves: false,
            upstreams: Vec::new(),
        }
    }

    /// With `CERT_SIGNER` in its node metadata.
    #[must_use]
    pub fn signer(mut self, signer: &str) -> Self {
        self.cert_signer = Some(signer.to_owned());
        self
    }

    /// With an mTLS listener.
    #[must_use]
    pub fn serving(mut self) -> Self {
        self.serves = true;
        self
    }

    /// With a peer to call.
    #[must_use]
    pub fn calling(mut self, name: &str, address: SocketAddr, id: &str) -> Self {
        self.upstreams.push(Upstream {
            name: name.to_owned(),
            address: Address::Socket(address),
            id: id.to_owned(),
        });
        self
    }

    /// The same, found by its name.
    #[must_use]
    pub fn calling_by_name(mut self, name: &str, host: &str, port: u16, id: &str) -> Self {
        self.upstreams.push(Upstream {
            name: name.to_owned(),
            address: Address::Name(host.to_owned(), port),
            id: id.to_owned(),
        });
        self
    }

    /// In a pod.
    #[must_use]
    pub fn in_a_pod(mut self) -> Self {
        self.home = Home::Pod;
        self
    }

    /// With incremental SDS.
    #[must_use]
    pub fn delta(mut self) -> Self {
        self.api = Api::DeltaGrpc;
        self
    }

    /// The whole configuration, for `--config-yaml`.
    pub fn bootstrap(&self) -> anyhow::Result<Value> {
        bootstrap(self)
    }

    pub(super) fn listener_count(&self) -> usize {
        usize::from(self.serves) + self.upstreams.len()
    }
}

// === impl Home ===

impl Home {
    /// Admin port of an Envoy in a pod.
    pub const ADMIN: u16 = 15_000;
    /// Its mTLS port.
    pub const INBOUND: u16 = 15_006;
    /// The plain port that leads to its first upstream; those of the others follow.
    pub const OUTBOUND: u16 = 16_000;

    fn bind(self, port: u16) -> Value {
        let (address, port) = match self {
            Self::Machine => ("127.0.0.1", 0),
            Self::Pod => ("0.0.0.0", port),
        };
        json!({ "socket_address": { "address": address, "port_value": port } })
    }
}

/// The whole configuration.
pub(super) fn bootstrap(spec: &EnvoySpec) -> anyhow::Result<Value> {
    let socket = spec.socket.to_str().context("the socket's path is not UTF-8")?;
    ensure!(
        socket.len() <= 107,
        "{socket} is longer than the 107 bytes that a Unix socket's path may have"
    );
    let mut metadata = json!({
        "CLUSTER_ID": "Kubernetes",
        "NAMESPACE": spec.namespace,
        "SERVICE_ACCOUNT": spec.service_account,
        "INSTANCE_IPS": "127.0.0.1",
        "MESH_ID": "cluster.local",
    });
    if let Some(signer) = &spec.cert_signer {
        metadata["CERT_SIGNER"] = json!(signer);
    }
    let ports = Home::OUTBOUND..;
    let mut listeners: Vec<Value> = spec
        .upstreams
        .iter()
        .zip(ports)
        .map(|(upstream, port)| outbound_listener(upstream, &spec.home.bind(port)))
        .collect();
    if spec.serves {
        listeners.push(inbound_listener(spec.api, &spec.home.bind(Home::INBOUND)));
    }
    let mut clusters: Vec<Value> = spec
        .upstreams
        .iter()
        .map(|upstream| upstream_cluster(upstream, spec.api))
        .collect();
    clusters.push(sds_cluster(socket));
    Ok(json!({
        "node": {
            "id": format!("sidecar~127.0.0.1~{}.{}~{}.svc.cluster.local", spec.name, spec.namespace, spec.namespace),
            "cluster": format!("{}.{}", spec.name, spec.namespace),
            "metadata": metadata,
        },
        "admin": { "address": spec.home.bind(Home::ADMIN) },
        "static_resources": { "listeners": listeners, "clusters": clusters },
    }))
}

fn sds_cluster(socket: &str) -> Value {
    json!({
        "name": "sds-grpc",
        "alt_stat_name": "sds-grpc;",
        "type": "STATIC",
        "connect_timeout": "1s",
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": { "http2_protocol_options": {} },
            },
        },
        "load_assignment": {
            "cluster_name": "sds-grpc",
            "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": { "pipe": { "path": socket } } } }] }],
        },
    })
}

fn inbound_listener(api: Api, address: &Value) -> Value {
    let mut common = common_tls_context(api, &json!({ "prefix": "spiffe://cluster.local/" }));
    common["alpn_protocols"] = json!(["istio-peer-exchange", "h2", "http/1.1"]);
    json!({
        "name": INBOUND,
        "stat_prefix": INBOUND,
        "address": address,
        "filter_chains": [{
            "filters": [http_filter(&json!({
                "name": "answer",
                "domains": ["*"],
                "routes": [{
                    "match": { "prefix": "/" },
                    "direct_response": { "status": 200, "body": { "inline_string": "ok\n" } },
                }],
                "response_headers_to_add": [
                    header(PEER_URI, "%DOWNSTREAM_PEER_URI_SAN%"),
                    header(PEER_SERIAL, "%DOWNSTREAM_PEER_SERIAL%"),
                ],
            }))],
            "transport_socket": {
                "name": "envoy.transport_sockets.tls",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
                    "require_client_certificate": true,
                    "disable_stateless_session_resumption": true,
                    "disable_stateful_session_resumption": true,
                    "common_tls_context": common,
                },
            },
        }],
    })
}

fn outbound_listener(upstream: &Upstream, address: &Value) -> Value {
    json!({
        "name": upstream.name,
        "stat_prefix": upstream.name,
        "address": address,
        "filter_chains": [{
            "filters": [http_filter(&json!({
                "name": "forward",
                "domains": ["*"],
                "routes": [{ "match": { "prefix": "/" }, "route": { "cluster": upstream.name } }],
                "response_headers_to_add": [header(SERVER_CERTIFICATE, "%UPSTREAM_PEER_CERT%")],
            }))],
        }],
    })
}

fn upstream_cluster(upstream: &Upstream, api: Api) -> Value {
    let (kind, host, port) = match &upstream.address {
        Address::Socket(address) => ("STATIC", address.ip().to_string(), address.port()),
        Address::Name(host, port) => ("STRICT_DNS", host.clone(), *port),
    };
    json!({
        "name": upstream.name,
        "type": kind,
        "dns_lookup_family": "V4_ONLY",
        "connect_timeout": "10s",
        // A queue for the pool is no part of what is tested: it must never be what fails a request.
        "circuit_breakers": { "thresholds": [{
            "max_connections": 100_000, "max_pending_requests": 100_000, "max_requests": 100_000,
        }] },
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "common_http_protocol_options": { "max_requests_per_connection": 1 },
                "explicit_http_config": { "http_protocol_options": {} },
            },
        },
        "load_assignment": {
            "cluster_name": upstream.name,
            "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": { "socket_address": {
                "address": host, "port_value": port,
            } } } }] }],
        },
        "transport_socket": {
            "name": "envoy.transport_sockets.tls",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
                "max_session_keys": 0,
                "common_tls_context": common_tls_context(api, &json!({ "exact": upstream.id })),
            },
        },
    })
}

fn common_tls_context(api: Api, matcher: &Value) -> Value {
    json!({
        "tls_params": { "tls_minimum_protocol_version": "TLSv1_2", "tls_maximum_protocol_version": "TLSv1_3" },
        "tls_certificate_sds_secret_configs": [{ "name": "default", "sds_config": sds_config(api) }],
        "combined_validation_context": {
            "default_validation_context": {
                "match_typed_subject_alt_names": [{ "san_type": "URI", "matcher": matcher }],
            },
            "validation_context_sds_secret_config": { "name": "ROOTCA", "sds_config": sds_config(api) },
        },
    })
}

fn sds_config(api: Api) -> Value {
    json!({
        "resource_api_version": "V3",
        "initial_fetch_timeout": "0s",
        "api_config_source": {
            "api_type": match api { Api::Grpc => "GRPC", Api::DeltaGrpc => "DELTA_GRPC" },
            "transport_api_version": "V3",
            "set_node_on_first_message_only": true,
            "grpc_services": [{ "envoy_grpc": { "cluster_name": "sds-grpc" } }],
        },
    })
}

fn http_filter(virtual_host: &Value) -> Value {
    json!({
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "http",
            "http_filters": [{
                "name": "envoy.filters.http.router",
                "typed_config": { "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router" },
            }],
            "route_config": { "virtual_hosts": [virtual_host] },
            // Envoys of today keep this from their callers; those of Istio's documents told it.
            "local_reply_config": { "body_format": { "text_format_source": {
                "inline_string": "%LOCAL_REPLY_BODY%, transport failure reason: %UPSTREAM_TRANSPORT_FAILURE_REASON%\n",
            } } },
        },
    })
}

fn header(key: &str, value: &str) -> Value {
    json!({ "header": { "key": key, "value": value }, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD" })
}
