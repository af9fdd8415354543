//! A CA that makes itself on first start: the whole folder appears at once, or not at all.
//!
//! Promises: the folder is 0700 and its key 0600; after a crash at any point the folder is either absent (or still
//! empty) or whole and on disk; of two processes that start together one makes the CA and both load it. Only
//! `ca-key.pem` ever holds key bytes.
//!
//! How: all files are written and synced in a staging folder beside the target, which is then renamed onto it. A
//! rename onto a folder that is not empty fails, and that decides a race. The maker holds a `flock` on its staging
//! folder; one whose lock is free belongs to a dead process and is removed, key and all, at the next start. Hence the
//! target may not be a mount point itself, and its parent must be writable. Blocking: call it off the async threads.

#![expect(clippy::disallowed_methods, reason = "called at start-up, on a blocking thread")]

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use ensign_pki::crypto;
use rustix::fs::{FlockOperation, OFlags, flock};
use thiserror::Error;

use super::folder::{CA_CERT, CA_KEY, CERT_CHAIN, ROOT_CERT};

/// What a fresh CA consists of.
pub(crate) struct Material {
    /// The self-signed certificate.
    pub(crate) certificate_pem: String,
    /// Its key.
    pub(crate) key_pem: zeroize::Zeroizing<String>,
}

/// What [`ensure`] found or did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The folder held a CA already.
    Found,
    /// This call made it.
    Made,
    /// Another process made it meanwhile.
    LostRace,
}

/// Why there is no CA in a folder that should make its own.
#[derive(Debug, Error)]
pub(crate) enum SelfMadeError {
    /// Some files of a CA, but not all.
    #[error(
        "{dir} holds {found} but lacks {missing}: half a CA is never completed or replaced; restore the missing files, or move the rest away to let a new CA be made"
    )]
    Partial {
        dir: String,
        found: String,
        missing: String,
    },
    /// Files that are none of ours.
    #[error(
        "{dir} holds {found} but no CA: a self-made CA needs a folder of its own, absent or empty; name one below it, such as {dir}/ca"
    )]
    Foreign { dir: String, found: String },
    /// A mount point cannot be replaced.
    #[error(
        "{dir} is a mount point, onto which no folder can be moved in one step; name a folder below it, such as {dir}/ca"
    )]
    MountPoint { dir: String },
    /// A path that names no folder in a folder.
    #[error("{dir} is no folder in another folder; expected a path such as /var/lib/ensign/ca")]
    Path { dir: String },
    /// The key file of a self-made CA was opened to everybody.
    #[error("{path} can be read or written by everybody (mode {mode:o}); make it 0600 and consider its key as leaked")]
    Exposed { path: String, mode: u32 },
    /// Making the key or the certificate failed.
    #[error("no CA could be made for {dir}")]
    Make {
        dir: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The file system refused.
    #[error("cannot {action} {path}")]
    Io {
        action: &'static str,
        path: String,
        #[source]
        source: io::Error,
    },
}

/// A point at which a crash would interrupt the making of a CA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    FolderMade,
    Locked,
    KeyOpened,
    KeyWritten,
    FilesWritten,
    Synced,
    Renamed,
    ParentSynced,
}

/// Makes sure that `dir` holds a whole CA, made with `make` if there is none.
pub(crate) fn ensure(
    dir: &Path,
    make: impl FnOnce() -> Result<Material, Box<dyn std::error::Error + Send + Sync>>,
) -> Result<Outcome, SelfMadeError> {
    ensure_with(dir, make, &mut |_| Ok(()))
}

/// [`ensure`], with a hook after each step: an error from it is a crash, so nothing is tidied up.
pub(super) fn ensure_with(
    dir: &Path,
    make: impl FnOnce() -> Result<Material, Box<dyn std::error::Error + Send + Sync>>,
    hook: &mut dyn FnMut(Step) -> io::Result<()>,
) -> Result<Outcome, SelfMadeError> {
    let place = Place::of(dir)?;
    place.sweep()?;
    if look(dir)? {
        return Ok(Outcome::Found);
    }
    let material = make().map_err(|source| SelfMadeError::Make {
        dir: shown(dir),
        source,
    })?;
    let staging = place.stage(hook)?;
    if staging.fill_and_move(dir, &material, hook)? {
        fsync(&place.parent)?;
        crash(hook, Step::ParentSynced, dir)?;
        return Ok(Outcome::Made);
    }
    // Not ours to fill: either somebody was faster, or the folder holds other things.
    if look(dir)? {
        Ok(Outcome::LostRace)
    } else {
        Err(SelfMadeError::Foreign {
            dir: shown(dir),
            found: names(dir),
        })
    }
}

