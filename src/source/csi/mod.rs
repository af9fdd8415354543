//! Workloads from kubelet: a CSI node driver for ephemeral inline volumes, `csi.ensign.mesh`.
//!
//! For each pod that mounts such a volume kubelet tells whose it is and brings the pod's own token; the pod gets a socket of
//! its own in the folder that becomes the mount. Kubelet is the attestor: who may connect is decided by which pod the folder
//! is mounted into, and towards the authority the pod's token speaks for itself. The agent asks Kubernetes' API nothing.
//!
//! A call flows down this list: [`listener`] accepts it, [`service`] and [`registration`] speak the protocol, [`volumes`]
//! carries it out: [`target`] knows the folder, [`request`] reads what kubelet wrote, [`token`] keeps the pod's token, [`table`]
//! knows what is published, [`state`] tells it to a successor. Each mistake is a [`refusal`] with cause and fix.
//! [`fence`] keeps the whole process out of the pods' files. SDS and the sockets' life are others'.

use std::path::PathBuf;
use std::sync::Arc;

use ensign_daemon::readiness::Gate;
use ensign_pki::{KeyType, SharedClock, TrustDomain};
use ensign_proto::csi::v1::identity_server::IdentityServer;
use ensign_proto::csi::v1::node_server::NodeServer;
use ensign_proto::pluginregistration::registration_server::RegistrationServer;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::Server;

use super::{Notices, Workload};
use crate::unix_socket::BindError;

mod fence;
mod listener;
mod metrics;
mod refusal;
mod registration;
mod request;
mod service;
mod state;
mod table;
mod target;
mod token;
mod volumes;

pub use self::fence::{Fence, FenceError};
pub use self::metrics::Metrics;
pub use self::state::StateError;

use self::listener::Listener;
use self::registration::Registrar;
use self::service::Driver;
use self::state::State;
use self::volumes::Volumes;

/// The driver's name, in CSIDriver objects and pods.
pub const DRIVER: &str = "csi.ensign.mesh";

/// Settings of this source.
#[derive(Clone, Debug)]
pub struct Config {
    /// Kubelet's `--root-dir`, the same path inside the agent's container as outside.
    pub kubelet_dir: PathBuf,
    /// The node's name, as kubelet calls it.
    pub node_name: String,
    /// A folder of the host's tmpfs, for a successor.
    pub state_dir: PathBuf,
    /// The trust domain of the workloads' identities.
    pub trust_domain: TrustDomain,
    /// The kind of keys of a volume that names none.
    pub key_type: KeyType,
    /// The kinds of keys that a volume may name.
    pub key_types: Vec<KeyType>,
    /// The audience of the tokens that kubelet brings.
    pub audience: String,
}

/// What the process brings along.
#[derive(Debug)]
pub struct Parts {
    /// Whether there is a fence around it.
    pub fence: Fence,
    /// The time.
    pub clock: SharedClock,
    /// Where calls are carried to their end.
    pub tasks: TaskTracker,
    /// The source's series.
    pub metrics: Metrics,
    /// Opened when kubelet has registered the driver.
    pub registered: Gate,
}

/// The driver before kubelet can see it.
#[derive(Debug)]
pub struct Opened {
    driver: Driver,
    registrar: Registrar,
    writer: state::Writer,
    endpoint: PathBuf,
    registry: PathBuf,
}

/// The driver with its sockets bound.
#[derive(Debug)]
pub struct Source {
    opened: Opened,
    csi: Listener,
    registration: Listener,
}

/// Why the driver cannot listen.
#[derive(Debug, thiserror::Error)]
#[error("the agent cannot listen for kubelet; mount kubelet's {folder} into it, writable and at the same path")]
pub struct ListenError {
    folder: PathBuf,
    #[source]
    source: BindError,
}

/// Reads the state and gives the workloads whose sockets are to be bound before anything else.
pub fn open(config: Config, parts: Parts) -> Result<(Vec<Workload>, Opened), StateError> {
    let Parts {
        fence,
        clock,
        tasks,
        metrics,
        registered,
    } = parts;
    metrics.fence.set(i64::from(fence != Fence::None));
    match fence {
        Fence::Whole => tracing::info!("fenced: no file below kubelet's pods can be read"),
        Fence::Partial => tracing::warn!("fenced in part: this kernel knows an older Landlock"),
        Fence::None => tracing::warn!(
            "not fenced: kernel or seccomp profile lack Landlock, so the agent could read the files of pods"
        ),
    }
    let state = State::open(&config)?;
    let saved = state.load(&config);
    let (saver, writer) = state.writer();
    let endpoint = config.kubelet_dir.join("plugins").join(DRIVER).join("csi.sock");
    let registry = config
        .kubelet_dir
        .join("plugins_registry")
        .join(format!("{DRIVER}-reg.sock"));
    registered.shut(format!(
        "kubelet has not registered the driver yet; it looks for {}",
        registry.display()
    ));
    let node_name = config.node_name.clone();
    let volumes = Arc::new(Volumes::new(config, clock, saver, metrics.clone(), tasks));
    let workloads = volumes.restore(saved);
    let opened = Opened {
        driver: Driver { volumes, node_name },
        registrar: Registrar::new(endpoint.clone(), registered, metrics),
        writer,
        endpoint,
        registry,
    };
    Ok((workloads, opened))
}

// === impl Opened ===

impl Opened {
    /// Binds both sockets, the one that kubelet looks for last: from then on calls may come.
    pub fn listen(self) -> Result<Source, ListenError> {
        let bind = |path: &PathBuf| {
            Listener::bind(path.clone()).map_err(|source| ListenError {
                folder: path.parent().unwrap_or(path).to_owned(),
                source,
            })
        };
        let csi = bind(&self.endpoint)?;
        let registration = bind(&self.registry)?;
        Ok(Source {
            opened: self,
            csi,
            registration,
        })
    }
}

// === impl Source ===

impl Source {
    /// Answers kubelet until `stop`.
    pub async fn run(self, notices: Notices, stop: CancellationToken) -> anyhow::Result<()> {
        let Opened {
            driver,
            registrar,
            writer,
            ..
        } = self.opened;
        driver.volumes.connect(notices);
        let (calls, accept_calls) = self.csi.connections(stop.clone());
        let (lookups, accept_lookups) = self.registration.connections(stop.clone());
        let csi = Server::builder()
            .add_service(IdentityServer::new(driver.clone()))
            .add_service(NodeServer::new(driver))
            .serve_with_incoming_shutdown(calls, stop.clone().cancelled_owned());
        let registration = Server::builder()
            .add_service(RegistrationServer::new(registrar))
            .serve_with_incoming_shutdown(lookups, stop.clone().cancelled_owned());
        let (csi, registration, (), (), ()) =
            tokio::join!(csi, registration, accept_calls, accept_lookups, writer.run(stop));
        csi?;
        registration?;
        Ok(())
    }
}

const METHOD_PUBLISH: &str = "NodePublishVolume";
const METHOD_UNPUBLISH: &str = "NodeUnpublishVolume";
