//! The folder that kubelet hands over, and what may be done in it.
//!
//! A [`Target`] is made from a path only if kubelet itself makes such paths; from then on its parts are used, never the
//! text. The folder is made once and keeps its inode while it is published, because containers hold that. No symlink and no
//! other mount is crossed on the way. All calls are single system calls on a local file system.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::refusal::{Refusal, quoted};
use crate::unix_socket::beneath;

/// A volume's place on this node: which pod, and which of its volumes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Target {
    pub(super) pod_uid: String,
    pub(super) volume: String,
}

/// What making the folder found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Made {
    /// It was not there before.
    pub(super) new: bool,
    /// Its inode.
    pub(super) inode: u64,
}

/// Where all targets lie.
#[derive(Clone, Debug)]
pub(super) struct Folders {
    pods: PathBuf,
}

/// Anybody in the pod may enter; what is in it has a mode of its own. Kubelet's folders around it keep others out.
const FOLDER_MODE: u32 = 0o755;

/// What kubelet calls the folder of CSI volumes.
const KIND: &str = "kubernetes.io~csi";

/// What kubelet calls the folder that becomes the mount.
const MOUNT: &str = "mount";

/// How often a folder is emptied before it is given up.
const TURNS: usize = 8;

// === impl Target ===

impl Target {
    /// Checks both parts, which come from kubelet or from our state.
    pub(super) fn new(pod_uid: &str, volume: &str) -> Option<Self> {
        let name = |text: &str| {
            let letter = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~');
            (1..=253).contains(&text.len()) && text.bytes().all(letter) && text != "." && text != ".."
        };
        (name(pod_uid) && name(volume)).then(|| Self {
            pod_uid: pod_uid.to_owned(),
            volume: volume.to_owned(),
        })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "csi/{}/{}", self.pod_uid, self.volume)
    }
}

// === impl Folders ===

impl Folders {
    /// Below this folder of kubelet's.
    pub(super) fn new(kubelet_dir: &Path) -> Self {
        Self {
            pods: kubelet_dir.join("pods"),
        }
    }

    /// Kubelet's `pods`.
    pub(super) fn pods(&self) -> &Path {
        &self.pods
    }

    /// Reads a target path.
    pub(super) fn target(&self, path: &str) -> Result<Target, Refusal> {
        if path.is_empty() {
            return Err(Refusal::Missing { field: "target_path" });
        }
        let parts = || {
            let inner = path.strip_prefix(self.pods.to_str()?)?.strip_prefix('/')?;
            let parts: Vec<_> = inner.split('/').collect();
            match parts.as_slice() {
                [uid, "volumes", KIND, volume, MOUNT] => Target::new(uid, volume),
                _ => None,
            }
        };
        parts().ok_or_else(|| Refusal::Target {
            path: quoted(path),
            expected: format!("{}/UID/volumes/{KIND}/VOLUME/{MOUNT}", self.pods.display()),
        })
    }

    /// The folder that becomes the mount.
    pub(super) fn path(&self, target: &Target) -> PathBuf {
        self.volume_path(target).join(MOUNT)
    }

    /// The folder that kubelet makes for the volume.
    fn volume_path(&self, target: &Target) -> PathBuf {
        self.pods
            .join(&target.pod_uid)
            .join("volumes")
            .join(KIND)
            .join(&target.volume)
    }

