//! May this caller ask for that pod's identity? Only for pods that live on its own node.
//!
//! Istio's node authorizer (ztunnel holds the certificates of all pods of its node), with what it leaves open: the
//! trust domain counts, finished pods do not, and the caller's node is that of its live pod, which its token must not
//! contradict. A pod that was just scheduled may not have been heard of yet: then the informer's events are waited for,
//! for a bounded time, and what is said after it tells "not seen yet" from "on another node".

use ensign_pki::{SpiffeId, SpiffeIdError, TrustDomain};
use thiserror::Error;

use super::TrustedAccounts;
use crate::authn::{Bound, Caller, Clusters, Live, Look, NoPods};

/// Why a caller may not ask for somebody else.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ImpersonationError {
    /// Nobody may.
    #[error("no account may ask for others here (--ca-trusted-node-accounts is empty)")]
    Off,
    /// This one may not.
    #[error("the caller {caller} is not one of --ca-trusted-node-accounts: {trusted}")]
    NotTrusted {
        /// Who asks.
        caller: String,
        /// Who may.
        trusted: TrustedAccounts,
    },
    /// Nothing says on which node it is.
    #[error("the caller {0} has no token that is bound to a pod, so nothing says on which node it is")]
    NotPodBound(String),
    /// No identity of Istio's form.
    #[error("what it asks for is no identity: {0}")]
    Identity(SpiffeIdError),
    /// Not one of ours.
    #[error("it asks for {asked}, our trust domain is {ours}")]
    TrustDomain {
        /// What it asked for.
        asked: String,
        /// Ours.
        ours: String,
    },
    /// Its cluster went while it called.
    #[error("cluster {0:?} is not known any more")]
    Cluster(String),
    /// Its pod is not there.
    #[error("the caller's pod {0:?} is not seen in the cluster: deleted, or not seen yet")]
    CallerNotSeen(String),
    /// Its pod is another of the same name.
    #[error("the caller's pod {pod:?} has uid {live}, its token was issued to {token}: it was made anew since")]
    CallerUid {
        /// Which pod.
        pod: String,
        /// The live one's.
        live: String,
        /// The token's.
        token: String,
    },
    /// Its pod runs under another account.
    #[error("the caller's pod {pod:?} runs as service account {live:?}, its token is of {token:?}")]
    CallerAccount {
        /// Which pod.
        pod: String,
        /// Its account.
        live: String,
        /// The token's.
        token: String,
    },
    /// Its pod runs nowhere.
    #[error("the caller's pod {0:?} is on no node yet, or has finished")]
    CallerNoNode(String),
    /// Its pod runs elsewhere than its token says.
    #[error("the caller's pod {pod:?} is on node {live:?}, its token says {token:?}")]
    CallerNode {
        /// Which pod.
        pod: String,
        /// Its node.
        live: String,
        /// The token's.
        token: String,
    },
    /// No pod of that account anywhere.
    #[error("no pod of {account:?} is seen in the cluster, on node {node:?} or elsewhere: gone, or not seen yet")]
    NotSeen {
        /// Namespace and account.
        account: String,
        /// The caller's node.
        node: String,
    },
    /// Its pods on this node have all finished.
    #[error("every pod of {account:?} on node {node:?} has finished")]
    Finished {
        /// Namespace and account.
        account: String,
        /// The caller's node.
        node: String,
    },
    /// Its pods are elsewhere.
    #[error("no pod of {account:?} is on the caller's node {node:?}; they are on {elsewhere}")]
    OtherNode {
        /// Namespace and account.
        account: String,
        /// The caller's node.
        node: String,
        /// Where they are.
        elsewhere: String,
    },
    /// The informer cannot be relied on: nothing can be said now.
    #[error("the pods of cluster {0:?} are not known now: the watch is not complete yet, or broken")]
    Stale(String),
}

/// The identity asked for, if the caller may.
pub(super) async fn judge(
    trusted: &TrustedAccounts,
    clusters: &Clusters,
    trust_domain: &TrustDomain,
    caller: &Caller,
    requested: &str,
) -> Result<SpiffeId, ImpersonationError> {
    if trusted.is_empty() {
        return Err(ImpersonationError::Off);
    }
    let name = format!("{}/{}", caller.namespace, caller.service_account);
    if !trusted.contains(&caller.namespace, &caller.service_account) {
        return Err(ImpersonationError::NotTrusted {
            caller: name,
            trusted: trusted.clone(),
        });
    }
    let (Some(pod), Some(cluster)) = (&caller.pod, &caller.cluster) else {
        return Err(ImpersonationError::NotPodBound(name));
    };
    let id: SpiffeId = requested.parse().map_err(ImpersonationError::Identity)?;
    if id.trust_domain() != trust_domain {
        return Err(ImpersonationError::TrustDomain {
            asked: id.to_string(),
            ours: trust_domain.to_string(),
        });
    }
    let live = clusters.live(cluster).map_err(|error| match error {
        NoPods::Cluster => ImpersonationError::Cluster(cluster.clone()),
        NoPods::NotFollowed => ImpersonationError::Stale(cluster.clone()),
    })?;
    if !live.is_fresh() {
        return Err(ImpersonationError::Stale(cluster.clone()));
    }
    match live.settled(|live| look(live, caller, pod, &id)).await {
        Ok(()) => Ok(id),
        // What a watch that just broke has not seen may well be there.
        Err(error) if error.may_be_late() && !live.is_whole() => Err(ImpersonationError::Stale(cluster.clone())),
        Err(error) => Err(error),
    }
}

