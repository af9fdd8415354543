//! The remote clusters, as Istio's remote secrets come, change and go.
//!
//! A Secret with the label `istio/multiCluster: "true"` in the control plane's namespace holds, under each key, the
//! kubeconfig of the cluster that the key names. Promises that a cluster counts exactly while one Secret names it with
//! a kubeconfig that is accepted: it is known from the moment that its API server answers, and unknown from the moment
//! that its Secret is gone. An id that two Secrets name is refused in both, since nobody could say which is meant, and
//! every replica comes to the same answer. Each refusal names the Secret, never its content.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use ensign_daemon::logging;
use ensign_pki::crypto;
use kube::Client;
use kube::api::Api;
use kube::runtime::watcher;
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;
use tokio_util::sync::{CancellationToken, DropGuard};
use zeroize::Zeroizing;

use super::Member;
use super::kubeconfig;
use super::secret::RemoteSecret;
use crate::authn::error::AuthnError;
use crate::authn::live::Surroundings;
use crate::kubernetes::{Cluster, ObjectKey, Store, Watched, follow};

/// The remote clusters of the moment.
#[derive(Debug)]
pub(in crate::authn) struct Remotes {
    clusters: BTreeMap<String, Remote>,
    /// Whether all Secrets are known, so that a name that is not here is no cluster's.
    listed: bool,
}

/// How one fares.
#[derive(Debug, Clone)]
enum Remote {
    Connected(Arc<Member>),
    Connecting { why: String },
    Refused { why: String },
}

/// Makes a member of a connected cluster; its tasks end with the token.
pub(in crate::authn) type OpenMember = Arc<dyn Fn(&Arc<str>, &Cluster, &CancellationToken) -> Member + Send + Sync>;

/// Where remote secrets are, and what is made of them.
pub(in crate::authn) struct RemoteConfig {
    /// The local API server.
    pub(in crate::authn) client: Client,
    /// The control plane's namespace.
    pub(in crate::authn) namespace: String,
    /// Names that no remote cluster can have: the local one's and all aliases.
    pub(in crate::authn) reserved: BTreeSet<String>,
    /// Makes members.
    pub(in crate::authn) open: OpenMember,
    pub(in crate::authn) surroundings: Surroundings,
    pub(in crate::authn) stop: CancellationToken,
}

struct Keeper {
    config: RemoteConfig,
    secrets: Arc<Store<RemoteSecret>>,
    watched: Watched,
    listed: bool,
    running: BTreeMap<String, Running>,
    publish: watch::Sender<Arc<Remotes>>,
    reports: mpsc::Sender<Report>,
}

/// One id that is named by a Secret.
struct Running {
    claim: Claim,
    state: Remote,
    _stop: DropGuard,
}

/// What became of connecting.
struct Report {
    id: String,
    claim: Claim,
    state: Remote,
}

/// What the Secrets say of one id; equal claims mean the same cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Claim {
    /// This Secret has it; a digest of the kubeconfig tells a changed one.
    Kubeconfig { secret: ObjectKey, digest: [u8; 32] },
    /// It cannot be had.
    Refused { why: String },
}

/// Follows the remote secrets until the token of the configuration is cancelled.
pub(in crate::authn) fn keep(config: RemoteConfig) -> watch::Receiver<Arc<Remotes>> {
    let (publish, remotes) = watch::channel(Arc::new(Remotes {
        clusters: BTreeMap::new(),
        listed: false,
    }));
    let secrets = Arc::new(Store::whole());
    let (watched, work) = follow(
        "remote secrets",
        Api::namespaced(config.client.clone(), &config.namespace),
        watcher::Config::default().labels(SELECTOR),
        Arc::clone(&secrets),
        config.surroundings.kubernetes.clone(),
        config.stop.clone(),
    );
    let tasks = config.surroundings.tasks.clone();
    tasks.spawn(work);
    // Each report is taken at once; one that waits only delays its own cluster.
    let (reports, arrived) = mpsc::channel(16);
    let keeper = Keeper {
        config,
        secrets,
        watched,
        listed: false,
        running: BTreeMap::new(),
        publish,
        reports,
    };
    tasks.spawn(keeper.run(arrived));
    remotes
}

// === impl Remotes ===

#[cfg(test)]
impl Remotes {
    /// Clusters that are there.
    pub(in crate::authn) fn connected(members: impl IntoIterator<Item = (String, Member)>) -> Self {
        let connected = |member| Remote::Connected(Arc::new(member));
        Self {
            clusters: members
                .into_iter()
                .map(|(id, member)| (id, connected(member)))
                .collect(),
            listed: true,
        }
    }

    /// With a cluster that cannot be asked.
    pub(in crate::authn) fn and_refused(mut self, id: &str, why: &str) -> Self {
        self.clusters
            .insert(id.to_owned(), Remote::Refused { why: why.to_owned() });
        self
    }

