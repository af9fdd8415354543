//! Who gets certificates.
//!
//! A [`Workload`] is who gets certificates of its own: all sockets of one pod for the same kind of key. Its name says nothing about
//! identity: two pods of one service account are two workloads, and share neither key nor token.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use ensign_pki::{KeyType, SpiffeId};

use crate::csr_client::{SignerName, TokenSource};

/// Names a workload on this node, for example `fixed/httpbin`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkloadUid(Arc<str>);

impl WorkloadUid {
    /// The uid with this text.
    pub fn new(text: &str) -> Self {
        Self(text.into())
    }

    /// The uid as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for WorkloadUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for WorkloadUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One workload and what its certificates are made of.
#[derive(Debug, Clone)]
pub struct Workload {
    /// Its name, by which its sockets share entries, and which status, metrics and log show.
    pub uid: WorkloadUid,
    /// The identity that the source derived.
    pub id: SpiffeId,
    /// Its credential towards the authority.
    pub token: Arc<dyn TokenSource>,
    /// The signers that its sockets are fixed to, with none for a socket that leaves it to the client. What is fixed is warmed
    /// up at once, and where nothing is left to clients there are no entries of other signers.
    pub signers: BTreeSet<Option<SignerName>>,
    /// The kind of its keys.
    pub key_type: KeyType,
    /// Whether an agent before us served it, so that its Envoys may come back with what they hold.
    pub returning: bool,
}
