//! The pods of one cluster by name, and which accounts have a live pod on which node.
//!
//! Of each pod its uid, account, node, whether it has finished and when it is due to be gone: about 200 bytes. Names
//! that recur (namespaces, nodes, accounts) are kept once. A pod counts for its node from the moment that it is
//! scheduled, in whatever phase it is until it has finished; one that is terminating counts until it is gone.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::SystemTime;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use parking_lot::RwLock;
use tokio::sync::watch;

use super::object::PodObject;
use crate::authn::metrics::AuthnMetrics;
use crate::kubernetes::Follower;

/// The pods of one cluster, as of the last event.
#[derive(Debug)]
pub struct Pods {
    cluster: Arc<str>,
    index: RwLock<Index>,
    changes: watch::Sender<u64>,
    metrics: AuthnMetrics,
}

/// What is known of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    /// Tells it from a later pod of the same name.
    pub uid: Box<str>,
    /// Its service account.
    pub account: Arc<str>,
    /// Its node, once it is scheduled.
    pub node: Option<Arc<str>>,
    /// Whether all its containers have ended for good.
    pub finished: bool,
    /// When it is due to be gone, if it was deleted.
    pub due: Option<SystemTime>,
}

/// By account.
type Counts = HashMap<Arc<str>, u32>;

#[derive(Debug, Default)]
struct Index {
    /// By namespace and name.
    pods: HashMap<Arc<str>, HashMap<Box<str>, Pod>>,
    /// How many that are.
    len: usize,
    /// How many live pods, by node, namespace and account.
    spots: HashMap<Arc<str>, HashMap<Arc<str>, Counts>>,
    /// The uids of a full list that is under way.
    listed: Option<HashSet<Box<str>>>,
    /// Every name that recurs, once.
    names: HashSet<Arc<str>>,
    /// Pods that went since the names were last looked through.
    gone: usize,
}

// === impl Pods ===

impl Pods {
    pub(super) fn new(cluster: Arc<str>, changes: watch::Sender<u64>, metrics: AuthnMetrics) -> Self {
        Self {
            cluster,
            index: RwLock::default(),
            changes,
            metrics,
        }
    }

    /// The pod of that name.
    pub fn pod(&self, namespace: &str, name: &str) -> Option<Pod> {
        self.index.read().pods.get(namespace)?.get(name).cloned()
    }

    /// Whether a live pod of that account is on that node.
    pub fn is_on(&self, node: &str, namespace: &str, account: &str) -> bool {
        let index = self.index.read();
        let count = index.spots.get(node).and_then(|node| node.get(namespace)?.get(account));
        count.is_some_and(|count| *count > 0)
    }

    /// The pods of that account: for the one who must say why there is none where it should be.
    pub fn of_account(&self, namespace: &str, account: &str) -> Vec<Pod> {
        let index = self.index.read();
        let pods = index.pods.get(namespace).into_iter().flat_map(HashMap::values);
        pods.filter(|pod| &*pod.account == account).cloned().collect()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.index.read().len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn changed(&self, count: usize) {
        self.metrics.pods(&self.cluster, count);
        self.changes.send_modify(|count| *count = count.wrapping_add(1));
    }
}

impl Follower<PodObject> for Pods {
    fn begin(&self) {
        self.index.write().listed = Some(HashSet::new());
    }

    fn apply(&self, object: PodObject) {
        let count = {
            let mut index = self.index.write();
            index.apply(object);
            index.len
        };
        self.changed(count);
    }

    fn delete(&self, object: PodObject) {
        let namespace = object.metadata.namespace.unwrap_or_default();
        let name = object.metadata.name.unwrap_or_default();
        let count = {
            let mut index = self.index.write();
            index.remove(&namespace, &name);
            index.len
        };
        self.changed(count);
    }

    fn complete(&self) {
        let count = {
            let mut index = self.index.write();
            index.drop_unlisted();
            index.len
        };
        self.changed(count);
    }
}

// === impl Index ===

impl Index {
    fn apply(&mut self, object: PodObject) {
        let namespace = self.name(object.metadata.namespace.as_deref().unwrap_or_default());
        let name: Box<str> = object.metadata.name.unwrap_or_default().into();
        let account = object.spec.service_account_name.as_deref().unwrap_or_default();
        let node = object.spec.node_name.as_deref().filter(|node| !node.is_empty());
        let pod = Pod {
            uid: object.metadata.uid.unwrap_or_default().into(),
            account: self.name(account),
            node: node.map(|node| self.name(node)),
            finished: matches!(object.status.phase.as_deref(), Some("Succeeded" | "Failed")),
            due: object.metadata.deletion_timestamp.map(|Time(at)| at.into()),
        };
        if let Some(listed) = &mut self.listed {
            listed.insert(pod.uid.clone());
        }
        self.count(&namespace, &pod, 1);
        let before = self.pods.entry(Arc::clone(&namespace)).or_default().insert(name, pod);
        match before {
            Some(before) => self.count(&namespace, &before, -1),
            None => self.len += 1,
        }
    }

    fn remove(&mut self, namespace: &str, name: &str) {
        let Some((namespace, pods)) = self.pods.get_key_value(namespace) else {
            return;
        };
        let (namespace, last) = (Arc::clone(namespace), pods.len() == 1);
        let removed = self.pods.get_mut(&namespace).and_then(|pods| pods.remove(name));
        let Some(pod) = removed else { return };
        self.len -= 1;
        if last {
            self.pods.remove(&namespace);
        }
        self.count(&namespace, &pod, -1);
        drop(pod);
        self.gone += 1;
        if self.gone >= LOOK_THROUGH {
            self.gone = 0;
            self.names.retain(|name| Arc::strong_count(name) > 1);
        }
    }

