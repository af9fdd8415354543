//! Puts the parts together: binds every socket, then runs everything under one supervisor.
//!
//! [`bind`] fails with the fix in the text or leaves a program that is ready to run; nothing is half started. Tests use
//! it in-process with signers and a clock of their own ([`Fittings`]). Stopping: unready first, then no new requests,
//! then those in flight may finish until the drain timeout; a second signal ends it at once.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use ensign_daemon::readiness::Gate;
use ensign_daemon::supervise::Signals;
use ensign_daemon::watched_file::WatchMetrics;
use ensign_daemon::{Readiness, Supervisor, addresses, http};
use ensign_pki::{SharedClock, SystemClock, TrustDomain, crypto};
use ensign_proto::istio::v1::auth::istio_certificate_service_server::IstioCertificateServiceServer;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tower::util::{MapRequestLayer, MapResponseLayer};

use crate::authn;
use crate::config::{Config, IstioConfig, KubernetesConfig};
use crate::desk::{self, Desk, DeskParts, OpenSigners, PolicySources};
use crate::edge;
use crate::janitor::Janitor;
use crate::kubernetes::{self, Cluster, Home, KubernetesMetrics};
use crate::leader;
use crate::leading::{self, LeadingConfig, Replicas, Shared};
use crate::limits::{Limits, LimitsConfig};
use crate::mesh::{self, MeshMetrics, MeshSource};
use crate::metrics::Metrics;
use crate::service::{Parts, Service};
use crate::serving::{Acceptor, Incoming, Serving, ServingHost, ServingSource, TlsLimits, follow_health};
use crate::signer::object::{Backends, BackendsParts, ObjectMetrics};
use crate::signer::{Host, Signers, TrustHost};
use crate::trust::{Discovery, TrustMetrics};

/// What a test may replace.
#[derive(Debug, Clone)]
pub struct Fittings {
    /// Tells the time.
    pub clock: SharedClock,
    /// Starts signers; the real ones if absent.
    pub signers: Option<Arc<dyn OpenSigners>>,
}

/// Everything is bound and loaded; nothing is served yet.
#[derive(Debug)]
pub struct Bound {
    /// Where the servers listen, by name: `grpc`, `readyz`, `metrics`.
    pub addresses: BTreeMap<&'static str, SocketAddr>,
    supervisor: Supervisor,
    readiness: Readiness,
    gate: Gate,
    drain_timeout: Duration,
    addresses_file: Option<PathBuf>,
}

/// Loads, binds, starts the tasks.
pub async fn bind(config: Config) -> anyhow::Result<Bound> {
    bind_with(
        config,
        Fittings {
            clock: SystemClock::shared(),
            signers: None,
        },
    )
    .await
}

