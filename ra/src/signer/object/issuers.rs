//! Which of cert-manager's issuers are ready, from a shared watch.
//!
//! An Issuer or ClusterIssuer that is missing or not Ready leaves a request undecided: cert-manager says so in an Event
//! only. So it is asked before a request is made. Where we may not watch issuers, nothing is known and nothing is refused.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::serde_json::Value;
use kube::Api;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind};
use kube::runtime::watcher;
use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::kubernetes::{Cluster, ObjectKey, Store, WatchTrouble, Watched, follow};

/// The kinds that cert-manager itself serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum IssuerKind {
    /// In a namespace.
    Issuer,
    /// For all namespaces.
    ClusterIssuer,
}

/// One issuer of cert-manager's own kinds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Issuer {
    pub(crate) kind: IssuerKind,
    /// Empty for a ClusterIssuer.
    pub(crate) namespace: String,
    pub(crate) name: String,
}

/// All issuers of one kind, in one namespace.
#[derive(Debug)]
pub(crate) struct Issuers {
    kind: IssuerKind,
    store: Arc<Store<DynamicObject, Readiness>>,
    watched: Watched,
    _watch: Mutex<JoinSet<()>>,
}

/// What an issuer says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Readiness {
    /// It signs.
    Ready,
    /// It does not, in its own words.
    NotReady(String),
}

// === impl IssuerKind ===

impl IssuerKind {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Issuer => "Issuer",
            Self::ClusterIssuer => "ClusterIssuer",
        }
    }

    fn plural(self) -> &'static str {
        match self {
            Self::Issuer => "issuers",
            Self::ClusterIssuer => "clusterissuers",
        }
    }
}

// === impl Issuers ===

impl Issuers {
    pub(crate) fn follow(kind: IssuerKind, namespace: &str, cluster: &Cluster) -> Self {
        let resource =
            ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(GROUP, VERSION, kind.as_str()), kind.plural());
        let api = match kind {
            IssuerKind::Issuer => Api::namespaced_with(cluster.client(), namespace, &resource),
            IssuerKind::ClusterIssuer => Api::all_with(cluster.client(), &resource),
        };
        let store = Arc::new(Store::keeping(|object: DynamicObject| readiness(&object.data)));
        let mut tasks = JoinSet::new();
        let (watched, watch) = follow(
            kind.plural(),
            api,
            watcher::Config::default(),
            Arc::clone(&store),
            cluster.metrics().clone(),
            CancellationToken::new(),
        );
        tasks.spawn(watch);
        Self {
            kind,
            store,
            watched,
            _watch: Mutex::new(tasks),
        }
    }

    /// Why the issuer cannot sign now.
    pub(crate) async fn obstacle(&self, issuer: &Issuer) -> Option<String> {
        let what = format!("{issuer}");
        if !self.is_known().await {
            let plural = self.kind.plural();
            return match self.watched.trouble() {
                Some(WatchTrouble::NoSuchKind) => Some(format!(
                    "{what} cannot be: the server knows no {plural}.{GROUP}; install cert-manager's CRDs"
                )),
                Some(WatchTrouble::Forbidden | WatchTrouble::Gone | WatchTrouble::Away) | None => None,
            };
        }
        let key = ObjectKey::new(issuer.namespace.as_str(), issuer.name.as_str());
        match self.store.get(&key).as_deref() {
            None => Some(format!("{what} does not exist")),
            Some(Readiness::NotReady(why)) => Some(format!("{what} is not Ready: {why}")),
            Some(Readiness::Ready) => None,
        }
    }

    /// Waits a little at the start of the watch.
    async fn is_known(&self) -> bool {
        let mut watched = self.watched.clone();
        let settled =
            async { while !watched.is_complete() && watched.trouble().is_none() && watched.changed().await {} };
        _ = timeout(AT_START, settled).await;
        self.watched.is_complete()
    }
}

impl std::fmt::Display for Issuer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.kind {
            IssuerKind::Issuer => write!(f, "Issuer {}/{}", self.namespace, self.name),
            IssuerKind::ClusterIssuer => write!(f, "ClusterIssuer {}", self.name),
        }
    }
}

/// Reads `status.conditions`.
fn readiness(object: &Value) -> Readiness {
    let conditions = object.pointer("/status/conditions").and_then(Value::as_array);
    let ready = conditions.and_then(|all| all.iter().find(|one| one["type"] == "Ready"));
    let Some(ready) = ready else {
        return Readiness::NotReady("it has no Ready condition yet; is cert-manager running?".to_owned());
    };
    if ready["status"] == "True" {
        return Readiness::Ready;
    }
    let text = |field: &str| ready[field].as_str().unwrap_or_default().to_owned();
    Readiness::NotReady(format!("{}: {}", text("reason"), text("message")))
}

/// cert-manager's group.
pub(crate) const GROUP: &str = "cert-manager.io";
const VERSION: &str = "v1";
/// A list takes milliseconds; a request that comes in the first moment waits for it.
const AT_START: Duration = Duration::from_secs(3);

#[cfg(test)]
mod tests {
    use k8s_openapi::serde_json::json;
    use test_case::test_case;

    use super::*;

    #[test_case(json!({}), Some("no Ready condition"); "new")]
    #[test_case(json!({"status": {"conditions": []}}), Some("no Ready condition"); "without conditions")]
    #[test_case(json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}}), None; "ready")]
    #[test_case(
        json!({"status": {"conditions": [{"type": "Ready", "status": "False", "reason": "ErrGetKeyPair", "message": "secret \"ca\" not found"}]}}),
        Some("ErrGetKeyPair: secret \"ca\" not found"); "not ready")]
    #[test_case(
        json!({"status": {"conditions": [{"type": "Other", "status": "True"}, {"type": "Ready", "status": "Unknown", "reason": "x", "message": ""}]}}),
        Some("x: "); "unknown")]
    fn what_an_issuer_says(object: Value, expected: Option<&str>) {
        match (readiness(&object), expected) {
            (Readiness::Ready, None) => {}
            (Readiness::NotReady(why), Some(expected)) => assert!(why.contains(expected), "{why}"),
            (seen, expected) => panic!("{seen:?}, expected {expected:?}"),
        }
    }
}
