//! `make cluster`: a cluster for a person, with our RA and workloads in it and a shell; `make cluster-down` ends it from elsewhere.
//!
//! One for each checkout and name. Without a terminal it prints where its kubeconfig is and stays until it is ended, unless a shell is
//! asked for, which then reads its commands from standard input. Whichever way it ends, nothing is left behind: no process, no file.

use std::{
    env,
    io::IsTerminal as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{UnixListener, UnixStream},
    process::Command,
    select,
    signal::unix::{SignalKind, signal},
    task::spawn_blocking,
};

use super::{Access, component::distribution, meeting::Meeting, town::Town};
use crate::{folder::Folder, story::Story};

/// What `down` says.
const DOWN: &[u8; 4] = b"down";

/// Where `down` finds it.
fn meeting(name: &str) -> Meeting {
    Meeting::of(&format!("make cluster {name} in {}", env!("CARGO_MANIFEST_DIR")))
}

/// What a person gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offer {
    /// A shell; the cluster ends with it.
    Shell,
    /// Where the kubeconfig is; the cluster stays until it is ended.
    Nothing,
}

impl Offer {
    /// A shell for whoever sits at a terminal.
    pub fn for_terminals() -> Self {
        if std::io::stdin().is_terminal() && std::io::stdout().is_terminal() {
            Self::Shell
        } else {
            Self::Nothing
        }
    }
}

/// Starts a cluster with our RA and workloads in it, and ends with what it offers.
pub async fn session(name: &str, offer: Offer, story: &mut Story) -> anyhow::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let meeting = meeting(name);
    let listener = {
        let _lock = meeting.lock()?;
        if meeting.connect().is_some() {
            bail!("this checkout's cluster runs already; `make cluster-down` ends it");
        }
        drop(std::fs::remove_file(meeting.socket()));
        UnixListener::bind(meeting.socket()).context("cannot listen for `make cluster-down`")?
    };
    let files = Arc::new(Folder::new()?);
    let mut town = Town::default();
    let told = select! {
        told = stay(&mut town, offer, &files, story) => told,
        asked = asked(&listener) => asked,
        _ = interrupt.recv() => Ok(None),
        _ = terminate.recv() => Ok(None),
    };
    let ended = town.end().await;
    let told = told.and_then(|told| ended.map(|()| told));
    // By now all processes are dead and reaped. If it failed, somebody wants its logs.
    if told.is_ok() {
        files.discard();
    }
    drop(files);
    drop(listener);
    spawn_blocking(move || meeting.remove(&meeting.lock()?)).await??;
    story.tell("the cluster has ended; nothing is left behind");
    if let Some(mut asker) = told? {
        // It waits for this, or for the connection's end.
        drop(asker.write_all(b"ended").await);
    }
    Ok(())
}

/// Ends the session of this checkout, and waits for its end.
pub async fn down(name: &str, story: &mut Story) -> anyhow::Result<()> {
    let Ok(mut connection) = UnixStream::connect(meeting(name).socket()).await else {
        story.tell("no cluster of this checkout runs");
        return Ok(());
    };
    connection
        .write_all(DOWN)
        .await
        .context("the cluster does not listen")?;
    let mut answer = Vec::new();
    connection
        .read_to_end(&mut answer)
        .await
        .context("the cluster does not answer")?;
    story.tell("the cluster has ended");
    Ok(())
}

/// Waits for [`down`]. Others connect, too, to see whether somebody is here.
async fn asked(listener: &UnixListener) -> anyhow::Result<Option<UnixStream>> {
    loop {
        let (mut connection, _) = listener.accept().await.context("cannot listen")?;
        let mut word = [0; DOWN.len()];
        if connection.read_exact(&mut word).await.is_ok() && word == *DOWN {
            return Ok(Some(connection));
        }
    }
}

/// The town, until its shell ends.
async fn stay(
    town: &mut Town,
    offer: Offer,
    files: &Arc<Folder>,
    story: &mut Story,
) -> anyhow::Result<Option<UnixStream>> {
    town.build(files, story).await?;
    let cluster = town.cluster()?;
    story.chapter("All is yours");
    match offer {
        Offer::Shell => {
            story.tell("kubectl is on PATH and knows the cluster; AGENT, HTTPBIN and RATINGS are the URLs above");
            story.tell("`exit` or `make cluster-down` ends it");
            shell(cluster, town.variables()?).await?;
        }
        Offer::Nothing => {
            story.tell(&format!("KUBECONFIG={}", cluster.admin_kubeconfig().display()));
            story.tell("it stays until `make cluster-down` or SIGTERM");
            std::future::pending::<()>().await;
        }
    }
    Ok(None)
}

async fn shell(access: &Access, variables: Vec<(&str, String)>) -> anyhow::Result<()> {
    let program = env::var_os("SHELL").unwrap_or_else(|| "/bin/sh".into());
    let mut shell = Command::new(&program)
        .env("KUBECONFIG", access.admin_kubeconfig())
        .env("PATH", path(access.folder())?)
        .envs(variables)
        .spawn()
        .with_context(|| format!("cannot start {}", program.display()))?;
    let _hang_up = HangUp(shell.id());
    shell.wait().await.context("cannot wait for the shell")?;
    Ok(())
}

/// PATH with a folder in front that holds kubectl and nothing else.
fn path(folder: &Path) -> anyhow::Result<std::ffi::OsString> {
    let programs = folder.join("bin");
    std::fs::create_dir_all(&programs).context("cannot make a folder for kubectl")?;
    std::os::unix::fs::symlink(distribution()?.join("bin/kubectl"), programs.join("kubectl"))
        .context("cannot link kubectl")?;
    let inherited = env::var_os("PATH").unwrap_or_default();
    let folders = [programs].into_iter().chain(env::split_paths(&inherited));
    env::join_paths(folders.collect::<Vec<PathBuf>>()).context("PATH cannot be extended")
}

/// Ends the shell as a closed terminal would: it may save its history first.
struct HangUp(Option<u32>);

impl Drop for HangUp {
    fn drop(&mut self) {
        let pid = self.0.and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
        if let Some(pid) = pid {
            // It has ended by itself, most of the time.
            let _ = kill_process(pid, Signal::HUP);
        }
    }
}
