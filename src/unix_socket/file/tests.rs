//! Tests of the socket's file: how it appears, what is refused at its path, and when it is removed.
//!
//! On a real file system, in a folder of each test's own.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::os::unix::net::UnixStream;

use super::*;

fn spec(path: PathBuf) -> SocketSpec {
    SocketSpec {
        path,
        mode: 0o620,
        owner: None,
        within: None,
        left: false,
    }
}

#[test]
fn bound_with_mode_and_nothing_else_in_the_folder() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.sock");
    let (_listener, inode) = bind(&spec(path.clone())).unwrap();
    assert_eq!(
        fs::symlink_metadata(&path).unwrap().permissions().mode() & 0o7777,
        0o620
    );
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    assert_eq!(sight(&path, inode), Sighting::Ours);
    UnixStream::connect(&path).unwrap();
    remove(&path, inode);
    assert_eq!(sight(&path, inode), Sighting::Nothing);
}

#[test]
fn predecessor_is_replaced_and_only_ones_own_is_removed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.sock");
    let (first, first_inode) = bind(&spec(path.clone())).unwrap();
    let (_second, second_inode) = bind(&spec(path.clone())).unwrap();
    assert_eq!(sight(&path, first_inode), Sighting::OtherSocket);
    assert!(!is_stale(&spec(path.clone())));
    remove(&path, first_inode);
    assert_eq!(sight(&path, second_inode), Sighting::Ours);
    drop(first);
}

#[test]
fn two_that_bind_the_same_path_again_and_again_never_mix_up_their_files() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.sock");
    let race = || {
        for _ in 0..500 {
            let (listener, inode) = bind(&spec(path.clone())).unwrap();
            let before = sight(&path, inode);
            let connected = UnixStream::connect(&path);
            // The other one's `remove` may look at it, aside, for a moment.
            let aside = matches!(&connected, Err(error) if error.kind() == io::ErrorKind::NotFound);
            if [before, sight(&path, inode)] == [Sighting::Ours; 2] && !aside {
                connected.unwrap();
                listener
                    .accept()
                    .expect("the file at the path is the one that was bound");
            }
            remove(&path, inode);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(race);
        }
    });
    // Both of them are gone.
    bind(&spec(path)).unwrap();
}

#[test]
fn what_a_crash_left_goes_when_it_is_old() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.sock");
    let leave = |name: &str| {
        let mut left = family(OsStr::new("a.sock"));
        left.push(name);
        let left = folder.path().join(left);
        drop(UnixListener::bind(&left).unwrap());
        left
    };
    let (old, young) = (leave("old"), leave("young"));
    let other = folder.path().join(".ensign-00000000.other");
    drop(UnixListener::bind(&other).unwrap());
    let hour = std::time::SystemTime::now() - std::time::Duration::from_secs(3600);
    for path in [&old, &other] {
        let times = rustix::fs::Timestamps {
            last_access: timestamp(hour),
            last_modification: timestamp(hour),
        };
        rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    }
    let _bound = bind(&spec(path)).unwrap();
    assert!(fs::symlink_metadata(&old).is_err());
    assert!(
        fs::symlink_metadata(&young).is_ok(),
        "somebody may be about to rename it"
    );
    assert!(fs::symlink_metadata(&other).is_ok(), "of another socket");
}

fn timestamp(time: std::time::SystemTime) -> rustix::fs::Timespec {
    let since = time.duration_since(std::time::UNIX_EPOCH).unwrap();
    rustix::fs::Timespec {
        tv_sec: i64::try_from(since.as_secs()).unwrap(),
        tv_nsec: 0,
    }
}

#[test]
fn socket_that_nobody_listens_on_is_stale() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.sock");
    drop(bind(&spec(path.clone())).unwrap());
    assert!(is_stale(&spec(path)));
}

#[test]
fn other_files_are_refused_and_left() {
    let folder = tempfile::tempdir().unwrap();
    let (file, link, sub) = (
        folder.path().join("file"),
        folder.path().join("link"),
        folder.path().join("sub"),
    );
    fs::write(&file, "x").unwrap();
    symlink("/nowhere", &link).unwrap();
    fs::create_dir(&sub).unwrap();
    for (path, word) in [
        (&file, "a regular file"),
        (&link, "a symbolic link"),
        (&sub, "a directory"),
    ] {
        let error = bind(&spec(path.clone())).unwrap_err();
        assert!(
            matches!(&error, BindError::Taken { seen, .. } if *seen == word),
            "{error}"
        );
        assert!(fs::symlink_metadata(path).is_ok());
    }
    assert!(matches!(bind(&spec("/".into())), Err(BindError::NoName { .. })));
}

#[test]
fn missing_folder_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let error = bind(&spec(folder.path().join("none/a.sock"))).unwrap_err();
    assert!(
        error.to_string().contains("none") && error.to_string().contains("must exist"),
        "{error}"
    );
}

#[test]
fn path_longer_than_an_address_works() {
    let folder = tempfile::tempdir().unwrap();
    let deep = folder.path().join("d".repeat(120));
    fs::create_dir(&deep).unwrap();
    let path = deep.join("s".repeat(200));
    let (listener, inode) = bind(&spec(path.clone())).unwrap();
    assert_eq!(sight(&path, inode), Sighting::Ours);
    assert_eq!(fs::read_dir(&deep).unwrap().count(), 1);
    assert!(!is_stale(&spec(path.clone())));
    drop(listener);
    assert!(is_stale(&spec(path)));
}

#[test]
fn own_owner_can_be_set() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.sock");
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let owner = Some(Owner { uid, gid: Some(gid) });
    let _bound = bind(&SocketSpec {
        path: path.clone(),
        mode: 0o600,
        owner,
        within: None,
        left: false,
    })
    .unwrap();
    let seen = fs::symlink_metadata(&path).unwrap();
    assert_eq!((seen.uid(), seen.gid()), (uid, gid));
}

#[test]
fn folder_comes_back_with_its_mode() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sub/a.sock");
    fs::create_dir(path.parent().unwrap()).unwrap();
    let mode = folder_mode(&path).unwrap();
    fs::remove_dir(path.parent().unwrap()).unwrap();
    remake_folder(&path, mode).unwrap();
    remake_folder(&path, mode).unwrap();
    assert_eq!(folder_mode(&path), Some(mode));
}

#[test]
fn a_symlink_on_the_way_is_refused_where_none_is_expected() {
    let folder = tempfile::tempdir().unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    symlink(elsewhere.path(), folder.path().join("sub")).unwrap();
    let mut spec = spec(folder.path().join("sub/a.sock"));
    spec.within = Some(folder.path().into());
    assert!(matches!(bind(&spec), Err(BindError::Folder { .. })));
    assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 0);
    spec.within = None;
    bind(&spec).unwrap();
}
