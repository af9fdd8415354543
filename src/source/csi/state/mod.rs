//! What a successor needs to bind all sockets at once: a file on the host's tmpfs, never a key, never a token.
//!
//! The folder is the agent's alone (0700), the file 0600 and replaced by rename. One agent writes: the one that holds the
//! lock, which it lets go when it has answered kubelet's last call and written the last change. Another one beside it (an
//! upgrade) reads, waits for the lock, reads again what happened meanwhile, and writes from then on. What cannot be read, or
//! was written for another node or by another version, is set aside and said, one volume that means nothing is left out:
//! kubelet publishes every volume again, so losing the state costs a minute, not a certificate. Where there is no
//! volume there is no file.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ensign_pki::KeyError;
use rustix::fs::{self, AtFlags, CWD, FileType, FlockOperation, Mode, OFlags};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::Config;
use super::request::{Pod, Volume};
use super::target::Target;
use crate::csr_client::SignerName;

/// Every published volume.
pub(super) type Volumes = Vec<(Target, Volume)>;

/// One version of what is to be saved.
#[derive(Debug, Default)]
pub(super) struct Revision {
    pub(super) number: u64,
    pub(super) volumes: Volumes,
}

/// Why there is no folder for the state.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// It cannot be made or opened.
    #[error("state folder {path} (--state-dir) cannot be {step}: {source}; mount a folder of the host's tmpfs there")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What was tried.
        step: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// Somebody else could change what we believe.
    #[error(
        "state folder {path} (--state-dir) belongs to uid {owner}, expected the agent's own, {ours}; name another folder"
    )]
    Owner {
        /// The folder.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Who we are.
        ours: u32,
    },
}

