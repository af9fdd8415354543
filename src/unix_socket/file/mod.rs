//! The socket as a file: made under a temporary name, recognised by its inode, removed only if it is ours.
//!
//! Promises that nobody can connect before mode and owner are set (it does not listen yet), that a
//! symlink or anything that is no socket at the path is refused and left as it is, and that paths beyond the 107
//! bytes of a socket address work. A socket at the path is replaced at start, live or not: it belongs to our predecessor,
//! which may serve on beside us and may bind at the same moment; neither of the two takes the other's file for its own.
//! All calls are single system calls on a local file system, so none is worth a thread of its own.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use ensign_pki::crypto;
use rustix::fs::{self, AtFlags, CWD, FileType, Gid, Mode, OFlags, RenameFlags, Uid};
use rustix::io::Errno;
use rustix::net::{self, AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::beneath;

/// Longest path that fits into a socket address, its final zero byte aside.
const LONGEST_ADDRESS: usize = 107;

/// How many connections may wait to be accepted.
const BACKLOG: i32 = 128;

/// A temporary name is in use for microseconds.
const LEFTOVER_SECONDS: i64 = 60;

/// Where a socket is to be and who may use it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketSpec {
    /// The path.
    pub path: PathBuf,
    /// Permission bits; 0600 unless the operator says otherwise.
    pub mode: u32,
    /// The owner; the agent's own user and group if absent.
    pub owner: Option<Owner>,
    /// Below this folder no symlink is followed on the way to the path, and the socket's own folder belongs to whoever made
    /// it: it is not made again here.
    pub within: Option<PathBuf>,
    /// The file stays when the socket closes: a successor renames its own over it, or somebody clears the folder.
    pub left: bool,
}

/// Owner of a socket file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// User id.
    pub uid: u32,
    /// Group id; unchanged if absent.
    pub gid: Option<u32>,
}

/// Why a socket could not be made.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The path ends in nothing that could be a file's name.
    #[error("socket path {path} names no file, it must be FOLDER/NAME")]
    NoName {
        /// The configured path.
        path: PathBuf,
    },
    /// Something else is at the path.
    #[error("socket path {path} is taken by {seen}, which is left as it is; remove it or configure another path")]
    Taken {
        /// The configured path.
        path: PathBuf,
        /// What is there.
        seen: &'static str,
    },
    /// The folder cannot be opened.
    #[error(
        "folder {folder} of socket {name:?} cannot be opened; it must exist and uid {uid} must be able to search it"
    )]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// The socket's name.
        name: OsString,
        /// The agent's user.
        uid: u32,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The folder does not let us in.
    #[error(
        "uid {uid} may not create a socket in {folder} (mode {mode:04o}, owner {owner}); make the folder writable for \
         it: chown {uid} {folder}"
    )]
    Denied {
        /// The agent's user.
        uid: u32,
        /// The folder.
        folder: PathBuf,
        /// The folder's permission bits.
        mode: u32,
        /// The folder's owner.
        owner: u32,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The owner cannot be set.
    #[error("socket {path} cannot be given to {uid}; the agent needs CAP_CHOWN for that, or leave `owner` away")]
    Owner {
        /// The configured path.
        path: PathBuf,
        /// The wanted user.
        uid: u32,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Anything else.
    #[error("{step} of socket {path} failed")]
    System {
        /// What was being done.
        step: &'static str,
        /// The configured path.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// A file's identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Inode {
    device: u64,
    number: u64,
}

/// What is at the path now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sighting {
    /// Our socket.
    Ours,
    /// Nothing, or not even the folder.
    Nothing,
    /// Somebody else's socket, perhaps one that nobody listens on any more: see [`is_stale`].
    OtherSocket,
    /// Somebody else's file.
    Foreign,
}

/// Makes the socket and puts it at its path.
pub(crate) fn bind(spec: &SocketSpec) -> Result<(UnixListener, Inode), BindError> {
    let path = &spec.path;
    let (folder_path, name) = split(path)?;
    let folder = open_folder(folder_path, spec.within.as_deref()).map_err(|source| BindError::Folder {
        folder: folder_path.into(),
        name: name.into(),
        uid: rustix::process::geteuid().as_raw(),
        source,
    })?;
    refuse_other_files(&folder, name, path)?;

    let temporary = temporary_name(name, path)?;
    let failed = |step: &'static str| {
        move |errno: Errno| BindError::System {
            step,
            path: path.clone(),
            source: errno.into(),
        }
    };
    let listener = listener_at(&folder, folder_path, &temporary, path)?;
    let placed = place(&folder, &temporary, name, spec)
        .and_then(|()| net::listen(&listener, BACKLOG).map_err(failed("listening")))
        .and_then(|()| fs::statat(&folder, &temporary, AtFlags::SYMLINK_NOFOLLOW).map_err(failed("reading back")))
        .and_then(|stat| {
            fs::renameat(&folder, &temporary, &folder, name).map_err(failed("renaming into place"))?;
            Ok(stat)
        });
    match placed {
        Ok(stat) => {
            remove_leftovers(&folder, name, &stat);
            Ok((UnixListener::from(listener), Inode::of(&stat)))
        }
        Err(error) => {
            unlink_quietly(&folder, &temporary);
            Err(error)
        }
    }
}

