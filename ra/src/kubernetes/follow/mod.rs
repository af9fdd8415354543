//! One watch of one kind of object, for as long as the program runs.
//!
//! Owns beginning, resuming and beginning anew: after a closed stream the watch goes on where it was, after 410 (or an
//! absent kind) it lists again, and it tells its [`Follower`] which objects are gone since. A broken watch is tried
//! again for ever, with backoff. [`Watched`] says whether what the follower knows can be relied on now.
//!
//! kube's own watcher does all of this but the last: it says nothing when a watch stands again after a failure, so that
//! whoever follows a kind that changes rarely (service accounts) would think for hours that the watch is still broken.

mod one;

use std::convert::Infallible;
use std::fmt::Debug;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use kube::api::{Api, ListParams, WatchEvent, WatchParams};
use kube::runtime::watcher;
use kube::{Resource, ResourceExt as _};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

pub use self::one::{One, follow_one, named};
use super::error::ApiError;
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

/// What ails a watch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WatchTrouble {
    /// 404: the server does not know the kind; its CRD is not installed.
    NoSuchKind,
    /// 401 or 403: we may not list or watch it.
    Forbidden,
    /// 410: what the watch would go on from is no longer kept; it lists again.
    Gone,
    /// No answer, a broken stream, or another error of the server.
    Away,
}

/// Tells how a watch fares. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Watched(watch::Receiver<Told>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Told {
    state: WatchState,
    trouble: Option<WatchTrouble>,
}

/// The work behind one [`Watched`].
struct Follow<K, F> {
    name: Arc<str>,
    api: Api<K>,
    config: watcher::Config,
    follower: Arc<F>,
    metrics: KubernetesMetrics,
    tell: watch::Sender<Told>,
}

/// The time until the next attempt.
#[derive(Debug)]
struct Backoff(Duration);

/// Follows the objects of `api` that fit `config`, until `stop`. The future is the work; it has no error of its own.
pub fn follow<K, F>(
    name: impl Into<Arc<str>>,
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
    let (tell, told) = watch::channel(Told {
        state: WatchState::Starting,
        trouble: None,
    });
    let follow = Follow {
        name: name.into(),
        api,
        config,
        follower,
        metrics,
        tell,
    };
    let run = async move {
        let ended = stop.run_until_cancelled(follow.run()).await;
        // The work never ends by itself.
        match ended {
            None => follow.metrics.watch_gone(&follow.name),
            Some(never) => match never {},
        }
    };
    (Watched(told), run)
}

// === impl Follow ===

impl<K, F> Follow<K, F>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
    F: Follower<K>,
{
    async fn run(&self) -> Infallible {
        let mut backoff = Backoff::default();
        loop {
            match self.list().await {
                Ok(version) => self.resume(version, &mut backoff).await,
                Err(error) => self.broken(error, &mut backoff).await,
            }
        }
    }

    /// A full list, page by page; returns the version from which to watch.
    async fn list(&self) -> Result<String, kube::Error> {
        self.follower.begin();
        let mut params = ListParams {
            label_selector: self.config.label_selector.clone(),
            field_selector: self.config.field_selector.clone(),
            limit: self.config.page_size,
            ..ListParams::default()
        };
        loop {
            let page = self.api.list(&params).await?;
            for object in page.items {
                self.follower.apply(object);
            }
            params.continue_token = page.metadata.continue_.filter(|token| !token.is_empty());
            if params.continue_token.is_none() {
                self.follower.complete();
                self.alive();
                return Ok(page.metadata.resource_version.unwrap_or_default());
            }
        }
    }

    /// Watches from `version` on, stream after stream, until that version is too old to go on from.
    async fn resume(&self, mut version: String, backoff: &mut Backoff) {
        loop {
            let began = Instant::now();
            let outcome = self.watch(&mut version).await;
            if began.elapsed() > STEADY {
                *backoff = Backoff::default();
            }
            match outcome {
                // Servers close a watch every few minutes; one that closes each at once is not asked in a tight loop.
                Ok(()) if began.elapsed() > STEADY => {}
                Ok(()) => backoff.wait(None).await,
                // The server no longer knows what happened since that version.
                Err(error) if WatchTrouble::of(&error) == WatchTrouble::Gone => {
                    return self.broken(error, backoff).await;
                }
                Err(error) => self.broken(error, backoff).await,
            }
        }
    }

    /// One stream, to its end.
    async fn watch(&self, version: &mut String) -> Result<(), kube::Error> {
        let lifetime = self.config.timeout.unwrap_or(LIFETIME);
        let params = WatchParams {
            label_selector: self.config.label_selector.clone(),
            field_selector: self.config.field_selector.clone(),
            timeout: Some(lifetime),
            bookmarks: self.config.bookmarks,
            send_initial_events: false,
        };
        let mut events = pin!(self.api.watch(&params, version).await?);
        self.alive();
        let idle = Duration::from_secs(u64::from(lifetime)) + IDLE_MARGIN;
        while let Ok(Some(event)) = timeout(idle, events.next()).await {
            match event? {
                WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                    note(version, object.resource_version());
                    self.follower.apply(object);
                }
                WatchEvent::Deleted(object) => {
                    note(version, object.resource_version());
                    self.follower.delete(object);
                }
                WatchEvent::Bookmark(bookmark) => note(version, Some(bookmark.metadata.resource_version)),
                WatchEvent::Error(status) => return Err(kube::Error::Api(status)),
            }
        }
        Ok(())
    }

    fn alive(&self) {
        if self.tell.borrow().state != WatchState::Synced {
            tracing::info!(watch = &*self.name, "watch complete");
            self.tell.send_replace(Told {
                state: WatchState::Synced,
                trouble: None,
            });
        }
        self.metrics.watch_synced(&self.name, true);
    }

    async fn broken(&self, error: kube::Error, backoff: &mut Backoff) {
        let trouble = WatchTrouble::of(&error);
        let error = ApiError::from(error);
        self.tell.send_modify(|told| {
            if told.state == WatchState::Synced {
                told.state = WatchState::Broken { since: Instant::now() };
            }
            told.trouble = Some(trouble);
        });
        self.metrics.watch_broke(&self.name, trouble);
        self.metrics.watch_synced(&self.name, false);
        tracing::warn!(watch = &*self.name, trouble = trouble.as_str(), %error, "watch broken, beginning it again");
        backoff.wait(Some(&error)).await;
    }
}

