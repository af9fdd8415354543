//! Puts the parts together: binds every socket, then runs everything under one supervisor.
//!
//! [`bind`] fails with the fix in the text or leaves a program that is ready to run; nothing is half started. Tests use
//! it in-process with signers and a clock of their own ([`Fittings`]). Stopping: unready first, then no new requests,
//! then those in flight may finish until the drain timeout; a second signal ends it at once. Each other file begins one
//! part of it: our place in a cluster, the policy, the servers.

mod expiry;
mod place;
mod policy;
mod servers;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ensign_daemon::readiness::Gate;
use ensign_daemon::supervise::Signals;
use ensign_daemon::watched_file::WatchMetrics;
use ensign_daemon::{Readiness, Supervisor, addresses, build_info};
use ensign_pki::{SharedClock, SystemClock, crypto};
use prometheus_client::registry::Registry;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use self::expiry::follow_roots;
use self::place::Place;
use self::servers::{Listeners, Served};
use crate::authn::{self, AuthnHost};
use crate::config::Config;
use crate::desk::{Desk, OpenSigners};
use crate::kubernetes::KubernetesMetrics;
use crate::leading::{self, LeadingConfig, Shared};
use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::service::{Parts, Service};
use crate::serving::{Serving, ServingHost, follow_health};

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

/// What all parts need while they begin.
struct Boot {
    supervisor: Supervisor,
    readiness: Readiness,
    registry: Registry,
    metrics: Metrics,
    kubernetes_metrics: KubernetesMetrics,
    files: WatchMetrics,
    clock: SharedClock,
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
    for setting in &config.without_effect {
        tracing::warn!("{setting}");
    }
    let mut boot = Boot::new(fittings.clock);
    let gate = boot.readiness.gate("grpc", "the gRPC server is not running yet");
    let place = Place::take(&config, &mut boot).await?;
    let desk = policy::start(&config, &place.host, fittings.signers, &mut boot).await?;
    let expiry = follow_roots(
        desk.clone(),
        boot.metrics.clone(),
        place.host.trust.metrics.clone(),
        Arc::clone(&boot.clock),
        boot.supervisor.stop_token(),
    );
    boot.supervisor.spawn("root expiry", expiry);

    let trust_domain = policy::trust_domain(&desk, config.trust_domain)?;
    let of = ServingHost {
        trust_domain: &trust_domain,
        host: &place.host,
        home: place.home.as_ref(),
        desk: Some(desk.clone()),
    };
    let serving = Serving::open(config.serving, of).await?.speaking(config.tls);
    let leads = LeadingConfig {
        roots: config.roots,
        istiod: config.istiod,
    };
    lead(leads, &place, &desk, &serving, &mut boot).await?;
    let certificate = boot.readiness.gate("serving-certificate", "no serving certificate yet");
    let health = follow_health(
        serving.clone(),
        certificate,
        boot.metrics.clone(),
        Arc::clone(&boot.clock),
        boot.supervisor.stop_token(),
    );
    boot.supervisor.spawn("serving expiry", health);

    let listeners = Listeners::bind(&config.listen).await?;
    let addresses = listeners.addresses()?;
    let asks = config.authn.client_certificates;
    let registry = boot.registry.sub_registry_with_prefix("ensign_ra");
    let authn = authn::open(
        config.authn,
        AuthnHost {
            cluster: place.host.cluster.as_ref(),
            kubernetes: config.kubernetes.as_ref(),
            kubernetes_metrics: &boot.kubernetes_metrics,
            desk: &desk,
            registry,
            metrics: &boot.metrics,
            in_flight: config.limits.in_flight,
            files: &boot.files,
            clock: &boot.clock,
            readiness: &boot.readiness,
            tasks: &place.host.tasks,
            stop: &place.host.stop,
        },
    )
    .await?;
    let service = Service::new(Parts {
        authn: authn.authenticator,
        authz: authn.authorizer,
        desk,
        limits: Arc::new(Limits::new(&config.limits)),
        metrics: boot.metrics.clone(),
        clock: Arc::clone(&boot.clock),
        signer_timeout: config.signer_timeout,
    });
    let served = Served {
        service,
        serving,
        asks_for_certificates: asks,
        limits: config.limits,
        signer_timeout: config.signer_timeout,
    };
    let (supervisor, readiness) = servers::start(listeners, served, boot)?;
    Ok(Bound {
        addresses,
        supervisor,
        readiness,
        gate,
        drain_timeout: config.drain_timeout,
        addresses_file: config.addresses_file,
    })
}

/// What one replica does for all of them, where there is a cluster.
async fn lead(
    config: LeadingConfig,
    place: &Place,
    desk: &watch::Receiver<Arc<Desk>>,
    serving: &Serving,
    boot: &mut Boot,
) -> anyhow::Result<()> {
    let Some(home) = &place.home else { return Ok(()) };
    let shared = Shared {
        host: &place.host,
        home,
        desk,
        serving,
        replicas: &place.replicas,
    };
    leading::start(config, shared, &mut boot.registry, &mut boot.supervisor).await
}

// === impl Boot ===

impl Boot {
    fn new(clock: SharedClock) -> Self {
        let mut registry = Registry::default();
        let ours = registry.sub_registry_with_prefix("ensign_ra");
        build_info::register(ours, env!("CARGO_PKG_VERSION"), crypto::PROVIDER_NAME);
        Self {
            supervisor: Supervisor::new(),
            readiness: Readiness::new(),
            metrics: Metrics::register(&mut registry),
            files: WatchMetrics::register(registry.sub_registry_with_prefix("ensign_ra")),
            kubernetes_metrics: KubernetesMetrics::register(registry.sub_registry_with_prefix("ensign_ra")),
            registry,
            clock,
        }
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
