//! Where processes that share a cluster meet: a folder named after what they have in common.
//!
//! It holds a lock (whoever starts or ends the cluster holds it) and a socket (whoever uses the cluster is connected
//! to it). The folder is removed with the cluster, so a lock counts only while its file is still the one in the folder.

use std::{
    env,
    fs::{self, File, Permissions},
    io::ErrorKind,
    os::unix::{
        fs::{MetadataExt as _, PermissionsExt as _},
        net::UnixStream,
    },
    path::{Path, PathBuf},
};

use anyhow::{Context, ensure};
use rustix::{
    fs::{FlockOperation, flock},
    process::getuid,
};

/// Holds the path of the cluster's files.
const CLUSTER: &str = "cluster";

/// The folder.
#[derive(Debug, Clone)]
pub(super) struct Meeting {
    folder: PathBuf,
}

/// Held while the cluster is started or ended.
#[derive(Debug)]
pub(super) struct Lock(#[expect(dead_code, reason = "closing it releases the lock")] File);

/// Names what this process has in common with others: the test run if nextest started it, else the build folder.
pub(super) fn common_key() -> anyhow::Result<String> {
    if let Some(run) = env::var_os("NEXTEST_RUN_ID") {
        return Ok(run.to_string_lossy().into_owned());
    }
    let program = env::current_exe().context("cannot tell where this program is")?;
    let folder = program.parent().unwrap_or(Path::new("/"));
    Ok(folder.display().to_string())
}

// === impl Meeting ===

impl Meeting {
    /// For everybody with this key, of this user.
    pub(super) fn of(key: &str) -> Self {
        // FNV-1a: stable, and short enough for a socket's path.
        let hash = key.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        Self::at(Path::new("/tmp").join(format!("ensign-{}-{hash:016x}", getuid().as_raw())))
    }

    /// At this place.
    pub(super) fn at(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// Its place.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where the cluster listens for its users.
    pub(super) fn socket(&self) -> PathBuf {
        self.folder.join("socket")
    }

    /// What the cluster's supervisor prints.
    pub(super) fn log(&self) -> PathBuf {
        self.folder.join("log")
    }

    /// Notes where the cluster's files are, for [`Meeting::sweep`].
    pub(super) fn note(&self, cluster: &Path) -> anyhow::Result<()> {
        fs::write(self.folder.join(CLUSTER), cluster.as_os_str().as_encoded_bytes())
            .context("cannot note the cluster's folder")
    }

    /// Removes the files of a cluster whose supervisor was killed. Only with the lock held, and with nobody listening.
    pub(super) fn sweep(&self) {
        let note = self.folder.join(CLUSTER);
        if let Ok(cluster) = fs::read_to_string(&note) {
            // Gone already, or not ours to remove: then the next one has nothing from it either.
            drop(fs::remove_dir_all(cluster));
            drop(fs::remove_file(note));
        }
    }

    /// A connection to the cluster, if there is one.
    pub(super) fn connect(&self) -> Option<UnixStream> {
        UnixStream::connect(self.socket()).ok()
    }

    /// Waits for the lock; makes the folder if need be. Blocks.
    pub(super) fn lock(&self) -> anyhow::Result<Lock> {
        loop {
            self.make()?;
            if let Some(lock) = self.take(FlockOperation::LockExclusive)? {
                return Ok(lock);
            }
        }
    }

    /// The lock, unless somebody else has it.
    pub(super) fn try_lock(&self) -> anyhow::Result<Option<Lock>> {
        self.take(FlockOperation::NonBlockingLockExclusive)
    }

    /// Removes the folder. Only with the lock held, and with nobody connected.
    pub(super) fn remove(&self, _lock: &Lock) -> anyhow::Result<()> {
        fs::remove_dir_all(&self.folder).with_context(|| format!("cannot remove {}", self.folder.display()))
    }

    /// Makes the folder; one that somebody else made under our name is refused.
    fn make(&self) -> anyhow::Result<()> {
        match fs::create_dir(&self.folder) {
            Ok(()) => fs::set_permissions(&self.folder, Permissions::from_mode(0o700))
                .with_context(|| format!("cannot close {}", self.folder.display())),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                let owner = fs::symlink_metadata(&self.folder).map(|metadata| metadata.uid());
                // Gone in between is as good: the lock file cannot be made then, and we come back.
                ensure!(
                    owner.is_err() || owner.is_ok_and(|owner| owner == getuid().as_raw()),
                    "{} is another user's",
                    self.folder.display()
                );
                Ok(())
            }
            Err(error) => Err(error).with_context(|| format!("cannot make {}", self.folder.display())),
        }
    }

    fn take(&self, how: FlockOperation) -> anyhow::Result<Option<Lock>> {
        let path = self.folder.join("lock");
        let file = match File::options().create(true).append(true).open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("cannot open {}", path.display())),
        };
        match flock(&file, how) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("cannot lock {}", path.display())),
        }
        // Removed while we waited: then this lock keeps nobody out.
        let ours = file.metadata().context("no metadata of a lock")?;
        let current = fs::metadata(&path).is_ok_and(|there| (there.dev(), there.ino()) == (ours.dev(), ours.ino()));
        Ok(current.then_some(Lock(file)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meeting() -> (tempfile::TempDir, Meeting) {
        let folder = tempfile::tempdir().unwrap();
        let meeting = Meeting::at(folder.path().join("meeting"));
        (folder, meeting)
    }

    #[test]
    fn a_lock_keeps_others_out_until_it_is_dropped() {
        let (_folder, meeting) = meeting();
        let lock = meeting.lock().unwrap();
        assert!(meeting.try_lock().unwrap().is_none());
        drop(lock);
        assert!(meeting.try_lock().unwrap().is_some());
    }

    #[test]
    fn who_waited_for_a_removed_folder_makes_a_new_one() {
        let (_folder, meeting) = meeting();
        let lock = meeting.lock().unwrap();
        let waiting = std::thread::spawn({
            let meeting = meeting.clone();
            move || meeting.lock().unwrap()
        });
        meeting.remove(&lock).unwrap();
        drop(lock);
        let _lock = waiting.join().unwrap();
        assert!(
            meeting.try_lock().unwrap().is_none(),
            "the new lock is the one that counts"
        );
    }
}