/// One look at the caller's pod, and at its node for a pod of the account asked for.
fn look(live: &Live, caller: &Caller, bound: &Bound, id: &SpiffeId) -> Look<(), ImpersonationError> {
    let pod_name = || format!("{}/{}", caller.namespace, bound.name);
    let Some(pod) = live.pods().pod(&caller.namespace, &bound.name) else {
        return Look::NotYet(ImpersonationError::CallerNotSeen(pod_name()));
    };
    if *pod.uid != *bound.uid {
        return Look::NotYet(ImpersonationError::CallerUid {
            pod: pod_name(),
            live: pod.uid.into(),
            token: bound.uid.clone(),
        });
    }
    if *pod.account != *caller.service_account {
        return Look::Never(ImpersonationError::CallerAccount {
            pod: pod_name(),
            live: pod.account.to_string(),
            token: caller.service_account.clone(),
        });
    }
    let Some(node) = pod.node.as_ref().filter(|_| !pod.finished) else {
        return Look::NotYet(ImpersonationError::CallerNoNode(pod_name()));
    };
    if let Some(token) = caller.node.as_ref().filter(|token| *token.name != **node) {
        return Look::Never(ImpersonationError::CallerNode {
            pod: pod_name(),
            live: node.to_string(),
            token: token.name.clone(),
        });
    }
    if live.pods().is_on(node, id.namespace(), id.service_account()) {
        Look::Found(())
    } else {
        Look::NotYet(absent(live, node, id))
    }
}

/// Why there is no live pod of that account on that node.
fn absent(live: &Live, node: &str, id: &SpiffeId) -> ImpersonationError {
    let account = format!("{}/{}", id.namespace(), id.service_account());
    let node = node.to_owned();
    let pods = live.pods().of_account(id.namespace(), id.service_account());
    let here = |pod: &&crate::authn::Pod| pod.node.as_deref() == Some(&*node);
    if pods.iter().any(|pod| here(&pod)) {
        return ImpersonationError::Finished { account, node };
    }
    let mut elsewhere: Vec<&str> = pods.iter().filter_map(|pod| pod.node.as_deref()).collect();
    elsewhere.sort_unstable();
    elsewhere.dedup();
    match elsewhere.len() {
        0 => ImpersonationError::NotSeen { account, node },
        count => {
            let more = count.saturating_sub(NODES_SHOWN);
            let mut shown = elsewhere[..count.min(NODES_SHOWN)].join(", ");
            if more > 0 {
                shown = format!("{shown} and {more} more");
            }
            ImpersonationError::OtherNode {
                account,
                node,
                elsewhere: shown,
            }
        }
    }
}

// === impl ImpersonationError ===

impl ImpersonationError {
    /// The word for metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Off => "impersonation",
            Self::NotTrusted { .. } => "impersonation_not_trusted",
            Self::NotPodBound(_) => "impersonation_not_pod_bound",
            Self::Identity(_) => "impersonation_identity",
            Self::TrustDomain { .. } => "impersonation_trust_domain",
            Self::Cluster(_) => "impersonation_cluster",
            Self::CallerNotSeen(_) => "impersonation_caller_not_seen",
            Self::CallerUid { .. } => "impersonation_caller_uid",
            Self::CallerAccount { .. } => "impersonation_caller_account",
            Self::CallerNoNode(_) => "impersonation_caller_no_node",
            Self::CallerNode { .. } => "impersonation_caller_node",
            Self::NotSeen { .. } => "impersonation_not_seen",
            Self::Finished { .. } => "impersonation_finished",
            Self::OtherNode { .. } => "impersonation_other_node",
            Self::Stale(_) => "impersonation_stale",
        }
    }

    /// Whether the same request may be granted without anybody changing anything: the informer was away.
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Stale(_))
    }

    /// Whether a later event could turn it.
    fn may_be_late(&self) -> bool {
        match self {
            Self::CallerNotSeen(_)
            | Self::CallerUid { .. }
            | Self::CallerNoNode(_)
            | Self::NotSeen { .. }
            | Self::Finished { .. }
            | Self::OtherNode { .. } => true,
            Self::Off
            | Self::NotTrusted { .. }
            | Self::NotPodBound(_)
            | Self::Identity(_)
            | Self::TrustDomain { .. }
            | Self::Cluster(_)
            | Self::CallerAccount { .. }
            | Self::CallerNode { .. }
            | Self::Stale(_) => false,
        }
    }
}

/// A deployment may be on every node of a cluster.
const NODES_SHOWN: usize = 5;