/// Whether `dir` holds a whole CA. Half of one is an error.
fn look(dir: &Path) -> Result<bool, SelfMadeError> {
    let present = |name: &&str| fs::symlink_metadata(dir.join(name)).is_ok();
    let (found, missing): (Vec<&str>, Vec<&str>) = [CA_CERT, CA_KEY, ROOT_CERT].into_iter().partition(present);
    match (found.is_empty(), missing.is_empty()) {
        (true, _) if !present(&CERT_CHAIN) => Ok(false),
        (true, _) => Err(SelfMadeError::Partial {
            dir: shown(dir),
            found: CERT_CHAIN.to_owned(),
            missing: missing.join(", "),
        }),
        (false, false) => Err(SelfMadeError::Partial {
            dir: shown(dir),
            found: found.join(", "),
            missing: missing.join(", "),
        }),
        (false, true) => {
            let key = dir.join(CA_KEY);
            let mode = fs::metadata(&key)
                .map_err(io_error("look at", &key))?
                .permissions()
                .mode()
                & 0o777;
            // We made it 0600. Kubernetes' fsGroup may add bits for the group, but nothing adds them for others.
            if mode & 0o006 == 0 {
                Ok(true)
            } else {
                Err(SelfMadeError::Exposed {
                    path: shown(&key),
                    mode,
                })
            }
        }
    }
}

/// Where a folder lives and how its staging folders are called.
struct Place {
    parent: PathBuf,
    /// Start of the name of each staging folder.
    prefix: String,
}

/// A locked, empty folder beside the target.
struct Staging {
    path: PathBuf,
    /// Holds the lock; the kernel frees it when the process dies.
    _lock: File,
}

// === impl Place ===

impl Place {
    fn of(dir: &Path) -> Result<Self, SelfMadeError> {
        let path = std::path::absolute(dir).map_err(io_error("find", dir))?;
        match (path.parent(), path.file_name().and_then(|name| name.to_str())) {
            (Some(parent), Some(name)) => Ok(Self {
                parent: parent.to_owned(),
                prefix: format!(".{name}.ensign-new-"),
            }),
            _ => Err(SelfMadeError::Path { dir: shown(dir) }),
        }
    }

    /// Removes what makers that died have left.
    fn sweep(&self) -> Result<(), SelfMadeError> {
        let entries = fs::read_dir(&self.parent).map_err(io_error("list", &self.parent))?;
        for entry in entries {
            let entry = entry.map_err(io_error("list", &self.parent))?;
            if !entry
                .file_name()
                .to_str()
                .is_some_and(|name| name.starts_with(&self.prefix))
            {
                continue;
            }
            let path = entry.path();
            // A lock that is taken belongs to a maker at work. One that vanished was moved or removed by its owner.
            let Some(_lock) = lock(&path)? else { continue };
            remove(&path)?;
            tracing::warn!(path = %path.display(), "removed what an interrupted start left of a new CA");
        }
        Ok(())
    }

    fn stage(&self, hook: &mut dyn FnMut(Step) -> io::Result<()>) -> Result<Staging, SelfMadeError> {
        for _ in 0..ATTEMPTS {
            let unique = crypto::random_bytes::<8>().map(u64::from_be_bytes);
            let unique = unique.map_err(|source| SelfMadeError::Make {
                dir: shown(&self.parent),
                source: source.into(),
            })?;
            let path = self.parent.join(format!("{}{unique:016x}", self.prefix));
            DirBuilder::new()
                .mode(0o700)
                .create(&path)
                .map_err(io_error("make", &path))?;
            crash(hook, Step::FolderMade, &path)?;
            // Between the two calls a sweeper may take the folder for a dead one: then take another.
            if let Some(lock) = lock(&path)? {
                crash(hook, Step::Locked, &path)?;
                return Ok(Staging { path, _lock: lock });
            }
        }
        let source = io::Error::other("other processes keep removing it");
        Err(SelfMadeError::Io {
            action: "lock a folder in",
            path: shown(&self.parent),
            source,
        })
    }
}

// === impl Staging ===

