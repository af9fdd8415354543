//! The temporary folder of one world: logs, configurations, sockets.
//!
//! Removed when the work in it ended well, kept (and named on stderr) when it did not, so that a failed test can be read
//! afterwards. Its path is short, because a Unix socket's path may have 107 bytes at most.

use std::{
    env, fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
};

use anyhow::Context;
use tempfile::TempDir;

/// A folder with a short path.
#[derive(Debug)]
pub struct Folder {
    folder: Option<TempDir>,
    keep: AtomicBool,
}

impl Folder {
    /// Makes a new one, by default kept unless [`Folder::discard`] is called.
    pub fn new() -> anyhow::Result<Self> {
        let usual = env::temp_dir();
        // A CI's own temporary folder may be deep; sockets in it would be refused by the kernel.
        let parent = if usual.as_os_str().len() <= 40 {
            usual
        } else {
            PathBuf::from("/tmp")
        };
        let folder = tempfile::Builder::new()
            .prefix("ensign-")
            .tempdir_in(&parent)
            .with_context(|| format!("cannot make a folder in {}", parent.display()))?;
        Ok(Self {
            folder: Some(folder),
            keep: AtomicBool::new(true),
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.folder.as_ref().map_or(Path::new("/nonexistent"), TempDir::path)
    }

    /// A path inside.
    pub fn join(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    /// Writes a file by rename, as every well-behaved writer does, so that a watcher never sees half of it.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> anyhow::Result<PathBuf> {
        let path = self.join(name);
        write_atomically(&path, content.as_ref())?;
        Ok(path)
    }

    /// Whether nothing was written into it.
    pub fn is_empty(&self) -> bool {
        fs::read_dir(self.path()).is_ok_and(|mut entries| entries.next().is_none())
    }

    /// The work ended well (or was given up on purpose): remove the folder on drop.
    pub fn discard(&self) {
        self.keep.store(false, Ordering::Relaxed);
    }
}

impl Drop for Folder {
    #[expect(
        clippy::print_stderr,
        reason = "the one way to tell a reader of a failed test where its logs are"
    )]
    fn drop(&mut self) {
        if (self.keep.load(Ordering::Relaxed) || std::thread::panicking())
            && let Some(folder) = self.folder.take()
        {
            eprintln!("logs and configurations are kept in {}", folder.keep().display());
        }
    }
}

/// Replaces a file in one step.
pub fn write_atomically(path: &Path, content: &[u8]) -> anyhow::Result<()> {
    let staged = path.with_extension("staged");
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
    }
    fs::write(&staged, content).with_context(|| format!("cannot write {}", staged.display()))?;
    fs::rename(&staged, path).with_context(|| format!("cannot rename to {}", path.display()))
}
