//! One term of the leader: watches, looks, writes.
//!
//! The watches live as long as the term, so replicas that do not lead hold nothing in memory. Each round compares what
//! the watches show with what should be, writes a few objects at once, and begins again; it sleeps when nothing is due.
//! Stopping at any point leaves whole objects.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ensign_daemon::logging;
use futures::future::join_all;
use k8s_openapi::api::certificates::v1beta1::ClusterTrustBundle;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::Resource;
use kube::api::Api;
use kube::runtime::watcher;
use serde::de::DeserializeOwned;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::content::{Content, InUse, next_history};
use super::history::{self, History, Shelf};
use super::object::{self, Held, LABELLED, NAME, Place, SKIPPED, Target};
use super::plan::{Plan, Wanted};
use super::{DistributionParts, LOOK};
use crate::kubernetes::{ApiError, ObjectKey, Store, WatchState, Watched, follow, named};

pub(super) struct Worker {
    parts: DistributionParts,
    stop: CancellationToken,
    watches: JoinSet<()>,
    watched: Watches,
    namespaces: Arc<Store<Namespace, Place>>,
    /// That of the agents, where a selector may leave it out.
    agents: Arc<Store<Namespace, Place>>,
    config_maps: Arc<Store<ConfigMap, Held>>,
    bundles: Arc<Store<ClusterTrustBundle, Held>>,
    histories: Arc<Store<ConfigMap, History>>,
    manager: String,
    plan: Plan,
    /// What the last round distributed.
    content: Option<Content>,
    /// What was complained about, so that it is said once.
    silent: Vec<&'static str>,
    strange: Vec<String>,
    /// Nothing is written before this.
    paused_until: Option<Instant>,
    pause: Duration,
}

/// How the watches fare. Kinds that are not wanted have none.
#[derive(Default)]
struct Watches {
    history: Option<Watched>,
    namespaces: Option<Watched>,
    agents: Option<Watched>,
    config_maps: Option<Watched>,
    bundles: Option<Watched>,
}

/// An object to write, and the state in which it was found.
type Due = (Target, Option<String>);

/// The metrics of a replica that does not lead are those of one that has nothing to do.
impl Drop for Worker {
    fn drop(&mut self) {
        self.parts.metrics.idle();
    }
}

// === impl Worker ===

impl Worker {
    pub(super) fn new(parts: DistributionParts, stop: CancellationToken) -> Self {
        let manager = parts.home.manager();
        Self {
            plan: Plan::new(manager.clone()),
            manager,
            stop,
            watches: JoinSet::new(),
            watched: Watches::default(),
            namespaces: Arc::new(Store::keeping(Place::of)),
            agents: Arc::new(Store::keeping(Place::of)),
            config_maps: Arc::new(Store::keeping(Held::of_config_map)),
            bundles: Arc::new(Store::keeping(Held::of_bundle)),
            histories: Arc::new(Store::keeping(History::of)),
            content: None,
            silent: Vec::new(),
            strange: Vec::new(),
            paused_until: None,
            pause: Duration::ZERO,
            parts,
        }
    }

    /// Until the term is over: the caller drops it then.
    pub(super) async fn run(mut self) {
        self.follow();
        // The history is needed for each; the rest begins as its watches come.
        if let Some(watched) = &mut self.watched.history
            && !watched.synced().await
        {
            return;
        }
        let mut changes = [
            self.namespaces.changes(),
            self.agents.changes(),
            self.config_maps.changes(),
            self.bundles.changes(),
            self.histories.changes(),
        ];
        while !self.stop.is_cancelled() {
            for one in &mut changes {
                one.mark_unchanged();
            }
            let next = self.round().await;
            let [namespaces, agents, config_maps, bundles, histories] = &mut changes;
            tokio::select! {
                () = sleep_until(next) => {}
                // Whatever changed, after a moment in which more may.
                () = async { tokio::select! {
                    _ = namespaces.changed() => {}
                    _ = agents.changed() => {}
                    _ = config_maps.changed() => {}
                    _ = bundles.changed() => {}
                    _ = histories.changed() => {}
                } } => sleep(GATHER).await,
            }
        }
    }

