//! Where the roots of a signer behind the API server come from, and what a change there means.
//!
//! Owns the judgement. A bundle that loses a root loses it in the next reply; a chain that ends in it is refused from
//! then on. A place that vanishes, or holds no certificate any more, was taken away: the signer is refused with that
//! reason until roots are back. Damage is a mistake and no removal: what was good before stays, with a warning, so that
//! a slip of an editor stops no mesh. A broken watch changes nothing either: the last known roots stay in effect, and
//! the watch's own metric says how old they may be.

mod discovery;
mod file;
mod object;

use std::sync::Arc;

use ensign_daemon::logging;
use ensign_daemon::watched_file::WatchError;
use ensign_pki::{BundleError, SignerName};
use thiserror::Error;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub use self::discovery::Discovery;
use super::{Followed, NoRoots, Roots, State, Trust, TrustMetrics};
use crate::kubernetes::{Cluster, NotServed};
use crate::policy::RootsSpec;
use crate::signer::Host;

/// Why the roots of a signer cannot be followed at all.
#[derive(Debug, Error)]
pub enum OpenRootsError {
    /// The file is missing or wrong.
    #[error("its roots cannot be loaded")]
    File(#[source] WatchError),
    /// The PEM in hand is no bundle.
    #[error("the roots that the mesh configuration gives it are no bundle")]
    Pem(#[source] BundleError),
    /// An object without an API server.
    #[error("its roots are {place}, and Kubernetes is off (--kubernetes); name an API server or give it a file")]
    NoKubernetes {
        /// Where they should come from.
        place: String,
    },
    /// The API server has no ClusterTrustBundles.
    #[error("its roots are {place}")]
    NotServed {
        /// Where they should come from.
        place: String,
        /// Why not.
        #[source]
        source: NotServed,
    },
    /// Nothing is there to learn from.
    #[error(
        "its roots are to be discovered from the RA's own certificate, which does not come from cert-manager; set --serving-from=cert-manager, or give it roots (recommended)"
    )]
    NothingToDiscover,
}

/// Finds the roots that `spec` describes and follows them until `stop`.
///
/// A file must be there and be good. An object may come later: until then the signer is refused, and says why.
pub async fn open(
    signer: &SignerName,
    spec: &RootsSpec,
    host: &Host,
    stop: &CancellationToken,
) -> Result<Trust, OpenRootsError> {
    let judge = |place: String| Judge {
        signer: signer.clone(),
        place,
        metrics: host.trust.metrics.clone(),
    };
    host.trust
        .metrics
        .discovered(signer, matches!(spec, RootsSpec::Discover));
    match spec {
        RootsSpec::File(path) => {
            let judge = judge(format!("the file {}", path.display()));
            let (states, watched) = file::open(path, judge, &host.files)
                .await
                .map_err(OpenRootsError::File)?;
            host.tasks.spawn(watched.run(stop.clone()));
            Ok(Trust::new(Arc::new(Followed(states))))
        }
        RootsSpec::Pem(pem) => Ok(Trust::fixed(Roots::parse(pem).map_err(OpenRootsError::Pem)?)),
        RootsSpec::ConfigMap { namespace, name, key } => {
            let judge = judge(format!("key {key} of ConfigMap {namespace}/{name}"));
            let cluster = cluster(host, &judge)?;
            let states = object::config_map(cluster, namespace, name, key, judge, host, stop).await;
            Ok(Trust::new(Arc::new(Followed(states))))
        }
        RootsSpec::ClusterTrustBundle { name } => {
            let judge = judge(format!("ClusterTrustBundle {name}"));
            let cluster = cluster(host, &judge)?;
            let states = object::cluster_trust_bundle(cluster, name, judge, host, stop).await?;
            Ok(Trust::new(Arc::new(Followed(states))))
        }
        RootsSpec::Discover => {
            let discovery = host.trust.discovery.clone().ok_or(OpenRootsError::NothingToDiscover)?;
            tracing::warn!(
                %signer,
                "the roots of this signer are what its issuer says they are: whoever can write the status of the RA's CertificateRequest could add one; give it roots (--root-ca-file) to pin them"
            );
            Ok(Trust::new(Arc::new(discovery)))
        }
    }
}

fn cluster<'a>(host: &'a Host, judge: &Judge) -> Result<&'a Cluster, OpenRootsError> {
    host.cluster.as_ref().ok_or_else(|| OpenRootsError::NoKubernetes {
        place: judge.place.clone(),
    })
}

/// Decides what the content of a place means.
#[derive(Clone, Debug)]
struct Judge {
    signer: SignerName,
    place: String,
    metrics: TrustMetrics,
}

// === impl Judge ===

impl Judge {
    /// Roots, or the reason why this content is none on purpose. Damage is an error: the caller keeps what it has.
    fn judge(&self, content: Option<&str>) -> Result<State, BundleError> {
        let place = || self.place.clone();
        let state = match content {
            None => Err(NoRoots::Gone { place: place() }),
            Some(text) => match Roots::parse(text) {
                Ok(roots) => Ok(Arc::new(roots)),
                Err(BundleError::Empty) => Err(NoRoots::Empty { place: place() }),
                Err(damage) => return Err(damage),
            },
        };
        self.tell(&state);
        Ok(state)
    }

    /// As [`judge`](Self::judge), into a channel that may hold earlier roots.
    fn publish(&self, content: Option<&str>, states: &watch::Sender<Arc<State>>) {
        match self.judge(content) {
            Ok(state) => _ = states.send_if_modified(|old| replace(old, state)),
            Err(damage) => {
                let fault = logging::chain(&damage);
                let kept = states.borrow().is_ok();
                self.metrics.damaged(&self.signer);
                tracing::warn!(signer = %self.signer, place = self.place, fault, kept, "damaged roots not taken");
                if !kept {
                    let place = self.place.clone();
                    let state = Err(NoRoots::Damaged { place, fault });
                    states.send_if_modified(|old| replace(old, state));
                }
            }
        }
    }

    fn tell(&self, state: &State) {
        self.metrics.present(&self.signer, state.is_ok());
        match state {
            Ok(roots) => {
                let roots = roots.bundle().len();
                tracing::info!(signer = %self.signer, place = self.place, roots, "roots read");
            }
            Err(none) => {
                let reason = none.reason();
                tracing::warn!(signer = %self.signer, place = self.place, reason, "no roots: the signer is refused");
            }
        }
    }
}

fn replace(old: &mut Arc<State>, new: State) -> bool {
    let changed = **old != new;
    if changed {
        *old = Arc::new(new);
    }
    changed
}

#[cfg(test)]
mod tests;
