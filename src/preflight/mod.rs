//! What of this machine keeps the agent from working: looked at when it starts, and by `ensign-agent preflight --local`.
//!
//! Wrong is only what can never heal by itself, with the settings as they are: that stops the agent, all of it told at once. What
//! may heal (no roots yet) or works less well is a note, and only said: an agent must start while the authority is down.
//! Called before the first thread, so it may block.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use ensign_daemon::Finding;
use rustix::fs::{self, Access, FileType};
use rustix::io::Errno;

use crate::config::Config;
use crate::source::{self, csi};

mod host;

/// Everything that is to be said for an agent of these settings.
pub fn check(config: &Config) -> Vec<Finding> {
    let mut findings = match &config.source {
        source::Config::Fixed(fixed) => fixed_source(fixed).into_iter().collect(),
        source::Config::Csi(csi) => csi_source(csi, &host::Machine::this()),
    };
    findings.extend(roots(&config.ca_roots_file));
    findings
}

fn fixed_source(config: &source::fixed::Config) -> Option<Finding> {
    let path = &config.workloads_file;
    let error = fs::access(path, Access::READ_OK).err()?;
    let cause = format!(
        "the workloads file {} cannot be read: {}",
        path.display(),
        io::Error::from(error)
    );
    Some(Finding::wrong(
        "workloads_file",
        cause,
        "set --workloads-file (ENSIGN_WORKLOADS_FILE) to a file that the agent may read",
    ))
}

fn csi_source(config: &csi::Config, machine: &host::Machine) -> Vec<Finding> {
    let selinux = machine.selinux();
    let mut findings = kubelet(&config.kubelet_dir, selinux.as_ref());
    findings.extend(state(&config.state_dir));
    findings.extend(machine.propagation(&config.kubelet_dir.join("pods")));
    findings.extend(selinux);
    findings
}

/// The folders that kubelet and the agent share. Where SELinux may be in the way, that is the likelier reason for a denial.
fn kubelet(folder: &Path, selinux: Option<&Finding>) -> Vec<Finding> {
    kubelet_as(folder, selinux, unusable)
}

/// As this says of each folder.
fn kubelet_as(
    folder: &Path,
    selinux: Option<&Finding>,
    unusable: impl Fn(&Path, Access) -> Option<Unusable>,
) -> Vec<Finding> {
    let fix = "mount it into the agent, writable and at the same path as on the node, or set --kubelet-dir (ENSIGN_KUBELET_DIR, agent.kubeletDir) to kubelet's --root-dir";
    let wrong = |path: PathBuf, why: Unusable| {
        let (cause, path) = (why.to_string(), path.display());
        match selinux {
            Some(selinux) if why == Unusable::System(Errno::ACCESS) => Finding::wrong(
                "kubelet_dir",
                format!("kubelet's folder {path} {cause}; {}", selinux.cause),
                host::OTHER_TYPE,
            ),
            Some(_) | None => Finding::wrong("kubelet_dir", format!("kubelet's folder {path} {cause}"), fix),
        }
    };
    if let Some(why) = unusable(folder, Access::EXEC_OK) {
        return vec![wrong(folder.to_owned(), why)];
    }
    let plugin = Path::new("plugins").join(csi::DRIVER);
    let inner = [Path::new("pods"), &plugin, Path::new("plugins_registry")];
    let looked = inner.map(|inner| {
        let path = folder.join(inner);
        unusable(&path, Access::WRITE_OK | Access::EXEC_OK).map(|why| wrong(path, why))
    });
    looked.into_iter().flatten().collect()
}

/// Where a successor finds what is published. It is made if its parent is there.
fn state(folder: &Path) -> Option<Finding> {
    let fix = "mount a folder of the host's tmpfs there, such as /run/ensign, or set --state-dir (ENSIGN_STATE_DIR)";
    let here = fs::lstat(folder).is_ok();
    let looked = if here {
        folder
    } else {
        folder.parent().unwrap_or(folder)
    };
    if let Some(why) = unusable(looked, Access::WRITE_OK | Access::EXEC_OK) {
        let cause = format!(
            "the state folder {} cannot be used: {} {why}",
            folder.display(),
            looked.display()
        );
        return Some(Finding::wrong("state_dir", cause, fix));
    }
    let kept = fs::statfs(looked).is_ok_and(|system| system.f_type != TMPFS);
    kept.then(|| {
        let cause = format!(
            "the state folder {} is on no tmpfs, so it outlives a reboot of the node, after which it is of little use",
            folder.display()
        );
        Finding::note("state_not_tmpfs", cause, fix)
    })
}

/// The authority's roots: Kubernetes mounts them when they come.
fn roots(file: &Path) -> Option<Finding> {
    let error = fs::access(file, Access::READ_OK).err()?;
    let cause = format!(
        "no roots yet: {} (CA_ROOT_CA) cannot be read: {}",
        file.display(),
        io::Error::from(error)
    );
    let fix = "nothing, if the RA is yet to come: the agent waits and takes them up; else see who writes the ConfigMap istio-ca-root-cert";
    Some(Finding::note("no_roots", cause, fix))
}

/// Why a folder is not one that may be used so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unusable {
    Missing,
    NoFolder,
    System(Errno),
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("is not there"),
            Self::NoFolder => f.write_str("is no folder"),
            Self::System(errno) => write!(f, "cannot be used: {}", io::Error::from(*errno)),
        }
    }
}

fn unusable(path: &Path, access: Access) -> Option<Unusable> {
    match fs::stat(path) {
        Err(Errno::NOENT) => Some(Unusable::Missing),
        Err(errno) => Some(Unusable::System(errno)),
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) != FileType::Directory => Some(Unusable::NoFolder),
        Ok(_) => fs::access(path, access).err().map(Unusable::System),
    }
}

/// What statfs calls tmpfs (Linux, uapi/linux/magic.h).
const TMPFS: i64 = 0x0102_1994;

#[cfg(test)]
mod tests;
