//! Targets on a real file system: what is made, what is refused, what is removed.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};

use tempfile::TempDir;
use test_case::test_case;

use super::*;

const UID: &str = "0d5a7e1c-6f0a-4f0c-9d52-3c1b8a1f7e11";

/// Kubelet's folder, with the volume's folder in it as kubelet makes it.
fn node() -> (TempDir, Folders, Target) {
    let kubelet = tempfile::tempdir().unwrap();
    let folders = Folders::new(kubelet.path());
    let target = Target::new(UID, "identity").unwrap();
    fs::create_dir_all(folders.volume_path(&target)).unwrap();
    (kubelet, folders, target)
}

/// A socket's file, at a path that may be longer than an address.
pub(in crate::source::csi) fn plant_socket(path: &Path) {
    rustix::fs::mknodat(rustix::fs::CWD, path, FileType::Socket, Mode::RUSR, 0).unwrap();
}

#[test]
fn a_path_of_kubelet_is_read_and_written_alike() {
    let folders = Folders::new(Path::new("/var/lib/kubelet"));
    let path = format!("/var/lib/kubelet/pods/{UID}/volumes/kubernetes.io~csi/identity/mount");
    let target = folders.target(&path).unwrap();
    assert_eq!((target.pod_uid.as_str(), target.volume.as_str()), (UID, "identity"));
    assert_eq!(folders.path(&target), Path::new(&path));
}

#[test_case("/etc/UID/volumes/kubernetes.io~csi/v/mount"; "elsewhere")]
#[test_case("/var/lib/kubelet/podsUID/volumes/kubernetes.io~csi/v/mount"; "a longer name")]
#[test_case("/var/lib/kubelet/pods/UID/volumes/kubernetes.io~csi/../mount"; "climbing as volume")]
#[test_case("/var/lib/kubelet/pods/../volumes/kubernetes.io~csi/v/mount"; "climbing as pod")]
#[test_case("/var/lib/kubelet/pods/UID/volumes/kubernetes.io~csi/v/../../x/mount"; "climbing")]
#[test_case("/var/lib/kubelet/pods/UID/volumes/kubernetes.io~csi//mount"; "no volume")]
#[test_case("/var/lib/kubelet/pods/UID/volumes/kubernetes.io~csi/v/mount/"; "more behind")]
#[test_case("/var/lib/kubelet/pods/UID/volumes/kubernetes.io~secret/v/mount"; "another kind")]
#[test_case("/var/lib/kubelet/pods/UID/volumes/kubernetes.io~csi/v\0/mount"; "a zero byte")]
#[test_case("/var/lib/kubelet/pods/UID/volumes/kubernetes.io~csi/v/mount\n"; "a line")]
fn any_other_path_is_refused(path: &str) {
    let folders = Folders::new(Path::new("/var/lib/kubelet"));
    let refusal = folders.target(&path.replace("UID", UID)).unwrap_err();
    assert_eq!(refusal.reason(), "target");
    assert!(refusal.to_string().contains("--kubelet-dir"), "{refusal}");
}

#[test]
fn no_path_at_all_is_no_matter_of_settings() {
    let refusal = Folders::new(Path::new("/var/lib/kubelet")).target("").unwrap_err();
    assert_eq!(refusal.reason(), "missing_field");
    assert!(refusal.to_string().contains("target_path"), "{refusal}");
}

#[test]
fn the_folder_is_made_once_and_cleared_with_its_sockets() {
    let (_kubelet, folders, target) = node();
    let made = folders.make(&target).unwrap();
    assert!(made.new);
    let path = folders.path(&target);
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, FOLDER_MODE);
    assert_eq!(folders.make(&target).unwrap(), Made { new: false, ..made });
    assert_eq!(folders.inode(&target), Some(made.inode));
    plant_socket(&path.join("a.sock"));
    plant_socket(&path.join(".ensign-left-by-a-crash"));
    folders.clear(&target).unwrap();
    assert!(fs::symlink_metadata(&path).is_err());
    // Kubelet's own folder is kubelet's.
    fs::metadata(path.parent().unwrap()).unwrap();
    folders.clear(&target).unwrap();
    fs::remove_dir(path.parent().unwrap()).unwrap();
    folders.clear(&target).unwrap();
    assert_eq!(folders.inode(&target), None);
}

#[test]
fn what_is_not_ours_is_left_and_named() {
    let (_kubelet, folders, target) = node();
    folders.make(&target).unwrap();
    let precious = folders.path(&target).join("precious");
    fs::write(&precious, "x").unwrap();
    let refusal = folders.clear(&target).unwrap_err();
    assert!(refusal.to_string().contains("precious"), "{refusal}");
    assert_eq!(fs::read(&precious).unwrap(), b"x");
}

#[test_case(0; "the pod")]
#[test_case(1; "volumes")]
#[test_case(2; "the kind")]
#[test_case(3; "the volume")]
#[test_case(4; "the mount")]
fn a_symlink_in_place_of_any_part_is_refused(part: usize) {
    let (kubelet, folders, target) = node();
    folders.make(&target).unwrap();
    let path = folders.path(&target);
    let planted = path.ancestors().nth(4 - part).unwrap();
    let aside = kubelet.path().join("aside");
    fs::rename(planted, &aside).unwrap();
    symlink(&aside, planted).unwrap();
    assert_eq!(folders.make(&target).unwrap_err().reason(), "folder");
    assert_eq!(folders.clear(&target).unwrap_err().reason(), "folder");
    assert_eq!(folders.inode(&target), None);
    fs::metadata(&aside).unwrap();
}

#[test]
fn without_the_folder_of_kubelet_nothing_is_made() {
    let (_kubelet, folders, target) = node();
    fs::remove_dir(folders.volume_path(&target)).unwrap();
    let refusal = folders.make(&target).unwrap_err();
    assert!(refusal.to_string().contains("No such file"), "{refusal}");
}
