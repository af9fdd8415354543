//! Whether what a genuine token is bound to is still there: its account, and its pod if it has one.
//!
//! Judged by uid, so that a namesake made later does not inherit a token. As in the API server's own check, an object
//! that was deleted and whose time (grace period included) ended a minute ago counts as gone, though a finalizer may
//! keep it. Stricter than there: a pod whose containers have all ended for good has nobody left to hold its token, and
//! the account and node that the token names must be the pod's.

use std::time::{Duration, SystemTime};

use thiserror::Error;

use super::{Live, Look};
use crate::authn::caller::{Bound, NodeRef};
use crate::authn::subject::Subject;

/// Why a genuine token is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum LiveError {
    /// It does not say whose it is by uid.
    #[error("it does not hold the uid of service account {0:?}")]
    NoAccountUid(String),
    /// No such account.
    #[error("service account {0:?} is not seen in the cluster: deleted, or not seen yet")]
    AccountNotSeen(String),
    /// The account is another of the same name.
    #[error("service account {account:?} has uid {live}, the token was issued to {token}: it was made anew since")]
    AccountChanged {
        /// Which account.
        account: String,
        /// The uid of the live one.
        live: String,
        /// The uid in the token.
        token: String,
    },
    /// No such pod.
    #[error("pod {0:?} is not seen in the cluster: deleted, or not seen yet")]
    PodNotSeen(String),
    /// The pod is another of the same name.
    #[error("pod {pod:?} has uid {live}, the token was issued to {token}: it was made anew since")]
    PodChanged {
        /// Which pod.
        pod: String,
        /// The uid of the live one.
        live: String,
        /// The uid in the token.
        token: String,
    },
    /// The pod runs under another account.
    #[error("pod {pod:?} runs as service account {live:?}, the token is of {token:?}")]
    PodAccount {
        /// Which pod.
        pod: String,
        /// Its account.
        live: String,
        /// The token's.
        token: String,
    },
    /// The pod runs elsewhere.
    #[error("pod {pod:?} is on node {live:?}, the token says {token:?}")]
    PodNode {
        /// Which pod.
        pod: String,
        /// Its node.
        live: String,
        /// The token's.
        token: String,
    },
    /// All its containers have ended for good.
    #[error("pod {0:?} has finished")]
    PodFinished(String),
    /// Deleted long ago, and kept only by a finalizer.
    #[error("{0} was deleted, and its time was over more than a minute ago")]
    Overdue(String),
}

// === impl Live ===

impl Live {
    /// Checks a token's account and pod, waiting for a late informer. Returns the subject with the pod's node.
    pub(in crate::authn) async fn confirm(&self, subject: Subject) -> Result<Subject, LiveError> {
        let now = self.clock.now();
        let node = self.settled(|live| live.look(&subject, now)).await?;
        let node = match (node, subject.node) {
            // The uid is the token's word for a node of that name.
            (Some(live), token) => Some(NodeRef {
                uid: token.and_then(|token| token.uid),
                name: live,
            }),
            (None, token) => token,
        };
        Ok(Subject { node, ..subject })
    }

    /// Whether an account of that name is there, for callers that prove no more than a name.
    pub(in crate::authn) fn has_account(&self, namespace: &str, name: &str) -> Option<bool> {
        let accounts = self.accounts.as_ref().filter(|_| self.is_fresh())?;
        Some(accounts.account(namespace, name).is_some())
    }

    fn look(&self, subject: &Subject, now: SystemTime) -> Look<Option<String>, LiveError> {
        let name = format!("{}/{}", subject.namespace, subject.service_account);
        let Some(token_uid) = &subject.account_uid else {
            return Look::Never(LiveError::NoAccountUid(name));
        };
        if let Some(accounts) = &self.accounts {
            let Some(account) = accounts.account(&subject.namespace, &subject.service_account) else {
                return Look::NotYet(LiveError::AccountNotSeen(name));
            };
            if *account.uid != **token_uid {
                return Look::NotYet(LiveError::AccountChanged {
                    account: name,
                    live: account.uid.into(),
                    token: token_uid.clone(),
                });
            }
            if overdue(account.due, now) {
                return Look::Never(LiveError::Overdue(format!("service account {name:?}")));
            }
        }
        match &subject.pod {
            Some(pod) => self.look_for_pod(subject, pod, now),
            None => Look::Found(None),
        }
    }

    fn look_for_pod(&self, subject: &Subject, bound: &Bound, now: SystemTime) -> Look<Option<String>, LiveError> {
        let name = format!("{}/{}", subject.namespace, bound.name);
        let Some(pod) = self.pods.pod(&subject.namespace, &bound.name) else {
            return Look::NotYet(LiveError::PodNotSeen(name));
        };
        if *pod.uid != *bound.uid {
            return Look::NotYet(LiveError::PodChanged {
                pod: name,
                live: pod.uid.into(),
                token: bound.uid.clone(),
            });
        }
        if *pod.account != *subject.service_account {
            return Look::Never(LiveError::PodAccount {
                pod: name,
                live: pod.account.to_string(),
                token: subject.service_account.clone(),
            });
        }
        if pod.finished {
            return Look::Never(LiveError::PodFinished(name));
        }
        if overdue(pod.due, now) {
            return Look::Never(LiveError::Overdue(format!("pod {name:?}")));
        }
        match (&pod.node, &subject.node) {
            (Some(live), Some(token)) if **live != *token.name => Look::Never(LiveError::PodNode {
                pod: name,
                live: live.to_string(),
                token: token.name.clone(),
            }),
            (live, _) => Look::Found(live.as_ref().map(ToString::to_string)),
        }
    }
}

fn overdue(due: Option<SystemTime>, now: SystemTime) -> bool {
    due.is_some_and(|due| now.duration_since(due).is_ok_and(|late| late > OVERDUE))
}

// === impl LiveError ===

impl LiveError {
    /// The word for metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoAccountUid(_) => "token_without_account_uid",
            Self::AccountNotSeen(_) => "account_not_seen",
            Self::AccountChanged { .. } => "account_changed",
            Self::PodNotSeen(_) => "pod_not_seen",
            Self::PodChanged { .. } => "pod_changed",
            Self::PodAccount { .. } => "pod_account",
            Self::PodNode { .. } => "pod_node",
            Self::PodFinished(_) => "pod_finished",
            Self::Overdue(_) => "deleted",
        }
    }
}

/// Kubernetes' own leeway (`serviceaccount/claims.go`).
const OVERDUE: Duration = Duration::from_mins(1);