/// As [`bind`], with the fittings of a test.
pub async fn bind_with(config: Config, fittings: Fittings) -> anyhow::Result<Bound> {
    crypto::install_default();
    let mut supervisor = Supervisor::new();
    let stop = supervisor.stop_token();
    let readiness = Readiness::new();
    let gate = readiness.gate("grpc", "the gRPC server is not running yet");

    let mut registry = Registry::default();
    let metrics = Metrics::register(&mut registry);
    let files = WatchMetrics::register(registry.sub_registry_with_prefix("ensign_ra"));
    let kubernetes_metrics = KubernetesMetrics::register(registry.sub_registry_with_prefix("ensign_ra"));
    let object_metrics = ObjectMetrics::register(registry.sub_registry_with_prefix("ensign_ra"));
    let cluster = connect(config.kubernetes.as_ref(), &kubernetes_metrics).await?;
    let home = config
        .kubernetes
        .as_ref()
        .zip(cluster.as_ref())
        .map(|(config, cluster)| home(config, cluster));
    let clock = fittings.clock;
    let backends = cluster
        .clone()
        .zip(config.kubernetes.as_ref())
        .map(|(cluster, kubernetes)| {
            Backends::new(BackendsParts {
                cluster,
                installation: kubernetes.installation.clone(),
                metrics: object_metrics,
                clock: Arc::clone(&clock),
                tasks: supervisor.connections(),
            })
        });
    let host = Host {
        clock: Arc::clone(&clock),
        tasks: supervisor.connections(),
        stop: stop.clone(),
        files: files.clone(),
        replicas: None,
        cluster,
        trust: TrustHost {
            metrics: TrustMetrics::register(registry.sub_registry_with_prefix("ensign_ra")),
            discovery: matches!(config.serving, ServingSource::Issued(_)).then(Discovery::new),
        },
        backends,
    };
    let replicas = match &home {
        Some(home) => leading::elect_leader(&config.leader, home, &host, &mut registry, &mut supervisor),
        None => Replicas::alone(),
    };
    if let Some(backends) = host.backends.clone() {
        let janitor = Janitor::new(backends, Arc::clone(&clock), replicas.leading.clone());
        supervisor.spawn("janitor", janitor.run(stop.clone()));
    }

    let mesh_metrics = MeshMetrics::register(registry.sub_registry_with_prefix("ensign_ra"));
    let sources = policy_sources(&config, &host, &mesh_metrics, &kubernetes_metrics, &mut supervisor);
    let signers = fittings.signers.unwrap_or_else(|| Arc::new(host.clone()));
    let parts = desk_parts(&config, &host, signers, &metrics, mesh_metrics);
    let policy_gate = readiness.gate("policy", "it is being read");
    let desk = desk::start(sources, parts, policy_gate, &mut supervisor).await?;

    let expiry = follow_roots(
        desk.clone(),
        metrics.clone(),
        host.trust.metrics.clone(),
        Arc::clone(&clock),
        stop.clone(),
    );
    supervisor.spawn("root expiry", expiry);

    let trust_domain = trust_domain(&desk, config.trust_domain)?;
    let of = ServingHost {
        trust_domain: &trust_domain,
        host: &host,
        home: home.as_ref(),
        desk: Some(desk.clone()),
    };
    let serving = Serving::open(config.serving, of).await?;
    if let Some(home) = &home {
        let config = LeadingConfig {
            roots: config.roots,
            istiod: config.istiod,
        };
        let shared = Shared {
            host: &host,
            home,
            desk: &desk,
            serving: &serving,
            replicas: &replicas,
        };
        leading::start(config, shared, &mut registry, &mut supervisor).await?;
    }
    let certificate = readiness.gate("serving-certificate", "no serving certificate yet");
    let health = follow_health(
        serving.clone(),
        certificate,
        metrics.clone(),
        Arc::clone(&clock),
        stop.clone(),
    );
    supervisor.spawn("serving expiry", health);

    let grpc = http::bind(config.listen.grpc, "certificate requests, --grpc-addr").await?;
    let readyz = http::bind(config.listen.readyz, "health, --readyz-addr").await?;
    let metrics_listener = http::bind(config.listen.metrics, "metrics, --metrics-addr").await?;
    let addresses = BTreeMap::from([
        ("grpc", grpc.local_addr()?),
        ("readyz", readyz.local_addr()?),
        ("metrics", metrics_listener.local_addr()?),
    ]);

    let asks = config.authn.client_certificates;
    let authn = authn::open(
        config.authn,
        authn::Host {
            cluster: host.cluster.as_ref(),
            kubernetes: config.kubernetes.as_ref(),
            kubernetes_metrics: &kubernetes_metrics,
            desk: &desk,
            registry: registry.sub_registry_with_prefix("ensign_ra"),
            metrics: &metrics,
            files: &host.files,
            clock: &clock,
            readiness: &readiness,
            tasks: &host.tasks,
            stop: &stop,
        },
    )
    .await?;
    let service = Service::new(Parts {
        authn: authn.authenticator,
        authz: authn.authorizer,
        desk,
        limits: Arc::new(Limits::new(&config.limits)),
        metrics: metrics.clone(),
        clock,
        signer_timeout: config.signer_timeout,
    });
    let tls_limits = TlsLimits {
        connections: config.limits.connections,
        ..TlsLimits::default()
    };
    let (mut acceptor, incoming) = Acceptor::new(grpc, serving.server_config()?, tls_limits);
    if asks {
        acceptor = acceptor.ask_for_certificates(serving);
    }
    supervisor.spawn("tls acceptor", acceptor.run(stop.clone()));
    // What a request may still need when its connection is asked to go.
    let grace = edge::PATIENCE + config.signer_timeout;
    let grpc_server = serve(service, incoming, config.limits, grace, metrics, stop.clone());
    supervisor.spawn("grpc server", grpc_server);

    let health = http::health_router(readiness.clone());
    spawn_http(&mut supervisor, "health server", readyz, health);
    let scrapes = http::metrics_router(Arc::new(registry));
    spawn_http(&mut supervisor, "metrics server", metrics_listener, scrapes);

    Ok(Bound {
        addresses,
        supervisor,
        readiness,
        gate,
        drain_timeout: config.drain_timeout,
        addresses_file: config.addresses_file,
    })
}

/// The API server, if the settings name one.
async fn connect(config: Option<&KubernetesConfig>, metrics: &KubernetesMetrics) -> anyhow::Result<Option<Cluster>> {
    let Some(config) = config else { return Ok(None) };
    let cluster = kubernetes::connect(&config.source, metrics).await?;
    tracing::info!(
        username = cluster.username(),
        namespace = cluster.own_namespace(),
        "connected to Kubernetes"
    );
    Ok(Some(cluster))
}

