//! Live objects that a test tells, event by event, and clusters made of them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ensign_pki::{SharedClock, SystemClock};
use tokio::sync::{Semaphore, watch};

use super::accounts::Accounts;
use super::object::{AccountObject, PodObject};
use super::{Live, Pods, WAITING};
use crate::authn::claims::Expectations;
use crate::authn::clusters::{Clusters, Crowds, Judge, Member, Remotes};
use crate::authn::jwks::Jwks;
use crate::authn::metrics::AuthnMetrics;
use crate::authn::offline::Offline;
use crate::kubernetes::{Follower as _, WatchState, Watched};

impl PodObject {
    /// As of a delete, with the time at which it is due to be gone.
    pub(crate) fn delete_at(&mut self, at: &str) {
        self.metadata.deletion_timestamp = Some(serde_json::from_value(at.into()).unwrap());
    }
}

/// Tells a [`Live`] what is there.
pub(crate) struct Teller {
    pods: Arc<Pods>,
    accounts: Arc<Accounts>,
    state: Box<dyn Fn(WatchState)>,
}

/// A pod as an event brings it.
pub(crate) fn pod(namespace: &str, name: &str, uid: &str, account: &str, node: Option<&str>, phase: &str) -> PodObject {
    serde_json::from_value(serde_json::json!({
        "metadata": {"namespace": namespace, "name": name, "uid": uid, "resourceVersion": "1"},
        "spec": {"nodeName": node, "serviceAccountName": account},
        "status": {"phase": phase},
    }))
    .unwrap()
}

fn account(namespace: &str, name: &str, uid: &str, deleted: Option<&str>) -> AccountObject {
    serde_json::from_value(serde_json::json!({
        "metadata": {"namespace": namespace, "name": name, "uid": uid, "deletionTimestamp": deleted},
    }))
    .unwrap()
}

/// A cluster whose lists are over and empty.
pub(crate) fn live(cluster: &str) -> (Arc<Live>, Teller) {
    live_at(cluster, SystemClock::shared())
}

pub(crate) fn live_at(cluster: &str, clock: SharedClock) -> (Arc<Live>, Teller) {
    let cluster: Arc<str> = cluster.into();
    let (tell, changes) = watch::channel(0);
    let (state, watched) = Watched::told();
    let pods = Arc::new(Pods::new(Arc::clone(&cluster), tell.clone(), AuthnMetrics::default()));
    let accounts = Arc::new(Accounts::new(tell));
    let live = Live {
        cluster,
        pods: Arc::clone(&pods),
        accounts: Some(Arc::clone(&accounts)),
        watches: vec![watched],
        changes,
        waiting: Semaphore::new(WAITING),
        clock,
    };
    let teller = Teller {
        pods,
        accounts,
        state: Box::new(state),
    };
    (Arc::new(live), teller)
}

impl Teller {
    pub(crate) fn watch_is(&self, state: WatchState) {
        (self.state)(state);
    }

    pub(crate) fn pod(&self, pod: PodObject) {
        self.pods.apply(pod);
    }

    pub(crate) fn pod_gone(&self, pod: PodObject) {
        self.pods.delete(pod);
    }

    pub(crate) fn account(&self, namespace: &str, name: &str, uid: &str) {
        self.accounts.apply(account(namespace, name, uid, None));
    }

    pub(crate) fn account_deleted_at(&self, namespace: &str, name: &str, uid: &str, at: &str) {
        self.accounts.apply(account(namespace, name, uid, Some(at)));
    }

    pub(crate) fn account_gone(&self, namespace: &str, name: &str, uid: &str) {
        self.accounts.delete(account(namespace, name, uid, None));
    }
}

fn member(live: Arc<Live>) -> Member {
    let expected = Arc::new(Expectations {
        audiences: Vec::new(),
        leeway: Duration::ZERO,
    });
    let no_keys = watch::channel(Arc::new(Jwks::default())).1;
    let judge = Judge::Offline(Offline::new(no_keys, String::new(), expected, SystemClock::shared()));
    Member::new(live.cluster().into(), judge, Some(live), &Crowds::of(4))
}

/// A local cluster with these remote ones.
pub(in crate::authn) fn clusters_with(local: Arc<Live>, remotes: Remotes) -> Clusters {
    Clusters::new(member(local), BTreeMap::new(), watch::channel(Arc::new(remotes)).1)
}

/// Clusters whose tokens nobody can judge, and whose pods are these; and what takes the remote ones away.
pub(crate) fn clusters(local: Arc<Live>, remotes: &[Arc<Live>]) -> (Clusters, impl Fn() + use<>) {
    let connected = remotes
        .iter()
        .map(|live| (live.cluster().to_owned(), member(Arc::clone(live))));
    let (tell, seen) = watch::channel(Arc::new(Remotes::connected(connected)));
    let clusters = Clusters::new(member(local), BTreeMap::new(), seen);
    (clusters, move || _ = tell.send_replace(Arc::new(Remotes::none())))
}
