//! Keeps the desk: one task that makes policies of what it is offered, one at a time.
//!
//! Of each source it knows what is in effect. What is offered anew is tried together with the newest of the other
//! source, and if that fails with what is in effect of it: so neither a slip in the policy file nor one in Istio's
//! configuration keeps the other from being changed, and a right that is taken away in one of them is gone.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use ensign_daemon::logging;
use ensign_daemon::readiness::Gate;
use ensign_pki::TrustDomain;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::{Closed, Desk, DeskParts, OpenDesk, PolicySources};
use crate::mesh::{Mesh, MeshFeed};
use crate::policy::{Backend, Istio, IstioSettings, Policy, SignerSpec, Sources};
use crate::serving;

/// A policy file to be judged.
pub(super) struct Offer {
    pub(super) text: Arc<str>,
    pub(super) verdict: oneshot::Sender<anyhow::Result<()>>,
}

/// The task.
pub(super) struct Keeper {
    parts: DeskParts,
    settings: Option<IstioSettings>,
    trust_domain: Option<TrustDomain>,
    needs_file: bool,
    gate: Gate,
    desk: watch::Sender<Arc<Desk>>,
    in_effect: InEffect,
    warned_of_any: bool,
}

/// What the desk is made of.
#[derive(Default, Clone)]
struct InEffect {
    file: Option<Arc<str>>,
    mesh: Option<Arc<Mesh>>,
}

// === impl Keeper ===

impl Keeper {
    pub(super) fn new(sources: &PolicySources, parts: DeskParts, gate: Gate) -> (Self, watch::Receiver<Arc<Desk>>) {
        let (desk, desks) = watch::channel(Arc::new(Desk::closed("it is being read")));
        let keeper = Self {
            parts,
            settings: sources.mesh.as_ref().map(|(_, settings)| settings.clone()),
            trust_domain: sources.trust_domain.clone(),
            needs_file: sources.file.is_some(),
            gate,
            desk,
            in_effect: InEffect::default(),
            warned_of_any: false,
        };
        (keeper, desks)
    }

