//! What one replica does for all: the roots of the namespaces, and istiod's certificate.
//!
//! Starts the election and everything that follows it, as tasks of their own: none of them is needed to serve a request, and
//! none of them can shut a readiness gate. What cannot be meant (a selector that is none, an API that is not there) ends
//! the start instead.

use std::sync::Arc;

use anyhow::{Context as _, bail};
use ensign_daemon::Supervisor;
use ensign_daemon::watched_file::FileSet;
use prometheus_client::registry::Registry;
use tokio::sync::watch;

use crate::config::{IstiodSettings, IstiodSigner, LeaderConfig, RootsConfig};
use crate::desk::{Desk, Which, pick};
use crate::distribution::{self, DistributionMetrics, DistributionParts, Source};
use crate::istiod::{self, IstiodMetrics, IstiodParts};
use crate::kubernetes::Home;
use crate::leader::{Candidate, LeaderMetrics, Timing, count_replicas, elect};
use crate::serving::Serving;
use crate::signer::{Host, Pick};
use crate::trust::Roots;

/// What the settings ask for.
#[derive(Debug)]
pub struct LeadingConfig {
    /// The roots of the namespaces.
    pub roots: RootsConfig,
    /// istiod's certificate.
    pub istiod: Option<IstiodSettings>,
}

/// What comes of the election.
#[derive(Clone, Debug)]
pub struct Replicas {
    /// Whether this replica leads.
    pub leading: watch::Receiver<bool>,
    /// How many replicas are alive; 1 without Kubernetes.
    pub count: watch::Receiver<usize>,
}

/// Starts the election and the count. Early: others divide by the count.
pub fn elect_leader(
    config: &LeaderConfig,
    home: &Home,
    host: &Host,
    registry: &mut Registry,
    supervisor: &mut Supervisor,
) -> Replicas {
    let candidate = Candidate {
        cluster: home.cluster.clone(),
        namespace: config.namespace.clone(),
        lease: config
            .lease
            .clone()
            .unwrap_or_else(|| format!("{}-ra", home.installation)),
        identity: Arc::clone(&home.identity),
        clock: Arc::clone(&host.clock),
        timing: Timing::default(),
        metrics: LeaderMetrics::register(registry),
    };
    let (leading, election) = elect(candidate.clone(), host.stop.clone());
    let (count, counting) = count_replicas(candidate, leading.clone(), host.stop.clone());
    for (name, work) in [
        ("leader election", futures::FutureExt::boxed(election)),
        ("replicas", futures::FutureExt::boxed(counting)),
    ] {
        supervisor.spawn(name, async move {
            work.await;
            Ok(())
        });
    }
    Replicas { leading, count }
}

impl Replicas {
    /// One replica that leads, for an RA without Kubernetes.
    pub fn alone() -> Self {
        Self {
            leading: watch::channel(true).1,
            count: watch::channel(1).1,
        }
    }
}

/// What the leader's work has to do with.
#[derive(Clone, Copy, Debug)]
pub struct Shared<'a> {
    /// Clock, tasks, signers.
    pub host: &'a Host,
    /// Our place in the cluster.
    pub home: &'a Home,
    /// The policy.
    pub desk: &'a watch::Receiver<Arc<Desk>>,
    /// The serving certificate.
    pub serving: &'a Serving,
    /// Whether this replica leads.
    pub replicas: &'a Replicas,
}

/// Starts what the leader does.
pub async fn start(
    config: LeadingConfig,
    shared: Shared<'_>,
    registry: &mut Registry,
    supervisor: &mut Supervisor,
) -> anyhow::Result<()> {
    let Shared {
        host,
        home,
        desk,
        serving,
        replicas,
    } = shared;
    let own = registry.sub_registry_with_prefix("ensign_ra");
    let signer = config
        .istiod
        .as_ref()
        .map(|istiod| istiod_signer(&istiod.signer, desk.clone()));
    let wanted = config.roots.distribution.config_maps || config.roots.distribution.bundle.is_some();
    if wanted {
        distribution::check(&config.roots.distribution, home).await?;
        if serving.is_without_roots() {
            bail!(
                "the namespaces should get the roots of the serving certificate, and nothing says what they are: name them with --serving-ca-file, or set --root-configmaps=off and leave out --cluster-trust-bundle"
            );
        }
        let mut sources = vec![of_serving(serving.clone())];
        sources.extend(signer.clone().map(of_istiod));
        if let Some(path) = config.roots.extra {
            let parse = |contents: &ensign_daemon::watched_file::Contents| Ok(Roots::parse(contents.text(0)?)?);
            let file = FileSet::file("extra roots", path).metrics(&host.files);
            let (extra, watched) = file.required(parse).await?;
            supervisor.spawn("extra roots", watched.run(host.stop.clone()));
            sources.push(Source {
                name: "--extra-roots-file",
                remember: false,
                roots: Arc::new(move || Some(Arc::clone(&extra.borrow()))),
            });
        }
        let parts = DistributionParts {
            config: config.roots.distribution,
            home: home.clone(),
            sources,
            leading: replicas.leading.clone(),
            clock: Arc::clone(&host.clock),
            metrics: DistributionMetrics::register(own),
        };
        supervisor.spawn("distribution", distribution::run(parts, host.stop.clone()));
    }
    if let Some((istiod, signer)) = config.istiod.zip(signer) {
        let backends = host.backends.clone().context("istiod's certificate needs Kubernetes")?;
        let desk = desk.clone();
        let parts = IstiodParts {
            config: istiod.config,
            home: home.clone(),
            signer,
            backends,
            trust_domain: Arc::new(move || {
                let desk = Arc::clone(&desk.borrow());
                desk.open().ok().map(|open| open.policy.trust_domain().clone())
            }),
            leading: replicas.leading.clone(),
            clock: Arc::clone(&host.clock),
            metrics: IstiodMetrics::register(own),
        };
        supervisor.spawn("istiod certificate", istiod::run(parts, host.stop.clone()));
    }
    Ok(())
}

fn istiod_signer(signer: &IstiodSigner, desk: watch::Receiver<Arc<Desk>>) -> Pick {
    match signer {
        IstiodSigner::CertManager(name) => pick(desk, Which::cert_manager(name.clone())),
        IstiodSigner::Kubernetes(signer) => pick(desk, Which::Kubernetes(signer.to_string())),
    }
}

/// What clients need to call the RA.
fn of_serving(serving: Serving) -> Source {
    Source {
        name: "the serving certificate",
        remember: true,
        roots: Arc::new(move || serving.roots()),
    }
}

/// What clients need to call istiod.
fn of_istiod(signer: Pick) -> Source {
    Source {
        name: "istiod's certificate",
        remember: true,
        roots: Arc::new(move || signer().ok()?.trust().current().ok()),
    }
}
