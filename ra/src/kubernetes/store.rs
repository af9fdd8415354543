//! The objects of one watch by namespace and name, and who waits for which.
//!
//! A reader sees each object whole, as of the last event. Whoever subscribes to a name is woken by that object's events
//! alone, so a burst of a thousand objects wakes each waiter a few times, not a thousand. After a relist, objects that
//! vanished meanwhile are told as deleted.

use std::collections::{HashMap, HashSet};
use std::fmt::Debug;
use std::sync::Arc;

use kube::{Resource, ResourceExt as _};
use parking_lot::Mutex;
use tokio::sync::watch;

use super::follow::Follower;

/// Which object of a kind. The namespace is empty for kinds without.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey {
    /// Its namespace, or empty.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// What is known of the objects of one watch. `V` is what is kept of each: the object, or a part of it.
pub struct Store<K, V = K> {
    keep: fn(K) -> V,
    inner: Arc<Mutex<Inner<V>>>,
    changes: watch::Sender<u64>,
}

struct Inner<V> {
    objects: HashMap<ObjectKey, Arc<V>>,
    /// The names of a full list that is under way.
    listed: Option<HashSet<ObjectKey>>,
    waiters: HashMap<ObjectKey, watch::Sender<Seen<V>>>,
}

/// What those who wait for a name know of it.
struct Seen<V> {
    now: Option<Arc<V>>,
    gone: Option<Arc<V>>,
}

/// One object's states from now on; `None` while it is not there.
pub struct Subscription<V> {
    key: ObjectKey,
    inner: Arc<Mutex<Inner<V>>>,
    states: watch::Receiver<Seen<V>>,
}

// === impl ObjectKey ===

impl ObjectKey {
    /// An object of a kind without namespaces.
    pub fn cluster(name: impl Into<String>) -> Self {
        Self::new("", name)
    }

    /// An object in a namespace.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    /// Of an object in hand.
    pub fn of<K: Resource>(object: &K) -> Self {
        Self::new(object.namespace().unwrap_or_default(), object.name_any())
    }
}

// === impl Store ===

#[expect(clippy::mismatching_type_param_order, reason = "what is kept is what comes in")]
impl<K> Store<K, K> {
    /// Keeps whole objects.
    pub fn whole() -> Self {
        Self::keeping(|object| object)
    }
}

impl<K, V> Store<K, V> {
    /// Keeps what `keep` makes of each object.
    pub fn keeping(keep: fn(K) -> V) -> Self {
        Self {
            keep,
            inner: Arc::new(Mutex::new(Inner {
                objects: HashMap::new(),
                listed: None,
                waiters: HashMap::new(),
            })),
            changes: watch::channel(0).0,
        }
    }

    /// The object as of the last event.
    pub fn get(&self, key: &ObjectKey) -> Option<Arc<V>> {
        self.inner.lock().objects.get(key).cloned()
    }

    /// Every object, in no order.
    pub fn all(&self) -> Vec<(ObjectKey, Arc<V>)> {
        let inner = self.inner.lock();
        inner
            .objects
            .iter()
            .map(|(key, object)| (key.clone(), Arc::clone(object)))
            .collect()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.inner.lock().objects.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Follows one object. It begins with the state in the store.
    pub fn subscribe(&self, key: ObjectKey) -> Subscription<V> {
        let mut inner = self.inner.lock();
        let now = inner.objects.get(&key).cloned();
        let states = inner
            .waiters
            .entry(key.clone())
            .or_insert_with(|| watch::channel(Seen { now, gone: None }).0)
            .subscribe();
        Subscription {
            key,
            inner: Arc::clone(&self.inner),
            states,
        }
    }

    /// Tells of every change, as a counter.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn changed(&self) {
        self.changes.send_modify(|count| *count = count.wrapping_add(1));
    }
}

impl<K, V> Follower<K> for Store<K, V>
where
    K: Resource + Send + 'static,
    V: Send + Sync + 'static,
{
    fn begin(&self) {
        self.inner.lock().listed = Some(HashSet::new());
    }

    fn apply(&self, object: K) {
        let key = ObjectKey::of(&object);
        let kept = Arc::new((self.keep)(object));
        let mut inner = self.inner.lock();
        if let Some(listed) = &mut inner.listed {
            listed.insert(key.clone());
        }
        inner.tell(&key, |seen| seen.now = Some(Arc::clone(&kept)));
        inner.objects.insert(key, kept);
        drop(inner);
        self.changed();
    }

    fn delete(&self, object: K) {
        let key = ObjectKey::of(&object);
        let last = Arc::new((self.keep)(object));
        let mut inner = self.inner.lock();
        inner.objects.remove(&key);
        inner.vanished(&key, last);
        drop(inner);
        self.changed();
    }

    fn complete(&self) {
        let mut inner = self.inner.lock();
        let listed = inner.listed.take().unwrap_or_default();
        let gone: Vec<_> = inner
            .objects
            .keys()
            .filter(|key| !listed.contains(*key))
            .cloned()
            .collect();
        for key in gone {
            if let Some(last) = inner.objects.remove(&key) {
                inner.vanished(&key, last);
            }
        }
        drop(inner);
        self.changed();
    }
}