    /// Works until `stop`. A verdict that nobody waits for any more is still carried out.
    pub(super) async fn run(
        mut self,
        mut offers: mpsc::Receiver<Offer>,
        mut mesh: Option<MeshFeed>,
        stop: CancellationToken,
    ) -> anyhow::Result<()> {
        if mesh.is_some() {
            self.shut("Istio's mesh configuration has not been read yet");
        }
        if let Some(feed) = &mut mesh {
            // What it held before we looked counts as well.
            feed.mark_changed();
        }
        loop {
            // A policy that is being put into effect when the process stops is finished first.
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                () = changed(&mut mesh) => {
                    let newest = mesh.as_mut().and_then(|feed| feed.borrow_and_update().clone());
                    if let Some(newest) = newest {
                        self.mesh(newest).await;
                    }
                }
                offer = offers.recv() => {
                    let Some(offer) = offer else {
                        stop.cancelled().await;
                        return Ok(());
                    };
                    let newest = mesh.as_ref().and_then(|feed| feed.borrow().clone());
                    let verdict = self.file(offer.text, newest).await;
                    _ = offer.verdict.send(verdict);
                }
            }
        }
    }

    async fn file(&mut self, text: Arc<str>, newest: Option<Arc<Mesh>>) -> anyhow::Result<()> {
        let file = Some(text);
        let before = self.in_effect.mesh.clone();
        let first = InEffect {
            file: file.clone(),
            mesh: newest.clone(),
        };
        let Err(refused) = self.put(first).await else {
            self.mesh_in_effect(true);
            self.reloaded(POLICY);
            return Ok(());
        };
        let fallback = before.filter(|before| newest.as_ref() != Some(before));
        if let Some(mesh) = fallback {
            let with_old_mesh = InEffect { file, mesh: Some(mesh) };
            if self.put(with_old_mesh).await.is_ok() {
                let reason = logging::chain(&*refused);
                tracing::warn!(reason, "policy file taken without the newest mesh configuration");
                self.reloaded(POLICY);
                return Ok(());
            }
        }
        if self.desk.borrow().open().is_err() {
            self.shut(&format!("the policy file is refused: {}", logging::chain(&*refused)));
        }
        Err(refused)
    }

    async fn mesh(&mut self, newest: Arc<Mesh>) {
        if self.in_effect.mesh.as_ref() == Some(&newest) {
            self.mesh_in_effect(true);
            return;
        }
        // The file's first look comes after this, and brings both together.
        if self.needs_file && self.in_effect.file.is_none() {
            self.shut("the policy file has not been read yet");
            return;
        }
        let next = InEffect {
            file: self.in_effect.file.clone(),
            mesh: Some(newest),
        };
        match self.put(next).await {
            Ok(()) => {
                self.mesh_in_effect(true);
                self.reloaded(MESH);
            }
            Err(refused) => {
                let reason = logging::chain(&*refused);
                self.mesh_in_effect(false);
                let in_effect = match self.desk.borrow().open() {
                    Ok(_) => "the policy before",
                    Err(_) => "nothing yet",
                };
                tracing::warn!(reason, in_effect, "mesh configuration not taken");
                if self.desk.borrow().open().is_err() {
                    self.shut(&format!("Istio's configuration makes no policy: {reason}"));
                }
            }
        }
    }

    /// Makes a desk of `next`; on failure nothing changes.
    async fn put(&mut self, next: InEffect) -> anyhow::Result<()> {
        let policy = Policy::compose(Sources {
            file: next.file.as_deref(),
            istio: match (&next.mesh, &self.settings) {
                (Some(mesh), Some(settings)) => Some(Istio { mesh, settings }),
                _ => None,
            },
            trust_domain: self.trust_domain.as_ref(),
        })?;
        // Before any signer starts, since one may make a CA in its folder.
        if let Some(dir) = &self.parts.serving_ca {
            serving::refuse_overlap(dir, &folders(&policy))?;
        }
        let before = self.desk.borrow().signers();
        let signers = self
            .parts
            .signers
            .open(&policy, &before)
            .await
            .context("the policy is refused because not all of its signers start")?;
        self.say(&policy);
        // Also those that were carried over: limits restart nothing.
        for (name, limits) in policy.limits() {
            if let Some(running) = signers.get(name) {
                running.gate().set_limits(limits);
                running.gate().count(|| self.parts.metrics.gate(name));
            }
        }
        self.in_effect = next;
        self.desk.send_replace(Arc::new(Desk(Ok(OpenDesk { policy, signers }))));
        self.gate.open();
        Ok(())
    }

    fn say(&mut self, policy: &Policy) {
        let refused: Vec<_> = policy.refused_signers().collect();
        for (signer, why) in &refused {
            tracing::warn!(%signer, why, "signer refused to everybody");
        }
        let any = policy.is_any_mesh_signer();
        if any && !self.warned_of_any {
            tracing::warn!(
                "every workload may use every signer of the mesh configuration, as with istiod (--signer-choice=any-mesh-signer): signers keep nobody apart"
            );
        }
        self.warned_of_any = any;
        self.parts.mesh_metrics.policy(any, refused.len());
        let signers = policy.signers().count();
        tracing::info!(trust_domain = %policy.trust_domain(), signers, "policy in effect");
    }

    fn shut(&self, why: &str) {
        self.gate.shut(why);
        self.desk.send_if_modified(|desk| {
            let changed = desk.open().is_err_and(|closed| closed != Closed(why.to_owned()));
            if changed {
                *desk = Arc::new(Desk::closed(why));
            }
            changed
        });
    }

    fn mesh_in_effect(&self, newest: bool) {
        if self.settings.is_some() {
            self.parts.mesh_metrics.in_effect(newest);
        }
    }

    fn reloaded(&self, what: &'static str) {
        self.parts.metrics.reloaded(what, self.parts.clock.now());
    }
}

/// The next change of Istio's configuration; never, if it is not followed or its feed has ended.
async fn changed(mesh: &mut Option<MeshFeed>) {
    if let Some(feed) = mesh
        && feed.changed().await.is_ok()
    {
        return;
    }
    std::future::pending::<()>().await;
}

fn folders(policy: &Policy) -> Vec<(String, PathBuf)> {
    let folder = |spec: &SignerSpec| match &spec.backend {
        Backend::Local(local) => Some((spec.name.to_string(), local.dir.clone())),
        Backend::KubernetesCsr(_) | Backend::CertManager(_) => None,
    };
    policy.signers().filter_map(folder).collect()
}

/// What the file is called in logs and metrics.
pub(super) const POLICY: &str = "policy";
/// What Istio's configuration is called there.
const MESH: &str = "mesh configuration";
