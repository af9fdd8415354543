//! What a successor needs to bind all sockets at once: a file on the host's tmpfs, never a key, never a token.
//!
//! The folder is the agent's alone (0700), the file 0600 and replaced by rename. One agent writes: the one that holds the
//! lock, which it lets go when it has answered kubelet's last call and written the last change. Another one beside it (an
//! upgrade) reads, waits for the lock, reads again what happened meanwhile, and writes from then on. What cannot be read, or
//! was written for another node or by another version, is set aside and said, one volume that means nothing is left out:
//! kubelet publishes every volume again, so losing the state costs a minute, not a certificate. Where there is no
//! volume there is no file. Lock and file that something else takes away under a running agent are back within [`LOOK`]:
//! an agent that starts later finds both. The form of the file is [`form`]'s, the lock is [`lock`]'s.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{self, AtFlags, CWD, FileType, Mode, OFlags};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::Config;
use super::request::Volume;
use super::target::Target;

mod form;
mod lock;

pub use self::lock::StateError;

use self::lock::{Inode, Lock};

/// Every published volume.
pub(super) type Volumes = Vec<(Target, Volume)>;

/// One version of what is to be saved.
#[derive(Debug, Default)]
pub(super) struct Revision {
    pub(super) number: u64,
    pub(super) volumes: Volumes,
}

/// The folder, and the lock if we have it.
#[derive(Debug)]
pub(super) struct State {
    folder: PathBuf,
    config: Config,
    lock: Lock,
    /// The file that we wrote last; none if we wrote none, or took it away.
    file: Option<Inode>,
}

/// Where changes are handed in.
#[derive(Clone, Debug)]
pub(super) struct Saver {
    newest: Arc<watch::Sender<Arc<Revision>>>,
    saved: watch::Receiver<u64>,
}

/// Writes what is handed in.
#[derive(Debug)]
pub(super) struct Writer {
    state: State,
    /// Whether what another agent did beside us is taken over, or there was none.
    inherited: bool,
    newest: watch::Receiver<Arc<Revision>>,
    saved: watch::Sender<u64>,
}

// === impl State ===

impl State {
    /// Opens the folder, makes it private, takes the lock if it is free. Called before the agent serves.
    pub(super) fn open(config: &Config) -> Result<Self, StateError> {
        let mut state = Self {
            folder: config.state_dir.clone(),
            config: config.clone(),
            lock: Lock::open(&config.state_dir)?,
            file: None,
        };
        if !state.lock.take() {
            tracing::info!(folder = %state.folder.display(), "another agent has the state's lock, reading only until it is gone");
        }
        Ok(state)
    }

    /// Whether another agent lives that has not stopped yet.
    pub(super) fn is_anothers(&self) -> bool {
        !self.lock.is_ours()
    }

    /// Whether the file that we wrote is not there any more.
    fn is_wiped(&self) -> bool {
        self.file.is_some() && Inode::at(&self.folder.join(FILE)) != self.file
    }

    /// What the predecessor left, or has so far. Anything wrong is set aside, by the agent that may write.
    pub(super) fn load(&self) -> Volumes {
        let path = self.folder.join(FILE);
        let outcome = match read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Vec::new(),
            Err(error) => Err(error.to_string()),
            Ok(bytes) => form::read(&bytes, &self.config),
        };
        match outcome {
            Ok(volumes) => volumes,
            Err(reason) if !self.lock.is_ours() => {
                tracing::error!(
                    path = %path.display(), reason,
                    "state of the agent beside us means nothing to us; kubelet publishes every volume again within some two minutes"
                );
                Vec::new()
            }
            Err(reason) => {
                let aside = self.folder.join(ASIDE);
                let error = fs::rename(&path, &aside).err().map(io::Error::from);
                tracing::error!(
                    path = %path.display(), aside = %aside.display(), reason, error = error.map(tracing::field::display),
                    "state is set aside; kubelet publishes every volume again within some two minutes"
                );
                Vec::new()
            }
        }
    }

    /// The way in and the task behind it.
    pub(super) fn writer(self) -> (Saver, Writer) {
        let (newest, changes) = watch::channel(Arc::new(Revision::default()));
        let (sender, saved) = watch::channel(0);
        let saver = Saver {
            newest: Arc::new(newest),
            saved,
        };
        let writer = Writer {
            inherited: self.lock.is_ours(),
            state: self,
            newest: changes,
            saved: sender,
        };
        (saver, writer)
    }

    async fn write(&mut self, revision: &Revision) -> io::Result<()> {
        if revision.volumes.is_empty() {
            self.file = None;
            return match fs::unlinkat(CWD, self.folder.join(FILE), AtFlags::empty()) {
                Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
                Err(errno) => Err(errno.into()),
            };
        }
        let bytes = form::write(&revision.volumes, &self.config.node_name)?;
        let (new, path) = (self.folder.join(NEW), self.folder.join(FILE));
        let written = tokio::task::spawn_blocking(move || replace(&new, &path, &bytes)).await;
        self.file = written.map_err(io::Error::other)??;
        Ok(())
    }
}

// === impl Saver ===

impl Saver {
    /// What is known at the start. Nobody waits for it.
    pub(super) fn begin_with(&self, revision: Revision) {
        self.newest.send_replace(Arc::new(revision));
    }

