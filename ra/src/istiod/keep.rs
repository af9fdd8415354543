//! The loop of whoever keeps one object: look and act, then wait until it changes or until the last look said.
//!
//! Owns the watch of that object. Nothing is done before the watch has shown it once; a change never brings a look
//! forward, so that a failure that somebody else keeps causing is not repeated faster than its pause allows.

use std::fmt::Debug;
use std::future::Future;
use std::time::Duration;

use kube::Resource;
use kube::api::Api;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::kubernetes::{KubernetesMetrics, ObjectKey, follow_one};

/// Keeps one object as it should be.
pub(super) trait Keeps<K>: Send {
    /// Looks at it, and acts if needed; says when to look again at the latest.
    fn look(&mut self, seen: Option<&K>) -> impl Future<Output = Duration> + Send;
}

/// Where the object is.
pub(super) struct Place<K> {
    /// The name of the watch in metrics and logs.
    pub(super) watch: &'static str,
    /// The objects of its namespace.
    pub(super) api: Api<K>,
    /// Which of them.
    pub(super) key: ObjectKey,
    /// Counts.
    pub(super) metrics: KubernetesMetrics,
}

/// Keeps it until the caller drops the future; the watch ends with `term`.
pub(super) async fn keep<K>(mut keeper: impl Keeps<K>, place: Place<K>, term: CancellationToken)
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    let (mut states, mut watched, watching) = follow_one(place.watch, place.api, place.key, place.metrics, term);
    let keeping = async {
        if !watched.synced().await {
            return;
        }
        let mut seen = states.current();
        let mut not_before = Instant::now();
        loop {
            if not_before <= Instant::now() {
                // Counted from its end: an issue takes seconds.
                let pause = keeper.look(seen.as_deref()).await;
                not_before = Instant::now() + pause;
            }
            tokio::select! {
                next = states.next() => seen = next,
                () = sleep_until(not_before) => {}
            }
        }
    };
    tokio::join!(watching, keeping);
}
