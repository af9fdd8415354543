//! The policy in effect together with the signers that it names, as one value.
//!
//! A reload makes a new [`Desk`] or none: a policy that cannot be read, or one of whose signers does not start, is
//! refused whole and the old desk stays. A request takes the desk once and sees one policy and its signers to the end.
//! Signers whose description did not change are carried over, with their state.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use ensign_daemon::watched_file::{Contents, FileSet, WatchError, WatchMetrics, WatchedFile};
use ensign_pki::SharedClock;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::metrics::Metrics;
use crate::policy::{Backend, Policy, SignerSpec};
use crate::serving;
use crate::signer::{Host, Running, SignerName, Signers};

/// A policy and its signers.
#[derive(Debug)]
pub struct Desk {
    /// The operator's word.
    pub policy: Policy,
    signers: Signers,
}

/// Starts the signers of a policy: the real ones ([`Host`]), or those of a test.
pub trait OpenSigners: std::fmt::Debug + Send + Sync {
    /// All signers of `policy`, taking over from `before` those that did not change.
    fn open<'a>(&'a self, policy: &'a Policy, before: &'a Signers) -> BoxFuture<'a, anyhow::Result<Signers>>;
}

/// What a reload needs beside the file.
#[derive(Debug, Clone)]
pub struct DeskParts {
    /// Starts signers.
    pub signers: Arc<dyn OpenSigners>,
    /// Counts.
    pub metrics: Metrics,
    /// Counts failures.
    pub files: WatchMetrics,
    /// Tells the time.
    pub clock: SharedClock,
    /// The folder of the RA's serving CA, which no signer may share.
    pub serving_ca: Option<PathBuf>,
}

// === impl Desk ===

impl Desk {
    /// A signer of the policy.
    pub fn signer(&self, name: &SignerName) -> Option<&Arc<Running>> {
        self.signers.get(name)
    }

    /// The signers of the policy.
    pub fn signers(&self) -> &Signers {
        &self.signers
    }
}

impl OpenSigners for Host {
    fn open<'a>(&'a self, policy: &'a Policy, before: &'a Signers) -> BoxFuture<'a, anyhow::Result<Signers>> {
        Box::pin(async move { Ok(Signers::open(policy.signers(), before, self).await?) })
    }
}

/// Reads the policy file and starts its signers, which must succeed; then follows the file.
pub async fn watch(
    path: &Path,
    parts: DeskParts,
) -> Result<(watch::Receiver<Arc<Desk>>, WatchedFile<Desk>), WatchError> {
    let files = FileSet::file(POLICY, path).metrics(&parts.files);
    let before = Mutex::new(Signers::default());
    let runtime = Handle::current();
    files
        .required(move |contents| load(contents, &parts, &before, &runtime))
        .await
}

/// Runs on a blocking thread, so it may wait for signers to start (they read keys and may make one).
fn load(contents: &Contents, parts: &DeskParts, before: &Mutex<Signers>, runtime: &Handle) -> anyhow::Result<Desk> {
    let policy = Policy::parse(contents.text(0)?)?;
    // Before any signer starts, since one may make a CA in its folder.
    if let Some(dir) = &parts.serving_ca {
        serving::refuse_overlap(dir, &folders(&policy))?;
    }
    let old = before.lock().clone();
    let signers = runtime
        .block_on(parts.signers.open(&policy, &old))
        .context("the policy is refused because not all of its signers start")?;
    *before.lock() = signers.clone();
    parts.metrics.reloaded(POLICY, parts.clock.now());
    Ok(Desk { policy, signers })
}

fn folders(policy: &Policy) -> Vec<(String, PathBuf)> {
    let folder = |spec: &SignerSpec| match &spec.backend {
        Backend::Local(local) => Some((spec.name.to_string(), local.dir.clone())),
        Backend::KubernetesCsr(_) | Backend::CertManager(_) => None,
    };
    policy.signers().filter_map(folder).collect()
}

/// What the file is called in logs and metrics.
const POLICY: &str = "policy";
