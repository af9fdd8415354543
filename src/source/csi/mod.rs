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
//!
//! While a node is upgraded, two agents live there. The younger one reads the state, binds all sockets over the older one's,
//! then kubelet's two; it waits for the older one's end and reads the state again. If it cannot bind them all, it leaves kubelet
//! to the older one. That one serves on until it is told to stop, and takes everything back if the younger one dies first.
//!
//! An agent that ends with volumes leaves everything to a successor. One that ends without any takes the state away, and its
//! sockets where no successor's are in their place: it may be the last, and kubelet would go on calling a driver that has
//! been uninstalled.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ensign_daemon::readiness::Gate;
use ensign_pki::{KeyType, SharedClock, TrustDomain};
use ensign_proto::csi::v1::identity_server::IdentityServer;
use ensign_proto::csi::v1::node_server::NodeServer;
use ensign_proto::pluginregistration::registration_server::RegistrationServer;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
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
    /// The source's series.
    pub metrics: Metrics,
    /// Opened when all sockets of the state are bound.
    pub sockets: Gate,
    /// Opened when kubelet has registered the driver.
    pub registered: Gate,
    /// Cancelled when no older agent serves on this node, or no more.
    pub alone: CancellationToken,
}

/// The driver before kubelet can see it.
#[derive(Debug)]
pub struct Opened {
    driver: Driver,
    registrar: Registrar,
    writer: state::Writer,
    places: Places,
    sockets: Gate,
    alone: CancellationToken,
}

/// Where kubelet calls us.
#[derive(Debug)]
struct Places {
    endpoint: PathBuf,
    registry: PathBuf,
}

/// The driver with its sockets bound, unless it leaves them to an older agent for now.
#[derive(Debug)]
pub struct Source {
    opened: Opened,
    listeners: Option<Listeners>,
}

#[derive(Debug)]
struct Listeners {
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
        metrics,
        sockets,
        registered,
        alone,
    } = parts;
    metrics.fence.set(fence.share());
    match fence {
        Fence::Whole => tracing::info!("fenced: no file below kubelet's pods can be read or written"),
        Fence::Partial => tracing::warn!(
            "fenced in part: no file below kubelet's pods can be read or written, but it could be cut: this kernel's Landlock does not know \
             truncation, Linux 6.2 or newer does"
        ),
        Fence::None => tracing::warn!(
            "not fenced: kernel or seccomp profile lack Landlock, so the agent could read the files of pods"
        ),
    }
    let state = State::open(&config)?;
    if !state.is_anothers() {
        alone.cancel();
    }
    let saved = state.load();
    let (saver, writer) = state.writer();
    let places = Places {
        endpoint: config.kubelet_dir.join("plugins").join(DRIVER).join("csi.sock"),
        registry: config
            .kubelet_dir
            .join("plugins_registry")
            .join(format!("{DRIVER}-reg.sock")),
    };
    registered.shut(format!(
        "kubelet has not registered the driver yet; it looks for {}",
        places.registry.display()
    ));
    let node_name = config.node_name.clone();
    let volumes = Arc::new(Volumes::new(config, clock, saver, metrics.clone()));
    let workloads = volumes.restore(saved);
    let opened = Opened {
        driver: Driver { volumes, node_name },
        registrar: Registrar::new(places.endpoint.clone(), registered, metrics),
        writer,
        places,
        sockets,
        alone,
    };
    Ok((workloads, opened))
}

// === impl Opened ===

impl Opened {
    /// Binds both sockets, the one that kubelet looks for last: from then on calls may come. `unbound` are the workloads whose
    /// sockets could not be bound; as long as an older agent serves those, kubelet's sockets are left to it.
    pub fn listen(self, unbound: &HashSet<Arc<str>>) -> Result<Source, ListenError> {
        self.driver.volumes.restored(unbound);
        if unbound.is_empty() {
            self.sockets.open();
        } else {
            self.sockets.shut(still_to_bind(unbound.len()));
        }
        let listeners = if unbound.is_empty() || self.alone.is_cancelled() {
            Some(self.places.listen()?)
        } else {
            tracing::warn!(
                unbound = unbound.len(),
                "not all sockets of the older agent could be taken over, kubelet's are left to it"
            );
            None
        };
        Ok(Source {
            opened: self,
            listeners,
        })
    }
}

