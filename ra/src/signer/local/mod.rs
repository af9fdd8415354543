//! The built-in CA: certificate and key in a folder, plugged in by the operator or self-made on first start.
//!
//! Owns the signer's side of it: follows the folder live (a set of files that does not fit together is refused whole
//! and the old one keeps signing), and signs each request at once. An EC signature takes tens of microseconds and is
//! made in place; an RSA one takes milliseconds and goes to a blocking thread, a bounded number at a time.
//!
//! The key file stays readable to the RA alone: `selfmade` makes it 0600 and refuses it once it is open to everybody;
//! a plugged-in one that is open to group or others is used with a warning, since a mounted Secret looks like that.

pub(crate) mod der;
pub(crate) mod folder;
pub(crate) mod issuer;
pub(crate) mod root;
pub(crate) mod selfmade;

#[cfg(test)]
mod tests;

use std::{
    fmt,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use ensign_daemon::watched_file::{WatchError, WatchMetrics, WatchedFile};
use ensign_pki::{SharedClock, SignerName, TrustDomain};
use futures::future::BoxFuture;
use rustls_pki_types::CertificateDer;
use thiserror::Error;
use tokio::{
    sync::{Semaphore, watch},
    task::spawn_blocking,
    time::timeout_at,
};

use self::{
    folder::{Authority, Files},
    issuer::{IssueError, Issuer, Leaf, Name, Purpose},
    selfmade::{Outcome, SelfMadeError},
};
use super::{Issuance, Issued, IssuedChain, Signer, SignerError};
use crate::{
    policy::LocalSpec,
    trust::{NoRoots, Roots, RootsSource},
};

/// Signs with the CA of one folder.
pub struct LocalSigner {
    name: SignerName,
    authority: watch::Receiver<Arc<Authority>>,
    backdate: Duration,
    clock: SharedClock,
    slow: Arc<Semaphore>,
}

/// Why a local CA does not start.
#[derive(Debug, Error)]
pub enum LocalError {
    /// It should make itself, and cannot.
    #[error("no CA could be found or made")]
    SelfMade(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Its files are missing or wrong.
    #[error("the CA cannot be loaded")]
    Load(#[source] WatchError),
    /// The process is stopping.
    #[error("the start was interrupted")]
    Interrupted,
}

/// What all local CAs need of the process.
#[derive(Clone, Debug)]
pub(crate) struct Surroundings {
    pub(crate) clock: SharedClock,
    pub(crate) metrics: WatchMetrics,
}

// === impl LocalSigner ===

impl LocalSigner {
    /// Loads the CA of `spec`, made first if it should make itself. The second part keeps it up to date: run it.
    pub(crate) async fn open(
        name: &SignerName,
        spec: &LocalSpec,
        roots: Option<&Path>,
        trust_domain: &TrustDomain,
        backdate: Duration,
        surroundings: &Surroundings,
    ) -> Result<(Self, WatchedFile<Authority>), LocalError> {
        if spec.self_signed {
            make(&spec.dir, name.as_str(), trust_domain, &surroundings.clock).await?;
        }
        let (authority, watched) = load(&spec.dir, roots, trust_domain, "CA folder", surroundings).await?;
        let slow = std::thread::available_parallelism().map_or(1, usize::from);
        let signer = Self {
            name: name.clone(),
            authority,
            backdate,
            clock: Arc::clone(&surroundings.clock),
            slow: Arc::new(Semaphore::new(slow)),
        };
        Ok((signer, watched))
    }

    async fn leaf(&self, issuance: Issuance) -> Result<IssuedChain, SignerError> {
        let authority = Arc::clone(&self.authority.borrow());
        let (backdate, now) = (self.backdate, self.clock.now());
        if !authority.issuer.slow() {
            return workload_chain(&authority.issuer, &issuance, backdate, now).map_err(|error| self.refusal(&error));
        }
        let deadline = issuance.deadline;
        let signed = async {
            // Dropped with the permit and the task's answer when the caller goes: no thread waits for it.
            let permit = Arc::clone(&self.slow)
                .acquire_owned()
                .await
                .map_err(|_| self.stopping())?;
            let work = move || {
                let _permit = permit;
                workload_chain(&authority.issuer, &issuance, backdate, now)
            };
            spawn_blocking(work)
                .await
                .map_err(|_| self.stopping())?
                .map_err(|error| self.refusal(&error))
        };
        timeout_at(deadline, signed).await.unwrap_or_else(|_| {
            Err(SignerError::TimedOut {
                signer: self.name.clone(),
                detail: "the RSA signatures before this one took too long; use an EC CA or more processors".to_owned(),
            })
        })
    }

    fn refusal(&self, error: &IssueError) -> SignerError {
        SignerError::Unavailable {
            signer: self.name.clone(),
            detail: error.to_string(),
        }
    }

    fn stopping(&self) -> SignerError {
        SignerError::Unavailable {
            signer: self.name.clone(),
            detail: "the process is stopping".to_owned(),
        }
    }
}

impl Signer for LocalSigner {
    fn sign(&self, issuance: Issuance) -> BoxFuture<'_, Result<Issued, SignerError>> {
        Box::pin(async { self.leaf(issuance).await.map(Issued::from) })
    }

    fn ca_not_after(&self) -> Option<SystemTime> {
        Some(self.authority.borrow().issuer.not_after())
    }
}

impl RootsSource for LocalSigner {
    fn roots(&self) -> Result<Arc<Roots>, NoRoots> {
        Ok(Arc::clone(&self.authority.borrow().roots))
    }
}

impl fmt::Debug for LocalSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalSigner")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// Makes sure that `dir` holds a CA that made itself.
pub(crate) async fn make(
    dir: &Path,
    name: &str,
    trust_domain: &TrustDomain,
    clock: &SharedClock,
) -> Result<(), LocalError> {
    let (folder, name, trust_domain, now) = (dir.to_owned(), name.to_owned(), trust_domain.clone(), clock.now());
    let outcome = spawn_blocking(move || selfmade::ensure(&folder, || Ok(root::make(&name, &trust_domain, now)?)));
    let outcome = outcome.await.map_err(|_| LocalError::Interrupted)?;
    match outcome.map_err(|error: SelfMadeError| LocalError::SelfMade(error.into()))? {
        Outcome::Made => tracing::info!(dir = %dir.display(), "made a new CA"),
        Outcome::LostRace => tracing::info!(dir = %dir.display(), "another process made the CA"),
        Outcome::Found => {}
    }
    Ok(())
}

/// Loads the CA of a folder and follows it.
pub(crate) async fn load(
    dir: &Path,
    roots: Option<&Path>,
    trust_domain: &TrustDomain,
    label: &'static str,
    surroundings: &Surroundings,
) -> Result<(watch::Receiver<Arc<Authority>>, WatchedFile<Authority>), LocalError> {
    let files = Files::new(dir, roots);
    let set = files.watched(label).metrics(&surroundings.metrics);
    let (trust_domain, clock) = (trust_domain.clone(), Arc::clone(&surroundings.clock));
    let judge = move |contents: &_| Ok(files.judge(contents, &trust_domain, clock.now())?);
    set.required(judge).await.map_err(LocalError::Load)
}

/// The leaf of a mesh workload and its intermediates: all that the RA signs for others.
///
/// One call is one signature and a few hundred copied bytes. Together with the check of the CSR's own signature it is
/// the raw limit that the benchmark of the whole RA is held against.
fn workload_chain(
    issuer: &Issuer,
    issuance: &Issuance,
    backdate: Duration,
    now: SystemTime,
) -> Result<Vec<CertificateDer<'static>>, IssueError> {
    let leaf = Leaf {
        spki_der: issuance.csr.spki_der(),
        rsa: issuance.csr.key_type().is_rsa(),
        names: &[Name::Uri(issuance.id.as_str())],
        purpose: Purpose::Workload,
        ttl: issuance.ttl,
        backdate,
    };
    let leaf = issuer.issue(&leaf, now)?;
    Ok(std::iter::once(leaf)
        .chain(issuer.intermediates().iter().cloned())
        .collect())
}