    /// Hands a revision in and waits until it, or a newer one, is written: what was answered to kubelet outlives us. Bounded,
    /// because a file system that hangs must not hold up a pod.
    pub(super) async fn save(&self, revision: Revision) {
        let number = revision.number;
        self.newest.send_if_modified(|newest| {
            let newer = newest.number < number;
            if newer {
                *newest = Arc::new(revision);
            }
            newer
        });
        let mut saved = self.saved.clone();
        let written = timeout(SAVE_PATIENCE, saved.wait_for(|saved| *saved >= number)).await;
        if written.is_err() {
            tracing::warn!("state is not written yet, going on");
        }
    }
}

// === impl Writer ===

impl Writer {
    /// Waits until no other agent has the lock.
    pub(super) async fn alone(&mut self) {
        while !self.state.lock.take() {
            sleep(LOCK_RETRY).await;
        }
    }

    /// Writes until `stop`, and then once more what came last. What something else takes away meanwhile is written again.
    ///
    /// `inherit` is called once: when the lock is ours and what the agent beside us did since our start is known. It gives the
    /// revision that holds both.
    pub(super) async fn run<F>(mut self, inherit: impl FnOnce(Volumes) -> F, stop: CancellationToken)
    where
        F: Future<Output = Revision>,
    {
        let mut inherit = Some(inherit);
        // Set if the newest revision is not on the disk.
        let mut dirty = false;
        // Why, if it could not be written: said once.
        let mut failure = None;
        let mut merged = Arc::new(Revision::default());
        let mut stopping = false;
        while !stopping {
            tokio::select! {
                () = stop.cancelled() => stopping = true,
                changed = self.newest.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    dirty = true;
                }
                () = sleep(match (&failure, self.inherited) {
                    (Some(_), _) => WRITE_RETRY,
                    (None, false) => LOCK_RETRY,
                    (None, true) => LOOK,
                }) => {}
            }
            if !self.state.lock.take() {
                // Nobody waits for a lock that another holds.
                let number = self.newest.borrow_and_update().number;
                self.saved.send_replace(number);
                continue;
            }
            if !self.inherited
                && let Some(inherit) = inherit.take()
            {
                self.inherited = true;
                tracing::info!(folder = %self.state.folder.display(), "the agent before us is gone, its state is ours");
                merged = Arc::new(inherit(self.state.load()).await);
                dirty = true;
            }
            let newest = Arc::clone(&self.newest.borrow_and_update());
            let revision = if newest.number > merged.number {
                newest
            } else {
                Arc::clone(&merged)
            };
            if self.state.is_wiped() {
                tracing::warn!(
                    folder = %self.state.folder.display(), volumes = revision.volumes.len(),
                    "state was taken away by something else, it is written again"
                );
                dirty = true;
            }
            // At the end in any case: it is the last chance.
            if dirty || stopping {
                let folder = self.state.folder.display().to_string();
                match self.state.write(&revision).await {
                    Ok(()) => {
                        dirty = false;
                        if failure.take().is_some() {
                            tracing::info!(%folder, "state can be written again");
                        }
                    }
                    Err(error) => {
                        let error = error.to_string();
                        if failure.as_ref() != Some(&error) {
                            tracing::error!(
                                error, %folder,
                                "state cannot be written and is tried again; an agent that starts meanwhile does not know the newest volumes \
                                 until kubelet publishes them again"
                            );
                        }
                        failure = Some(error);
                    }
                }
            }
            // Nor for a disk that is full.
            self.saved.send_replace(revision.number);
        }
    }
}

/// Only a file of ours: a symlink or somebody else's file is not read.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = fs::openat(CWD, path, flags, Mode::empty())?;
    let stat = fs::fstat(&file)?;
    let ours = stat.st_uid == rustix::process::geteuid().as_raw();
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile || !ours {
        return Err(io::Error::other("it is no regular file of the agent's own user"));
    }
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut io::Read::take(std::fs::File::from(file), MAX_BYTES), &mut bytes)?;
    Ok(bytes)
}

/// Gives which file it is.
fn replace(new: &Path, path: &Path, bytes: &[u8]) -> io::Result<Option<Inode>> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    // What a crash left.
    let _ = fs::unlinkat(CWD, new, AtFlags::empty());
    let file = fs::openat(CWD, new, flags, PRIVATE_FILE)?;
    let inode = Inode::of(&file);
    io::Write::write_all(&mut std::fs::File::from(file), bytes)?;
    fs::rename(new, path)?;
    Ok(inode)
}

const FILE: &str = "csi.json";
const NEW: &str = ".csi.json.new";
const ASIDE: &str = "csi.json.aside";
const PRIVATE_FILE: Mode = Mode::RUSR.union(Mode::WUSR);
/// Ten thousand volumes; more is no state of ours.
const MAX_BYTES: u64 = 8 * 1024 * 1024;
/// How often lock and file are looked for. An agent that starts sooner after they are gone takes itself for the only one.
const LOOK: Duration = Duration::from_secs(1);
/// How often the lock of a predecessor is tried again.
const LOCK_RETRY: Duration = Duration::from_millis(250);
/// How often a write that failed is tried again, unless something new is to be written.
const WRITE_RETRY: Duration = Duration::from_secs(5);
/// tmpfs answers in microseconds.
const SAVE_PATIENCE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests;