    /// With a cluster that is not connected.
    pub(in crate::authn) fn and_connecting(mut self, id: &str, why: &str) -> Self {
        self.clusters
            .insert(id.to_owned(), Remote::Connecting { why: why.to_owned() });
        self
    }

    /// While not all Secrets are known.
    pub(in crate::authn) fn not_listed(mut self) -> Self {
        self.listed = false;
        self
    }
}

impl Remotes {
    /// Of an installation that has none.
    pub(in crate::authn) fn none() -> Self {
        Self {
            clusters: BTreeMap::new(),
            listed: true,
        }
    }

    /// The cluster of that name, or why there is nothing to ask.
    pub(in crate::authn) fn get(&self, name: &str) -> Option<Result<Arc<Member>, AuthnError>> {
        Some(match self.clusters.get(name)? {
            Remote::Connected(member) => Ok(Arc::clone(member)),
            Remote::Connecting { why } => Err(AuthnError::Away {
                cluster: name.to_owned(),
                reason: "cluster_away",
                why: why.clone(),
            }),
            Remote::Refused { why } => Err(AuthnError::ClusterRefused {
                cluster: name.to_owned(),
                why: why.clone(),
            }),
        })
    }

    pub(in crate::authn) fn names(&self) -> impl Iterator<Item = &str> {
        self.clusters.keys().map(String::as_str)
    }

    pub(in crate::authn) fn members(&self) -> impl Iterator<Item = Arc<Member>> {
        self.clusters.values().filter_map(|remote| match remote {
            Remote::Connected(member) => Some(Arc::clone(member)),
            Remote::Connecting { .. } | Remote::Refused { .. } => None,
        })
    }

    /// Whether all Secrets are known.
    pub(in crate::authn) fn are_listed(&self) -> bool {
        self.listed
    }

    /// Whether nothing is on its way: all Secrets are known, and no cluster is being connected.
    pub(in crate::authn) fn are_settled(&self) -> bool {
        let is_connecting = |remote| matches!(remote, &Remote::Connecting { .. });
        self.listed && !self.clusters.values().any(is_connecting)
    }
}

// === impl Keeper ===

impl Keeper {
    async fn run(mut self, mut arrived: mpsc::Receiver<Report>) {
        let stop = self.config.stop.clone();
        let mut changes = self.secrets.changes();
        loop {
            self.compare();
            tokio::select! {
                () = stop.cancelled() => return,
                changed = changes.changed() => if changed.is_err() {
                    return;
                },
                // The list is complete a moment after its last change.
                true = self.watched.changed(), if !self.listed => {}
                Some(report) = arrived.recv() => self.note(report),
            }
        }
    }

    /// Ends what no Secret names any more, begins what one names now.
    fn compare(&mut self) {
        let secrets = self.secrets.all();
        let claims = claims(&secrets, &self.config.reserved);
        let before = self.running.len();
        let (metrics, gone) = (&self.config.surroundings.metrics, |id: &String| {
            !claims.contains_key(id)
        });
        for id in self.running.keys().filter(|id| gone(id)) {
            tracing::info!(cluster = id, "remote cluster is gone with its secret");
            metrics.forget(id);
        }
        self.running.retain(|id, _| claims.contains_key(id));
        let listed = self.watched.is_complete();
        let mut changed = self.running.len() != before || listed != self.listed;
        self.listed = listed;
        for (id, claim) in claims {
            if self.running.get(&id).is_some_and(|running| running.claim == claim) {
                continue;
            }
            let kubeconfig = match &claim {
                Claim::Kubeconfig { secret, .. } => value(&secrets, secret, &id),
                Claim::Refused { .. } => None,
            };
            let running = self.begin(&id, claim, kubeconfig);
            self.running.insert(id, running);
            changed = true;
        }
        if changed {
            self.tell();
        }
    }

    fn begin(&self, id: &str, claim: Claim, kubeconfig: Option<Zeroizing<Vec<u8>>>) -> Running {
        let stop = self.config.stop.child_token();
        let state = match (&claim, kubeconfig) {
            (Claim::Refused { why }, _) => {
                tracing::warn!(cluster = id, why, "remote cluster is refused");
                Remote::Refused { why: why.clone() }
            }
            (Claim::Kubeconfig { secret, .. }, kubeconfig) => {
                tracing::info!(cluster = id, secret = %shown(secret), "connecting to remote cluster");
                let connect = Connect {
                    id: id.into(),
                    claim: claim.clone(),
                    secret: shown(secret),
                    kubeconfig: kubeconfig.unwrap_or_default(),
                    open: Arc::clone(&self.config.open),
                    surroundings: self.config.surroundings.clone(),
                    reports: self.reports.clone(),
                    stop: stop.clone(),
                };
                self.config.surroundings.tasks.spawn(connect.run());
                Remote::Connecting {
                    why: "not connected yet".to_owned(),
                }
            }
        };
        self.config.surroundings.metrics.remote(id, state.word());
        Running {
            claim,
            state,
            _stop: stop.drop_guard(),
        }
    }

