//! The control plane on one half of the processors, the RA and its clients on the other.
//!
//! In production the API server and its store have processors of their own. Where everything shares two, whatever the RA
//! computes slows the API server down, and a rate says more of the machine than of the RA. Who wants to know that, too,
//! has it measured so (`--shared`).

use std::process::Command;

use anyhow::{Context, ensure};

/// Lists of processors as `taskset` writes them.
#[derive(Debug)]
pub(super) struct Halves {
    control_plane: String,
    ours: String,
}

// === impl Halves ===

impl Halves {
    /// Of the processors that we may use; `None` if there is only one.
    pub(super) fn of_this_machine() -> anyhow::Result<Option<Self>> {
        let status = std::fs::read_to_string("/proc/self/status")?;
        let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
        let processors = processors(list.context("the kernel does not say which processors we may use")?)?;
        let (control_plane, ours) = processors.split_at(processors.len() / 2);
        Ok((!control_plane.is_empty()).then(|| Self {
            control_plane: control_plane.join(","),
            ours: ours.join(","),
        }))
    }

    /// A program of the control plane.
    pub(super) fn control_plane(&self, pid: u32) -> anyhow::Result<()> {
        keep(pid, &self.control_plane)
    }

    /// The RA, or a client.
    pub(super) fn ours(&self, pid: u32) -> anyhow::Result<()> {
        keep(pid, &self.ours)
    }
}

/// All threads of a process, and those that it makes later.
fn keep(pid: u32, processors: &str) -> anyhow::Result<()> {
    let output = Command::new("taskset")
        .args(["--all-tasks", "--pid", "--cpu-list", processors, &pid.to_string()])
        .output()
        .context("cannot run taskset (util-linux)")?;
    let why = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "taskset: {why}");
    Ok(())
}

/// `0-2,5` is 0, 1, 2 and 5.
fn processors(list: &str) -> anyhow::Result<Vec<String>> {
    let mut all = Vec::new();
    for part in list.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.parse()?, last.parse()?);
        all.extend((first..=last).map(|number| number.to_string()));
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_as_the_kernel_writes_them() {
        assert_eq!(processors("\t0-2,5\n").unwrap(), ["0", "1", "2", "5"]);
        assert_eq!(processors("7").unwrap(), ["7"]);
        assert!(processors("").is_err());
    }
}