    fn follow(&mut self) {
        let home = self.parts.home.clone();
        let client = home.cluster.client();
        let own = Api::<ConfigMap>::namespaced(client.clone(), &home.namespace);
        let config = named(&history::name(&home));
        self.watched.history = Some(self.watch("roots history", own, config, Arc::clone(&self.histories)));
        if self.parts.config.config_maps {
            let config = match &self.parts.config.selector {
                Some(selector) => watcher::Config::default().labels(selector),
                None => watcher::Config::default(),
            };
            let all = Api::<Namespace>::all(client.clone());
            self.watched.namespaces = Some(self.watch("namespaces", all.clone(), config, Arc::clone(&self.namespaces)));
            if let (Some(_), Some(agents)) = (&self.parts.config.selector, &self.parts.config.agents) {
                let config = named(agents);
                self.watched.agents = Some(self.watch("agents' namespace", all, config, Arc::clone(&self.agents)));
            }
            let all = Api::<ConfigMap>::all(client.clone());
            self.watched.config_maps = Some(self.watch(NAME, all, named(NAME), Arc::clone(&self.config_maps)));
        }
        if let Some(bundle) = &self.parts.config.bundle {
            let (all, config) = (Api::<ClusterTrustBundle>::all(client), named(&bundle.name));
            self.watched.bundles = Some(self.watch("clustertrustbundle", all, config, Arc::clone(&self.bundles)));
        }
    }

    fn watch<K, V>(
        &mut self,
        name: &'static str,
        api: Api<K>,
        config: watcher::Config,
        store: Arc<Store<K, V>>,
    ) -> Watched
    where
        K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
        V: Send + Sync + 'static,
    {
        let metrics = self.parts.home.cluster.metrics().clone();
        let (watched, watch) = follow(name, api, config, store, metrics, self.stop.clone());
        self.watches.spawn(watch);
        watched
    }

    /// One look and the writes that follow from it; says when to look again at the latest.
    async fn round(&mut self) -> Instant {
        let look = Instant::now() + LOOK;
        if let Some(until) = self.paused_until.filter(|until| *until > Instant::now()) {
            return until;
        }
        let Some(content) = self.refresh().await else {
            return look;
        };
        let (due, next) = self.look(&content);
        if due.is_empty() {
            return next.map_or(look, |next| next.min(look));
        }
        let began = Instant::now();
        let writes = due
            .iter()
            .take(AT_ONCE)
            .map(|(target, _)| self.write(target, &content.pem));
        let outcomes = join_all(writes).await;
        let mut pause = Duration::ZERO;
        for (due, outcome) in due.into_iter().zip(outcomes) {
            pause = pause.max(self.note(due, outcome, &content));
        }
        self.pause = if pause.is_zero() {
            Duration::ZERO
        } else {
            pause.max(self.pause * 2).min(LONGEST_PAUSE)
        };
        let next = began + PACE.max(self.pause);
        self.paused_until = Some(next);
        next
    }

    /// The roots of now, remembered before anybody gets them.
    async fn refresh(&mut self) -> Option<Content> {
        let now = self.parts.clock.now();
        let in_use = InUse::ask(&self.parts.sources);
        if self.silent != in_use.silent {
            if let [first, ..] = in_use.silent.as_slice() {
                let sources = in_use.silent.join(", ");
                tracing::warn!(
                    first,
                    sources,
                    "no roots known of these, so the namespaces do not get them yet"
                );
            }
            self.silent.clone_from(&in_use.silent);
        }
        let name = history::name(&self.parts.home);
        let key = ObjectKey::new(self.parts.home.namespace.clone(), name.clone());
        let mut history = self
            .histories
            .get(&key)
            .map(|seen| History::clone(&seen))
            .unwrap_or_default();
        if self.strange != history.strange {
            let keys = history.strange.join(", ");
            tracing::warn!(
                config_map = name,
                keys,
                "these keys hold no root under its own name and are passed over"
            );
            self.strange.clone_from(&history.strange);
        }
        if let Err(error) = self.remember(&in_use, &mut history, now).await {
            // Old roots would be lost with this leader, so nothing new is handed out that could not be taken along. If
            // somebody wrote since, the next round sees what.
            if !matches!(error, ApiError::Conflict(_)) {
                let error = logging::chain(&error);
                tracing::warn!(
                    config_map = name,
                    error,
                    "the roots cannot be remembered, so they are not distributed yet"
                );
                self.parts.metrics.wrote("history_failed");
            }
            return None;
        }
        let content = Content::new(&in_use, &history, now)?;
        if self.content.as_ref() != Some(&content) {
            tracing::info!(roots = content.roots, "roots for the namespaces");
            self.parts.metrics.roots(content.roots);
            self.content = Some(content.clone());
        }
        Some(content)
    }

    /// Brings the history up to date.
    async fn remember(&self, in_use: &InUse, history: &mut History, now: SystemTime) -> Result<(), ApiError> {
        let shelf = Shelf::new(&self.parts.home, &self.manager);
        if !history.exists() && next_history(in_use, history, now).is_some() {
            *history = shelf.make().await?;
        }
        if let Some(next) = next_history(in_use, history, now) {
            *history = shelf.write(history, &next).await?;
        }
        Ok(())
    }

