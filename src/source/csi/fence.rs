//! The fence around the agent: below kubelet's `pods` it may make and remove folders and sockets and list them, and can
//! neither read, write nor execute a file there, whatever becomes of it later (Landlock).
//!
//! Without it, an agent that runs as root could read the Secrets of every pod of its node. Landlock only knows what is allowed,
//! so everything beside the path to `pods` is allowed as before and on that path nothing but the above: what appears later
//! right beside it (`/x`, `/var/x`, …) is out of reach too. Call it before there is a second thread: a thread gets the fence
//! of the one that started it. It cannot be taken down.
//!
//! Older kernels know fewer rights. What that means here, by Landlock's ABI:
//!
//! - 1 (Linux 5.13) cannot allow renames and links from one folder to another, so it refuses them everywhere. We need none.
//! - 1 and 2 (before 6.2) do not know truncation. Who cannot open a file for writing can still cut it, or lengthen it by zeros: a fence
//!   in part, and it says so.
//! - 3 and 4 (before 6.10) do not know ioctls on devices. That opens nothing below `pods`: no device can be made there, none can be
//!   opened for reading or writing, and one that is opened for neither (access mode 3) is refused by the container's device cgroup, but
//!   for `/dev/null` and its like. So the fence is whole.
//!
//! No Landlock knows modes, owners and times of files.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access as _, AccessFs, BitFlags, LandlockStatus, PathBeneath, PathFd, Ruleset, RulesetAttr as _,
    RulesetCreatedAttr as _, RulesetError, RulesetStatus,
};

use super::Config;

/// Whether there is a fence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fence {
    /// No file can be read, written or executed.
    Whole,
    /// The same, but files can be cut: the kernel does not know truncation (Landlock before ABI 3, Linux before 6.2).
    Partial,
    /// The kernel, or the seccomp profile of the container, does not let us.
    None,
}

