//! Follows Istio's configuration: the mesh ConfigMap, and ProxyConfig objects where their CRD is installed.
//!
//! Promises a first value only when both are known, so that no namespace gets the mesh's default for want of a
//! ProxyConfig that was not read yet. A CRD that is absent means no objects; whether it was installed or removed since is
//! looked for now and then. A broken watch changes nothing: what was known counts until it is known better.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, ApiResource};
use kube::core::{DynamicObject, GroupVersionKind};
use kube::runtime::watcher;
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::metrics::MeshMetrics;
use super::reader::{Content, KEY, Reader};
use super::{Mesh, MeshFeed, ProxyConfig, ProxyConfigs};
use crate::kubernetes::{self, ApiError, Cluster, KubernetesMetrics, ObjectKey, Store, WatchState};

/// Where Istio's configuration is.
#[derive(Debug, Clone)]
pub struct MeshSource {
    /// The API server.
    pub cluster: Cluster,
    /// The namespace of Istio's control plane.
    pub namespace: String,
    /// The ConfigMap with the mesh configuration.
    pub config_map: String,
    /// Counts.
    pub metrics: MeshMetrics,
    /// Counts requests.
    pub kubernetes: KubernetesMetrics,
}

/// Follows it until `stop`. The future is the work; it has no error of its own.
pub fn follow(
    source: MeshSource,
    stop: CancellationToken,
) -> (MeshFeed, impl Future<Output = anyhow::Result<()>> + Send + 'static) {
    let (publish, feed) = watch::channel(None);
    let work = async move {
        let (tell, proxies) = watch::channel(None);
        tokio::join!(
            follow_proxy_configs(&source, tell, &stop),
            follow_config(&source, proxies, publish, &stop),
        );
        Ok(())
    };
    (feed, work)
}

async fn follow_config(
    source: &MeshSource,
    mut proxies: watch::Receiver<Option<Arc<ProxyConfigs>>>,
    publish: watch::Sender<Option<Arc<Mesh>>>,
    stop: &CancellationToken,
) {
    let MeshSource {
        namespace, config_map, ..
    } = source;
    let store = Arc::new(Store::keeping(content));
    let mut changes = store.changes();
    let (mut watched, work) = kubernetes::follow(
        "mesh_config",
        Api::<ConfigMap>::namespaced(source.cluster.client(), namespace),
        // The right to read this one ConfigMap is enough.
        kubernetes::named(config_map),
        Arc::clone(&store),
        source.kubernetes.clone(),
        stop.clone(),
    );
    let key = ObjectKey::new(namespace, config_map);
    let assemble = async {
        if !watched.synced().await {
            return;
        }
        let mut reader = Reader::new(format!("{namespace}/{config_map}"), source.metrics.clone());
        loop {
            changes.mark_unchanged();
            let content = store.get(&key);
            let config = reader.look(content.as_deref()).cloned();
            let known = proxies.borrow_and_update().clone();
            if let (Some(config), Some(proxies)) = (config, known) {
                let mesh = Mesh::new(config, (*proxies).clone(), namespace);
                reader.say(mesh.notices());
                publish.send_if_modified(|before| {
                    let changed = before.as_deref() != Some(&mesh);
                    if changed {
                        *before = Some(Arc::new(mesh));
                    }
                    changed
                });
            }
            tokio::select! {
                Ok(()) = changes.changed() => {}
                Ok(()) = proxies.changed() => {}
                () = stop.cancelled() => return,
            }
        }
    };
    tokio::join!(work, assemble);
}

/// Tells what the objects say; `None` until that is known.
async fn follow_proxy_configs(
    source: &MeshSource,
    tell: watch::Sender<Option<Arc<ProxyConfigs>>>,
    stop: &CancellationToken,
) {
    let mut said_absent = false;
    while let Some(served) = stop.run_until_cancelled(is_served(&source.cluster)).await {
        match served {
            Ok(true) => {
                said_absent = false;
                watch_proxy_configs(source, &tell, stop).await;
            }
            Ok(false) => {
                if !said_absent {
                    tracing::info!("the API server knows no ProxyConfig: none counts until its CRD is installed");
                }
                said_absent = true;
                tell_if_new(&tell, Vec::new());
            }
            Err(error) => tracing::warn!(%error, "cannot tell whether ProxyConfig is installed, asking again"),
        }
        stop.run_until_cancelled(sleep(LOOK)).await;
    }
}

/// Until `stop`, or until the CRD is gone.
async fn watch_proxy_configs(
    source: &MeshSource,
    tell: &watch::Sender<Option<Arc<ProxyConfigs>>>,
    stop: &CancellationToken,
) {
    let store = Arc::new(Store::keeping(|object: DynamicObject| ProxyConfig::of(&object)));
    let mut changes = store.changes();
    let ends = stop.child_token();
    let (mut watched, work) = kubernetes::follow(
        "proxy_configs",
        Api::<DynamicObject>::all_with(source.cluster.client(), &resource()),
        watcher::Config::default(),
        Arc::clone(&store),
        source.kubernetes.clone(),
        ends.clone(),
    );
    let state = watched.clone();
    let keep_telling = async {
        if watched.synced().await {
            loop {
                changes.mark_unchanged();
                let objects = store.all().into_iter().map(|(_, object)| (*object).clone());
                tell_if_new(tell, objects.collect());
                tokio::select! {
                    Ok(()) = changes.changed() => {}
                    () = ends.cancelled() => break,
                }
            }
        }
    };
    // A watch of a kind that is gone would be tried again for ever.
    let look_for_removal = async {
        while !ends.is_cancelled() {
            ends.run_until_cancelled(sleep(LOOK)).await;
            if matches!(state.state(), WatchState::Synced) {
                continue;
            }
            if let Some(Ok(false)) = ends.run_until_cancelled(is_served(&source.cluster)).await {
                ends.cancel();
            }
        }
    };
    tokio::join!(work, keep_telling, look_for_removal);
}

fn tell_if_new(tell: &watch::Sender<Option<Arc<ProxyConfigs>>>, objects: Vec<ProxyConfig>) {
    let proxies = ProxyConfigs::new(objects);
    tell.send_if_modified(|before| {
        let changed = before.as_deref() != Some(&proxies);
        if changed {
            *before = Some(Arc::new(proxies));
        }
        changed
    });
}

/// Every authenticated user may ask this; it needs no rule of its own.
async fn is_served(cluster: &Cluster) -> Result<bool, ApiError> {
    let resource = resource();
    let listed = cluster.client().list_api_group_resources(&resource.api_version).await;
    match listed.map_err(ApiError::from) {
        Ok(list) => Ok(list.resources.iter().any(|served| served.name == resource.plural)),
        Err(ApiError::NotFound(_)) => Ok(false),
        Err(error) => Err(error),
    }
}

fn resource() -> ApiResource {
    ApiResource::from_gvk_with_plural(
        &GroupVersionKind::gvk("networking.istio.io", "v1beta1", "ProxyConfig"),
        "proxyconfigs",
    )
}

fn content(object: ConfigMap) -> Content {
    let mut data = object.data.unwrap_or_default();
    let mesh = data.remove(KEY);
    let mut others: Vec<_> = data.into_keys().collect();
    others.extend(object.binary_data.unwrap_or_default().into_keys());
    Content { mesh, others }
}

/// How often a CRD that is absent, or may be gone, is looked for.
const LOOK: Duration = Duration::from_secs(10);
