//! One object, known by its name: the watch that asks for nothing else, and its states.
//!
//! A watch by name alone is what RBAC can allow by name. Two ways to learn of it: [`follow_one`] gives a subscription that
//! can be waited for, [`One`] tells a function at once, in order, each state and none in between lost.

use std::fmt::Debug;
use std::future::Future;
use std::sync::Arc;

use kube::Resource;
use kube::api::Api;
use kube::runtime::watcher;
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

use super::super::meter::KubernetesMetrics;
use super::super::store::{ObjectKey, Store, Subscription};
use super::{Follower, Watched, follow};

/// The watch of the objects of that name.
pub fn named(name: &str) -> watcher::Config {
    watcher::Config::default().fields(&format!("metadata.name={name}"))
}

/// Follows one object until `stop`: its states, how the watch fares, and the work.
pub fn follow_one<K>(
    watch_name: &'static str,
    api: Api<K>,
    key: ObjectKey,
    metrics: KubernetesMetrics,
    stop: CancellationToken,
) -> (Subscription<K>, Watched, impl Future<Output = ()> + Send + 'static)
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    let store = Arc::new(Store::whole());
    let config = named(&key.name);
    let states = store.subscribe(key);
    let (watched, work) = follow(watch_name, api, config, store, metrics, stop);
    (states, watched, work)
}

/// Tells a function of each state of the one object of a watch; `None` once it is known not to be there.
pub struct One<F> {
    tell: F,
    /// Whether the full list under way had it.
    listed: Mutex<bool>,
}

// === impl One ===

impl<F> One<F> {
    /// Tells `tell`.
    pub fn new(tell: F) -> Self {
        Self {
            tell,
            listed: Mutex::new(false),
        }
    }
}

impl<K, F> Follower<K> for One<F>
where
    F: Fn(Option<K>) + Send + Sync + 'static,
{
    fn begin(&self) {
        *self.listed.lock() = false;
    }

    fn apply(&self, object: K) {
        *self.listed.lock() = true;
        (self.tell)(Some(object));
    }

    fn delete(&self, _: K) {
        (self.tell)(None);
    }

    fn complete(&self) {
        if !*self.listed.lock() {
            (self.tell)(None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_state_is_told_and_a_list_without_the_object_says_that_it_is_gone() {
        let told = Arc::new(Mutex::new(Vec::new()));
        let tells = Arc::clone(&told);
        let one = One::new(move |object: Option<u8>| tells.lock().push(object));
        let list = |objects: &[u8]| {
            Follower::<u8>::begin(&one);
            for object in objects {
                one.apply(*object);
            }
            Follower::<u8>::complete(&one);
        };
        list(&[]);
        list(&[1]);
        one.apply(2);
        one.delete(2);
        one.apply(3);
        // It went in a gap of the watch.
        list(&[]);
        assert_eq!(*told.lock(), [None, Some(1), Some(2), None, Some(3), None]);
    }
}
