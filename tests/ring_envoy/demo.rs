//! The demo leaves nothing behind when somebody stops it: no process, no file.

use std::{collections::BTreeMap, fs, path::Path, process::Stdio};

use anyhow::{Context, ensure};
use ensign_testbed::{envoy, folder::Folder, process::own_binary, wait};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    time::timeout,
};

/// Ctrl-C in a terminal reaches every process of the group: the demo, both programs and the Envoys.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_demo_that_is_interrupted_leaves_nothing_behind() -> anyhow::Result<()> {
    stop_demo(|demo| kill_process_group(demo, Signal::INT)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_demo_that_is_terminated_leaves_nothing_behind() -> anyhow::Result<()> {
    stop_demo(|demo| kill_process(demo, Signal::TERM)).await
}

/// Starts the demo, lets its Envoys come up, stops it, and looks at what is left.
async fn stop_demo(stop: impl FnOnce(Pid) -> rustix::io::Result<()>) -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let mut demo = start(folder.path())?;
    let group = Group(pid(&demo)?);
    let mut lines = BufReader::new(demo.stdout.take().context("no output")?).lines();
    let under_load = async {
        while let Some(line) = lines.next_line().await? {
            if line.contains("renewals on each side under load") {
                return Ok(());
            }
        }
        anyhow::bail!("the demo ended before its Envoys were under load")
    };
    timeout(wait::PATIENCE * 2, under_load)
        .await
        .context("the demo is stuck")??;

    let processes = descendants(group.0)?;
    ensure!(
        processes.len() >= 5,
        "an RA, an agent and three Envoys should run: {processes:?}"
    );
    stop(group.0)?;
    // Its output is a pipe; nobody may wait on it for ever.
    let drained = async {
        while lines.next_line().await?.is_some() {}
        Ok::<_, anyhow::Error>(())
    };
    timeout(wait::PATIENCE, drained)
        .await
        .context("the demo does not end")??;
    let status = timeout(wait::PATIENCE, demo.wait())
        .await
        .context("the demo does not end")??;
    ensure!(!status.success(), "a demo that was stopped says that all went well");
    for (process, started) in &processes {
        ensure!(
            stat(*process).is_none_or(|now| now.started != *started),
            "process {process} outlived the demo"
        );
    }
    let left: Vec<_> = fs::read_dir(folder.path())?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    ensure!(left.is_empty(), "left behind: {left:?}");
    folder.discard();
    Ok(())
}

/// In a process group of its own, as a shell starts it, with its temporary files in `folder`.
fn start(folder: &Path) -> anyhow::Result<Child> {
    let binary = own_binary("ensign-demo")?;
    let child = Command::new(&binary)
        .env_clear()
        .env("TMPDIR", folder)
        .env("ENSIGN_ENVOY", envoy::binary()?)
        .env("ENSIGN_BIN_DIR", binary.parent().context("no folder")?)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()?;
    Ok(child)
}

fn pid(child: &Child) -> anyhow::Result<Pid> {
    let id = i32::try_from(child.id().context("the demo has ended")?)?;
    Pid::from_raw(id).context("not a process id")
}

/// Whatever happens to the test, nothing of the group stays.
struct Group(Pid);

impl Drop for Group {
    fn drop(&mut self) {
        // Usually all have ended by now, and there is no such group.
        _ = kill_process_group(self.0, Signal::KILL);
    }
}

/// What `/proc/<pid>/stat` says. An id may be used again; the time of the start tells two processes apart.
struct Stat {
    parent: i32,
    started: u64,
}

/// Ids and start times of all processes below this one.
fn descendants(root: Pid) -> anyhow::Result<BTreeMap<i32, u64>> {
    let all: BTreeMap<i32, Stat> = fs::read_dir("/proc")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(|process| Some((process, stat(process)?)))
        .collect();
    let mut found = BTreeMap::new();
    let mut parents = vec![root.as_raw_nonzero().get()];
    while let Some(parent) = parents.pop() {
        for (process, stat) in all.iter().filter(|(_, stat)| stat.parent == parent) {
            found.insert(*process, stat.started);
            parents.push(*process);
        }
    }
    Ok(found)
}

fn stat(process: i32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The name in brackets may hold anything; the fields behind it are numbers, from the third on.
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    Some(Stat {
        parent: fields.get(1)?.parse().ok()?,
        started: fields.get(19)?.parse().ok()?,
    })
}
