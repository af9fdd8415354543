//! One watch of one kind of object, for as long as the program runs.
//!
//! Owns beginning, resuming and beginning anew: after a closed stream the watch goes on where it was, after 410 (or an
//! absent kind) it lists again, and it tells its [`Follower`] which objects are gone since. A broken watch is tried
//! again for ever, with backoff. [`Watched`] says whether what the follower knows can be relied on now.

use std::fmt::Debug;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use ensign_daemon::logging;
use futures::StreamExt as _;
use kube::Resource;
use kube::api::Api;
use kube::runtime::{WatchStreamExt as _, watcher};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::meter::KubernetesMetrics;

/// Learns of every change of the objects of one watch, in order, from one task.
pub trait Follower<K>: Send + Sync + 'static {
    /// A full list begins: what is not applied before [`complete`](Self::complete) is gone.
    fn begin(&self);
    /// The object is there, as it is now; also during a full list.
    fn apply(&self, object: K);
    /// The object was deleted; this was its last state.
    fn delete(&self, object: K);
    /// The full list is over.
    fn complete(&self);
}

/// How a watch fares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WatchState {
    /// The first full list is not over yet.
    Starting,
    /// Complete and alive.
    Synced,
    /// Complete once, and broken since.
    Broken {
        /// Since when.
        since: Instant,
    },
}

/// Tells how a watch fares. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Watched(watch::Receiver<WatchState>);

/// Follows the objects of `api` that fit `config`, until `stop`. The future is the work; it has no error of its own.
pub fn follow<K, F>(
    name: &'static str,
    api: Api<K>,
    config: watcher::Config,
    follower: Arc<F>,
    metrics: KubernetesMetrics,
    stop: CancellationToken,
) -> (Watched, impl Future<Output = ()> + Send + 'static)
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
    F: Follower<K>,
{
    let (tell, state) = watch::channel(WatchState::Starting);
    let run = async move {
        let mut events = Box::pin(watcher(api, config).default_backoff());
        loop {
            let event = tokio::select! {
                () = stop.cancelled() => return,
                event = events.next() => event,
            };
            match event {
                Some(Ok(event)) => {
                    let synced = matches!(
                        event,
                        watcher::Event::InitDone | watcher::Event::Apply(_) | watcher::Event::Delete(_)
                    );
                    hand_over(&*follower, event);
                    if synced && *tell.borrow() != WatchState::Synced {
                        tracing::info!(watch = name, "watch complete");
                        tell.send_replace(WatchState::Synced);
                    }
                    metrics.watch_synced(name, *tell.borrow() == WatchState::Synced);
                }
                Some(Err(error)) => {
                    metrics.watch_broke(name);
                    broken(name, &tell, &error);
                    metrics.watch_synced(name, *tell.borrow() == WatchState::Synced);
                }
                // The watcher never ends by itself.
                None => return,
            }
        }
    };
    (Watched(state), run)
}

fn hand_over<K, F: Follower<K>>(follower: &F, event: watcher::Event<K>) {
    match event {
        watcher::Event::Init => follower.begin(),
        watcher::Event::InitApply(object) | watcher::Event::Apply(object) => follower.apply(object),
        watcher::Event::Delete(object) => follower.delete(object),
        watcher::Event::InitDone => follower.complete(),
    }
}

fn broken(name: &str, tell: &watch::Sender<WatchState>, error: &watcher::Error) {
    let error = logging::chain(error);
    tell.send_if_modified(|state| {
        let first = matches!(state, WatchState::Synced);
        if first {
            *state = WatchState::Broken { since: Instant::now() };
        }
        first
    });
    tracing::warn!(watch = name, error, "watch broken, beginning it again");
}

// === impl Watched ===

impl Watched {
    /// How it fares now.
    pub fn state(&self) -> WatchState {
        *self.0.borrow()
    }

    /// Whether what is known is complete and at most `age` old, as far as anybody can tell.
    pub fn is_fresh(&self, age: Duration) -> bool {
        match self.state() {
            WatchState::Starting => false,
            WatchState::Synced => true,
            WatchState::Broken { since } => since.elapsed() <= age,
        }
    }

    /// Waits until the first full list is over; `false` if the watch ended before.
    pub async fn synced(&mut self) -> bool {
        self.0
            .wait_for(|state| !matches!(state, WatchState::Starting))
            .await
            .is_ok()
    }

    /// Waits for the next change of state; `false` if the watch ended.
    pub async fn changed(&mut self) -> bool {
        self.0.changed().await.is_ok()
    }
}