/// Why there can be no fence, and no agent without looking into it.
#[derive(Debug, thiserror::Error)]
pub enum FenceError {
    /// Kubelet's folder is not there.
    #[error(
        "kubelet's folder {path} cannot be looked at: {source}; mount it into the agent at the same path, or set --kubelet-dir to kubelet's --root-dir"
    )]
    Pods {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// What lies beside it cannot be listed.
    #[error("folder {path} cannot be listed: {source}")]
    Beside {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The kernel refused a rule.
    #[error("the kernel refused the fence")]
    Rules(#[source] RulesetError),
}

impl Fence {
    /// Confines this thread and all that it starts from now on.
    pub fn raise(config: &Config) -> Result<Self, FenceError> {
        confine(&config.kubelet_dir.join("pods"), KNOWN)
    }

    /// For the metric: 1 if it is whole, 0 if there is none.
    pub(super) fn share(&self) -> f64 {
        match self {
            Self::Whole => 1.0,
            Self::Partial => 0.5,
            Self::None => 0.0,
        }
    }
}

/// With the rights of this ABI, or those of the kernel's where it is older.
fn confine(pods: &Path, abi: ABI) -> Result<Fence, FenceError> {
    #[expect(clippy::disallowed_methods, reason = "before the first thread of the runtime")]
    let pods = fs::canonicalize(pods).map_err(|source| FenceError::Pods {
        path: pods.to_owned(),
        source,
    })?;
    // Listing stays free everywhere; what an older kernel does not know is left out by the crate.
    let handled = AccessFs::from_all(abi) & !BitFlags::from(AccessFs::ReadDir);
    let inside = AccessFs::MakeDir | AccessFs::RemoveDir | AccessFs::MakeSock | AccessFs::RemoveFile;
    let mut rules = Ruleset::default()
        .handle_access(handled)
        .and_then(Ruleset::create)
        .map_err(FenceError::Rules)?;
    rules = allow(rules, &pods, inside)?;
    let mut on_the_way = pods.as_path();
    while let Some(folder) = on_the_way.parent() {
        for (beside, is_folder) in beside(folder, on_the_way)? {
            // A file has no rights of a folder; asking for them would count as a fence with gaps.
            let all = if is_folder {
                handled
            } else {
                handled & AccessFs::from_file(abi)
            };
            rules = allow(rules, &beside, all)?;
        }
        on_the_way = folder;
    }
    let status = rules.restrict_self().map_err(FenceError::Rules)?;
    Ok(judge(&status.ruleset, status.landlock, abi))
}

/// What came of a ruleset with the rights of this ABI. That the kernel has fewer is looked at alone: a file that went meanwhile is no gap.
fn judge(ruleset: &RulesetStatus, kernel: LandlockStatus, asked: ABI) -> Fence {
    let LandlockStatus::Available { effective_abi, .. } = kernel else {
        return Fence::None;
    };
    match ruleset {
        RulesetStatus::NotEnforced => Fence::None,
        RulesetStatus::FullyEnforced | RulesetStatus::PartiallyEnforced => {
            if AccessFs::from_all(effective_abi.min(asked)).contains(AccessFs::Truncate) {
                Fence::Whole
            } else {
                Fence::Partial
            }
        }
    }
}

/// What lies in `folder`, except for `way`, and whether it is a folder. Symlinks are left out: what they lead to counts by its own path.
fn beside(folder: &Path, way: &Path) -> Result<Vec<(PathBuf, bool)>, FenceError> {
    let failed = |source| FenceError::Beside {
        path: folder.to_owned(),
        source,
    };
    let mut found = Vec::new();
    #[expect(clippy::disallowed_methods, reason = "before the first thread of the runtime")]
    let entries = fs::read_dir(folder).map_err(failed)?;
    for entry in entries {
        let entry = entry.map_err(failed)?;
        let kind = entry.file_type().map_err(failed)?;
        if !kind.is_symlink() && entry.path() != way {
            found.push((entry.path(), kind.is_dir()));
        }
    }
    Ok(found)
}

fn allow(
    rules: landlock::RulesetCreated,
    path: &Path,
    access: BitFlags<AccessFs>,
) -> Result<landlock::RulesetCreated, FenceError> {
    // What cannot be opened cannot be used either way, and what went meanwhile is no loss.
    let Ok(path) = PathFd::new(path) else {
        return Ok(rules);
    };
    rules
        .add_rule(PathBeneath::new(path, access))
        .map_err(FenceError::Rules)
}

/// The newest rights that we ask for. Older kernels have fewer.
const KNOWN: ABI = ABI::V5;

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    use rustix::fs::{Mode, OFlags};
    use test_case::test_case;

    use super::*;

    /// On a thread of its own, which takes the fence with it when it ends.
    fn fenced<T: Send>(pods: &Path, abi: ABI, act: impl FnOnce(Fence) -> T + Send) -> T {
        let inside = || {
            let fence = confine(pods, abi).unwrap();
            assert_ne!(
                fence,
                Fence::None,
                "this kernel has no Landlock, or something forbids it: the fence cannot be tested"
            );
            act(fence)
        };
        std::thread::scope(|scope| scope.spawn(inside).join().unwrap())
    }

    /// For neither reading nor writing, which no right of Landlock stands for.
    fn cut(path: &Path) -> Result<(), rustix::io::Errno> {
        let neither = OFlags::from_bits_retain(3);
        rustix::fs::open(path, neither | OFlags::TRUNC | OFlags::CLOEXEC, Mode::empty()).map(drop)
    }

    #[test_case(ABI::V1; "since Linux 5.13")]
    #[test_case(ABI::V2; "since Linux 5.19")]
    #[test_case(ABI::V3; "since Linux 6.2")]
    #[test_case(KNOWN; "since Linux 6.10")]
    fn below_pods_no_file_can_be_read_written_or_made(abi: ABI) {
        let kubelet = tempfile::tempdir().unwrap();
        let pods = kubelet.path().join("pods");
        let volume = pods.join("uid/volumes/kubernetes.io~csi/v");
        fs::create_dir_all(&volume).unwrap();
        fs::create_dir(kubelet.path().join("plugins")).unwrap();
        let secret = pods.join("uid/volumes/secret");
        fs::write(&secret, "planted").unwrap();
        symlink(&secret, kubelet.path().join("plugins/way-in")).unwrap();
        let denied = io::ErrorKind::PermissionDenied;
        let fence = fenced(&pods, abi, |fence| {
            assert_eq!(fs::read(&secret).unwrap_err().kind(), denied);
            assert_eq!(
                fs::read(kubelet.path().join("plugins/way-in")).unwrap_err().kind(),
                denied
            );
            assert_eq!(fs::write(&secret, "x").unwrap_err().kind(), denied);
            assert_eq!(fs::write(volume.join("new"), "x").unwrap_err().kind(), denied);
            assert_eq!(symlink("/etc", volume.join("link")).unwrap_err().kind(), denied);
            let moved = fs::rename(&secret, kubelet.path().join("plugins/out"));
            assert!(moved.is_err());
            let linked = fs::hard_link(&secret, kubelet.path().join("plugins/out"));
            assert!(linked.is_err());
            let program = std::process::Command::new(&secret).status();
            assert_eq!(program.unwrap_err().kind(), denied);
            fence
        });
        assert_eq!(fs::read(&secret).unwrap(), b"planted");
        // By the kernel's own ABI where that is older.
        if abi < ABI::V3 {
            assert_eq!(fence, Fence::Partial);
        }
    }

    /// What an older Landlock lacks is lacking, and only that is said.
    #[test_case(ABI::V1; "1")]
    #[test_case(ABI::V2; "2")]
    #[test_case(ABI::V3; "3")]
    #[test_case(ABI::V4; "4")]
    #[test_case(KNOWN; "5")]
    fn whether_a_file_can_be_cut_is_what_the_fence_says(abi: ABI) {
        let kubelet = tempfile::tempdir().unwrap();
        let pods = kubelet.path().join("pods");
        fs::create_dir(&pods).unwrap();
        let file = pods.join("file");
        fs::write(&file, "planted").unwrap();
        let (fence, outcome) = fenced(&pods, abi, |fence| (fence, cut(&file)));
        let left = fs::read(&file).unwrap();
        match fence {
            Fence::Whole => assert_eq!((outcome, &left[..]), (Err(rustix::io::Errno::ACCESS), &b"planted"[..])),
            Fence::Partial => assert_eq!((outcome, &left[..]), (Ok(()), &b""[..])),
            Fence::None => unreachable!(),
        }
        assert!(abi >= ABI::V3 || fence == Fence::Partial, "{fence:?}");
    }

    /// Whichever kernel this runs on: what it answers, how the fence is then, and the metric.
    #[test_case(LandlockStatus::NotImplemented, RulesetStatus::NotEnforced, Fence::None, 0.0; "none, or a seccomp profile that denies it")]
    #[test_case(LandlockStatus::NotEnabled, RulesetStatus::NotEnforced, Fence::None, 0.0; "not enabled")]
    #[test_case(kernel(ABI::V5), RulesetStatus::NotEnforced, Fence::None, 0.0; "not enforced")]
    #[test_case(kernel(ABI::V1), RulesetStatus::PartiallyEnforced, Fence::Partial, 0.5; "ABI 1")]
    #[test_case(kernel(ABI::V2), RulesetStatus::PartiallyEnforced, Fence::Partial, 0.5; "ABI 2")]
    #[test_case(kernel(ABI::V3), RulesetStatus::PartiallyEnforced, Fence::Whole, 1.0; "ABI 3")]
    #[test_case(kernel(ABI::V4), RulesetStatus::PartiallyEnforced, Fence::Whole, 1.0; "ABI 4")]
    #[test_case(kernel(ABI::V6), RulesetStatus::FullyEnforced, Fence::Whole, 1.0; "ABI 6")]
    fn what_the_kernel_answers_is_what_is_said(
        kernel: LandlockStatus,
        ruleset: RulesetStatus,
        fence: Fence,
        metric: f64,
    ) {
        let seen = judge(&ruleset, kernel, KNOWN);
        assert_eq!(seen, fence);
        assert!((seen.share() - metric).abs() < f64::EPSILON, "{}", seen.share());
    }

    fn kernel(effective_abi: ABI) -> LandlockStatus {
        LandlockStatus::Available {
            effective_abi,
            kernel_abi: None,
        }
    }

    #[test_case(ABI::V1; "since Linux 5.13")]
    #[test_case(KNOWN; "since Linux 6.10")]
    fn what_the_agent_does_there_still_works(abi: ABI) {
        let kubelet = tempfile::tempdir().unwrap();
        let pods = kubelet.path().join("pods");
        let volume = pods.join("uid/volumes/kubernetes.io~csi/v");
        fs::create_dir_all(&volume).unwrap();
        fs::create_dir(kubelet.path().join("plugins")).unwrap();
        fenced(&pods, abi, |_| {
            let mount = volume.join("mount");
            fs::create_dir(&mount).unwrap();
            let _listener = UnixListener::bind(mount.join(".new")).unwrap();
            fs::rename(mount.join(".new"), mount.join("ensign.sock")).unwrap();
            std::os::unix::net::UnixStream::connect(mount.join("ensign.sock")).unwrap();
            assert_eq!(fs::read_dir(&mount).unwrap().count(), 1);
            fs::remove_file(mount.join("ensign.sock")).unwrap();
            fs::remove_dir(&mount).unwrap();
            // Elsewhere nothing changes.
            let plugin = kubelet.path().join("plugins/file");
            fs::write(&plugin, "x").unwrap();
            assert_eq!(fs::read(&plugin).unwrap(), b"x");
            fs::read("/proc/self/status").unwrap();
        });
    }

    #[test]
    fn without_kubelets_folder_it_says_what_to_mount() {
        let kubelet = tempfile::tempdir().unwrap();
        let error = confine(&kubelet.path().join("pods"), KNOWN).unwrap_err().to_string();
        assert!(error.contains("--kubelet-dir"), "{error}");
    }
}
