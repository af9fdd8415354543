//! What lives in a cluster, by informers: its pods, and where tokens are judged by them its service accounts.
//!
//! Promises that no request to the API server is made per question. What was just made may not have been heard of yet:
//! whoever misses something asks through [`Live::settled`], which looks again at each event, for a bounded time. How
//! fresh the whole is, [`Live::is_fresh`] tells.

mod accounts;
mod confirm;
mod object;
mod pods;

use std::sync::Arc;
use std::time::Duration;

use ensign_pki::SharedClock;
use kube::Client;
use kube::api::Api;
use kube::runtime::watcher;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use self::confirm::LiveError;
pub(super) use self::object::few;
pub use self::pods::{Pod, Pods};

use self::accounts::Accounts;
use super::metrics::AuthnMetrics;
use crate::kubernetes::{KubernetesMetrics, WatchState, Watched, follow};

/// The live objects of one cluster.
#[derive(Debug)]
pub struct Live {
    cluster: Arc<str>,
    pods: Arc<Pods>,
    accounts: Option<Arc<Accounts>>,
    watches: Vec<Watched>,
    changes: watch::Receiver<u64>,
    waiting: Semaphore,
    clock: SharedClock,
}

/// What one look shows.
pub(crate) enum Look<T, E> {
    /// What was looked for.
    Found(T),
    /// It is otherwise, and waiting changes nothing.
    Never(E),
    /// It is not there; the informer may only be late.
    NotYet(E),
}

/// What informers need of the process.
#[derive(Debug, Clone)]
pub(crate) struct Surroundings {
    pub(crate) kubernetes: KubernetesMetrics,
    pub(crate) metrics: AuthnMetrics,
    pub(crate) tasks: TaskTracker,
    pub(crate) clock: SharedClock,
}

// === impl Live ===

impl Live {
    /// Begins to follow a cluster's pods, and its accounts if `accounts`. The tasks end with `stop`.
    pub(crate) fn open(
        client: &Client,
        cluster: &Arc<str>,
        accounts: bool,
        surroundings: &Surroundings,
        stop: &CancellationToken,
    ) -> Arc<Self> {
        let (tell, changes) = watch::channel(0);
        let config = watcher::Config {
            page_size: Some(PAGE),
            ..watcher::Config::default()
        };
        let metrics = &surroundings.kubernetes;
        let pods = Arc::new(Pods::new(
            Arc::clone(cluster),
            tell.clone(),
            surroundings.metrics.clone(),
        ));
        let mut watches = Vec::new();
        let (watched, work) = follow(
            format!("pods of {cluster}"),
            Api::all(client.clone()),
            config.clone(),
            Arc::clone(&pods),
            metrics.clone(),
            stop.clone(),
        );
        watches.push(watched);
        surroundings.tasks.spawn(work);
        let accounts = accounts.then(|| Arc::new(Accounts::new(tell)));
        if let Some(accounts) = &accounts {
            let (watched, work) = follow(
                format!("service accounts of {cluster}"),
                Api::all(client.clone()),
                config,
                Arc::clone(accounts),
                metrics.clone(),
                stop.clone(),
            );
            watches.push(watched);
            surroundings.tasks.spawn(work);
        }
        Arc::new(Self {
            cluster: Arc::clone(cluster),
            pods,
            accounts,
            watches,
            changes,
            waiting: Semaphore::new(WAITING),
            clock: Arc::clone(&surroundings.clock),
        })
    }

    /// The pods.
    pub fn pods(&self) -> &Pods {
        &self.pods
    }

    /// The cluster's name.
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// Whether what is known is complete, and of now or nearly so.
    pub fn is_fresh(&self) -> bool {
        self.watches.iter().all(|watched| watched.is_fresh(FRESH))
    }

    /// Whether every watch is complete and stands at this moment.
    pub(crate) fn is_whole(&self) -> bool {
        self.watches.iter().all(|watched| watched.state() == WatchState::Synced)
    }

    /// Waits until everything was listed once; `false` if a watch ended before.
    pub async fn synced(&self) -> bool {
        for watched in &self.watches {
            if !watched.clone().synced().await {
                return false;
            }
        }
        true
    }

    /// Looks, and looks again at each event for as long as the informer may be late. A crowd of callers whose pods are
    /// really gone is not waited for: beyond a number of them the first look counts.
    pub(crate) async fn settled<T, E>(&self, mut look: impl FnMut(&Self) -> Look<T, E>) -> Result<T, E> {
        let mut changes = self.changes.clone();
        // From here on no event is missed: what happens during the look ends the first wait at once.
        changes.mark_unchanged();
        let mut error = match look(self) {
            Look::Found(found) => return Ok(found),
            Look::Never(error) => return Err(error),
            Look::NotYet(error) => error,
        };
        let Ok(_waiting) = self.waiting.try_acquire() else {
            return Err(error);
        };
        let until = Instant::now() + LATE;
        while matches!(timeout_at(until, changes.changed()).await, Ok(Ok(()))) {
            error = match look(self) {
                Look::Found(found) => return Ok(found),
                Look::Never(error) => return Err(error),
                Look::NotYet(error) => error,
            };
        }
        Err(error)
    }
}

/// How long a broken watch is relied on: what happened since is not known, so a revoked token may pass for so long.
const FRESH: Duration = Duration::from_secs(30);
/// How late an informer may be: far above what a healthy API server takes, far below what a client waits.
const LATE: Duration = Duration::from_secs(2);
/// How many may wait for a late informer at once: a quarter of the requests that are let in at once by default.
const WAITING: usize = 64;
/// Objects per page of a list: about 2 MB of pods in memory at once.
const PAGE: u32 = 250;

#[cfg(test)]
pub(crate) mod testing;

#[cfg(test)]
mod tests;
