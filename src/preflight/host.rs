//! What the kernel says of this machine's mounts and of SELinux.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use ensign_daemon::Finding;

/// Where the kernel says it.
#[derive(Clone, Debug)]
pub(super) struct Machine {
    proc: PathBuf,
    sys: PathBuf,
}

// === impl Machine ===

impl Machine {
    /// This one.
    pub(super) fn this() -> Self {
        Self::at(Path::new("/"))
    }

    /// One whose `/proc` and `/sys` are below this folder.
    pub(super) fn at(root: &Path) -> Self {
        Self {
            proc: root.join("proc"),
            sys: root.join("sys"),
        }
    }

    /// If kubelet's `pods` is a mount of its own, the host's unmounts must reach it: otherwise every pod's mounts that the
    /// agent saw when it started stay busy until it stops.
    pub(super) fn propagation(&self, pods: &Path) -> Option<Finding> {
        let mounts = read(&self.proc.join("self/mountinfo"))?;
        // `ID PARENT MAJOR:MINOR ROOT POINT OPTIONS [master:N|shared:N …] - TYPE …`; the last mount covers those below.
        let mount = mounts.lines().rev().find_map(|line| {
            let mut fields = line.split(' ');
            let point = fields.nth(4)?;
            (Path::new(point) == pods).then(|| fields.skip(1).take_while(|field| *field != "-").collect::<Vec<_>>())
        })?;
        let follows = mount
            .iter()
            .any(|field| field.starts_with("master:") || field.starts_with("shared:"));
        (!follows).then(|| {
            let cause = format!(
                "{} is mounted without propagation: mounts of pods that are gone stay busy until the agent restarts",
                pods.display()
            );
            Finding::note(
                "mount_propagation",
                cause,
                "set `mountPropagation: HostToContainer` on that volumeMount, as deploy/daemonset.yaml does",
            )
        })
    }

    /// Where SELinux is enforced, a container's usual type may not touch kubelet's folders. By our own type: whether it is enforced
    /// stands in a file system that a container has only if it is privileged.
    pub(super) fn selinux(&self) -> Option<Finding> {
        let context = read(&self.proc.join("self/attr/current"))?;
        let kind = context.trim_end_matches(['\0', '\n']).split(':').nth(2)?;
        let enforced = match read(&self.sys.join("fs/selinux/enforce")).as_deref().map(str::trim) {
            Some("0") => return None,
            Some(_) => "is enforced",
            None => "is probably enforced (/sys/fs/selinux cannot be read here)",
        };
        kind.starts_with("container_").then(|| {
            let cause = format!(
                "SELinux {enforced} and the agent runs as {kind}, which may not make sockets in kubelet's folders"
            );
            Finding::note("selinux", cause, OTHER_TYPE)
        })
    }
}

/// What an agent needs where SELinux is enforced.
pub(super) const OTHER_TYPE: &str = "set `seLinuxOptions: { type: spc_t }` on the agent's container (agent.seLinuxOptions of the chart; global.platform=openshift does)";

/// None if there is no such file, as on a kernel without it.
fn read(path: &Path) -> Option<String> {
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, rustix::fs::Mode::empty()).ok()?;
    let mut text = String::new();
    std::fs::File::from(file).read_to_string(&mut text).ok()?;
    Some(text)
}
