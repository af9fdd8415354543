//! What all signers behind one API server share: its watches, and the ways to count and be told.
//!
//! A watch begins with the first signer that needs it and then stays: the janitor works on what it shows, also after the
//! last such signer is gone from the policy.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use ensign_pki::SharedClock;
use kube::Api;
use parking_lot::Mutex;
use tokio_util::task::TaskTracker;

use super::issuers::{IssuerKind, Issuers};
use super::leftover::Leftovers;
use super::metrics::ObjectMetrics;
use super::pushback::Pushback;
use super::requests::Requests;
use crate::kubernetes::Cluster;
use crate::policy::ConfigMapRef;
use crate::signer::cert_manager::{CertificateRequest, RuntimeIssuer};
use crate::signer::kubernetes_csr::CertificateSigningRequest;

/// What the shared parts are made of.
#[derive(Debug, Clone)]
pub struct BackendsParts {
    /// The API server.
    pub cluster: Cluster,
    /// Tells our objects from those of another installation: a DNS label.
    pub installation: String,
    /// Counts objects.
    pub metrics: ObjectMetrics,
    /// Tells the time.
    pub clock: SharedClock,
    /// Where removals are counted; the drain waits for them.
    pub tasks: TaskTracker,
}

/// The shared parts. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Backends(Arc<Inner>);

struct Inner {
    parts: BackendsParts,
    pushback: Pushback,
    watches: Mutex<Watches>,
}

#[derive(Default)]
struct Watches {
    csrs: Option<Arc<Requests<CertificateSigningRequest>>>,
    certificate_requests: HashMap<String, Arc<Requests<CertificateRequest>>>,
    issuers: HashMap<(IssuerKind, String), Arc<Issuers>>,
    runtime_issuers: HashMap<ConfigMapRef, Arc<RuntimeIssuer>>,
}

// === impl Backends ===

impl Backends {
    /// Nothing is watched yet.
    pub fn new(parts: BackendsParts) -> Self {
        Self(Arc::new(Inner {
            parts,
            pushback: Pushback::default(),
            watches: Mutex::default(),
        }))
    }

    /// What the server says about coming back later.
    pub fn pushback(&self) -> &Pushback {
        &self.0.pushback
    }

    pub(crate) fn installation(&self) -> &str {
        &self.0.parts.installation
    }

    pub(crate) fn clock(&self) -> &SharedClock {
        &self.0.parts.clock
    }

    pub(crate) fn metrics(&self) -> &ObjectMetrics {
        &self.0.parts.metrics
    }

    /// Everything that a janitor looks after.
    pub(crate) fn leftovers(&self) -> Vec<Arc<dyn Leftovers>> {
        let watches = self.0.watches.lock();
        let csrs = watches.csrs.iter().map(|csrs| Arc::clone(csrs) as Arc<dyn Leftovers>);
        let requests = watches.certificate_requests.values();
        csrs.chain(requests.map(|requests| Arc::clone(requests) as Arc<dyn Leftovers>))
            .collect()
    }

    /// The CertificateSigningRequests of this installation.
    pub(crate) fn csrs(&self) -> Arc<Requests<CertificateSigningRequest>> {
        let parts = &self.0.parts;
        let mut watches = self.0.watches.lock();
        let begin = || Requests::follow(Api::all(parts.cluster.client()), "", parts, self.0.pushback.clone());
        Arc::clone(watches.csrs.get_or_insert_with(begin))
    }

    /// The CertificateRequests of this installation in a namespace.
    pub(crate) fn certificate_requests(&self, namespace: &str) -> Arc<Requests<CertificateRequest>> {
        let parts = &self.0.parts;
        let mut watches = self.0.watches.lock();
        let begin = || {
            Requests::follow(
                Api::namespaced(parts.cluster.client(), namespace),
                namespace,
                parts,
                self.0.pushback.clone(),
            )
        };
        let known = watches.certificate_requests.entry(namespace.to_owned());
        Arc::clone(known.or_insert_with(begin))
    }

    /// cert-manager's issuers of one kind, in one namespace if they have one.
    pub(crate) fn issuers(&self, kind: IssuerKind, namespace: &str) -> Arc<Issuers> {
        let parts = &self.0.parts;
        let mut watches = self.0.watches.lock();
        let begin = || Arc::new(Issuers::follow(kind, namespace, &parts.cluster));
        let known = watches.issuers.entry((kind, namespace.to_owned()));
        Arc::clone(known.or_insert_with(begin))
    }

    /// The issuer that a ConfigMap names.
    pub(crate) fn runtime_issuer(&self, config_map: &ConfigMapRef) -> Arc<RuntimeIssuer> {
        let parts = &self.0.parts;
        let mut watches = self.0.watches.lock();
        let begin = || Arc::new(RuntimeIssuer::follow(config_map, &parts.cluster));
        let known = watches.runtime_issuers.entry(config_map.clone());
        Arc::clone(known.or_insert_with(begin))
    }
}

impl fmt::Debug for Backends {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Backends")
            .field("installation", &self.0.parts.installation)
            .finish_non_exhaustive()
    }
}
