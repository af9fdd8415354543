//! Who gets certificates on this node: the contract that every source of workloads keeps.
//!
//! A source derives identities and never takes them from the caller. It yields [`Notice`]s, in order: a workload
//! appeared, changed or is gone. Each is acknowledged by whoever owns the sockets, once the socket is bound or closed; what
//! could not be bound the source offers again later. A source owns no socket and knows neither SDS nor rotation.
//! With each workload comes its credential towards the authority.

use std::path::PathBuf;
use std::sync::Arc;

use ensign_pki::{KeyType, SpiffeId};
use tokio::sync::{mpsc, oneshot};

use crate::csr_client::{SignerName, TokenSource};

pub mod csi;
pub mod fixed;

/// Which source there is, with its settings.
#[derive(Clone, Debug)]
pub enum Config {
    /// Workloads from a file.
    Fixed(fixed::Config),
    /// Workloads from kubelet.
    Csi(csi::Config),
}

/// What a source knows of one workload.
#[derive(Clone, Debug)]
pub struct Workload {
    /// The source's own name for it, unique on the node; says nothing about identity.
    pub uid: Arc<str>,
    /// Workloads with the same text here share, for each signer, one key and one certificate: sockets of one pod for the same kind
    /// of key. It is the name under which status and metrics show them. Mostly the uid.
    pub shares: Arc<str>,
    /// Workloads with the same text here share what their sockets may take of the agent: all sockets of one pod. Mostly the uid.
    pub pod: Arc<str>,
    /// The identity that the source derived.
    pub id: SpiffeId,
    /// Its credential towards the authority.
    pub token: Arc<dyn TokenSource>,
    /// The signer, if the operator fixed it.
    pub signer: Option<SignerName>,
    /// The kind of its keys.
    pub key_type: KeyType,
    /// Whether an agent before us served it, so that its Envoys may come back with what they hold.
    pub returning: bool,
    /// Where it reaches us.
    pub socket: Socket,
}

/// Where a workload's socket shall be, and for whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Socket {
    /// Its path.
    pub path: PathBuf,
    /// Its permission bits.
    pub mode: u32,
    /// User and, maybe, group that shall own it; the agent's own if absent.
    pub owner: Option<(u32, Option<u32>)>,
    /// Set if the source made the socket's folder and will clear it away, below this folder of somebody else's, in which no
    /// symlink may lead elsewhere. Then the file stays when we stop, for a successor.
    pub within: Option<PathBuf>,
}

/// What happened to a workload.
#[derive(Clone, Debug)]
pub enum Event {
    /// It is new.
    Appeared(Workload),
    /// It is to be served otherwise than before.
    Changed(Workload),
    /// It is gone; this is its uid.
    Gone(Arc<str>),
}

/// An event and the way to acknowledge it.
#[derive(Debug)]
pub struct Notice {
    /// What happened.
    pub event: Event,
    /// Answered once the socket is bound or closed. Dropped counts as refused.
    pub done: oneshot::Sender<Result<(), Refused>>,
}

/// The socket could not be bound; this is in the log already.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the workload's socket could not be bound: {reason}")]
pub struct Refused {
    /// Why.
    pub reason: String,
}

/// Where a source sends its notices.
pub type Notices = mpsc::Sender<Notice>;