impl<K, V> Debug for Store<K, V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store")
            .field("objects", &self.len())
            .finish_non_exhaustive()
    }
}

// === impl Inner ===

impl<V> Inner<V> {
    fn tell(&self, key: &ObjectKey, change: impl FnOnce(&mut Seen<V>)) {
        if let Some(waiter) = self.waiters.get(key) {
            waiter.send_modify(change);
        }
    }

    fn vanished(&self, key: &ObjectKey, last: Arc<V>) {
        self.tell(key, |seen| {
            seen.now = None;
            seen.gone = Some(last);
        });
    }
}

// === impl Subscription ===

impl<V> Subscription<V> {
    /// The state now.
    pub fn current(&self) -> Option<Arc<V>> {
        self.states.borrow().now.clone()
    }

    /// The last state of the object that was deleted last under this name, since somebody first waited for it. It
    /// outlives a successor of that name, so a deletion and what came before it are not lost to a slow waiter.
    pub fn gone(&self) -> Option<Arc<V>> {
        self.states.borrow().gone.clone()
    }

    /// Waits for a change since the last one that was waited for. Only the newest state is told: states in between may be
    /// skipped.
    pub async fn changed(&mut self) {
        // The sender lives as long as a subscription does.
        _ = self.states.changed().await;
    }

    /// The next state, as [`changed`](Self::changed).
    pub async fn next(&mut self) -> Option<Arc<V>> {
        self.changed().await;
        self.current()
    }
}

impl<V> Drop for Subscription<V> {
    fn drop(&mut self) {
        let mut inner = self.inner.lock();
        let last = inner
            .waiters
            .get(&self.key)
            .is_some_and(|waiter| waiter.receiver_count() <= 1);
        if last {
            inner.waiters.remove(&self.key);
        }
    }
}

impl<V> Debug for Subscription<V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Subscription")
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}

/// Whether a state is later than another, of the same object or of another of its kind.
///
/// The versions of one kind count up in one sequence (Kubernetes says so since 1.35, and its store always did). What is
/// no number is only ever compared with itself.
pub(crate) fn is_later(version: &str, than: &str) -> bool {
    match (version.parse::<u64>(), than.parse::<u64>()) {
        (Ok(version), Ok(than)) => version > than,
        _ => version != than,
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::api::ObjectMeta;
    use test_case::test_case;

    use super::*;

    fn object(name: &str, version: &str) -> ConfigMap {
        ConfigMap {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                namespace: Some("foo".to_owned()),
                resource_version: Some(version.to_owned()),
                ..ObjectMeta::default()
            },
            ..ConfigMap::default()
        }
    }

    fn key(name: &str) -> ObjectKey {
        ObjectKey::new("foo", name)
    }

    #[tokio::test]
    async fn a_waiter_is_told_of_its_object_alone() {
        let store = Store::whole();
        let mut wanted = store.subscribe(key("a"));
        assert!(wanted.current().is_none());
        store.apply(object("b", "1"));
        store.apply(object("a", "2"));
        let seen = wanted.next().await.unwrap();
        assert_eq!(seen.metadata.resource_version.as_deref(), Some("2"));
        store.delete(object("a", "3"));
        assert!(wanted.next().await.is_none());
        store.apply(object("a", "4"));
        assert!(wanted.next().await.is_some());
        let gone = wanted.gone().unwrap();
        assert_eq!(
            gone.metadata.resource_version.as_deref(),
            Some("3"),
            "a successor hides no deletion"
        );
        drop(wanted);
        assert!(store.inner.lock().waiters.is_empty());
    }

    #[tokio::test]
    async fn what_a_relist_does_not_name_is_gone() {
        let store = Store::whole();
        store.apply(object("a", "1"));
        store.apply(object("b", "1"));
        let mut gone = store.subscribe(key("a"));
        store.begin();
        store.apply(object("b", "2"));
        assert!(
            store.get(&key("a")).is_some(),
            "until the list is over the old state counts"
        );
        store.complete();
        assert!(gone.next().await.is_none());
        assert_eq!(gone.gone().unwrap().metadata.resource_version.as_deref(), Some("1"));
        assert_eq!(store.len(), 1);
    }

    #[test]
    fn two_who_wait_for_one_object_do_not_lose_it_when_the_first_leaves() {
        let store: Store<ConfigMap> = Store::whole();
        let first = store.subscribe(key("a"));
        let second = store.subscribe(key("a"));
        drop(first);
        store.apply(object("a", "1"));
        assert!(second.current().is_some());
        assert!(second.states.has_changed().unwrap());
    }

    #[test_case("9", "10", false; "numbers, not texts")]
    #[test_case("10", "9", true)]
    #[test_case("10", "10", false; "the same")]
    #[test_case("a", "a", false; "the same, no number")]
    #[test_case("a", "b", true; "another, no number")]
    fn a_later_state(version: &str, than: &str, later: bool) {
        assert_eq!(is_later(version, than), later);
    }
}
