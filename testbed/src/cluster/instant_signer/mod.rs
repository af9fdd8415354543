//! A signer that answers at once, or wrongly, or not at all: for faults that cert-manager cannot be made to show, and
//! for the RA's own cost beside a signer that costs nothing.
//!
//! Serves CertificateSigningRequests of one signer name, or CertificateRequests of one issuer, as a controller of the
//! real cluster: a watch, and writes to the status. What it does with a request is taken from a script when the request
//! is first seen. Comes as the user [`USER`], so that the audit log tells it from the administrator.

mod behaviour;
mod object;

pub use self::behaviour::{Answer, Behaviour, CaField, Order};

use std::{
    collections::{BTreeMap, BTreeSet},
    pin::pin,
    sync::Arc,
};

use anyhow::Context;
use ensign_testkit::{Script, TestCa};
use futures::TryStreamExt as _;
use kube::{
    ResourceExt as _,
    api::DynamicObject,
    runtime::{WatchStreamExt as _, watcher},
};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use self::object::Target;
use super::Access;
use crate::wait::{self, PATIENCE};

/// As whom it comes.
pub const USER: &str = "instant-signer";

/// A running signer. Dropping it ends it.
pub struct InstantSigner {
    shared: Arc<Shared>,
    _task: JoinSet<()>,
}

/// Whose requests it answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Serves {
    /// CertificateSigningRequests of this signer name.
    SignerName(String),
    /// CertificateRequests of this issuer, in all namespaces.
    Issuer {
        /// API group.
        group: String,
        /// Kind.
        kind: String,
        /// Name.
        name: String,
    },
}

/// A request as it was first seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// The object's name.
    pub name: String,
    /// Its namespace; empty for CSRs.
    pub namespace: String,
    /// Its id.
    pub uid: String,
    /// `spec.username`: who made it.
    pub username: String,
    /// `spec.request`, PEM.
    pub csr_pem: String,
}

struct Shared {
    target: Target,
    ca: Mutex<TestCa>,
    script: Script<Behaviour>,
    seen: Mutex<Vec<Seen>>,
    answered: Mutex<Vec<String>>,
    failures: Mutex<Vec<String>>,
}

// === impl Serves ===

impl Serves {
    /// An issuer that is nobody else's: a kind that cert-manager does not know, and so leaves alone.
    pub fn external_issuer(name: &str) -> Self {
        Self::Issuer {
            group: "instant.ensign.mesh".to_owned(),
            kind: "InstantIssuer".to_owned(),
            name: name.to_owned(),
        }
    }

    /// As `spec.issuerRef` of a CertificateRequest; nothing for a signer name.
    pub fn reference(&self) -> Value {
        match self {
            Self::SignerName(_) => Value::Null,
            Self::Issuer { group, kind, name } => json!({ "group": group, "kind": kind, "name": name }),
        }
    }
}

// === impl InstantSigner ===

impl InstantSigner {
    /// Teaches the cluster the kind of [`Serves::external_issuer`]. cert-manager's webhook wants to know it before somebody
    /// approves or denies.
    pub async fn install_kind(access: &Access) -> anyhow::Result<()> {
        access.apply_yaml(include_str!("kind.yaml")).await.map(drop)
    }

    /// Starts one that signs rightly until its script says otherwise. Requests that are there already are answered too.
    pub async fn start(access: &Access, serves: Serves, ca: &TestCa) -> anyhow::Result<Self> {
        let kubeconfig = access.kubeconfig_of_user(USER, Some("system:masters"))?;
        let shared = Arc::new(Shared {
            target: Target::new(access.client(&kubeconfig).await?, serves),
            ca: Mutex::new(ca.clone()),
            script: Script::new(Behaviour::sign()),
            seen: Mutex::default(),
            answered: Mutex::default(),
            failures: Mutex::default(),
        });
        let mut task = JoinSet::new();
        task.spawn(Arc::clone(&shared).run());
        Ok(Self { shared, _task: task })
    }

    /// What happens to the requests to come, in the order in which they are first seen.
    pub fn script(&self) -> &Script<Behaviour> {
        &self.shared.script
    }

    /// Signs with another authority from now on.
    pub fn set_ca(&self, ca: &TestCa) {
        *self.shared.ca.lock() = ca.clone();
    }

    /// Every request so far, in the order in which they came; each object once.
    pub fn seen(&self) -> Vec<Seen> {
        self.shared.seen.lock().clone()
    }

    /// The ids of the objects into which an answer was written, in that order.
    pub fn answered(&self) -> Vec<String> {
        self.shared.answered.lock().clone()
    }

    /// What it was told to do and could not, with the API server's answer. Objects that others delete end up here too.
    pub fn failures(&self) -> Vec<String> {
        self.shared.failures.lock().clone()
    }

    /// Waits until so many requests were seen.
    pub async fn saw(&self, count: usize) -> anyhow::Result<Vec<Seen>> {
        wait::until(&format!("the signer to see {count} requests"), PATIENCE, async || {
            let seen = self.seen();
            anyhow::ensure!(seen.len() >= count, "it has seen {}", seen.len());
            Ok(seen)
        })
        .await
    }

    /// Waits until it has counted so many answers, and no more: who was answered may know it a moment earlier.
    pub async fn answered_just(&self, count: usize) -> anyhow::Result<()> {
        wait::until(
            &format!("the signer to have answered {count} requests"),
            PATIENCE,
            async || {
                let answered = self.answered().len();
                anyhow::ensure!(answered == count, "it has answered {answered}");
                Ok(())
            },
        )
        .await
    }
}

// === impl Shared ===

impl Shared {
    async fn run(self: Arc<Self>) {
        let mut answers = JoinSet::new();
        // Seen, and waiting for approval.
        let mut pending: BTreeMap<String, Behaviour> = BTreeMap::new();
        let mut known = BTreeSet::new();
        let watch = watcher(self.target.watched(), self.target.watch_config());
        let mut objects = pin!(watch.default_backoff().applied_objects());
        loop {
            let object = match objects.try_next().await {
                Ok(Some(object)) => object,
                Ok(None) => return,
                // It tries again by itself; an API server that is down is part of some tests.
                Err(_) => continue,
            };
            let Some(uid) = object.uid() else { continue };
            if !self.target.is_ours(&object) {
                continue;
            }
            if known.insert(uid.clone()) {
                let seen = object::seen(&object);
                let behaviour = self.script.next();
                self.seen.lock().push(seen);
                pending.insert(uid.clone(), behaviour);
            }
            let due = |behaviour: &Behaviour| !behaviour.waits_for_approval() || self.target.is_approved(&object);
            if pending.get(&uid).is_some_and(due)
                && let Some(behaviour) = pending.remove(&uid)
            {
                answers.spawn(Arc::clone(&self).answer(object, behaviour));
            }
            while answers.try_join_next().is_some() {}
        }
    }

    async fn answer(self: Arc<Self>, object: DynamicObject, behaviour: Behaviour) {
        let ca = self.ca.lock().clone();
        let name = object.name_any();
        match self.target.answer(&object, &behaviour, &ca).await.context(name) {
            Ok(true) => self.answered.lock().extend(object.uid()),
            Ok(false) => {}
            Err(error) => self.failures.lock().push(format!("{error:#}")),
        }
    }
}
