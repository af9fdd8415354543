//! Opens a folder below another without following a symlink or crossing into another mount.
//!
//! For paths of which somebody else may have planted a part. The folder above is the operator's and may be reached
//! through symlinks; below it there is none. `openat2` (Linux 5.6) does that in one step; where it is missing or a seccomp
//! profile refuses it, each part is opened alone with `O_NOFOLLOW`, which leaves mounts unchecked.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Component, Path};

use rustix::fs::{self, CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// A folder is opened to be named in other calls, not to be read.
const FOLDER: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// Opens the folder `path`, which must lie below `above` (or be it).
pub(crate) fn open(above: &Path, path: &Path) -> io::Result<OwnedFd> {
    let outside = || io::Error::new(io::ErrorKind::InvalidInput, "it lies outside");
    let inner = path.strip_prefix(above).map_err(|_| outside())?;
    let plain = inner.components().all(|part| matches!(part, Component::Normal(_)));
    if !plain {
        return Err(outside());
    }
    let root = fs::openat(CWD, above, FOLDER, Mode::empty())?;
    if inner.as_os_str().is_empty() {
        return Ok(root);
    }
    let resolve =
        ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
    match fs::openat2(&root, inner, FOLDER, Mode::empty(), resolve) {
        Err(Errno::NOSYS | Errno::PERM) => Ok(part_by_part(root, inner)?),
        opened => Ok(opened?),
    }
}

fn part_by_part(root: OwnedFd, inner: &Path) -> Result<OwnedFd, Errno> {
    inner.components().try_fold(root, |folder, part| {
        fs::openat(&folder, part.as_os_str(), FOLDER | OFlags::NOFOLLOW, Mode::empty())
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt as _, symlink};

    use super::*;

    fn inode(fd: &OwnedFd) -> u64 {
        rustix::fs::fstat(fd).unwrap().st_ino
    }

    #[test]
    fn finds_the_folder_either_way() {
        let above = tempfile::tempdir().unwrap();
        let folder = above.path().join("a/b");
        fs::create_dir_all(&folder).unwrap();
        let wanted = fs::metadata(&folder).unwrap().ino();
        assert_eq!(inode(&open(above.path(), &folder).unwrap()), wanted);
        let root = open(above.path(), above.path()).unwrap();
        assert_eq!(inode(&part_by_part(root, Path::new("a/b")).unwrap()), wanted);
        assert_eq!(
            open(above.path(), &above.path().join("a/c")).unwrap_err().kind(),
            io::ErrorKind::NotFound
        );
    }

    #[test]
    fn no_symlink_is_followed_neither_last_nor_on_the_way() {
        let above = tempfile::tempdir().unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        fs::create_dir_all(elsewhere.path().join("b")).unwrap();
        fs::create_dir(above.path().join("real")).unwrap();
        symlink(elsewhere.path(), above.path().join("a")).unwrap();
        // Even one that stays below.
        symlink("real", above.path().join("inner")).unwrap();
        for path in ["a", "a/b", "inner"] {
            assert!(open(above.path(), &above.path().join(path)).is_err(), "{path}");
            let root = open(above.path(), above.path()).unwrap();
            assert!(part_by_part(root, Path::new(path)).is_err(), "{path}");
        }
    }

    #[test]
    fn what_climbs_or_lies_elsewhere_is_refused() {
        let above = tempfile::tempdir().unwrap();
        fs::create_dir(above.path().join("a")).unwrap();
        for path in [Path::new("/etc"), &above.path().join("a/../..")] {
            assert_eq!(
                open(above.path(), path).unwrap_err().kind(),
                io::ErrorKind::InvalidInput
            );
        }
    }

    #[test]
    fn the_folder_above_may_be_reached_through_a_symlink() {
        let place = tempfile::tempdir().unwrap();
        fs::create_dir_all(place.path().join("data/pods")).unwrap();
        symlink(place.path().join("data"), place.path().join("kubelet")).unwrap();
        let above = place.path().join("kubelet");
        open(&above, &above.join("pods")).unwrap();
    }
}
