//! The folder of the state and the lock in it: which of two agents may write.
//!
//! A lock is a file and whoever holds it (flock), so it is gone for others when its file is: an agent that comes then makes another and
//! takes itself for the only one. Each look at it therefore asks whether it is still at its path. Promises: of the agents that
//! wait for the lock, and of those that come when it is back, none has it before its holder ends.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{self, CWD, FlockOperation, Mode, OFlags, Stat};

use super::PRIVATE_FILE;

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

/// The lock, ours or not.
#[derive(Debug)]
pub(super) struct Lock {
    folder: PathBuf,
    file: OwnedFd,
    ours: bool,
    /// Set while it cannot be made again: said once.
    unmade: bool,
}

/// Which file it is, whatever its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Inode {
    device: u64,
    number: u64,
}

// === impl Lock ===

impl Lock {
    /// Makes the folder private, and the lock in it. It is not taken yet.
    pub(super) fn open(folder: &Path) -> Result<Self, StateError> {
        Ok(Self {
            folder: folder.to_owned(),
            file: open(folder)?,
            ours: false,
            unmade: false,
        })
    }

    /// Whether it was ours when it was looked at last.
    pub(super) fn is_ours(&self) -> bool {
        self.ours
    }

    /// Whether the lock is ours, and it is the one that others find. Where something else took it away, it is made again; if another
    /// agent came in between and has the new one, that agent writes from now on, and we when it is gone.
    pub(super) fn take(&mut self) -> bool {
        let path = self.folder.join(LOCK);
        // Whoever waits has the old one too: it is let go when the new one is ours, and whoever gets it then looks here, and waits on.
        self.ours = self.ours || try_lock(&self.file);
        if !self.ours || Inode::at(&path) == Inode::of(&self.file) {
            return self.ours;
        }
        match open(&self.folder) {
            Ok(file) => {
                self.ours = try_lock(&file);
                self.file = file;
                self.unmade = false;
                tracing::warn!(
                    path = %path.display(), ours = self.ours,
                    "lock of the state was taken away by something else, it is made again"
                );
            }
            // What we have keeps those away that knew it.
            Err(error) if !self.unmade => {
                self.unmade = true;
                tracing::error!(
                    path = %path.display(), error = ensign_daemon::logging::chain(&error),
                    "lock of the state was taken away by something else and cannot be made again, it is tried on"
                );
            }
            Err(_) => {}
        }
        self.ours
    }
}

// === impl Inode ===

impl Inode {
    /// Of an open file.
    pub(super) fn of(file: &OwnedFd) -> Option<Self> {
        fs::fstat(file).ok().map(|stat| Self::from(&stat))
    }

    /// Of what is at the path; a symlink is itself.
    pub(super) fn at(path: &Path) -> Option<Self> {
        fs::lstat(path).ok().map(|stat| Self::from(&stat))
    }
}

impl From<&Stat> for Inode {
    fn from(stat: &Stat) -> Self {
        Self {
            device: stat.st_dev,
            number: stat.st_ino,
        }
    }
}

/// Makes the folder if it is not there, and private, and opens the lock in it.
fn open(path: &Path) -> Result<OwnedFd, StateError> {
    let failed = |step| {
        move |errno: rustix::io::Errno| StateError::Folder {
            path: path.to_owned(),
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
            path: path.to_owned(),
            owner: stat.st_uid,
            ours,
        });
    }
    // Kubelet makes a missing hostPath for all to read.
    fs::fchmod(&folder, PRIVATE_FOLDER).map_err(failed("made private"))?;
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    fs::openat(&folder, LOCK, flags, PRIVATE_FILE).map_err(failed("locked"))
}

fn try_lock(lock: &OwnedFd) -> bool {
    fs::flock(lock, FlockOperation::NonBlockingLockExclusive).is_ok()
}

const LOCK: &str = "csi.lock";
const PRIVATE_FOLDER: Mode = Mode::RWXU;
