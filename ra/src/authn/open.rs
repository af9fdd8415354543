//! From settings to an authenticator at work: the local cluster's judge, its informers, and the remote clusters.
//!
//! Fails with the fix in the text where the settings need an API server and there is none. What runs on belongs to the
//! task tracker that it is given and ends with the token.

use std::collections::BTreeSet;
use std::sync::Arc;

use ensign_daemon::Readiness;
use ensign_daemon::watched_file::{WatchError, WatchMetrics};
use ensign_pki::SharedClock;
use kube::Client;
use prometheus_client::registry::Registry;
use thiserror::Error;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::certificate::Certificates;
use super::claims::Expectations;
use super::clusters::{self, Clusters, Crowds, Judge, Member, OpenMember, RemoteConfig, Remotes};
use super::informer::Informer;
use super::live::{Live, Surroundings};
use super::metrics::AuthnMetrics;
use super::offline::{self, Offline};
use super::review::{CacheConfig, Reviewer};
use super::{Authenticator, AuthnConfig, Mode};
use crate::authz::Authorizer;
use crate::config::KubernetesConfig;
use crate::desk::Desk;
use crate::kubernetes::{Cluster, KubernetesMetrics};
use crate::metrics::Metrics;

/// What authentication needs of the process.
#[derive(Debug)]
pub struct AuthnHost<'a> {
    /// The API server, if there is one.
    pub cluster: Option<&'a Cluster>,
    /// Our place in it, if there is one.
    pub kubernetes: Option<&'a KubernetesConfig>,
    /// Counts requests to API servers.
    pub kubernetes_metrics: &'a KubernetesMetrics,
    /// The policy and its signers, for client certificates.
    pub desk: &'a watch::Receiver<Arc<Desk>>,
    /// Where our own counts are registered.
    pub registry: &'a mut Registry,
    /// Counts reloads.
    pub metrics: &'a Metrics,
    /// How many requests are authenticated at once.
    pub in_flight: usize,
    /// Counts files that could not be loaded.
    pub files: &'a WatchMetrics,
    /// Tells the time.
    pub clock: &'a SharedClock,
    /// Where what is still missing is told.
    pub readiness: &'a Readiness,
    /// Where tasks are counted.
    pub tasks: &'a TaskTracker,
    /// Cancelled when the process stops.
    pub stop: &'a CancellationToken,
}

/// Authentication and authorisation, at work.
#[derive(Debug)]
pub struct Opened {
    /// Tells who is calling.
    pub authenticator: Authenticator,
    /// Tells for whom.
    pub authorizer: Authorizer,
}