/// Looks at the path.
pub(crate) fn sight(path: &Path, ours: Inode) -> Sighting {
    match fs::lstat(path) {
        Ok(stat) if Inode::of(&stat) == ours => Sighting::Ours,
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Socket => Sighting::OtherSocket,
        Err(Errno::NOENT | Errno::NOTDIR) => Sighting::Nothing,
        // Something else, or one cannot look: then nothing is known to be wrong, and nothing could be done.
        Ok(_) | Err(_) => Sighting::Foreign,
    }
}

/// Removes the socket if it is still ours.
///
/// A successor may rename its own over it at any moment. So the file is moved out of the way first and looked at there; what
/// turns out to be the successor's goes back.
pub(crate) fn remove(path: &Path, ours: Inode) {
    if sight(path, ours) == Sighting::Ours
        && let Err(error) = remove_what_is(path, ours)
    {
        tracing::warn!(path = %path.display(), error = %error, "socket file was not removed");
    }
}

/// The same under its own name: whoever watches the folder sees that name go.
pub(crate) fn unlink(path: &Path, ours: Inode) {
    if sight(path, ours) == Sighting::Ours
        && let Err(errno) = fs::unlinkat(CWD, path, AtFlags::empty())
    {
        tracing::warn!(path = %path.display(), error = %io::Error::from(errno), "socket file was not removed");
    }
}

fn remove_what_is(path: &Path, ours: Inode) -> io::Result<()> {
    let (folder_path, name) = split(path).map_err(io::Error::other)?;
    let folder = open_folder(folder_path, None)?;
    let aside = temporary_name(name, path).map_err(io::Error::other)?;
    fs::renameat(&folder, name, &folder, &aside)?;
    let stat = fs::statat(&folder, &aside, AtFlags::SYMLINK_NOFOLLOW)?;
    if Inode::of(&stat) == ours {
        return Ok(fs::unlinkat(&folder, &aside, AtFlags::empty())?);
    }
    match fs::renameat_with(&folder, &aside, &folder, name, RenameFlags::NOREPLACE) {
        // A third one is there already.
        Err(Errno::EXIST) => Ok(fs::unlinkat(&folder, &aside, AtFlags::empty())?),
        moved_back => Ok(moved_back?),
    }
}

/// Makes the socket's folder again, with the mode that it had.
pub(crate) fn remake_folder(path: &Path, mode: u32) -> io::Result<()> {
    let (folder, _) = split(path).map_err(io::Error::other)?;
    match fs::mkdir(folder, Mode::from_raw_mode(mode)) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// Permission bits of the socket's folder.
pub(crate) fn folder_mode(path: &Path) -> Option<u32> {
    let (folder, _) = split(path).ok()?;
    fs::stat(folder).ok().map(|stat| stat.st_mode & 0o7777)
}

impl Inode {
    fn of(stat: &fs::Stat) -> Self {
        Self {
            device: stat.st_dev,
            number: stat.st_ino,
        }
    }
}

fn open_folder(folder: &Path, within: Option<&Path>) -> io::Result<OwnedFd> {
    if let Some(above) = within {
        return beneath::open(above, folder);
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(fs::openat(CWD, folder, flags, Mode::empty())?)
}

fn split(path: &Path) -> Result<(&Path, &OsStr), BindError> {
    let name = path
        .file_name()
        .ok_or_else(|| BindError::NoName { path: path.into() })?;
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    Ok((folder, name))
}

/// In the same folder, so that the rename is atomic; hidden from whoever lists it, kubelet included; short, because it must
/// fit into an address; and never the same twice: a predecessor that lives on may bind at the same moment, and in
/// containers both are process 1.
fn temporary_name(name: &OsStr, path: &Path) -> Result<OsString, BindError> {
    let drawn = crypto::random_bytes::<8>().map_err(|source| BindError::System {
        step: "naming",
        path: path.into(),
        source: io::Error::other(source),
    })?;
    let mut temporary = family(name);
    temporary.push(format!("{:016x}", u64::from_be_bytes(drawn)));
    Ok(temporary)
}

/// How all temporary names for this name begin.
fn family(name: &OsStr) -> OsString {
    let [a, b, c, d, ..] = crypto::sha256(name.as_bytes());
    format!(".ensign-{a:02x}{b:02x}{c:02x}{d:02x}.").into()
}

fn refuse_other_files(folder: &OwnedFd, name: &OsStr, path: &Path) -> Result<(), BindError> {
    let Ok(stat) = fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) else {
        return Ok(());
    };
    let seen = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Socket => return Ok(()),
        FileType::Directory => "a directory",
        FileType::Symlink => "a symbolic link",
        FileType::RegularFile => "a regular file",
        _ => "a file that is no socket",
    };
    Err(BindError::Taken {
        path: path.into(),
        seen,
    })
}

