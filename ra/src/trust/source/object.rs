//! Roots in an object of the API server: a key of a ConfigMap, or a ClusterTrustBundle.
//!
//! Each is watched by its name alone (a field selector), so that RBAC can name it. An object that is not there yet
//! starts no error: what installs it may come after the RA.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::certificates::v1beta1::ClusterTrustBundle;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::Api;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{Judge, NoRoots, OpenRootsError, State};
use crate::kubernetes::{Cluster, One, follow, named, serves_trust_bundles};
use crate::signer::Host;

pub(super) async fn config_map(
    cluster: &Cluster,
    namespace: &str,
    name: &str,
    key: &str,
    judge: Judge,
    host: &Host,
    stop: &CancellationToken,
) -> watch::Receiver<Arc<State>> {
    let api: Api<ConfigMap> = Api::namespaced(cluster.client(), namespace);
    let key = key.to_owned();
    let pem = move |object: ConfigMap| object.data.unwrap_or_default().remove(&key);
    start(cluster, api, name, judge, pem, host, stop).await
}

pub(super) async fn cluster_trust_bundle(
    cluster: &Cluster,
    name: &str,
    judge: Judge,
    host: &Host,
    stop: &CancellationToken,
) -> Result<watch::Receiver<Arc<State>>, OpenRootsError> {
    serves_trust_bundles(cluster)
        .await
        .map_err(|source| OpenRootsError::NotServed {
            place: judge.place.clone(),
            source,
        })?;
    let api: Api<ClusterTrustBundle> = Api::all(cluster.client());
    let pem = |object: ClusterTrustBundle| Some(object.spec.trust_bundle);
    Ok(start(cluster, api, name, judge, pem, host, stop).await)
}

async fn start<K>(
    cluster: &Cluster,
    api: Api<K>,
    name: &str,
    judge: Judge,
    pem: impl Fn(K) -> Option<String> + Send + Sync + 'static,
    host: &Host,
    stop: &CancellationToken,
) -> watch::Receiver<Arc<State>>
where
    K: kube::Resource + Clone + serde::de::DeserializeOwned + Debug + Send + 'static,
{
    let place = judge.place.clone();
    let watch_name = format!("roots of {}", judge.signer);
    judge.metrics.present(&judge.signer, false);
    let (states, receiver) = watch::channel(Arc::new(Err(NoRoots::NotYet { place })));
    let one = One::new(move |object: Option<K>| judge.publish(object.and_then(&pem).as_deref(), &states));
    let metrics = cluster.metrics().clone();
    let (mut watched, run) = follow(watch_name, api, named(name), Arc::new(one), metrics, stop.clone());
    host.tasks.spawn(run);
    // So that a policy that just loaded serves its first request. Whoever is not there yet is waited for by the watch.
    _ = timeout(FIRST_LOOK, watched.synced()).await;
    receiver
}

/// A list of one object from an API server that is there.
const FIRST_LOOK: Duration = Duration::from_secs(5);