/// The version to go on from; objects of a real API server always have one.
fn note(version: &mut String, seen: Option<String>) {
    if let Some(seen) = seen.filter(|seen| !seen.is_empty()) {
        *version = seen;
    }
}

// === impl WatchTrouble ===

impl WatchTrouble {
    /// All of them.
    pub(super) const ALL: [Self; 4] = [Self::NoSuchKind, Self::Forbidden, Self::Gone, Self::Away];

    /// The word for metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoSuchKind => "no_such_kind",
            Self::Forbidden => "forbidden",
            Self::Gone => "gone",
            Self::Away => "away",
        }
    }

    fn of(error: &kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => match status.code {
                401 | 403 => Self::Forbidden,
                404 => Self::NoSuchKind,
                410 => Self::Gone,
                _ => Self::Away,
            },
            _ => Self::Away,
        }
    }
}

// === impl Backoff ===

impl Default for Backoff {
    fn default() -> Self {
        Self(BACKOFF_FIRST)
    }
}

impl Backoff {
    /// Waits, jittered so that replicas do not come back together; longer each time, or as long as the server asks.
    async fn wait(&mut self, error: Option<&ApiError>) {
        sleep(self.next(error)).await;
    }

    fn next(&mut self, error: Option<&ApiError>) -> Duration {
        let jittered = self.0.mul_f64(fastrand::f64() + 0.5);
        self.0 = (self.0 * 2).min(BACKOFF_MAX);
        match error {
            Some(ApiError::Throttled { retry_after, .. }) => jittered.max((*retry_after).min(RETRY_AFTER_MAX)),
            _ => jittered,
        }
    }
}

// === impl Watched ===

#[cfg(test)]
impl Watched {
    /// One whose state a test tells, synced at first.
    pub(crate) fn told() -> (impl Fn(WatchState), Self) {
        let told = |state| Told { state, trouble: None };
        let (tell, seen) = watch::channel(told(WatchState::Synced));
        (move |state| _ = tell.send_replace(told(state)), Self(seen))
    }
}

impl Watched {
    /// How it fares now.
    pub fn state(&self) -> WatchState {
        self.0.borrow().state
    }

    /// What was wrong when it last failed, until it is complete again.
    pub fn trouble(&self) -> Option<WatchTrouble> {
        self.0.borrow().trouble
    }

    /// Whether everything was known at least once.
    pub fn is_complete(&self) -> bool {
        self.state() != WatchState::Starting
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
        self.0.wait_for(|told| told.state != WatchState::Starting).await.is_ok()
    }

    /// Waits for the next change of state or trouble; `false` if the watch ended.
    pub async fn changed(&mut self) -> bool {
        self.0.changed().await.is_ok()
    }
}

const BACKOFF_FIRST: Duration = Duration::from_millis(200);
/// A server that was restarted is found again within this time.
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// A server, or a proxy before it, that is wrong about its own future must not leave us blind for hours.
const RETRY_AFTER_MAX: Duration = Duration::from_mins(1);
/// A stream that lived so long worked.
const STEADY: Duration = Duration::from_secs(5);
/// Seconds for which a stream is asked for: below the 300 s after which proxies on the way may cut it.
const LIFETIME: u32 = 290;
/// Beyond its lifetime a silent stream is dead.
const IDLE_MARGIN: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests;