    fn drop_unlisted(&mut self) {
        let listed = self.listed.take().unwrap_or_default();
        let gone: Vec<_> = self
            .pods
            .iter()
            .flat_map(|(namespace, pods)| pods.iter().map(move |(name, pod)| (namespace, name, pod)))
            .filter(|(_, _, pod)| !listed.contains(&pod.uid))
            .map(|(namespace, name, _)| (Arc::clone(namespace), name.clone()))
            .collect();
        for (namespace, name) in gone {
            self.remove(&namespace, &name);
        }
    }

    /// Counts a pod in or out of its spot, if it is alive and has one.
    fn count(&mut self, namespace: &Arc<str>, pod: &Pod, by: i32) {
        let Some(node) = pod.node.as_ref().filter(|_| !pod.finished) else {
            return;
        };
        let on_node = self.spots.entry(Arc::clone(node)).or_default();
        let of_namespace = on_node.entry(Arc::clone(namespace)).or_default();
        let count = of_namespace.entry(Arc::clone(&pod.account)).or_default();
        *count = count.saturating_add_signed(by);
        if *count > 0 {
            return;
        }
        of_namespace.remove(&pod.account);
        if of_namespace.is_empty() {
            on_node.remove(namespace);
        }
        if on_node.is_empty() {
            self.spots.remove(node);
        }
    }

    fn name(&mut self, name: &str) -> Arc<str> {
        if let Some(known) = self.names.get(name) {
            return Arc::clone(known);
        }
        let name: Arc<str> = name.into();
        self.names.insert(Arc::clone(&name));
        name
    }
}

/// How many pods go until the names of nodes, namespaces and accounts that went with them are given back.
const LOOK_THROUGH: usize = 1000;

#[cfg(test)]
mod tests {
    use super::*;

    fn pods() -> Pods {
        Pods::new("Kubernetes".into(), watch::channel(0).0, AuthnMetrics::default())
    }

    pub(crate) fn pod(name: &str, uid: &str, account: &str, node: Option<&str>, phase: &str) -> PodObject {
        serde_json::from_value(serde_json::json!({
            "metadata": {"namespace": "foo", "name": name, "uid": uid, "resourceVersion": "1"},
            "spec": {"nodeName": node, "serviceAccountName": account},
            "status": {"phase": phase},
        }))
        .unwrap()
    }

    #[test]
    fn an_account_is_on_a_node_while_one_live_pod_of_it_is() {
        let pods = pods();
        pods.apply(pod("a-1", "1", "a", None, "Pending"));
        assert!(!pods.is_on("n", "foo", "a"), "not scheduled yet");
        pods.apply(pod("a-1", "1", "a", Some("n"), "Pending"));
        pods.apply(pod("a-2", "2", "a", Some("n"), "Running"));
        assert!(pods.is_on("n", "foo", "a"));
        assert!(!pods.is_on("m", "foo", "a") && !pods.is_on("n", "bar", "a") && !pods.is_on("n", "foo", "b"));
        pods.apply(pod("a-1", "1", "a", Some("n"), "Succeeded"));
        assert!(pods.is_on("n", "foo", "a"));
        pods.delete(pod("a-2", "2", "a", Some("n"), "Running"));
        assert!(!pods.is_on("n", "foo", "a"), "only a finished one is left");
        assert_eq!(pods.of_account("foo", "a").len(), 1);
    }

    #[test]
    fn a_pod_that_comes_again_under_its_name_takes_the_old_ones_place() {
        let pods = pods();
        pods.apply(pod("a-0", "1", "a", Some("n"), "Running"));
        pods.apply(pod("a-0", "2", "a", Some("m"), "Running"));
        assert!(pods.is_on("m", "foo", "a") && !pods.is_on("n", "foo", "a"));
        assert_eq!(&*pods.pod("foo", "a-0").unwrap().uid, "2");
        assert_eq!(pods.len(), 1);
    }

    #[test]
    fn what_a_new_list_does_not_name_is_gone_when_it_is_over() {
        let pods = pods();
        pods.apply(pod("a-0", "1", "a", Some("n"), "Running"));
        pods.apply(pod("b-0", "2", "b", Some("n"), "Running"));
        pods.begin();
        pods.apply(pod("b-0", "2", "b", Some("n"), "Running"));
        assert!(
            pods.is_on("n", "foo", "a"),
            "until the list is over the old state counts"
        );
        pods.complete();
        assert!(!pods.is_on("n", "foo", "a") && pods.is_on("n", "foo", "b"));
        assert_eq!(pods.len(), 1);
    }

    #[test]
    fn nothing_is_left_of_pods_that_went() {
        let pods = pods();
        for number in 0..2 * LOOK_THROUGH {
            let (name, node) = (format!("a-{number}"), format!("n-{number}"));
            let object = pod(&name, &name, &name, Some(&node), "Running");
            pods.apply(object.clone());
            pods.delete(object);
        }
        let index = pods.index.read();
        assert!(index.pods.is_empty() && index.spots.is_empty(), "{index:?}");
        assert!(index.names.len() <= 4, "{:?}", index.names);
    }
}
