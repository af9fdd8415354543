//! The policy in effect together with the signers that it names, as one value.
//!
//! It is made of the policy file, of Istio's configuration, or of both. A change of either makes a new [`Desk`] or none:
//! what cannot be read, contradicts the other, or names a signer that does not start is refused whole, said in log and
//! metrics, and the old desk stays. A request takes the desk once and sees one policy and its signers to the end.
//! Signers whose description did not change are carried over, with their state; what they may be asked at once is set
//! anew.

mod keeper;
mod pick;

use std::path::PathBuf;
use std::sync::Arc;

use ensign_daemon::Supervisor;
use ensign_daemon::readiness::Gate;
use ensign_daemon::watched_file::{FileSet, WatchMetrics};
use ensign_pki::{SharedClock, SignerName, TrustDomain};
use futures::future::BoxFuture;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot, watch};

use self::keeper::{Keeper, Offer};
pub use self::pick::{Which, pick};
use crate::mesh::{MeshFeed, MeshMetrics};
use crate::metrics::Metrics;
use crate::policy::{IstioSettings, Policy};
use crate::signer::{Host, Running, Signers};

/// What requests are judged by, and who signs for them.
#[derive(Debug)]
pub struct Desk(Result<OpenDesk, Closed>);

/// A policy and its signers.
#[derive(Debug)]
pub struct OpenDesk {
    /// The operator's word.
    pub policy: Policy,
    signers: Signers,
}

/// There is no policy yet, so nobody is served.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("there is no policy yet: {0}")]
pub struct Closed(String);

/// Starts the signers of a policy: the real ones ([`Host`]), or those of a test.
pub trait OpenSigners: std::fmt::Debug + Send + Sync {
    /// All signers of `policy`, taking over from `before` those that did not change.
    fn open<'a>(&'a self, policy: &'a Policy, before: &'a Signers) -> BoxFuture<'a, anyhow::Result<Signers>>;
}

/// Where policies come from: at least one of file and mesh, or a text alone.
#[derive(Debug, Clone, Default)]
pub struct PolicySources {
    /// The policy file.
    pub file: Option<PathBuf>,
    /// A text in its place, which never changes.
    pub text: Option<Arc<str>>,
    /// Istio's configuration.
    pub mesh: Option<(MeshFeed, IstioSettings)>,
    /// The trust domain of the settings.
    pub trust_domain: Option<TrustDomain>,
}

/// What a reload needs beside its sources.
#[derive(Debug, Clone)]
pub struct DeskParts {
    /// Starts signers.
    pub signers: Arc<dyn OpenSigners>,
    /// Counts.
    pub metrics: Metrics,
    /// Counts what comes of Istio's configuration.
    pub mesh_metrics: MeshMetrics,
    /// Counts failures.
    pub files: WatchMetrics,
    /// Tells the time.
    pub clock: SharedClock,
    /// The folder of the RA's serving CA, which no signer may share.
    pub serving_ca: Option<PathBuf>,
}

// === impl Desk ===

impl Desk {
    pub(crate) fn closed(why: &str) -> Self {
        Self(Err(Closed(why.to_owned())))
    }

    /// The policy with its signers.
    pub fn open(&self) -> Result<&OpenDesk, Closed> {
        self.0.as_ref().map_err(Clone::clone)
    }

    /// The signers at work.
    pub fn signers(&self) -> Signers {
        self.0.as_ref().map(|open| open.signers.clone()).unwrap_or_default()
    }
}

// === impl OpenDesk ===

impl OpenDesk {
    /// A signer of the policy.
    pub fn signer(&self, name: &SignerName) -> Option<&Arc<Running>> {
        self.signers.get(name)
    }
}

impl OpenSigners for Host {
    fn open<'a>(&'a self, policy: &'a Policy, before: &'a Signers) -> BoxFuture<'a, anyhow::Result<Signers>> {
        Box::pin(async move { Ok(Signers::open(policy.signers(), before, self).await?) })
    }
}

/// Makes the first desk and keeps it up to date.
///
/// With a policy file alone the file must be good. With Istio's configuration, which others write at any time, the desk
/// stays closed until there is a policy, and `gate` says why.
pub async fn start(
    sources: PolicySources,
    parts: DeskParts,
    gate: Gate,
    supervisor: &mut Supervisor,
) -> anyhow::Result<watch::Receiver<Arc<Desk>>> {
    let files = FileSet::file(keeper::POLICY, sources.file.clone().unwrap_or_default()).metrics(&parts.files);
    let mesh = sources.mesh.as_ref().map(|(feed, _)| feed.clone());
    // One file is looked at at a time, and its verdict waited for.
    let (offers, offered) = mpsc::channel(1);
    let (keeper, desk) = Keeper::new(&sources, parts, gate);
    let stop = supervisor.stop_token();
    supervisor.spawn("policy", keeper.run(offered, mesh.clone(), stop.clone()));
    if let Some(text) = sources.text {
        let (verdict, told) = oneshot::channel();
        offers.send(Offer { text, verdict }).await.map_err(|_| Stopping)?;
        told.await.map_err(|_| Stopping)??;
    }
    if sources.file.is_none() {
        // The keeper must not take the end of the channel for its own.
        supervisor.spawn("no policy file", async move {
            let _offers = offers;
            stop.cancelled().await;
            Ok(())
        });
        return Ok(desk);
    }
    let judge = move |contents: &ensign_daemon::watched_file::Contents| {
        let (verdict, told) = oneshot::channel();
        let offer = Offer {
            text: contents.text(0)?.into(),
            verdict,
        };
        offers.blocking_send(offer).map_err(|_| Stopping)?;
        told.blocking_recv().map_err(|_| Stopping)?
    };
    match mesh {
        None => {
            let (_, watched) = files.required(judge).await?;
            supervisor.spawn("policy file", watched.run(stop));
        }
        Some(mut mesh) => supervisor.spawn("policy file", async move {
            // A file that names signers of the mesh cannot be judged before they are known.
            let known = async { mesh.wait_for(Option::is_some).await.is_ok() };
            if stop.run_until_cancelled(known).await == Some(true) {
                let (_, watched) = files.optional(judge).await;
                watched.run(stop).await?;
            } else {
                stop.cancelled().await;
            }
            Ok(())
        }),
    }
    Ok(desk)
}

#[derive(Debug, Error)]
#[error("the process is stopping")]
struct Stopping;

#[cfg(test)]
mod tests;
