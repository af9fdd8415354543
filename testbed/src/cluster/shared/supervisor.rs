//! The process that holds the shared cluster: tells users where it is, and ends with it once nobody needs it.

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::{UnixListener, UnixStream},
    select,
    signal::unix::{SignalKind, signal},
    sync::watch,
    task::{JoinSet, spawn_blocking},
    time::sleep,
};

use super::WELL;
use crate::{
    cluster::{Cluster, ClusterOptions, meeting::Meeting},
    folder::Folder,
    site::{NODES, Site},
};

/// What is shared.
enum Held {
    Cluster(Cluster),
    Site(Site),
}

/// Starts a cluster, with or without nodes, serves the users who connect to the socket in `folder`, and ends when there was
/// none for `idle`, or on SIGTERM.
pub async fn supervise(folder: PathBuf, idle: Duration, nodes: bool) -> anyhow::Result<()> {
    let meeting = Meeting::at(folder);
    // The starter holds the lock, so a socket that is there is a dead one's.
    drop(std::fs::remove_file(meeting.socket()));
    let listener = UnixListener::bind(meeting.socket()).context("cannot listen for users")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;

    let (told, state) = watch::channel(None);
    let mut users = JoinSet::new();
    let mut all_well = true;
    let mut cluster = None;
    let files = Arc::new(Folder::new()?);
    meeting.note(files.path())?;
    let mut starting = Box::pin(Held::start(Arc::clone(&files), nodes));
    let mut failed = None;
    loop {
        select! {
            started = &mut starting, if cluster.is_none() && failed.is_none() => match started {
                Ok(started) => {
                    told.send_replace(Some(format!("ready {}\n", files.path().display())));
                    cluster = Some(started);
                }
                Err(error) => {
                    told.send_replace(Some(format!("failed {}\n", format!("{error:#}").replace('\n', "; "))));
                    failed = Some(error);
                }
            },
            user = listener.accept() => {
                let (connection, _) = user.context("cannot listen for users any more")?;
                users.spawn(serve(connection, state.clone()));
            }
            Some(left) = users.join_next() => all_well &= left.unwrap_or(false),
            () = sleep(idle), if users.is_empty() => {
                // Whoever holds the lock is about to connect.
                if let Some(lock) = meeting.try_lock()? {
                    meeting.remove(&lock)?;
                    break;
                }
            }
            _ = terminate.recv() => {
                drop(listener);
                spawn_blocking(move || meeting.remove(&meeting.lock()?)).await??;
                // Whoever ends it does not want to read logs.
                files.discard();
                drop(starting);
                return match cluster {
                    Some(cluster) => cluster.end().await,
                    None => Ok(()),
                };
            }
        }
    }
    drop(listener);
    if let Some(cluster) = cluster {
        cluster.end().await?;
    }
    if all_well && failed.is_none() {
        files.discard();
    }
    failed.map_or(Ok(()), Err)
}

// === impl Held ===

impl Held {
    async fn start(files: Arc<Folder>, nodes: bool) -> anyhow::Result<Self> {
        if nodes {
            Ok(Self::Site(Site::start_in(files, &NODES).await?))
        } else {
            let cluster = Cluster::start_in(files, ClusterOptions::default()).await?;
            Ok(Self::Cluster(cluster))
        }
    }

    /// Ends it. Its logs stay until somebody discards the folder.
    async fn end(self) -> anyhow::Result<()> {
        match self {
            Self::Cluster(cluster) => {
                drop(cluster);
                Ok(())
            }
            Self::Site(site) => site.end().await,
        }
    }
}

/// Whether the user said that all went well.
async fn serve(connection: UnixStream, mut state: watch::Receiver<Option<String>>) -> bool {
    let (reader, mut writer) = connection.into_split();
    let mut lines = BufReader::new(reader).lines();
    let answer = async {
        let state = state.wait_for(Option::is_some).await.ok()?;
        state.clone()
    };
    if let Some(answer) = answer.await
        && writer.write_all(answer.as_bytes()).await.is_err()
    {
        return false;
    }
    let mut well = false;
    while let Ok(Some(line)) = lines.next_line().await {
        well = line == WELL;
    }
    well
}
