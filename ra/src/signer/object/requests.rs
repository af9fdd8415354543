//! The request objects of one kind in one place: the shared watch, and the only writes that we do.
//!
//! Owns the store that all signers of that kind wait on, and what may be written: create, approval, delete. Promises that
//! a delete meets only the object that it means (UID precondition), and that removals in the background end: what could
//! not be removed is left to the janitor. The watch lives as long as somebody holds this.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use futures::future::BoxFuture;
use kube::ResourceExt as _;
use kube::api::{Api, DeleteParams, PostParams, Preconditions};
use kube::runtime::watcher;
use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::backends::BackendsParts;
use super::kind::{self, RequestKind};
use super::leftover::{self, Leftover, Leftovers};
use super::marks;
use super::metrics::Removal;
use super::pushback::Pushback;
use super::remover::Remover;
use super::shaken::Shaken;
use crate::kubernetes::{ApiError, ObjectKey, Store, Subscription, Watched, follow};

/// All that is known of one kind, and what may be done to it.
pub(crate) struct Requests<K> {
    api: Api<K>,
    namespace: String,
    store: Arc<Store<K>>,
    watched: Watched,
    username: Arc<str>,
    shaken: Shaken,
    pushback: Pushback,
    remover: Remover,
    /// Ends with us; the drain does not wait for it, since requests in flight still need it then.
    _watch: Mutex<JoinSet<()>>,
}

// === impl Requests ===

impl<K: RequestKind> Requests<K> {
    /// Begins to follow the objects of an installation in `api`.
    pub(crate) fn follow(api: Api<K>, namespace: &str, parts: &BackendsParts, pushback: Pushback) -> Arc<Self> {
        let store = Arc::new(Store::whole());
        let config = watcher::Config::default().labels(&marks::selector(&parts.installation));
        let mut tasks = JoinSet::new();
        let (watched, watch) = follow(
            K::RBAC.1,
            api.clone(),
            config,
            Arc::clone(&store),
            parts.cluster.metrics().clone(),
            CancellationToken::new(),
        );
        tasks.spawn(watch);
        Arc::new(Self {
            api,
            namespace: namespace.to_owned(),
            store,
            watched,
            username: parts.cluster.username().into(),
            shaken: Shaken::default(),
            pushback,
            remover: Remover::new(parts.tasks.clone(), parts.metrics.clone()),
            _watch: Mutex::new(tasks),
        })
    }

    /// How the watch fares.
    pub(crate) fn watched(&self) -> &Watched {
        &self.watched
    }

    /// Who we are to the server.
    pub(crate) fn username(&self) -> &str {
        &self.username
    }

    /// Follows one name, from before its object is made.
    pub(crate) fn subscribe(&self, name: &str) -> Subscription<K> {
        self.store.subscribe(ObjectKey::new(self.namespace.as_str(), name))
    }

    /// What an answer means to us, told to whoever lets requests in.
    fn judge(&self, error: kube::Error) -> ApiError {
        let error = self.shaken.judge(error.into(), self.watched.state());
        if let ApiError::Throttled { retry_after, .. } = &error {
            self.pushback.come_back_in(*retry_after);
        }
        error
    }

    /// Makes an object.
    pub(crate) async fn create(&self, draft: &K) -> Result<K, ApiError> {
        let made = self.api.create(&PostParams::default(), draft).await;
        made.map_err(|error| self.judge(error))
    }

    /// Writes the approval of an object whose state the caller has seen.
    pub(crate) async fn approve(&self, approved: &K) -> Result<K, ApiError> {
        let name = approved.name_any();
        let written = self
            .api
            .replace_subresource("approval", &name, &PostParams::default(), approved)
            .await;
        written.map_err(|error| self.judge(error))
    }

    /// Deletes an object, and no other of its name.
    pub(crate) async fn delete(&self, name: &str, uid: &str) -> Result<(), ApiError> {
        let params = DeleteParams {
            preconditions: Some(Preconditions {
                uid: Some(uid.to_owned()),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        let deleted = self.deleted(name, &params).await;
        deleted.map_err(|error| self.judge(error))
    }

    /// Not through `Api`, which reads the answer twice: what the object was like at its end is of no interest.
    async fn deleted(&self, name: &str, params: &DeleteParams) -> Result<(), kube::Error> {
        let request = kube::core::Request::new(self.api.resource_url());
        let request = request.delete(name, params).map_err(kube::Error::BuildRequest)?;
        self.api.clone().into_client().request_text(request).await.map(drop)
    }

    /// Deletes an object in the background; the drain waits for it.
    pub(crate) fn remove(self: &Arc<Self>, object: &K) {
        let (name, uid) = (object.name_any(), kind::uid(object).to_owned());
        let requests = Arc::clone(self);
        self.remover.spawn(async move {
            let delete = || requests.delete(&name, &uid);
            requests.remover.remove(K::RBAC, &name, delete).await;
        });
    }
}

impl<K: RequestKind> Leftovers for Requests<K> {
    fn place(&self) -> String {
        match self.namespace.as_str() {
            "" => K::RBAC.1.to_owned(),
            namespace => format!("{} in {namespace}", K::RBAC.1),
        }
    }

    fn past_end(&self, now: SystemTime) -> Vec<Leftover> {
        let all = self.store.all();
        let objects = all.iter().map(|(_, object)| &**object);
        objects
            .filter_map(|object| leftover::judge(object, &self.username, now))
            .collect()
    }

    fn sweep<'a>(&'a self, leftover: &'a Leftover) -> BoxFuture<'a, Removal> {
        let delete = || self.delete(&leftover.name, &leftover.uid);
        Box::pin(self.remover.sweep(K::RBAC, &leftover.name, delete))
    }
}

impl<K> fmt::Debug for Requests<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Requests")
            .field("namespace", &self.namespace)
            .field("store", &self.store)
            .finish_non_exhaustive()
    }
}