    /// What is due, and when more will be.
    fn look(&mut self, content: &Content) -> (Vec<Due>, Option<Instant>) {
        let both = is_complete(self.watched.namespaces.as_ref()) && is_complete(self.watched.config_maps.as_ref());
        let mut namespaces = if both { self.namespaces.all() } else { Vec::new() };
        if both && is_complete(self.watched.agents.as_ref()) {
            let selected: Vec<_> = namespaces.iter().map(|(key, _)| key.clone()).collect();
            namespaces.extend(self.agents.all().into_iter().filter(|(key, _)| !selected.contains(key)));
        }
        let selected = namespaces
            .iter()
            .filter(|(key, place)| !place.terminating && !SKIPPED.contains(&key.name.as_str()));
        let mut targets: Vec<Found<'_>> = selected
            .map(|(key, _)| {
                let held = self.config_maps.get(&ObjectKey::new(key.name.clone(), NAME));
                (Target::Namespace(key.name.clone()), held, Some(LABELLED))
            })
            .collect();
        let bundle = self
            .parts
            .config
            .bundle
            .clone()
            .filter(|_| is_complete(self.watched.bundles.as_ref()));
        if let Some(bundle) = &bundle {
            let held = self.bundles.get(&ObjectKey::cluster(bundle.name.clone()));
            targets.push((Target::Bundle, held, bundle.signer_name.as_deref()));
        }
        let wanted = targets.iter().map(|(target, held, marked)| {
            let wanted = Wanted {
                digest: &content.digest,
                marked: *marked,
            };
            (target.clone(), held.as_deref(), wanted)
        });
        let mut pass = self.plan.pass(wanted, Instant::now());
        self.parts.metrics.tally(pass.tally);
        let contested = self.plan.contested();
        for (writer, target) in &pass.recognised {
            let objects = contested.get(writer.as_str());
            tracing::warn!(
                writer,
                ?target,
                objects,
                "another writer keeps changing the roots: they are left to it for a while; stop it (istiod: ENABLE_CA_SERVER=false) or ours (--root-configmaps=off)"
            );
        }
        self.parts.metrics.contested(contested.into_iter());
        // The same order each time would let the first of many failing ones hold up the rest.
        fastrand::shuffle(&mut pass.due);
        let version = |target: &Target| {
            let found = targets.iter().find(|(other, _, _)| other == target);
            found.and_then(|(_, held, _)| Some(held.as_ref()?.version.clone()))
        };
        let due = pass
            .due
            .into_iter()
            .take(AT_ONCE)
            .map(|target| (target.clone(), version(&target)));
        (due.collect(), pass.next)
    }

    async fn write(&self, target: &Target, pem: &str) -> Result<(), ApiError> {
        let cluster = &self.parts.home.cluster;
        match (target, &self.parts.config.bundle) {
            (Target::Namespace(namespace), _) => object::write_config_map(cluster, &self.manager, namespace, pem).await,
            (Target::Bundle, Some(bundle)) => object::write_bundle(cluster, &self.manager, bundle, pem).await,
            (Target::Bundle, None) => Ok(()),
        }
    }

    /// Notes how a write went; says how long all should pause for it.
    fn note(&mut self, (target, found): Due, outcome: Result<(), ApiError>, content: &Content) -> Duration {
        let now = Instant::now();
        let error = match outcome {
            Ok(()) => {
                self.plan.wrote(&target, content.digest, found, now);
                self.parts.metrics.wrote("written");
                tracing::debug!(?target, "roots written");
                return Duration::ZERO;
            }
            Err(error) => error,
        };
        self.parts.metrics.wrote(error.reason());
        let failures = self.plan.failed(&target, now);
        let text = logging::chain(&error);
        // A namespace that ends refuses new objects a moment before the watch says that it does.
        if failures == PERSISTENT {
            tracing::warn!(?target, error = text, failures, "roots cannot be written, trying on");
        } else {
            tracing::debug!(?target, error = text, failures, "roots not written");
        }
        match error {
            ApiError::Throttled { retry_after, .. } => retry_after,
            ApiError::Away(_) => AWAY,
            ApiError::Unauthorized(_)
            | ApiError::Forbidden(_)
            | ApiError::NotFound(_)
            | ApiError::AlreadyExists(_)
            | ApiError::Conflict(_)
            | ApiError::Invalid(_)
            | ApiError::Other { .. } => Duration::ZERO,
        }
    }
}

fn is_complete(watched: Option<&Watched>) -> bool {
    watched.is_some_and(|watched| watched.state() != WatchState::Starting)
}

/// Objects written at once, and how often: at most 80 a second, so 1,000 namespaces in a quarter of a minute.
const AT_ONCE: usize = 8;
const PACE: Duration = Duration::from_millis(100);
/// Changes come in crowds.
const GATHER: Duration = Duration::from_millis(100);
/// While the API server is away.
const AWAY: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Failures in a row that are worth a warning.
const PERSISTENT: u32 = 3;

/// A target, what it holds now, and the label that it should bear.
type Found<'a> = (Target, Option<Arc<Held>>, Option<&'a str>);
