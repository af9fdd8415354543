//! The clusters whose tokens count, and which of them a caller means.
//!
//! The local one always; remote ones by Istio's remote secrets, while those are there (`remote`). A caller says which
//! by `clusterid`: nothing means the local one, an alias means the cluster it stands for. It says nothing about who the
//! caller is: a token under another cluster's name is judged by that other cluster, which does not know it.

mod crowd;
mod kubeconfig;
mod remote;
mod secret;

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::Instant;

pub(super) use self::crowd::Crowds;
pub(super) use self::remote::{OpenMember, RemoteConfig, Remotes, keep};

use self::crowd::Crowd;
use super::caller::{Caller, Proof};
use super::error::AuthnError;
use super::informer::Informer;
use super::live::Live;
use super::offline::Offline;
use super::review::Reviewer;
use super::subject::Subject;

/// One cluster.
#[derive(Debug)]
pub(super) struct Member {
    id: Arc<str>,
    judge: Judge,
    live: Option<Arc<Live>>,
    crowd: Crowd,
}

/// How its tokens are judged.
#[derive(Debug)]
pub(super) enum Judge {
    Offline(Offline),
    Review(Box<Reviewer>),
    Informer(Box<Informer>),
}

/// All of them. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Clusters {
    local: Arc<Member>,
    aliases: Arc<BTreeMap<String, String>>,
    remotes: watch::Receiver<Arc<Remotes>>,
}

/// Why there are no pods to look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoPods {
    /// The cluster is not known, or no more.
    Cluster,
    /// Its pods are not followed.
    NotFollowed,
}

// === impl Member ===

impl Member {
    pub(super) fn new(id: Arc<str>, judge: Judge, live: Option<Arc<Live>>, crowds: &Crowds) -> Self {
        Self {
            id,
            judge,
            live,
            crowd: crowds.one(),
        }
    }

    /// Its live objects, where they are followed.
    pub(super) fn live(&self) -> Option<Arc<Live>> {
        self.live.clone()
    }

    /// Whom a token of this cluster speaks for.
    pub(super) async fn judge(&self, token: &str, until: Instant) -> Result<Caller, AuthnError> {
        let answered = |judged: &Result<_, AuthnError>| judged.as_ref().err().is_none_or(|error| !error.is_passing());
        let Some(judged) = self.crowd.wait(self.judged(token, until), answered).await else {
            return Err(AuthnError::Crowded(self.id.to_string()));
        };
        let (subject, proof) = judged?;
        Ok(subject.caller(&self.id, proof))
    }

    async fn judged(&self, token: &str, until: Instant) -> Result<(Subject, Proof), AuthnError> {
        Ok(match &self.judge {
            Judge::Offline(offline) => (offline.judge(token)?, Proof::Signature),
            Judge::Review(reviewer) => (reviewer.review(token, until).await?, Proof::TokenReview),
            Judge::Informer(informer) => informer.judge(token, until).await?,
        })
    }
}

// === impl Clusters ===

impl Clusters {
    pub(super) fn new(
        local: Member,
        aliases: BTreeMap<String, String>,
        remotes: watch::Receiver<Arc<Remotes>>,
    ) -> Self {
        Self {
            local: Arc::new(local),
            aliases: Arc::new(aliases),
            remotes,
        }
    }

    /// The cluster that a caller means.
    pub(super) fn find(&self, claimed: Option<&str>) -> Result<Arc<Member>, AuthnError> {
        let Some(claimed) = claimed else {
            return Ok(Arc::clone(&self.local));
        };
        let remotes = self.remotes.borrow().clone();
        let alias = self.aliases.get(claimed).map(String::as_str);
        for name in [Some(claimed), alias].into_iter().flatten() {
            if name == &*self.local.id {
                return Ok(Arc::clone(&self.local));
            }
            if let Some(member) = remotes.get(name) {
                return member;
            }
        }
        if !remotes.are_listed() {
            return Err(AuthnError::Away {
                cluster: claimed.to_owned(),
                reason: "clusters_not_listed",
                why:
                    "the remote secrets have not been read yet; may the RA list and watch Secrets in --istio-namespace?"
                        .to_owned(),
            });
        }
        let known = std::iter::once(&*self.local.id)
            .chain(remotes.names())
            .map(str::to_owned);
        Err(AuthnError::Cluster {
            seen: claimed.to_owned(),
            known: known.collect(),
        })
    }

    /// The live objects of a cluster, by its own name.
    pub fn live(&self, cluster: &str) -> Result<Arc<Live>, NoPods> {
        let live = if cluster == &*self.local.id {
            self.local.live.clone()
        } else {
            let remotes = self.remotes.borrow().clone();
            let member = remotes.get(cluster).and_then(Result::ok).ok_or(NoPods::Cluster)?;
            member.live.clone()
        };
        live.ok_or(NoPods::NotFollowed)
    }

    /// Whether an account of that name is in one of the clusters; `None` where that cannot be told.
    pub(super) fn has_account(&self, namespace: &str, name: &str) -> Option<bool> {
        let remotes = self.remotes.borrow().clone();
        let members = std::iter::once(Arc::clone(&self.local)).chain(remotes.members());
        let mut known = remotes.are_settled().then_some(false);
        for member in members {
            match member.live.as_ref().and_then(|live| live.has_account(namespace, name)) {
                Some(true) => return Some(true),
                Some(false) => {}
                None => known = None,
            }
        }
        known
    }
}
