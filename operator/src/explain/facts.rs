//! What was seen of one pod and its node.

use std::collections::BTreeMap;

use crate::access::Looked;
use crate::driver::Driver;
use crate::status::Status;

/// Everything that counts for one pod.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The pod.
    pub pod: Pod,
    /// The CSIDriver.
    pub driver: Looked<Driver>,
    /// Whether the node's CSINode lists the driver; missing if the node has no CSINode.
    pub registered: Looked<bool>,
    /// The newest agent on the node.
    pub agent: Looked<Agent>,
    /// What kubelet could not mount.
    pub mounts: Looked<Vec<MountFailure>>,
    /// What the agent said; none if there was nobody to ask.
    pub status: Option<Result<Status, String>>,
}

/// The pod, as far as it counts.
#[derive(Clone, Debug, Default)]
pub struct Pod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// Where it runs.
    pub node: Option<String>,
    /// It has ended.
    pub finished: bool,
    /// None of its containers has started yet.
    pub waiting: bool,
    /// Volumes of our driver.
    pub volumes: Vec<Volume>,
    /// Istio's container in it.
    pub proxy: Option<Proxy>,
}

/// One volume of our driver.
#[derive(Clone, Debug, Default)]
pub struct Volume {
    /// Its name in the pod.
    pub name: String,
    /// As the pod says them.
    pub attributes: BTreeMap<String, String>,
    /// Whether any container mounts it.
    pub mounted: bool,
}

/// Istio's proxy container.
#[derive(Clone, Debug, Default)]
pub struct Proxy {
    /// Where it mounts a volume of ours, and which.
    pub mount: Option<(String, String)>,
    /// `WORKLOAD_IDENTITY_SOCKET_FILE`.
    pub socket_file: Option<String>,
}

/// An agent's pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agent {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Whether it is ready.
    pub ready: bool,
    /// What its container waits for, or how it ended.
    pub trouble: Option<String>,
    /// The port of its `/status`.
    pub status_port: u16,
    /// The audience that it looks for, if its settings can be read.
    pub audience: Option<String>,
}

/// One FailedMount event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountFailure {
    /// As kubelet wrote it.
    pub message: String,
    /// How often.
    pub count: i32,
}
