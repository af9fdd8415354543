//! Whether there is a Kubernetes, where its API server is, and who we are in it.

use clap::Args;
use ensign_daemon::settings::Checker;

use super::values::{label, path};
use crate::kubernetes::ClusterSource;

/// The RA's place in a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KubernetesConfig {
    /// Where the API server is.
    pub source: ClusterSource,
    /// Our own namespace; that of the credentials without it.
    pub own_namespace: Option<String>,
    /// The name of our own pod, which tells replicas apart.
    pub pod_name: Option<String>,
    /// Where Istio's control plane keeps its configuration.
    pub istio_namespace: String,
    /// Tells the objects of one installation from those of another in the same cluster.
    pub installation: String,
}

#[derive(Debug, Clone, Args)]
pub(super) struct KubernetesArgs {
    /// `off`, `in-cluster` or `kubeconfig`; unset: `kubeconfig` with --kubeconfig, `off` with --jwks-file, else `in-cluster`
    #[arg(long, env = "ENSIGN_RA_KUBERNETES", value_name = "WHERE")]
    kubernetes: Option<String>,
    /// Kubeconfig file, for an RA outside of the cluster
    #[arg(long, env = "KUBECONFIG", value_name = "PATH")]
    kubeconfig: Option<String>,
    /// Context of the kubeconfig; unset: its current one
    #[arg(long, env = "ENSIGN_RA_CONTEXT", value_name = "NAME")]
    context: Option<String>,
    /// Namespace of the RA itself; unset: that of its credentials
    #[arg(long, env = "POD_NAMESPACE", value_name = "NAME")]
    own_namespace: Option<String>,
    /// Name of the RA's own pod, which tells replicas apart; unset: a random one
    #[arg(long, env = "POD_NAME", value_name = "NAME")]
    pod_name: Option<String>,
    /// Namespace of Istio's control plane: its mesh configuration and `istiod-tls`
    #[arg(
        long,
        env = "ENSIGN_RA_ISTIO_NAMESPACE",
        default_value = "istio-system",
        value_name = "NAME"
    )]
    istio_namespace: String,
    /// Name of this installation: the label by which its replicas find their objects
    #[arg(long, env = "ENSIGN_RA_INSTALLATION", default_value = "ensign", value_name = "NAME")]
    installation: String,
}

/// A mistake was noted, so there is nothing to run with.
#[derive(Debug)]
pub(super) struct Noted;

impl KubernetesArgs {
    /// `None`: no Kubernetes at all.
    pub(super) fn check(&self, c: &mut Checker<'_>, jwks_file: bool) -> Result<Option<KubernetesConfig>, Noted> {
        let source = self.source(c, jwks_file)?;
        let own_namespace = match &self.own_namespace {
            Some(name) => Some(label(c, "own_namespace", name).ok_or(Noted)?),
            None => None,
        };
        let istio_namespace = label(c, "istio_namespace", &self.istio_namespace);
        let installation = label(c, "installation", &self.installation);
        let Some(source) = source else { return Ok(None) };
        Ok(Some(KubernetesConfig {
            source,
            own_namespace,
            pod_name: self.pod_name.clone().filter(|name| !name.is_empty()),
            istio_namespace: istio_namespace.ok_or(Noted)?,
            installation: installation.ok_or(Noted)?,
        }))
    }

    fn source(&self, c: &mut Checker<'_>, jwks_file: bool) -> Result<Option<ClusterSource>, Noted> {
        let file = self.kubeconfig.as_deref().filter(|path| !path.is_empty());
        let said = match (self.kubernetes.as_deref(), file) {
            (Some(said), _) => said,
            (None, Some(_)) => "kubeconfig",
            (None, None) if jwks_file => "off",
            (None, None) => "in-cluster",
        };
        match said {
            "off" => Ok(None),
            "in-cluster" => Ok(Some(ClusterSource::InCluster)),
            "kubeconfig" => Ok(Some(ClusterSource::Kubeconfig {
                path: path(c, "kubeconfig", file).ok_or(Noted)?,
                context: self.context.clone().filter(|name| !name.is_empty()),
            })),
            other => {
                let why = "there is no such place to look for an API server";
                c.refuse("kubernetes", other, "off, in-cluster or kubeconfig", why);
                Err(Noted)
            }
        }
    }
}
