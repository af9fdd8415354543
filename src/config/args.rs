//! Every flag of the agent, with its variable, default and help text, in one place.
//!
//! Plain texts: clap would stop at the first bad value, `check` tells all. A value is never both a path and a content.

/// Keeps the certificates of one node's workloads and serves them to Envoy.
#[derive(Clone, Debug, clap::Parser)]
#[command(name = "ensign-agent", version, max_term_width = 120)]
pub struct Args {
    /// Address of the certificate authority, a TLS port.
    #[arg(
        long,
        env = "CA_ADDR",
        value_name = "HOST:PORT",
        default_value = "ensign-ra.ensign-system.svc:443"
    )]
    pub ca_addr: String,

    /// PEM file with the roots of the authority's own certificate; watched.
    #[arg(
        long,
        env = "CA_ROOT_CA",
        value_name = "PATH",
        default_value = "/var/run/secrets/istio/root-cert.pem"
    )]
    pub ca_root_ca: String,

    /// Name that the authority's certificate must bear, if it is not the host of its address.
    #[arg(long, env = "ISTIOD_SAN", value_name = "NAME")]
    pub istiod_san: Option<String>,

    /// Cluster id that requests carry.
    #[arg(long, env = "ISTIO_META_CLUSTER_ID", value_name = "ID", default_value = "Kubernetes")]
    pub cluster_id: String,

    /// Trust domain of the workloads' identities.
    #[arg(long, env = "TRUST_DOMAIN", value_name = "NAME", default_value = "cluster.local")]
    pub trust_domain: String,

    /// Signer for workloads that neither the operator nor their node metadata gives one; none if empty.
    #[arg(long, env = "ISTIO_META_CERT_SIGNER", value_name = "SIGNER")]
    pub cert_signer: Option<String>,

    /// Lifetime that is asked for.
    #[arg(long, env = "SECRET_TTL", value_name = "DURATION", default_value = "24h")]
    pub secret_ttl: String,

    /// Share of a certificate's lifetime that is left when it is renewed.
    #[arg(
        id = "ratio",
        long = "secret-grace-period-ratio",
        env = "SECRET_GRACE_PERIOD_RATIO",
        value_name = "RATIO",
        default_value = "0.5"
    )]
    pub ratio: String,

    /// How far that share may vary, drawn once for each certificate.
    #[arg(
        id = "jitter",
        long = "secret-grace-period-ratio-jitter",
        env = "SECRET_GRACE_PERIOD_RATIO_JITTER",
        value_name = "RATIO",
        default_value = "0.1"
    )]
    pub jitter: String,

    /// Kind of the workloads' keys: ECDSA, or RSA (an empty text means RSA, as in Istio).
    #[arg(
        long,
        env = "ECC_SIGNATURE_ALGORITHM",
        value_name = "ALGORITHM",
        default_value = "ECDSA"
    )]
    pub ecc_signature_algorithm: String,

    /// Curve of ECDSA keys: P256 or P384.
    #[arg(long, env = "ECC_CURVE", value_name = "CURVE", default_value = "P256")]
    pub ecc_curve: String,

    /// Bits of RSA keys: 2048, 3072 or 4096.
    #[arg(long, env = "WORKLOAD_RSA_KEY_SIZE", value_name = "BITS", default_value = "2048")]
    pub workload_rsa_key_size: String,

    /// Shortest time between two requests for one certificate.
    #[arg(long, env = "ENSIGN_FETCH_FLOOR", value_name = "DURATION", default_value = "10s")]
    pub fetch_floor: String,

    /// Requests to the authority that may be under way at once.
    #[arg(long, env = "ENSIGN_MAX_IN_FLIGHT", value_name = "COUNT", default_value = "16")]
    pub max_in_flight: String,

    /// The end of one request to the authority, connecting included.
    #[arg(
        long,
        env = "ENSIGN_REQUEST_DEADLINE",
        value_name = "DURATION",
        default_value = "60s"
    )]
    pub request_deadline: String,

    /// Connections that all pods together may have beyond two each; more of them need more memory.
    #[arg(long, env = "ENSIGN_SHARED_CONNECTIONS", value_name = "COUNT", default_value = "512")]
    pub shared_connections: String,

    /// How long a certificate waits for its Envoy to accept the root that it needs.
    #[arg(long, env = "ENSIGN_ROOT_WAIT", value_name = "DURATION", default_value = "10s")]
    pub root_wait: String,

    /// After a start, how long a warm-up waits for an Envoy that may still hold a certificate, and a bundle that one holds
    /// for its certificate.
    #[arg(long, env = "ENSIGN_ADOPTION_WINDOW", value_name = "DURATION", default_value = "45s")]
    pub adoption_window: String,

    /// Where workloads come from: `fixed` reads them from a file, `csi` gets them from kubelet.
    #[arg(long, env = "ENSIGN_SOURCE", value_name = "SOURCE", default_value = "fixed")]
    pub source: String,

    /// YAML file that lists the workloads (`fixed`); watched.
    #[arg(long, env = "ENSIGN_WORKLOADS_FILE", value_name = "PATH")]
    pub workloads_file: Option<String>,

    /// Name of this node, as kubelet calls it (`csi`).
    #[arg(long, env = "NODE_NAME", value_name = "NAME")]
    pub node_name: Option<String>,

    /// Kubelet's root folder, at the same path in the agent's container as on the node (`csi`).
    #[arg(
        long,
        env = "ENSIGN_KUBELET_DIR",
        value_name = "PATH",
        default_value = "/var/lib/kubelet"
    )]
    pub kubelet_dir: String,

    /// Folder on the node's tmpfs, in which a successor finds what is published: no key, no token (`csi`).
    #[arg(long, env = "ENSIGN_STATE_DIR", value_name = "PATH", default_value = "/run/ensign")]
    pub state_dir: String,

    /// Kinds of keys that a volume may ask for (`csi`).
    #[arg(
        long,
        env = "ENSIGN_CSI_KEY_TYPES",
        value_name = "KINDS",
        default_value = "P-256,P-384",
        value_delimiter = ','
    )]
    pub csi_key_types: Vec<String>,

    /// Audience of the pods' tokens, as the CSIDriver's tokenRequests name it (`csi`).
    #[arg(
        long,
        env = "ENSIGN_TOKEN_AUDIENCE",
        value_name = "AUDIENCE",
        default_value = "istio-ca"
    )]
    pub token_audience: String,

    /// Bundle of roots to which a signer is pinned (`=PATH`: the authority's default signer); watched; may be repeated.
    #[arg(
        long,
        env = "ENSIGN_PINNED_BUNDLES",
        value_name = "SIGNER=PATH",
        value_delimiter = ','
    )]
    pub pinned_bundles: Vec<String>,

    /// Where /metrics, /healthz and /readyz are served.
    #[arg(
        long,
        env = "ENSIGN_ADMIN_ADDR",
        value_name = "IP:PORT",
        default_value = "0.0.0.0:9402"
    )]
    pub admin_addr: String,

    /// Where /status is served: a loopback address.
    #[arg(
        long,
        env = "ENSIGN_STATUS_ADDR",
        value_name = "IP:PORT",
        default_value = "127.0.0.1:9403"
    )]
    pub status_addr: String,

    /// File that receives the bound addresses as JSON, once all sockets are bound.
    #[arg(long, env = "ENSIGN_ADDRESSES_FILE", value_name = "PATH")]
    pub addresses_file: Option<String>,

    /// Form of the log on standard error: text or json.
    #[arg(long, env = "ENSIGN_LOG_FORMAT", value_name = "FORMAT", default_value = "text")]
    pub log_format: String,

    /// What is logged: a level, or `level,target=level`.
    #[arg(long, env = "ENSIGN_LOG_LEVEL", value_name = "FILTER", default_value = "info")]
    pub log_level: String,

    /// How long stopping may take after SIGTERM.
    #[arg(long, env = "ENSIGN_DRAIN_TIMEOUT", value_name = "DURATION", default_value = "5s")]
    pub drain_timeout: String,

    /// Check the settings, print them as JSON (what looks like a secret is redacted) and stop.
    #[arg(long)]
    pub print_config: bool,
}
