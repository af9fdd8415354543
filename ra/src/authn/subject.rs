//! Whom a token speaks for, whoever judged it.

use super::caller::{Bound, Caller, NodeRef, Proof};

/// What a genuine token says. Names are of the form that Kubernetes gives; whether pod and account still are is
/// decided elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Subject {
    pub(super) namespace: String,
    pub(super) service_account: String,
    /// The account's uid; an API server that reviews a token has looked at it itself.
    pub(super) account_uid: Option<String>,
    pub(super) pod: Option<Bound>,
    pub(super) node: Option<NodeRef>,
    pub(super) token_id: Option<String>,
}

// === impl Subject ===

impl Subject {
    /// The caller that this token makes, in the cluster that vouches for it.
    pub(super) fn caller(self, cluster: &str, proof: Proof) -> Caller {
        Caller {
            namespace: self.namespace,
            service_account: self.service_account,
            pod: self.pod,
            node: self.node,
            cluster: Some(cluster.to_owned()),
            token_id: self.token_id,
            proof,
        }
    }
}