/// The folder, and the lock if we have it.
#[derive(Debug)]
pub(super) struct State {
    folder: PathBuf,
    config: Config,
    lock: OwnedFd,
    locked: bool,
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

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct File {
    version: u32,
    node: String,
    volumes: Vec<Entry>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Entry {
    volume_id: String,
    pod_uid: String,
    volume: String,
    namespace: String,
    pod: String,
    service_account: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    signer: Option<String>,
    key_type: String,
    socket_name: String,
}

// === impl State ===

impl State {
    /// Opens the folder, makes it private, takes the lock if it is free. Called before the agent serves.
    pub(super) fn open(config: &Config) -> Result<Self, StateError> {
        let path = &config.state_dir;
        let failed = |step| {
            move |errno: rustix::io::Errno| StateError::Folder {
                path: path.clone(),
                step,
                source: errno.into(),
            }
        };
        match fs::mkdir(path, PRIVATE_FOLDER) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(errno) => return Err(failed("made")(errno)),
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let folder = fs::openat(CWD, path, flags, Mode::empty()).map_err(failed("opened"))?;
        let stat = fs::fstat(&folder).map_err(failed("looked at"))?;
        let ours = rustix::process::geteuid().as_raw();
        if stat.st_uid != ours {
            return Err(StateError::Owner {
                path: path.clone(),
                owner: stat.st_uid,
                ours,
            });
        }
        // Kubelet makes a missing hostPath for all to read.
        fs::fchmod(&folder, PRIVATE_FOLDER).map_err(failed("made private"))?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let lock = fs::openat(&folder, LOCK, flags, PRIVATE_FILE).map_err(failed("locked"))?;
        let mut state = Self {
            folder: path.clone(),
            config: config.clone(),
            lock,
            locked: false,
        };
        if !state.lock() {
            tracing::info!(folder = %path.display(), "another agent has the state's lock, reading only until it is gone");
        }
        Ok(state)
    }

    /// Whether another agent lives that has not stopped yet.
    pub(super) fn is_anothers(&self) -> bool {
        !self.locked
    }

    fn lock(&mut self) -> bool {
        self.locked = self.locked || fs::flock(&self.lock, FlockOperation::NonBlockingLockExclusive).is_ok();
        self.locked
    }

    /// What the predecessor left, or has so far. Anything wrong is set aside, by the agent that may write.
    pub(super) fn load(&self) -> Volumes {
        let path = self.folder.join(FILE);
        let outcome = match read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Vec::new(),
            Err(error) => Err(error.to_string()),
            Ok(bytes) => parse(&bytes, &self.config),
        };
        match outcome {
            Ok(volumes) => volumes,
            Err(reason) if !self.locked => {
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
            inherited: self.locked,
            state: self,
            newest: changes,
            saved: sender,
        };
        (saver, writer)
    }

    async fn write(&self, revision: &Revision) -> io::Result<()> {
        if revision.volumes.is_empty() {
            return match fs::unlinkat(CWD, self.folder.join(FILE), AtFlags::empty()) {
                Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
                Err(errno) => Err(errno.into()),
            };
        }
        let file = File {
            version: VERSION,
            node: self.config.node_name.clone(),
            volumes: revision.volumes.iter().map(entry).collect(),
        };
        let bytes = serde_json::to_vec(&file).map_err(io::Error::other)?;
        let (new, path) = (self.folder.join(NEW), self.folder.join(FILE));
        let written = tokio::task::spawn_blocking(move || replace(&new, &path, &bytes)).await;
        written.map_err(io::Error::other)?
    }
}

// === impl Saver ===

impl Saver {
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
        while !self.state.lock() {
            sleep(LOCK_RETRY).await;
        }
    }

    /// Writes until `stop`, and then once more what came last.
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
                () = sleep(if failure.is_some() { WRITE_RETRY } else { LOCK_RETRY }), if dirty || !self.inherited => {}
            }
            if !self.state.lock() {
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
            if dirty || stopping && revision.number > *self.saved.borrow() {
                let folder = self.state.folder.display();
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

fn entry((target, volume): &(Target, Volume)) -> Entry {
    Entry {
        volume_id: volume.id.clone(),
        pod_uid: target.pod_uid.clone(),
        volume: target.volume.clone(),
        namespace: volume.pod.namespace.clone(),
        pod: volume.pod.name.clone(),
        service_account: volume.pod.service_account.clone(),
        signer: volume.signer.as_ref().map(SignerName::to_string),
        key_type: volume.key_type.to_string(),
        socket_name: volume.socket_name.clone(),
    }
}

fn parse(bytes: &[u8], config: &Config) -> Result<Volumes, String> {
    let file: File = serde_json::from_slice(bytes).map_err(|error| format!("it is not of our form: {error}"))?;
    if file.version != VERSION {
        return Err(format!("its version is {}, expected {VERSION}", file.version));
    }
    if file.node != config.node_name {
        return Err(format!("it is of node {:?}, this is {:?}", file.node, config.node_name));
    }
    let mut volumes = Vec::with_capacity(file.volumes.len());
    for entry in file.volumes {
        match volume(entry, config) {
            Ok(volume) => volumes.push(volume),
            Err(reason) => tracing::error!(
                reason,
                "a volume of the state means nothing to us; kubelet publishes it again within some two minutes"
            ),
        }
    }
    Ok(volumes)
}

/// What was allowed when it was published stays, whatever is allowed now: its pod cannot be asked again.
fn volume(entry: Entry, config: &Config) -> Result<(Target, Volume), String> {
    let target = Target::new(&entry.pod_uid, &entry.volume).ok_or("a volume's place is no name")?;
    let key_type = entry.key_type.parse().map_err(|error: KeyError| error.to_string())?;
    let pod = Pod {
        namespace: entry.namespace,
        name: entry.pod,
        service_account: entry.service_account,
    };
    let (signer, domain) = (entry.signer.as_deref(), &config.trust_domain);
    let volume = Volume::new(entry.volume_id, pod, signer, key_type, &entry.socket_name, domain);
    Ok((target, volume.map_err(|refusal| refusal.to_string())?))
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

fn replace(new: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    // What a crash left.
    let _ = fs::unlinkat(CWD, new, AtFlags::empty());
    let file = fs::openat(CWD, new, flags, PRIVATE_FILE)?;
    io::Write::write_all(&mut std::fs::File::from(file), bytes)?;
    Ok(fs::rename(new, path)?)
}

const FILE: &str = "csi.json";
const NEW: &str = ".csi.json.new";
const ASIDE: &str = "csi.json.aside";
const LOCK: &str = "csi.lock";
const VERSION: u32 = 1;
const PRIVATE_FOLDER: Mode = Mode::RWXU;
const PRIVATE_FILE: Mode = Mode::RUSR.union(Mode::WUSR);
/// Ten thousand volumes; more is no state of ours.
const MAX_BYTES: u64 = 8 * 1024 * 1024;
/// How often the lock of a predecessor is tried again.
const LOCK_RETRY: Duration = Duration::from_millis(250);
/// How often a write that failed is tried again, unless something new is to be written.
const WRITE_RETRY: Duration = Duration::from_secs(5);
/// tmpfs answers in microseconds.
const SAVE_PATIENCE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests;