/// What crashes between making and renaming left: sockets under temporary names that are older than anybody needs to rename
/// one. Their age is told by the file system alone, by what we have just made in it.
fn remove_leftovers(folder: &OwnedFd, name: &OsStr, just_made: &fs::Stat) {
    // A folder that we may not list keeps them.
    let Ok(listed) = fs::openat(
        folder,
        ".",
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    ) else {
        return;
    };
    let family = family(name);
    for entry in fs::Dir::read_from(&listed).into_iter().flatten().filter_map(Result::ok) {
        let temporary = OsStr::from_bytes(entry.file_name().to_bytes());
        if !temporary.as_bytes().starts_with(family.as_bytes()) {
            continue;
        }
        let old = fs::statat(folder, temporary, AtFlags::SYMLINK_NOFOLLOW)
            .is_ok_and(|stat| just_made.st_mtime - stat.st_mtime > LEFTOVER_SECONDS);
        if old {
            unlink_quietly(folder, temporary);
        }
    }
}

fn unlink_quietly(folder: &OwnedFd, temporary: &OsStr) {
    if let Err(errno) = fs::unlinkat(folder, temporary, AtFlags::empty())
        && errno != Errno::NOENT
    {
        tracing::debug!(error = %io::Error::from(errno), "temporary socket file was not removed");
    }
}

/// A bound socket that does not listen yet: connecting to it fails.
fn listener_at(folder: &OwnedFd, folder_path: &Path, name: &OsStr, path: &Path) -> Result<OwnedFd, BindError> {
    let failed = |step: &'static str, errno: Errno| BindError::System {
        step,
        path: path.into(),
        source: errno.into(),
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
        .map_err(|errno| failed("making", errno))?;
    let mut address = folder_path.join(name);
    if address.as_os_str().len() > LONGEST_ADDRESS {
        address = Path::new("/proc/self/fd")
            .join(folder.as_raw_fd().to_string())
            .join(name);
    }
    let address = SocketAddrUnix::new(&address).map_err(|errno| failed("naming", errno))?;
    match net::bind(&socket, &address) {
        Ok(()) => Ok(socket),
        Err(errno @ (Errno::ACCESS | Errno::PERM | Errno::ROFS)) => Err(denied(folder, folder_path, errno)),
        Err(errno) => Err(failed("binding", errno)),
    }
}

fn denied(folder: &OwnedFd, folder_path: &Path, errno: Errno) -> BindError {
    let (mode, owner) = fs::fstat(folder).map_or((0, 0), |stat| (stat.st_mode & 0o7777, stat.st_uid));
    BindError::Denied {
        uid: rustix::process::geteuid().as_raw(),
        folder: folder_path.into(),
        mode,
        owner,
        source: errno.into(),
    }
}

/// Sets mode and owner of the file that does not have its final name yet.
fn place(folder: &OwnedFd, temporary: &OsStr, name: &OsStr, spec: &SocketSpec) -> Result<(), BindError> {
    debug_assert!(temporary != name, "it is renamed when all is set");
    let path = &spec.path;
    fs::chmodat(folder, temporary, Mode::from_raw_mode(spec.mode), AtFlags::empty()).map_err(|errno| {
        BindError::System {
            step: "setting the mode",
            path: path.clone(),
            source: errno.into(),
        }
    })?;
    let Some(Owner { uid, gid }) = spec.owner else {
        return Ok(());
    };
    let (user, group) = (Some(Uid::from_raw(uid)), gid.map(Gid::from_raw));
    fs::chownat(folder, temporary, user, group, AtFlags::SYMLINK_NOFOLLOW).map_err(|errno| BindError::Owner {
        path: path.clone(),
        uid,
        source: errno.into(),
    })
}

/// True if connecting is refused. A connection that is made here is closed at once: its owner shrugs that off.
pub(crate) fn is_stale(spec: &SocketSpec) -> bool {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let connected = || -> io::Result<()> {
        let (folder_path, name) = split(&spec.path).map_err(io::Error::other)?;
        let folder = open_folder(folder_path, spec.within.as_deref())?;
        // Through the file itself: no name is too long, and none leads elsewhere.
        let file = fs::openat(
            &folder,
            name,
            OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        let address = SocketAddrUnix::new(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
        let socket = net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        Ok(net::connect(&socket, &address)?)
    };
    connected().is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

#[cfg(test)]
mod tests;
