//! `make cluster`: a cluster for a person, with a shell in it; `make cluster-down` ends it from elsewhere.
//!
//! One for each checkout and name. Without a terminal it prints where its kubeconfig is and stays until it is ended. Whichever way
//! it ends, nothing is left behind: no process, no file.

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

use super::{Access, Cluster, ClusterOptions, component::distribution, meeting::Meeting};
use crate::{folder::Folder, story::Story};

/// The signers of Istio's documentation on mixed signers.
const ISSUERS: [&str; 3] = ["istio-system", "foo", "bar"];

/// What `down` says.
const DOWN: &[u8; 4] = b"down";

/// Where `down` finds it.
fn meeting(name: &str) -> Meeting {
    Meeting::of(&format!("make cluster {name} in {}", env!("CARGO_MANIFEST_DIR")))
}

/// Starts a cluster, offers a shell, and ends with it.
pub async fn session(name: &str, story: &mut Story) -> anyhow::Result<()> {
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
    let told = select! {
        told = stay(&files, story) => told,
        asked = asked(&listener) => asked,
        _ = interrupt.recv() => Ok(None),
        _ = terminate.recv() => Ok(None),
    };
    // By now the cluster is dropped: its processes are dead and reaped. If it failed, somebody wants its logs.
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

/// The cluster, until its shell ends. Dropping it ends it.
async fn stay(files: &Arc<Folder>, story: &mut Story) -> anyhow::Result<Option<UnixStream>> {
    story.chapter("A Kubernetes with cert-manager: control plane only, no kubelet");
    let cluster = Cluster::start_in(Arc::clone(files), ClusterOptions::default()).await?;
    for name in ISSUERS {
        cluster.cluster_issuer(name).await?;
        story.tell(&format!(
            "ClusterIssuer {name} is ready, signer clusterissuers.cert-manager.io/{name}"
        ));
    }
    story.tell(&format!(
        "logs, audit log and kubeconfigs: {}",
        cluster.folder().display()
    ));
    if std::io::stdin().is_terminal() && std::io::stdout().is_terminal() {
        story.tell("kubectl is on PATH and knows the cluster; `exit` or `make cluster-down` ends it");
        shell(&cluster).await?;
    } else {
        story.tell(&format!("KUBECONFIG={}", cluster.admin_kubeconfig().display()));
        story.tell("it stays until `make cluster-down` or SIGTERM");
        std::future::pending::<()>().await;
    }
    Ok(None)
}

async fn shell(access: &Access) -> anyhow::Result<()> {
    let program = env::var_os("SHELL").unwrap_or_else(|| "/bin/sh".into());
    let mut shell = Command::new(&program)
        .env("KUBECONFIG", access.admin_kubeconfig())
        .env("PATH", path(access.folder())?)
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