// === impl Places ===

impl Places {
    fn listen(&self) -> Result<Listeners, ListenError> {
        let bind = |path: &PathBuf| {
            Listener::bind(path.clone()).map_err(|source| ListenError {
                folder: path.parent().unwrap_or(path).to_owned(),
                source,
            })
        };
        let csi = bind(&self.endpoint)?;
        let registration = bind(&self.registry)?;
        Ok(Listeners { csi, registration })
    }
}

// === impl Source ===

impl Source {
    /// Answers kubelet until `stop`; then carries to its end what kubelet asked, and lets the state go.
    pub async fn run(self, notices: Notices, stop: CancellationToken) -> anyhow::Result<()> {
        let Opened {
            driver,
            registrar,
            mut writer,
            places,
            sockets,
            alone,
        } = self.opened;
        let volumes = Arc::clone(&driver.volumes);
        volumes.connect(notices);
        let listeners = if let Some(listeners) = self.listeners {
            listeners
        } else {
            let wait = async {
                tokio::select! {
                    () = bind_the_rest(&volumes, &sockets) => {}
                    () = writer.alone() => {}
                }
            };
            if stop.run_until_cancelled(wait).await.is_none() {
                return Ok(());
            }
            places.listen()?
        };
        let Listeners { csi, registration } = listeners;
        let (calls, accept_calls) = csi.connections(stop.clone());
        let (lookups, accept_lookups) = registration.connections(stop.clone());
        let csi = Server::builder()
            .add_service(IdentityServer::new(driver.clone()))
            .add_service(NodeServer::new(driver))
            .serve_with_incoming_shutdown(calls, stop.clone().cancelled_owned());
        let registration = Server::builder()
            .add_service(RegistrationServer::new(registrar))
            .serve_with_incoming_shutdown(lookups, stop.clone().cancelled_owned());
        let answered = CancellationToken::new();
        let serving = async {
            let (csi, registration, calls, lookups) = tokio::join!(csi, registration, accept_calls, accept_lookups);
            volumes.calls_ended().await;
            if volumes.saved_as_none().await {
                lookups.take_away();
                calls.take_away();
            }
            answered.cancel();
            (csi, registration)
        };
        let inherit = async |saved| {
            let revision = volumes.inherit(saved).await;
            alone.cancel();
            revision
        };
        let beside = async {
            let work = async { tokio::join!(bind_the_rest(&volumes, &sockets), let_go(&volumes)) };
            stop.run_until_cancelled(work).await
        };
        let ((csi, registration), (), _) = tokio::join!(serving, writer.run(inherit, answered.clone()), beside);
        csi?;
        registration?;
        Ok(())
    }
}

/// Tries on until all sockets that were there at our start are bound.
async fn bind_the_rest(volumes: &Volumes, sockets: &Gate) {
    loop {
        let left = volumes.bind_the_rest().await;
        if left == 0 {
            return sockets.open();
        }
        sockets.shut(still_to_bind(left));
        sleep(BIND_AGAIN).await;
    }
}

/// For as long as kubelet may call another agent, too.
async fn let_go(volumes: &Volumes) {
    loop {
        sleep(LET_GO).await;
        volumes.let_go_of_unpublished().await;
    }
}

fn still_to_bind(count: usize) -> String {
    format!("{count} sockets of pods are not bound yet; the log says for each what is in the way")
}

const METHOD_PUBLISH: &str = "NodePublishVolume";
const METHOD_UNPUBLISH: &str = "NodeUnpublishVolume";
const BIND_AGAIN: Duration = Duration::from_secs(1);
const LET_GO: Duration = Duration::from_secs(5);
