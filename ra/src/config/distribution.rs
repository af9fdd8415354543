//! Which namespaces get the roots of the control plane.

use std::path::PathBuf;

use clap::Args;
use ensign_daemon::settings::Checker;

use super::values::label;
use crate::distribution::DistributionConfig;

/// Distribution, and what joins the roots of our own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootsConfig {
    /// What is written where; nothing at all is possible.
    pub distribution: DistributionConfig,
    /// More roots, while the file has them.
    pub extra: Option<PathBuf>,
}

#[derive(Debug, Clone, Args)]
pub(super) struct DistributionArgs {
    /// `on`: ConfigMap `istio-ca-root-cert` in the namespaces, as istiod and istio-csr write it; `off`: somebody else does
    #[arg(long, env = "ENSIGN_RA_ROOT_CONFIGMAPS", default_value = "on", value_name = "ON-OFF")]
    root_configmaps: String,
    /// Label selector of those namespaces, in Kubernetes' grammar; unset: all
    #[arg(long, env = "ENSIGN_RA_CONFIGMAP_NAMESPACE_SELECTOR", value_name = "SELECTOR")]
    configmap_namespace_selector: Option<String>,
    /// Namespace of the agents: it gets them whatever the selector says, for an agent without roots asks nobody
    #[arg(long, env = "ENSIGN_RA_AGENT_NAMESPACE", value_name = "NAMESPACE")]
    agent_namespace: Option<String>,
    /// A ClusterTrustBundle with the same roots; Istio reads `istio.io:istiod-ca:root-cert`
    #[arg(long, env = "ENSIGN_RA_CLUSTER_TRUST_BUNDLE", value_name = "NAME")]
    cluster_trust_bundle: Option<String>,
    /// More roots for the namespaces while the file has them, such as the old CA's during a migration (PEM, watched)
    #[arg(long, env = "ENSIGN_RA_EXTRA_ROOTS_FILE", value_name = "PATH")]
    extra_roots_file: Option<String>,
}

impl DistributionArgs {
    pub(super) fn check(&self, c: &mut Checker<'_>) -> Option<RootsConfig> {
        let config_maps = match self.root_configmaps.as_str() {
            "on" => Some(true),
            "off" => Some(false),
            other => {
                c.refuse("root_configmaps", other, "on or off", "there is nothing in between");
                None
            }
        };
        let bundle = match self.cluster_trust_bundle.as_deref().filter(|name| !name.is_empty()) {
            Some(name) => c
                .parse("cluster_trust_bundle", name, "a name of a ClusterTrustBundle")
                .map(Some),
            None => Some(None),
        };
        let agents = match self.agent_namespace.as_deref().filter(|name| !name.is_empty()) {
            Some(name) => label(c, "agent_namespace", name).map(Some),
            None => Some(None),
        };
        Some(RootsConfig {
            distribution: DistributionConfig {
                config_maps: config_maps?,
                selector: self
                    .configmap_namespace_selector
                    .clone()
                    .filter(|text| !text.trim().is_empty()),
                agents: agents?,
                bundle: bundle?,
            },
            extra: self.extra_roots_file.as_ref().map(PathBuf::from),
        })
    }
}
