//! The fence around the agent: below kubelet's `pods` it may make and remove folders and sockets and list them, and can
//! neither read, write nor execute a file there, whatever becomes of it later (Landlock).
//!
//! Without it, an agent that runs as root could read the Secrets of every pod of its node. Landlock only knows what is allowed,
//! so everything beside the path to `pods` is allowed as before and on that path nothing but the above: what appears later
//! right beside it (`/x`, `/var/x`, …) is out of reach too. Call it before there is a second thread: a thread gets the fence
//! of the one that started it. It cannot be taken down.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access as _, AccessFs, BitFlags, PathBeneath, PathFd, Ruleset, RulesetAttr as _, RulesetCreatedAttr as _,
    RulesetError, RulesetStatus,
};

use super::Config;

/// Whether there is a fence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fence {
    /// All of it is in force.
    Whole,
    /// The kernel knows only some of the rights; those are in force.
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
        confine(&config.kubelet_dir.join("pods"))
    }
}

fn confine(pods: &Path) -> Result<Fence, FenceError> {
    #[expect(clippy::disallowed_methods, reason = "before the first thread of the runtime")]
    let pods = fs::canonicalize(pods).map_err(|source| FenceError::Pods {
        path: pods.to_owned(),
        source,
    })?;
    // Listing stays free everywhere; what else newer kernels know is left out by the crate where it is missing.
    let handled = AccessFs::from_all(KNOWN) & !BitFlags::from(AccessFs::ReadDir);
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
                handled & AccessFs::from_file(KNOWN)
            };
            rules = allow(rules, &beside, all)?;
        }
        on_the_way = folder;
    }
    let status = rules.restrict_self().map_err(FenceError::Rules)?;
    Ok(match status.ruleset {
        RulesetStatus::FullyEnforced => Fence::Whole,
        RulesetStatus::PartiallyEnforced => Fence::Partial,
        RulesetStatus::NotEnforced => Fence::None,
    })
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

    use super::*;

    /// On a thread of its own, which takes the fence with it when it ends.
    fn fenced<T: Send>(pods: &Path, act: impl FnOnce() -> T + Send) -> T {
        let inside = || {
            let fence = confine(pods).unwrap();
            assert_eq!(
                fence,
                Fence::Whole,
                "this kernel's Landlock is missing or old: the fence cannot be tested"
            );
            act()
        };
        std::thread::scope(|scope| scope.spawn(inside).join().unwrap())
    }

    #[test]
    fn below_pods_no_file_can_be_read_written_or_made() {
        let kubelet = tempfile::tempdir().unwrap();
        let pods = kubelet.path().join("pods");
        let volume = pods.join("uid/volumes/kubernetes.io~csi/v");
        fs::create_dir_all(&volume).unwrap();
        fs::create_dir(kubelet.path().join("plugins")).unwrap();
        let secret = pods.join("uid/volumes/secret");
        fs::write(&secret, "planted").unwrap();
        symlink(&secret, kubelet.path().join("plugins/way-in")).unwrap();
        let denied = io::ErrorKind::PermissionDenied;
        fenced(&pods, || {
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
        });
        assert_eq!(fs::read(&secret).unwrap(), b"planted");
    }

    #[test]
    fn what_the_agent_does_there_still_works() {
        let kubelet = tempfile::tempdir().unwrap();
        let pods = kubelet.path().join("pods");
        let volume = pods.join("uid/volumes/kubernetes.io~csi/v");
        fs::create_dir_all(&volume).unwrap();
        fs::create_dir(kubelet.path().join("plugins")).unwrap();
        fenced(&pods, || {
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
        let error = confine(&kubelet.path().join("pods")).unwrap_err().to_string();
        assert!(error.contains("--kubelet-dir"), "{error}");
    }
}
