//! The programs of a cluster: which there are, and how each is started.
//!
//! All of them listen on loopback only, on ports that the cluster holds, so that each may be killed and started again
//! where it was. Flags that matter have their reason beside them.

mod apiserver;
pub(super) mod cert_manager;
mod controller_manager;
mod etcd;
mod scheduler;

pub(super) use self::apiserver::{AUDIT_POLICY, admission};

use std::{
    collections::BTreeMap,
    env, fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use anyhow::bail;

use super::{ClusterOptions, port::Port};
use crate::process::Spec;

/// A program of the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Component {
    /// The store behind the API server.
    Etcd,
    /// The API server.
    ApiServer,
    /// Kubernetes' own controllers, the built-in CSR signers among them.
    ControllerManager,
    /// Places pods; only on request, since tests name the node themselves.
    Scheduler,
    /// cert-manager's controllers.
    CertManager,
    /// cert-manager's admission webhook.
    CertManagerWebhook,
}

/// What a component needs to know of its cluster.
pub(super) struct Surroundings<'a> {
    /// Certificates, kubeconfigs and the audit log are here, under the names below.
    pub(super) folder: &'a Path,
    pub(super) ports: &'a Ports,
    pub(super) options: &'a ClusterOptions,
}

/// The ports of one cluster.
#[derive(Debug)]
pub(super) struct Ports {
    pub(super) etcd: Port,
    pub(super) etcd_peer: Port,
    pub(super) api_server: Port,
    pub(super) webhook: Port,
}

/// The folder with the programs and CRDs: `ENSIGN_KUBERNETES`, or what `make setup` linked into `.tools/`.
pub(super) fn distribution() -> anyhow::Result<PathBuf> {
    let path = match env::var_os("ENSIGN_KUBERNETES") {
        Some(path) => PathBuf::from(path),
        None => Path::new(env!("CARGO_MANIFEST_DIR"))
            .with_file_name(".tools")
            .join("kubernetes"),
    };
    if !path.join("bin").is_dir() {
        bail!(
            "there is no Kubernetes at {}: run `make setup`, or set ENSIGN_KUBERNETES to a folder that testbed/kubernetes/build.sh made",
            path.display()
        );
    }
    Ok(path)
}

// === impl Component ===

impl Component {
    /// Its name in logs, and the name of its program.
    pub fn name(self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::ApiServer => "kube-apiserver",
            Self::ControllerManager => "kube-controller-manager",
            Self::Scheduler => "kube-scheduler",
            Self::CertManager => "cert-manager-controller",
            Self::CertManagerWebhook => "cert-manager-webhook",
        }
    }

    /// The user that its kubeconfig is for, and a group; none where it needs no kubeconfig.
    pub(super) fn user(self) -> Option<(&'static str, Option<&'static str>)> {
        match self {
            Self::Etcd | Self::ApiServer => None,
            Self::ControllerManager => Some(("system:kube-controller-manager", None)),
            Self::Scheduler => Some(("system:kube-scheduler", None)),
            Self::CertManager => Some((
                "system:serviceaccount:cert-manager:cert-manager",
                Some("system:serviceaccounts"),
            )),
            Self::CertManagerWebhook => Some((
                "system:serviceaccount:cert-manager:cert-manager-webhook",
                Some("system:serviceaccounts"),
            )),
        }
    }

    /// How to start it.
    pub(super) fn spec(self, surroundings: &Surroundings<'_>) -> anyhow::Result<Spec> {
        let args = match self {
            Self::Etcd => etcd::args(surroundings),
            Self::ApiServer => apiserver::args(surroundings),
            Self::ControllerManager => controller_manager::args(surroundings),
            Self::Scheduler => scheduler::args(surroundings),
            Self::CertManager => cert_manager::controller_args(surroundings),
            Self::CertManagerWebhook => cert_manager::webhook_args(surroundings),
        };
        Ok(Spec {
            name: self.name().to_owned(),
            binary: distribution()?.join("bin").join(self.name()),
            args,
            // A test that is killed must not leave an API server behind (testbed/kubernetes/parent).
            env: BTreeMap::from([("ENSIGN_END_WITH_PARENT".to_owned(), std::process::id().to_string())]),
        })
    }
}

impl fmt::Display for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

// === impl Surroundings ===

impl Surroundings<'_> {
    /// A file of the cluster's folder, as a flag's value.
    fn file(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }

    /// The kubeconfig of a component.
    fn kubeconfig(&self, component: Component) -> String {
        self.file(&format!("{component}.kubeconfig"))
    }
}

// === impl Ports ===

impl Ports {
    pub(super) fn hold() -> anyhow::Result<Self> {
        Ok(Self {
            etcd: Port::hold()?,
            etcd_peer: Port::hold()?,
            api_server: Port::hold()?,
            webhook: Port::hold()?,
        })
    }
}

fn http(address: SocketAddr) -> String {
    format!("http://{address}")
}

/// `--name=value`.
fn flag(name: &str, value: impl fmt::Display) -> String {
    format!("--{name}={value}")
}
