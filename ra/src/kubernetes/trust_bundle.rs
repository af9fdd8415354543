//! Whether an API server has ClusterTrustBundles: a beta API that is off unless somebody turns it on.

use thiserror::Error;

use super::client::Cluster;
use super::error::ApiError;

/// ClusterTrustBundles cannot be used.
#[derive(Debug, Error)]
pub enum NotServed {
    /// The API is off, or the server is older than it.
    #[error(
        "this API server does not serve clustertrustbundles of certificates.k8s.io/v1beta1; enable them (feature gate ClusterTrustBundle, --runtime-config=certificates.k8s.io/v1beta1/clustertrustbundles=true), or use ConfigMaps"
    )]
    Absent,
    /// It did not say what it serves.
    #[error("the API server does not say whether it serves clustertrustbundles: {0}")]
    Unknown(ApiError),
}

/// Asks. Without this an absent API would look like an object that is not there yet, for ever. A server that does not
/// answer now is asked by the watch later.
pub async fn serves_trust_bundles(cluster: &Cluster) -> Result<(), NotServed> {
    let served = cluster
        .client()
        .list_api_group_resources("certificates.k8s.io/v1beta1")
        .await;
    match served.map_err(ApiError::from) {
        Ok(list) if list.resources.iter().any(|one| one.name == "clustertrustbundles") => Ok(()),
        Ok(_) | Err(ApiError::NotFound(_)) => Err(NotServed::Absent),
        Err(error) if error.is_passing() => Ok(()),
        Err(error) => Err(NotServed::Unknown(error)),
    }
}