/// Where the policy comes from; Istio's configuration begins to be followed.
fn policy_sources(
    config: &Config,
    host: &Host,
    metrics: &MeshMetrics,
    kubernetes: &KubernetesMetrics,
    supervisor: &mut Supervisor,
) -> PolicySources {
    let mut follow = |istio: &IstioConfig| {
        let source = MeshSource {
            cluster: host.cluster.clone()?,
            namespace: config.kubernetes.as_ref()?.istio_namespace.clone(),
            config_map: istio.config_map.clone(),
            metrics: metrics.clone(),
            kubernetes: kubernetes.clone(),
        };
        let (feed, work) = mesh::follow(source, host.stop.clone());
        supervisor.spawn("mesh configuration", work);
        Some((feed, istio.settings.clone()))
    };
    PolicySources {
        file: config.policy_file.clone(),
        mesh: config.istio.as_ref().and_then(&mut follow),
        trust_domain: config.trust_domain.clone(),
    }
}

fn desk_parts(
    config: &Config,
    host: &Host,
    signers: Arc<dyn OpenSigners>,
    metrics: &Metrics,
    mesh_metrics: MeshMetrics,
) -> DeskParts {
    DeskParts {
        signers,
        metrics: metrics.clone(),
        mesh_metrics,
        files: host.files.clone(),
        clock: Arc::clone(&host.clock),
        serving_ca: config.serving.own_ca_dir().map(Path::to_owned),
    }
}

/// The name that a serving CA of our own bears in its subject. It is wanted before Istio's configuration may be there.
fn trust_domain(desk: &watch::Receiver<Arc<Desk>>, of_settings: Option<TrustDomain>) -> anyhow::Result<TrustDomain> {
    let of_policy = desk.borrow().open().ok().map(|open| open.policy.trust_domain().clone());
    match of_policy.or(of_settings) {
        Some(trust_domain) => Ok(trust_domain),
        None => Ok("cluster.local".parse()?),
    }
}

fn home(config: &KubernetesConfig, cluster: &Cluster) -> Home {
    Home {
        cluster: cluster.clone(),
        namespace: config
            .own_namespace
            .clone()
            .unwrap_or_else(|| cluster.own_namespace().to_owned()),
        istio_namespace: config.istio_namespace.clone(),
        installation: config.installation.clone(),
        identity: leader::identity(config.pod_name.as_deref()),
    }
}

// === impl Bound ===

impl Bound {
    /// Stops everything when cancelled, in the orderly way.
    pub fn stop_token(&self) -> CancellationToken {
        self.supervisor.stop_token()
    }

    /// Says where the servers are and runs until a signal, the stop token or the end of a task.
    pub async fn run(mut self, signals: Option<Signals>) -> anyhow::Result<()> {
        if let Some(path) = &self.addresses_file {
            addresses::write(path, &self.addresses).await?;
        }
        for (name, address) in &self.addresses {
            tracing::info!(server = name, %address, "listening");
        }
        let (stop, readiness) = (self.supervisor.stop_token(), self.readiness);
        self.supervisor.spawn("drain", async move {
            stop.cancelled().await;
            readiness.begin_drain();
            Ok(())
        });
        self.gate.open();
        self.supervisor.run(signals, self.drain_timeout).await?;
        Ok(())
    }
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

fn spawn_http(supervisor: &mut Supervisor, name: &'static str, listener: TcpListener, router: axum::Router) {
    let (stop, connections) = (supervisor.stop_token(), supervisor.connections());
    supervisor.spawn(name, http::serve(listener, router, stop, connections));
}

/// Keeps the expiry of each signer's roots and CA in the metrics: bundles change on disk without a new policy.
async fn follow_roots(
    mut desk: watch::Receiver<Arc<Desk>>,
    metrics: Metrics,
    trust_metrics: TrustMetrics,
    clock: SharedClock,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let mut before = Signers::default();
    loop {
        let signers = desk.borrow_and_update().signers();
        for (name, _) in before.iter().filter(|(name, _)| signers.get(name).is_none()) {
            metrics.forget_signer(name);
            trust_metrics.forget(name);
        }
        for (name, running) in signers.iter() {
            if let Ok(roots) = running.trust().current() {
                metrics.root_expiry(name, roots.not_after());
            }
            if let Some(not_after) = running.signer().ca_not_after() {
                metrics.ca_expiry(name, not_after);
            }
        }
        let roots = signers.iter().filter_map(|(_, running)| running.trust().current().ok());
        if let Some(first) = roots.map(|roots| roots.not_after()).min() {
            metrics.first_root_expiry(first, clock.now());
        }
        before = signers;
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            _ = tokio::time::timeout(ROOTS_LOOK, desk.changed()) => {}
        }
    }
}

/// Alerts on roots think in days.
const ROOTS_LOOK: Duration = Duration::from_secs(15);
/// One agent asks for the certificates of one node over one connection.
const STREAMS_PER_CONNECTION: u32 = 256;
/// A token and a few words; the default of 16 MiB is for others.
const MAX_HEADER_BYTES: u32 = 64 * 1024;
/// Finds peers that vanished without a word.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);
