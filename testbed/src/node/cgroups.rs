//! A node's control groups: kubelet wants its root to be there, and leaves it behind.

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};

use crate::wait::{self, PATIENCE};

const ROOT: &str = "/sys/fs/cgroup";

/// Makes the group in every hierarchy, with processors and memory.
pub(super) fn make(name: &str) -> anyhow::Result<()> {
    for hierarchy in hierarchies()? {
        let group = hierarchy.join(name.trim_start_matches('/'));
        std::fs::create_dir_all(&group).with_context(|| format!("cannot make {}", group.display()))?;
        for file in ["cpuset.cpus", "cpuset.mems"] {
            if let Ok(text) = std::fs::read_to_string(hierarchy.join(file)) {
                std::fs::write(group.join(file), text.trim()).with_context(|| format!("cannot set {file}"))?;
            }
        }
    }
    Ok(())
}

/// Removes it with all that is below, once its processes have ended.
pub(super) async fn remove(name: &str) -> anyhow::Result<()> {
    // runc makes one in the empty cgroup2, too.
    for hierarchy in folders()? {
        let group = hierarchy.join(name.trim_start_matches('/'));
        wait::until("the node's control groups to be empty", PATIENCE, async || {
            remove_deepest_first(&group).with_context(|| format!("{}", group.display()))
        })
        .await?;
    }
    Ok(())
}

/// A control group's files go with its folder.
fn remove_deepest_first(group: &Path) -> std::io::Result<()> {
    let entries = match std::fs::read_dir(group) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_deepest_first(&entry.path())?;
        }
    }
    std::fs::remove_dir(group)
}

fn hierarchies() -> anyhow::Result<Vec<PathBuf>> {
    // cgroup2 without controllers holds nothing for kubelet.
    let mut found = folders()?;
    found.retain(|path| path.join("tasks").is_file() && !path.is_symlink());
    ensure!(
        !found.is_empty(),
        "no cgroup v1 hierarchy in {ROOT}: this test bed knows no other yet"
    );
    Ok(found)
}

fn folders() -> anyhow::Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(ROOT).with_context(|| format!("no {ROOT}"))?;
    let paths = entries.filter_map(Result::ok).map(|entry| entry.path());
    Ok(paths.filter(|path| path.is_dir()).collect())
}