impl Staging {
    /// Writes the CA and moves it to `dir`. `false` if `dir` is not empty; the staging folder is gone then.
    fn fill_and_move(
        self,
        dir: &Path,
        material: &Material,
        hook: &mut dyn FnMut(Step) -> io::Result<()>,
    ) -> Result<bool, SelfMadeError> {
        let mut crashed = false;
        let result = self.fill(material, &mut |step| hook(step).inspect_err(|_| crashed = true));
        let moved = result.and_then(|()| self.rename_to(dir));
        if !matches!(moved, Ok(true)) && !crashed {
            remove(&self.path)?;
        }
        if moved? {
            crash(hook, Step::Renamed, dir)?;
            return Ok(true);
        }
        Ok(false)
    }

    fn fill(&self, material: &Material, hook: &mut dyn FnMut(Step) -> io::Result<()>) -> Result<(), SelfMadeError> {
        let key = self.path.join(CA_KEY);
        let mut file = create(&key, 0o600)?;
        crash(hook, Step::KeyOpened, &key)?;
        file.write_all(material.key_pem.as_bytes())
            .map_err(io_error("write", &key))?;
        crash(hook, Step::KeyWritten, &key)?;
        file.sync_all().map_err(io_error("sync", &key))?;
        for name in [CA_CERT, CERT_CHAIN, ROOT_CERT] {
            let path = self.path.join(name);
            let mut file = create(&path, 0o644)?;
            file.write_all(material.certificate_pem.as_bytes())
                .map_err(io_error("write", &path))?;
            file.sync_all().map_err(io_error("sync", &path))?;
        }
        crash(hook, Step::FilesWritten, &self.path)?;
        fsync(&self.path)?;
        crash(hook, Step::Synced, &self.path)
    }

    fn rename_to(&self, dir: &Path) -> Result<bool, SelfMadeError> {
        let Err(source) = fs::rename(&self.path, dir) else {
            return Ok(true);
        };
        match source.kind() {
            io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists => Ok(false),
            io::ErrorKind::ResourceBusy | io::ErrorKind::CrossesDevices => {
                Err(SelfMadeError::MountPoint { dir: shown(dir) })
            }
            _ => Err(SelfMadeError::Io {
                action: "move a new CA to",
                path: shown(dir),
                source,
            }),
        }
    }
}

/// Locks the folder at `path` if it is still there and nobody holds it.
fn lock(path: &Path) -> Result<Option<File>, SelfMadeError> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits().cast_signed())
        .open(path);
    let file = match opened {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => {
            return Err(SelfMadeError::Io {
                action: "open",
                path: shown(path),
                source,
            });
        }
    };
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
        Err(error) => {
            return Err(SelfMadeError::Io {
                action: "lock",
                path: shown(path),
                source: error.into(),
            });
        }
    }
    // The lock is on what was opened; the name may mean something else by now, such as a finished CA.
    let held = file.metadata().map_err(io_error("look at", path))?;
    let same = fs::symlink_metadata(path).is_ok_and(|named| (named.dev(), named.ino()) == (held.dev(), held.ino()));
    Ok(same.then_some(file))
}

fn create(path: &Path, mode: u32) -> Result<File, SelfMadeError> {
    let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    let file = file.map_err(io_error("create", path))?;
    // The umask may have taken bits away.
    file.set_permissions(Permissions::from_mode(mode))
        .map_err(io_error("set the mode of", path))?;
    Ok(file)
}

/// Removes a staging folder: the key first.
fn remove(path: &Path) -> Result<(), SelfMadeError> {
    for name in [CA_KEY, CA_CERT, CERT_CHAIN, ROOT_CERT] {
        match fs::remove_file(path.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io_error("remove", path)(error)),
            Ok(()) | Err(_) => {}
        }
    }
    fs::remove_dir(path).map_err(io_error("remove", path))
}

fn fsync(dir: &Path) -> Result<(), SelfMadeError> {
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(io_error("sync", dir))
}

fn crash(hook: &mut dyn FnMut(Step) -> io::Result<()>, step: Step, path: &Path) -> Result<(), SelfMadeError> {
    hook(step).map_err(io_error("go on with", path))
}

fn names(dir: &Path) -> String {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .take(5)
        .map(|entry| entry.file_name().display().to_string())
        .collect();
    names.sort();
    if names.is_empty() {
        "nothing".to_owned()
    } else {
        names.join(", ")
    }
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SelfMadeError {
    let path = shown(path);
    move |source| SelfMadeError::Io { action, path, source }
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

/// Each is lost only to a sweeper that starts in the same microsecond.
const ATTEMPTS: usize = 16;
