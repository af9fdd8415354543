//! A serving certificate from a CA that signs nothing else.
//!
//! Owns the renewal: a leaf of a day, replaced at half of its life and whenever the CA's folder changes, with a new key
//! each time. Promises that the root is written for the agents before a certificate under it is shown, and in one step,
//! so that no reader sees half a file. Time is looked at often instead of slept through, so that a clock that jumps
//! does not leave an expired certificate in place.

use std::{
    io::{self, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::{Component, Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use ensign_pki::{SharedClock, TrustDomain};
use tokio::{
    sync::watch,
    task::spawn_blocking,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{ServingError, Shown, handover::Handover, leaf::ServerNames};
use crate::signer::{
    Host,
    local::{self, Surroundings, folder::Authority},
};

/// A checked configuration.
#[derive(Debug)]
pub(super) struct OwnCa {
    dir: PathBuf,
    names: ServerNames,
    root_file: Option<PathBuf>,
}

/// Keeps a serving certificate fresh.
struct Renewal {
    ca: OwnCa,
    authority: watch::Receiver<Arc<Authority>>,
    clock: SharedClock,
    handover: Handover,
    renew_at: SystemTime,
}

/// Refuses a folder that a signer uses, contains, or is contained in.
pub fn refuse_overlap(dir: &Path, signer_dirs: &[(String, PathBuf)]) -> Result<(), ServingError> {
    let own = resolved(dir);
    for (signer, other) in signer_dirs {
        let theirs = resolved(other);
        if own.starts_with(&theirs) || theirs.starts_with(&own) {
            return Err(ServingError::Overlap {
                dir: dir.display().to_string(),
                other: other.display().to_string(),
                signer: signer.clone(),
            });
        }
    }
    Ok(())
}

/// Makes or loads the CA, issues the first certificate, and starts the renewal.
pub(super) async fn open(
    ca: OwnCa,
    trust_domain: &TrustDomain,
    host: &Host,
) -> Result<watch::Receiver<Arc<Shown>>, ServingError> {
    let failed = |dir: &Path| {
        let dir = dir.display().to_string();
        move |source| ServingError::OwnCa { dir, source }
    };
    local::make(&ca.dir, "serving", trust_domain, &host.clock)
        .await
        .map_err(failed(&ca.dir))?;
    let surroundings = Surroundings {
        clock: Arc::clone(&host.clock),
        metrics: host.files.clone(),
    };
    let loaded = local::load(&ca.dir, None, trust_domain, "serving CA folder", &surroundings).await;
    let (mut authority, watched) = loaded.map_err(failed(&ca.dir))?;
    let first = Arc::clone(&authority.borrow_and_update());
    // No overlap: agents read the file, and whoever brought another CA into the folder knows when.
    let (handover, current) = Handover::new(String::new(), Duration::ZERO, Arc::clone(&host.clock));
    let mut renewal = Renewal {
        ca,
        authority,
        clock: Arc::clone(&host.clock),
        handover,
        renew_at: SystemTime::UNIX_EPOCH,
    };
    renewal.take(&first).await?;
    host.tasks.spawn(watched.run(host.stop.child_token()));
    host.tasks.spawn(renewal.run(host.stop.child_token()));
    Ok(current)
}

// === impl OwnCa ===

impl OwnCa {
    pub(super) fn new(dir: PathBuf, names: Vec<String>, root_file: Option<PathBuf>) -> Result<Self, ServingError> {
        Ok(Self {
            dir,
            names: ServerNames::parse(names)?,
            root_file,
        })
    }

    async fn write_root(&self, authority: &Authority) -> Result<(), ServingError> {
        let Some(path) = self.root_file.clone() else {
            return Ok(());
        };
        let failed = |source| ServingError::RootFile {
            path: path.display().to_string(),
            source,
        };
        let (target, pem) = (path.clone(), Arc::clone(authority.roots.pem()));
        match spawn_blocking(move || write_whole(&target, pem.as_bytes())).await {
            Ok(written) => written.map_err(failed),
            Err(error) => Err(failed(io::Error::other(error))),
        }
    }
}

// === impl Renewal ===

impl Renewal {
    async fn run(mut self, stop: CancellationToken) {
        loop {
            let replaced = tokio::select! {
                () = stop.cancelled() => return,
                // Passing the bound without a change is the normal case: then only the time is looked at.
                changed = timeout(LOOK, self.authority.changed()) => matches!(changed, Ok(Ok(()))),
            };
            if (replaced || self.clock.now() >= self.renew_at)
                && let Err(error) = self.renew().await
            {
                let error = ensign_daemon::logging::chain(&error);
                tracing::warn!(error, "the serving certificate is not renewed, the old one stays");
                // A folder that just changed must not be tried in a tight loop.
                sleep(LOOK).await;
            }
        }
    }

    async fn renew(&mut self) -> Result<(), ServingError> {
        let authority = Arc::clone(&self.authority.borrow_and_update());
        self.take(&authority).await
    }

    /// The root goes out first: an agent that reads it in time trusts the next certificate.
    async fn take(&mut self, authority: &Authority) -> Result<(), ServingError> {
        self.ca.write_root(authority).await?;
        let place = self.ca.dir.display().to_string();
        let (face, renew_at) = self.ca.names.issue(authority, &place, self.clock.now())?;
        self.renew_at = renew_at;
        self.handover.offer(face, Arc::clone(&authority.roots));
        Ok(())
    }
}

/// Replaces a file by one of mode 0644 in one step; unchanged content is left alone.
#[expect(clippy::disallowed_methods, reason = "runs on a blocking thread")]
fn write_whole(path: &Path, content: &[u8]) -> io::Result<()> {
    if std::fs::read(path).is_ok_and(|old| old == content) {
        return Ok(());
    }
    let path = std::path::absolute(path)?;
    let folder = path
        .parent()
        .ok_or_else(|| io::Error::other("it names no file in a folder"))?;
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(content)?;
    file.as_file().set_permissions(std::fs::Permissions::from_mode(0o644))?;
    file.as_file().sync_all()?;
    file.persist(&path)?;
    std::fs::File::open(folder)?.sync_all()
}

/// An absolute path without `.`, `..` and links, as far as it exists.
#[expect(
    clippy::disallowed_methods,
    reason = "a few look-ups, on the blocking thread that read the policy"
)]
fn resolved(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    for (depth, existing) in path.ancestors().enumerate() {
        if let Ok(real) = std::fs::canonicalize(existing) {
            let rest: Vec<Component<'_>> = path.components().rev().take(depth).collect();
            return rest.into_iter().rev().fold(real, |path, part| path.join(part));
        }
    }
    path
}

/// How often the time is looked at. Far below half of a lifetime.
const LOOK: Duration = Duration::from_secs(30);