/// Why it does not start.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The JWKS file is missing or wrong.
    #[error(transparent)]
    Jwks(#[from] WatchError),
    /// No API server to ask.
    #[error("{0} needs an API server, and Kubernetes is off: name one with --kubernetes or --kubeconfig")]
    NoKubernetes(&'static str),
}

/// Makes the members of one installation.
struct Maker {
    expected: Arc<Expectations>,
    cache: CacheConfig,
    informer: bool,
    follows_pods: bool,
    crowds: Crowds,
    surroundings: Surroundings,
}

/// Starts what `config` asks for.
pub async fn open(config: AuthnConfig, host: AuthnHost<'_>) -> Result<Opened, OpenError> {
    let surroundings = Surroundings {
        kubernetes: host.kubernetes_metrics.clone(),
        metrics: AuthnMetrics::register(host.registry),
        tasks: host.tasks.clone(),
        clock: Arc::clone(host.clock),
    };
    let maker = Maker {
        expected: Arc::new(config.tokens.clone()),
        cache: config.cache,
        informer: matches!(config.mode, Mode::Informer { .. }),
        follows_pods: !config.trusted_node_accounts.is_empty(),
        crowds: Crowds::of(host.in_flight),
        surroundings: surroundings.clone(),
    };
    let id: Arc<str> = config.cluster_id.as_str().into();
    let local = maker.local(&id, &config.mode, &host).await?;
    if let Some(live) = local.live().filter(|_| !config.trusted_node_accounts.is_empty()) {
        ready_with(live, &host);
    }
    let remotes = if config.remote_clusters {
        let cluster = host.cluster.ok_or(OpenError::NoKubernetes("--remote-clusters"))?;
        let reserved: BTreeSet<String> = std::iter::once(&config.cluster_id)
            .chain(config.cluster_aliases.keys())
            .cloned()
            .collect();
        let open: OpenMember = Arc::new(move |id, cluster, stop| maker.member(id, &cluster.client(), None, stop));
        clusters::keep(RemoteConfig {
            client: cluster.client(),
            namespace: host
                .kubernetes
                .map_or_else(String::new, |config| config.istio_namespace.clone()),
            reserved,
            open,
            surroundings: surroundings.clone(),
            stop: host.stop.clone(),
        })
    } else {
        watch::channel(Arc::new(Remotes::none())).1
    };
    let clusters = Clusters::new(local, config.cluster_aliases, remotes);
    let certificates = config
        .client_certificates
        .then(|| Certificates::new(host.desk.clone(), Arc::clone(host.clock)));
    Ok(Opened {
        authorizer: Authorizer::new(config.trusted_node_accounts, clusters.clone()),
        authenticator: Authenticator {
            clusters,
            certificates,
            patience: config.patience,
            metrics: surroundings.metrics,
        },
    })
}

/// Ready once the pods are known that the trusted accounts may ask for.
fn ready_with(live: Arc<Live>, host: &AuthnHost<'_>) {
    let gate = host.readiness.gate("pods", "the pods of the cluster are not known yet");
    let stop = host.stop.clone();
    host.tasks.spawn(async move {
        if stop.run_until_cancelled(live.synced()).await == Some(true) {
            gate.open();
        }
    });
}

// === impl Maker ===

impl Maker {
    async fn local(&self, id: &Arc<str>, mode: &Mode, host: &AuthnHost<'_>) -> Result<Member, OpenError> {
        let client = host.cluster.map(Cluster::client);
        let issuer = match mode {
            Mode::JwksFile { path, issuer } => {
                let clock = Arc::clone(host.clock);
                let keys = offline::keys(path.clone(), host.metrics.clone(), host.files, clock);
                let (jwks, file) = keys.await?;
                // It ends only by its token, and has no error of its own: a bad file is a warning.
                host.tasks.spawn(file.run(host.stop.clone()));
                let offline = Offline::new(jwks, issuer.clone(), Arc::clone(&self.expected), Arc::clone(host.clock));
                let live = match (self.follows_pods, &client) {
                    (false, _) => None,
                    (true, None) => return Err(OpenError::NoKubernetes("--ca-trusted-node-accounts")),
                    (true, Some(client)) => Some(Live::open(client, id, false, &self.surroundings, host.stop)),
                };
                return Ok(Member::new(Arc::clone(id), Judge::Offline(offline), live, &self.crowds));
            }
            Mode::TokenReview => None,
            Mode::Informer { issuer } => issuer.clone(),
        };
        let client = client.ok_or(OpenError::NoKubernetes("--authn=token-review or informer"))?;
        Ok(self.member(id, &client, issuer, host.stop))
    }

    /// A member with an API server of its own.
    fn member(&self, id: &Arc<str>, client: &Client, issuer: Option<String>, stop: &CancellationToken) -> Member {
        let reviewer = Reviewer::new(
            client.clone(),
            Arc::clone(id),
            Arc::clone(&self.expected),
            self.cache,
            Arc::clone(&self.surroundings.clock),
            self.surroundings.metrics.clone(),
        );
        let live = (self.informer || self.follows_pods)
            .then(|| Live::open(client, id, self.informer, &self.surroundings, stop));
        let judge = match &live {
            Some(live) if self.informer => Judge::Informer(Box::new(Informer::open(
                client,
                issuer,
                Arc::clone(live),
                reviewer,
                Arc::clone(&self.expected),
                &self.surroundings,
                stop,
            ))),
            _ => Judge::Review(Box::new(reviewer)),
        };
        Member::new(Arc::clone(id), judge, live, &self.crowds)
    }
}
