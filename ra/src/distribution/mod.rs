//! The roots that a namespace needs to call the control plane: `istio-ca-root-cert`, as istiod and istio-csr write it.
//!
//! Owns what is written: the roots of the RA's serving certificate and of istiod's, old ones until they expire
//! ([`history`]), and nothing of any workload's signer, whose roots travel in replies only. Owns where: the namespaces
//! that the operator selects, that of the agents, and perhaps one ClusterTrustBundle. Promises that what is missing, wrong or old is put
//! right, that other keys of an object are left alone, that writes are paced, and that another writer is named and not
//! fought ([`plan`]). Only the leader works here; that nobody does stops neither signing nor readiness. An object in a
//! namespace that is no longer selected stays: taking roots from running pods would cut them off.
//!
//! Every write is a server-side apply of an object of a known name, so RBAC can name it for every verb, `create`
//! included, and the rest of the object is not ours to lose.

mod content;
mod history;
mod metrics;
mod object;
mod plan;
mod worker;

#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use ensign_pki::SharedClock;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{Api, ListParams};
use thiserror::Error;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub use self::metrics::DistributionMetrics;
use crate::kubernetes::{ApiError, Home, NotServed, serves_trust_bundles};
use crate::leader::while_leading;
use crate::trust::Roots;

/// What is to be written where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DistributionConfig {
    /// Whether namespaces get a ConfigMap at all.
    pub config_maps: bool,
    /// Label selector of those namespaces, in Kubernetes' own grammar; all of them without it.
    pub selector: Option<String>,
    /// A namespace that gets them whatever the selector says: without roots its agents would ask nobody.
    pub agents: Option<String>,
    /// A ClusterTrustBundle with the same roots.
    pub bundle: Option<BundleName>,
}

/// The name of a ClusterTrustBundle. One that begins with a signer's name belongs to that signer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BundleName {
    name: String,
    signer_name: Option<String>,
}

/// A text that names no ClusterTrustBundle.
#[derive(Debug, Error, PartialEq, Eq)]
#[error(
    "{0:?} names no ClusterTrustBundle: use a DNS name such as istio-roots, or one of a signer, such as istio.io:istiod-ca:root-cert for signer istio.io/istiod-ca"
)]
pub struct BundleNameError(String);

/// Roots to be distributed, as they are at any time.
#[derive(Clone)]
pub struct Source {
    /// What they are the roots of, for the log.
    pub name: &'static str,
    /// Whether they stay until they expire once they are gone from here.
    pub remember: bool,
    /// The roots now.
    pub roots: Arc<dyn Fn() -> Option<Arc<Roots>> + Send + Sync>,
}

/// What the work needs.
#[derive(Debug, Clone)]
pub struct DistributionParts {
    /// What to write where.
    pub config: DistributionConfig,
    /// The cluster, and who we are there.
    pub home: Home,
    /// Whose roots.
    pub sources: Vec<Source>,
    /// Whether this replica leads.
    pub leading: watch::Receiver<bool>,
    /// Tells which roots have expired.
    pub clock: SharedClock,
    /// Counts.
    pub metrics: DistributionMetrics,
}

/// Why distribution cannot be what the operator asked for.
#[derive(Debug, Error)]
pub enum DistributionError {
    /// The API server does not understand the selector.
    #[error("--configmap-namespace-selector {selector:?} is refused by the API server: {source}")]
    Selector {
        /// As configured.
        selector: String,
        /// What it said.
        source: ApiError,
    },
    /// The API server has no ClusterTrustBundles.
    #[error("--cluster-trust-bundle {name}: {source}")]
    Bundle {
        /// As configured.
        name: String,
        /// Why not.
        source: NotServed,
    },
}

/// Asks the API server whether it understands what the operator asks for. A server that does not answer now is no mistake
/// of the operator's.
pub async fn check(config: &DistributionConfig, home: &Home) -> Result<(), DistributionError> {
    if let Some(selector) = config.selector.as_ref().filter(|_| config.config_maps) {
        let namespaces: Api<Namespace> = Api::all(home.cluster.client());
        let asked = namespaces
            .list_metadata(&ListParams::default().labels(selector).limit(1))
            .await;
        if let Err(source @ ApiError::Invalid(_)) = asked.map_err(ApiError::from) {
            let selector = selector.clone();
            return Err(DistributionError::Selector { selector, source });
        }
    }
    if let Some(bundle) = &config.bundle {
        serves_trust_bundles(&home.cluster)
            .await
            .map_err(|source| DistributionError::Bundle {
                name: bundle.name.clone(),
                source,
            })?;
    }
    Ok(())
}

/// Distributes while this replica leads, until `stop`.
pub async fn run(parts: DistributionParts, stop: CancellationToken) -> anyhow::Result<()> {
    let leading = parts.leading.clone();
    while_leading(leading, stop, |term| worker::Worker::new(parts.clone(), term).run()).await
}

// === impl BundleName ===

impl std::str::FromStr for BundleName {
    type Err = BundleNameError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let fault = || BundleNameError(name.chars().take(80).collect());
        let parts: Vec<&str> = name.split(':').collect();
        if name.len() > 253 || !parts.iter().all(|part| ensign_pki::dns_name::is_subdomain(part)) {
            return Err(fault());
        }
        let signer_name = match parts.as_slice() {
            [_] => None,
            // The API writes the signer's slash as a colon; a path of several parts has several.
            [domain, path @ .., _] if !path.is_empty() => Some(format!("{domain}/{}", path.join(":"))),
            _ => return Err(fault()),
        };
        Ok(Self {
            name: name.to_owned(),
            signer_name,
        })
    }
}

impl fmt::Display for BundleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

// === impl Source ===

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// Sources are asked this often: files and certificates change without telling us.
const LOOK: Duration = Duration::from_secs(3);
