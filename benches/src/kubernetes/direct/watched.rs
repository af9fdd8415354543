//! The one shared watch of a kind, and who waits for which object.
//!
//! Of an object its name and whether it has a certificate are read, the rest is passed over: the limit shall not pay for
//! what it does not need.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use futures::StreamExt as _;
use kube::api::{ApiResource, ObjectMeta};
use kube::core::DynamicResourceScope;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Resource};
use parking_lot::Mutex;
use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::client::LABEL;

/// Who waits, by name.
type Waiting = Arc<Mutex<HashMap<String, oneshot::Sender<()>>>>;

/// Tells of certificates.
pub(super) struct Watched {
    waiting: Waiting,
    _task: JoinSet<()>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Asked {
    #[serde(deserialize_with = "few")]
    metadata: ObjectMeta,
    #[serde(default)]
    status: Status,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct Status {
    certificate: Option<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Few {
    name: Option<String>,
    resource_version: Option<String>,
}

// === impl Watched ===

impl Watched {
    /// Begins to follow our objects of a kind, and waits until the watch stands.
    pub(super) async fn begin(objects: Api<Asked>) -> anyhow::Result<Self> {
        let waiting = Waiting::default();
        let (synced, stands) = oneshot::channel();
        let mut task = JoinSet::new();
        task.spawn(run(objects, Arc::clone(&waiting), synced));
        stands.await?;
        Ok(Self { waiting, _task: task })
    }

    /// Resolves when the object of that name has its certificate. Ask before it is made.
    pub(super) fn certificate_in(&self, name: &str) -> oneshot::Receiver<()> {
        let (tell, told) = oneshot::channel();
        self.waiting.lock().insert(name.to_owned(), tell);
        told
    }
}

async fn run(objects: Api<Asked>, waiting: Waiting, synced: oneshot::Sender<()>) {
    let mut synced = Some(synced);
    let mut events = watcher(objects, watcher::Config::default().labels(LABEL))
        .default_backoff()
        .boxed();
    while let Some(event) = events.next().await {
        match event {
            Ok(watcher::Event::InitDone) => drop(synced.take().map(|synced| synced.send(()))),
            Ok(watcher::Event::Apply(object) | watcher::Event::InitApply(object)) if object.has_certificate() => {
                let name = object.metadata.name.unwrap_or_default();
                if let Some(tell) = waiting.lock().remove(&name) {
                    // Whoever gave up meanwhile needs no word.
                    _ = tell.send(());
                }
            }
            // Tries again by itself.
            Ok(_) | Err(_) => {}
        }
    }
}

// === impl Asked ===

impl Asked {
    fn has_certificate(&self) -> bool {
        self.status.certificate.is_some()
    }
}

impl Resource for Asked {
    type DynamicType = ApiResource;
    type Scope = DynamicResourceScope;

    fn kind(resource: &ApiResource) -> Cow<'_, str> {
        resource.kind.as_str().into()
    }

    fn group(resource: &ApiResource) -> Cow<'_, str> {
        resource.group.as_str().into()
    }

    fn version(resource: &ApiResource) -> Cow<'_, str> {
        resource.version.as_str().into()
    }

    fn plural(resource: &ApiResource) -> Cow<'_, str> {
        resource.plural.as_str().into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

fn few<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ObjectMeta, D::Error> {
    let few = Few::deserialize(deserializer)?;
    Ok(ObjectMeta {
        name: few.name,
        resource_version: few.resource_version,
        ..ObjectMeta::default()
    })
}
