//! The signer of a request that names none, where no rule of the policy file says one.
//!
//! As with istiod: the ProxyConfig of the workload's namespace, then that of the root namespace, then the mesh's
//! `proxyMetadata`, each of which may also say "none" with an empty value; and where that leaves no name, `K8S_SIGNER`.

use std::sync::Arc;

use ensign_pki::SignerName;

use crate::mesh::{DefaultSource, Mesh};

/// Where defaults come from. Without Istio's configuration there are none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Defaults {
    pub(super) mesh: Option<Arc<Mesh>>,
    pub(super) k8s_signer: Option<SignerName>,
}

/// Who chose the signer of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ChosenBy {
    /// The workload asked for it, within the policy.
    Request,
    /// The rule's default.
    Rule,
    /// The ProxyConfig of the namespace.
    ProxyConfig,
    /// The ProxyConfig of the root namespace.
    RootProxyConfig,
    /// `defaultConfig.proxyMetadata` of the mesh configuration.
    ProxyMetadata,
    /// `K8S_SIGNER`.
    K8sSigner,
}

/// A default, which may name a signer that does not exist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DefaultSigner {
    pub(super) signer: String,
    pub(super) by: ChosenBy,
    /// Who says so, for people.
    pub(super) place: String,
}

// === impl Defaults ===

impl Defaults {
    pub(super) fn of(&self, namespace: &str) -> Option<DefaultSigner> {
        let said = self.mesh.as_ref().and_then(|mesh| {
            let default = mesh.default_signer(namespace)?;
            let by = match default.by {
                DefaultSource::Namespace { .. } => ChosenBy::ProxyConfig,
                DefaultSource::Root { .. } => ChosenBy::RootProxyConfig,
                DefaultSource::ProxyMetadata => ChosenBy::ProxyMetadata,
            };
            Some(DefaultSigner {
                signer: default.signer.to_owned(),
                by,
                place: default.by.to_string(),
            })
        });
        let k8s_signer = || {
            self.k8s_signer.as_ref().map(|signer| DefaultSigner {
                signer: signer.to_string(),
                by: ChosenBy::K8sSigner,
                place: "K8S_SIGNER".to_owned(),
            })
        };
        // "No name" ends the search for names, and is answered as a request without one always is.
        said.filter(|default| !default.signer.is_empty()).or_else(k8s_signer)
    }
}

// === impl DefaultSigner ===

impl DefaultSigner {
    /// Its name for a text. Whoever may write a ProxyConfig writes what it likes, and no log is filled with that.
    pub(super) fn shown(&self) -> String {
        const MOST: usize = 80;
        let mut shown: String = self.signer.chars().take(MOST).collect();
        if shown.len() < self.signer.len() {
            shown.push('…');
        }
        shown
    }
}

// === impl ChosenBy ===

impl ChosenBy {
    /// The word for logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Rule => "policy",
            Self::ProxyConfig => "proxy_config",
            Self::RootProxyConfig => "root_proxy_config",
            Self::ProxyMetadata => "proxy_metadata",
            Self::K8sSigner => "k8s_signer",
        }
    }
}
