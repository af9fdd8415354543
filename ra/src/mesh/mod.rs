//! What Istio's own configuration says of signers, roots and the trust domain.
//!
//! Owns reading Istio's MeshConfig ([`MeshConfig`]) and ProxyConfig objects ([`ProxyConfigs`]), and one immutable value of
//! both at one time ([`Mesh`]). Promises that what cannot be read changes nothing, that it is named in the log and shown
//! in a metric, and that a slip in one entry takes no root from anybody. What follows from it, who may use which signer,
//! is the business of `policy`; this only repeats what Istio's files say.

mod anchors;
mod config;
mod feed;
mod indentation;
mod kubernetes_signer;
mod metrics;
mod notice;
mod proxy_config;
mod reader;

use std::fmt;
use std::sync::Arc;

use ensign_pki::{Bundle, BundleError, TrustDomain};
use tokio::sync::watch;

pub use config::{MeshConfig, MeshConfigError};
pub use feed::{MeshSource, follow};
pub use kubernetes_signer::{KubernetesSigner, KubernetesSignerError, SignerDomain};
pub use metrics::MeshMetrics;
pub use notice::{Notice, NoticeKind};
pub use proxy_config::{ProxyConfig, ProxyConfigs};

/// The variable that says which signer a proxy asks for, in `proxyMetadata` and `environmentVariables`.
pub(crate) const CERT_SIGNER: &str = "ISTIO_META_CERT_SIGNER";

/// Istio's configuration as it changes; `None` until all of it was read for the first time.
pub type MeshFeed = watch::Receiver<Option<Arc<Mesh>>>;

/// Istio's configuration at one time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mesh {
    config: MeshConfig,
    proxies: ProxyConfigs,
    root_namespace: String,
}

/// A default that Istio's configuration has for a request without a signer's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MeshDefault<'a> {
    /// The signer's name as written; empty means: no name.
    pub signer: &'a str,
    /// Who says so.
    pub by: DefaultSource<'a>,
}

/// A place in Istio's configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DefaultSource<'a> {
    /// The ProxyConfig of the namespace.
    Namespace {
        /// The namespace.
        namespace: &'a str,
        /// The object.
        object: &'a str,
    },
    /// The ProxyConfig of the root namespace.
    Root {
        /// The root namespace.
        namespace: &'a str,
        /// The object.
        object: &'a str,
    },
    /// `defaultConfig.proxyMetadata` of the mesh configuration.
    ProxyMetadata,
}

// === impl Mesh ===

impl Mesh {
    /// `control_plane` is the root namespace where the mesh configuration names none.
    pub fn new(config: MeshConfig, proxies: ProxyConfigs, control_plane: &str) -> Self {
        let root_namespace = config.root_namespace().unwrap_or(control_plane).to_owned();
        Self {
            config,
            proxies,
            root_namespace,
        }
    }

    /// The trust domain, where the mesh configuration says one.
    pub fn trust_domain(&self) -> Option<&TrustDomain> {
        self.config.trust_domain()
    }

    /// Other names of the trust domain, as written. As in istiod they mean nothing for a CSR: identities are issued in the
    /// trust domain alone.
    pub fn aliases(&self) -> &[String] {
        self.config.aliases()
    }

    /// Every signer that `caCertificates` names.
    pub fn cert_signers(&self) -> impl Iterator<Item = &KubernetesSigner> {
        self.config.cert_signers()
    }

    /// The roots of a signer's certificates in this trust domain; `None`: nobody gave it any.
    pub fn roots(&self, signer: &KubernetesSigner, trust_domain: &TrustDomain) -> Result<Option<Bundle>, BundleError> {
        self.config.roots(signer, trust_domain)
    }

    /// `ISTIO_META_CERT_SIGNER` of the mesh's `proxyMetadata`.
    pub fn proxy_metadata(&self) -> Option<&str> {
        self.config.default_signer()
    }

    /// The default of a namespace: its ProxyConfig's, else the root namespace's, else `proxyMetadata`'s.
    pub fn default_signer<'a>(&'a self, namespace: &'a str) -> Option<MeshDefault<'a>> {
        let root = &*self.root_namespace;
        let own = self.proxies.choice(namespace).map(|choice| MeshDefault {
            signer: &choice.signer,
            by: DefaultSource::Namespace {
                namespace,
                object: &choice.object,
            },
        });
        let everywhere = || {
            self.proxies.choice(root).map(|choice| MeshDefault {
                signer: &choice.signer,
                by: DefaultSource::Root {
                    namespace: root,
                    object: &choice.object,
                },
            })
        };
        let metadata = || {
            self.config.default_signer().map(|signer| MeshDefault {
                signer,
                by: DefaultSource::ProxyMetadata,
            })
        };
        own.or_else(everywhere).or_else(metadata)
    }

    /// What does not count.
    pub fn notices(&self) -> impl Iterator<Item = &Notice> {
        self.config.notices().iter().chain(self.proxies.notices())
    }
}

impl fmt::Display for DefaultSource<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Namespace { namespace, object } | Self::Root { namespace, object } => {
                write!(f, "ProxyConfig {namespace}/{object}")
            }
            Self::ProxyMetadata => f.write_str("defaultConfig.proxyMetadata of the mesh configuration"),
        }
    }
}

#[cfg(test)]
mod tests;