    /// A report counts only for the claim that it was made for.
    fn note(&mut self, report: Report) {
        let Some(running) = self.running.get_mut(&report.id) else {
            return;
        };
        if running.claim == report.claim {
            self.config.surroundings.metrics.remote(&report.id, report.state.word());
            running.state = report.state;
            self.tell();
        }
    }

    fn tell(&self) {
        let remotes = self
            .running
            .iter()
            .map(|(id, running)| (id.clone(), running.state.clone()));
        self.publish.send_replace(Arc::new(Remotes {
            clusters: remotes.collect(),
            listed: self.listed,
        }));
    }
}

// === impl Remote ===

impl Remote {
    fn word(&self) -> &'static str {
        match self {
            Self::Connected(_) => "connected",
            Self::Connecting { .. } => "connecting",
            Self::Refused { .. } => "refused",
        }
    }
}

/// One attempt after the other to reach a remote cluster.
struct Connect {
    id: Arc<str>,
    claim: Claim,
    secret: String,
    kubeconfig: Zeroizing<Vec<u8>>,
    open: OpenMember,
    surroundings: Surroundings,
    reports: mpsc::Sender<Report>,
    stop: CancellationToken,
}

impl Connect {
    async fn run(self) {
        let stop = self.stop.clone();
        stop.run_until_cancelled(self.until_connected()).await;
    }

    async fn until_connected(self) {
        let config = match kubeconfig::accept(&self.kubeconfig).await {
            Ok(config) => config,
            Err(refusal) => {
                let why = format!("secret {}: {refusal}", self.secret);
                tracing::warn!(cluster = &*self.id, why, "remote cluster is refused");
                return self.report(Remote::Refused { why }).await;
            }
        };
        let mut pause = PAUSE_FIRST;
        loop {
            match Cluster::connect(config.clone(), &self.surroundings.kubernetes).await {
                Ok(cluster) => {
                    tracing::info!(
                        cluster = &*self.id,
                        username = cluster.username(),
                        "connected to remote cluster"
                    );
                    let member = (self.open)(&self.id, &cluster, &self.stop);
                    return self.report(Remote::Connected(Arc::new(member))).await;
                }
                Err(error) => {
                    let why = logging::chain(&error);
                    tracing::warn!(
                        cluster = &*self.id,
                        secret = self.secret,
                        error = why,
                        "remote cluster cannot be reached"
                    );
                    self.report(Remote::Connecting { why }).await;
                }
            }
            sleep(pause.mul_f64(fastrand::f64() + 0.5)).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    async fn report(&self, state: Remote) {
        let report = Report {
            id: self.id.to_string(),
            claim: self.claim.clone(),
            state,
        };
        // Nobody to tell: the program stops.
        _ = self.reports.send(report).await;
    }
}

/// A Secret that names an id, and its value where that is base64.
type Named<'a> = (&'a ObjectKey, Option<&'a [u8]>);

/// What all Secrets together say of each id.
fn claims(secrets: &[(ObjectKey, Arc<RemoteSecret>)], reserved: &BTreeSet<String>) -> BTreeMap<String, Claim> {
    let mut by_id = BTreeMap::<&String, Vec<Named<'_>>>::new();
    for (key, secret) in secrets {
        for (id, value) in &secret.data {
            let value = value.as_ref().map(|bytes| bytes.as_slice());
            by_id.entry(id).or_default().push((key, value));
        }
    }
    let claim = |id: &String, mut named: Vec<Named<'_>>| {
        named.sort_by_key(|(key, _)| *key);
        let names: Vec<_> = named.iter().map(|(key, _)| shown(key)).collect();
        let why = match named[..] {
            _ if reserved.contains(id) => format!(
                "secret {} names {id:?}, which is this cluster's own name or an alias; see --cluster-id and --cluster-aliases",
                names.join(" and ")
            ),
            [(secret, Some(value))] => {
                return Claim::Kubeconfig {
                    secret: secret.clone(),
                    digest: crypto::sha256(value),
                };
            }
            [(secret, None)] => format!("secret {}: the value of {id:?} is no base64", shown(secret)),
            _ => format!("secrets {} all name {id:?}: delete all but one", names.join(" and ")),
        };
        Claim::Refused { why }
    };
    by_id
        .into_iter()
        .map(|(id, named)| (id.clone(), claim(id, named)))
        .collect()
}

fn value(secrets: &[(ObjectKey, Arc<RemoteSecret>)], key: &ObjectKey, id: &str) -> Option<Zeroizing<Vec<u8>>> {
    let (_, secret) = secrets.iter().find(|(seen, _)| seen == key)?;
    secret.data.get(id)?.clone()
}

fn shown(key: &ObjectKey) -> String {
    format!("{}/{}", key.namespace, key.name)
}

/// Istio's label for remote secrets (`istioctl create-remote-secret`).
const SELECTOR: &str = "istio/multiCluster=true";
const PAUSE_FIRST: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests;