    /// Makes the folder if it is not there.
    pub(super) fn make(&self, target: &Target) -> Result<Made, Refusal> {
        let failed = |source: io::Error| Refusal::Folder {
            path: self.path(target),
            source,
        };
        let parent = beneath::open(&self.pods, &self.volume_path(target)).map_err(failed)?;
        let new = match fs::mkdirat(&parent, MOUNT, Mode::from_raw_mode(FOLDER_MODE)) {
            Ok(()) => true,
            Err(Errno::EXIST) => false,
            Err(errno) => return Err(failed(errno.into())),
        };
        // What is there may be a symlink: only a folder is opened.
        let folder = beneath::open(&self.pods, &self.path(target)).map_err(failed)?;
        if new {
            // Whatever our umask took away.
            fs::chmodat(&parent, MOUNT, Mode::from_raw_mode(FOLDER_MODE), AtFlags::empty())
                .map_err(|errno| failed(errno.into()))?;
        }
        let stat = fs::fstat(&folder).map_err(|errno| failed(errno.into()))?;
        Ok(Made {
            new,
            inode: stat.st_ino,
        })
    }

    /// The folder's inode, if it is there.
    pub(super) fn inode(&self, target: &Target) -> Option<u64> {
        let folder = beneath::open(&self.pods, &self.path(target)).ok()?;
        fs::fstat(&folder).ok().map(|stat| stat.st_ino)
    }

    /// Whether the folder is certainly not there.
    pub(super) fn is_gone(&self, target: &Target) -> bool {
        self.is_missing(&self.path(target))
    }

    /// Whether kubelet has removed what it made for the volume.
    pub(super) fn is_unpublished(&self, target: &Target) -> bool {
        self.is_missing(&self.volume_path(target))
    }

    fn is_missing(&self, path: &Path) -> bool {
        let missing = beneath::open(&self.pods, path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
        // Without kubelet's own folder nothing is known.
        missing && beneath::open(&self.pods, &self.pods).is_ok()
    }

    /// Removes the folder and the sockets in it; what is gone already is fine.
    pub(super) fn clear(&self, target: &Target) -> Result<(), Refusal> {
        let path = self.path(target);
        let failed = |source: io::Error| Refusal::Folder {
            path: path.clone(),
            source,
        };
        let (parent, folder) = match self.open_both(target) {
            Ok(both) => both,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(failed(error)),
        };
        for _ in 0..TURNS {
            empty(&folder, &path)?;
            match fs::unlinkat(&parent, MOUNT, AtFlags::REMOVEDIR) {
                // An agent beside us missed its socket and has just put it back; without the folder it cannot.
                Err(Errno::NOTEMPTY) => {}
                removed => return gone(removed).map_err(failed),
            }
        }
        Err(failed(Errno::NOTEMPTY.into()))
    }

    /// The volume's folder to be named, and the mount in it to be listed.
    fn open_both(&self, target: &Target) -> io::Result<(OwnedFd, OwnedFd)> {
        let parent = beneath::open(&self.pods, &self.volume_path(target))?;
        // Opened twice, first without following anything and only then, from there, to be listed.
        let named = beneath::open(&self.pods, &self.path(target))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let listed = fs::openat(&named, ".", flags, Mode::empty())?;
        Ok((parent, listed))
    }
}

/// Removes the sockets in the folder.
fn empty(folder: &OwnedFd, path: &Path) -> Result<(), Refusal> {
    let failed = |source: io::Error| Refusal::Folder {
        path: path.to_owned(),
        source,
    };
    for name in names(folder).map_err(failed)? {
        let stat = match fs::statat(folder, &*name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => continue,
            Err(errno) => return Err(failed(errno.into())),
        };
        if FileType::from_raw_mode(stat.st_mode) != FileType::Socket {
            return Err(Refusal::Foreign {
                path: path.to_owned(),
                name: quoted(&name.to_string_lossy()),
            });
        }
        gone(fs::unlinkat(folder, &*name, AtFlags::empty())).map_err(failed)?;
    }
    Ok(())
}

fn names(folder: &OwnedFd) -> io::Result<Vec<std::ffi::CString>> {
    let mut names = Vec::new();
    for entry in fs::Dir::read_from(folder)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push(entry.file_name().to_owned());
        }
    }
    Ok(names)
}

fn gone(outcome: Result<(), Errno>) -> io::Result<()> {
    match outcome {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
pub(super) mod tests;
