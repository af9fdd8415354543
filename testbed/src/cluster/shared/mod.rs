//! One cluster for all tests of a run, each in its own process: the first one that needs it starts it, the last one that
//! leaves lets it end.
//!
//! The cluster belongs to a process of its own (`ensign-cluster`, see [`supervise`]), because no test outlives the run.
//! A user is connected to its socket for as long as it uses the cluster, so that a test that is killed has left, too.

mod supervisor;

pub use self::supervisor::supervise;

use std::{
    io::{BufRead as _, BufReader, ErrorKind},
    ops::Deref,
    os::unix::{net, process::CommandExt as _},
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, bail};
use rustix::process::Pid;
use tokio::{io::AsyncWriteExt as _, net::UnixStream, task::spawn_blocking};

use super::{
    Access, Cluster,
    meeting::{self, Meeting},
};
use crate::{process::own_binary, wait::PATIENCE};

/// How long the cluster waits for another user. Longer than the pause between two tests of a run.
const IDLE: Duration = Duration::from_secs(20);

/// How often a user meets a supervisor that ends before it takes that for an answer.
const ATTEMPTS: usize = 3;

/// What a user says at the end of a test that went well; the cluster's logs are kept if one leaves without a word.
const WELL: &str = "well";

/// A place in a cluster that others use, too: keep to a namespace of your own, and break nothing.
pub struct SharedCluster {
    access: Access,
    connection: UnixStream,
    finished: bool,
}

impl Cluster {
    /// The cluster of this test run, with everything at its default. Starts it if nobody has.
    pub async fn shared() -> anyhow::Result<SharedCluster> {
        SharedCluster::meet(&meeting::common_key()?, IDLE).await
    }

    /// The same with nodes, for [`crate::site`].
    pub(crate) async fn shared_with_nodes() -> anyhow::Result<SharedCluster> {
        let key = format!("{} with nodes", meeting::common_key()?);
        SharedCluster::meet_with(&key, IDLE, &["--nodes"]).await
    }
}

// === impl SharedCluster ===

impl SharedCluster {
    /// The cluster of everybody who has the same key; one that is started here ends `idle` after its last user left.
    pub async fn meet(key: &str, idle: Duration) -> anyhow::Result<Self> {
        Self::meet_with(key, idle, &[]).await
    }

    /// The same, started with these flags.
    async fn meet_with(key: &str, idle: Duration, flags: &'static [&'static str]) -> anyhow::Result<Self> {
        let meeting = Meeting::of(key);
        let (connection, folder) = spawn_blocking(move || reach(&meeting, idle, flags)).await??;
        connection
            .set_nonblocking(true)
            .context("cannot wait without blocking")?;
        Ok(Self {
            access: Access::open(&folder).await?,
            connection: UnixStream::from_std(connection).context("cannot take over a connection")?,
            finished: false,
        })
    }

    /// The process that holds the cluster.
    pub fn supervisor(&self) -> anyhow::Result<Pid> {
        let peer = self.connection.peer_cred().context("no peer")?;
        peer.pid().and_then(Pid::from_raw).context("the peer has no process id")
    }

    /// Leaves. Without it the cluster's logs are kept, for whoever reads why the test failed.
    pub async fn finish(mut self) -> anyhow::Result<()> {
        self.finished = true;
        let line = format!("{WELL}\n");
        let said = self.connection.write_all(line.as_bytes()).await;
        said.context("the shared cluster has gone")
    }
}

impl Deref for SharedCluster {
    type Target = Access;

    fn deref(&self) -> &Access {
        &self.access
    }
}

impl Drop for SharedCluster {
    #[expect(
        clippy::print_stderr,
        reason = "the one way to tell a reader of a failed test where its logs are"
    )]
    fn drop(&mut self) {
        if !self.finished {
            eprintln!(
                "logs of the shared cluster are kept in {}",
                self.access.folder().display()
            );
        }
    }
}

/// A connection to a cluster that is ready. A supervisor that is being killed takes connections until the kernel has
/// closed its socket: whoever got one of those starts anew.
fn reach(meeting: &Meeting, idle: Duration, flags: &[&str]) -> anyhow::Result<(net::UnixStream, PathBuf)> {
    for _ in 0..ATTEMPTS {
        let connection = connect(meeting, idle, flags)?;
        if let Some(folder) = answer(&connection)? {
            return Ok((connection, folder));
        }
    }
    bail!(
        "the shared cluster ended while it started, {ATTEMPTS} times in a row; see {}",
        meeting.log().display()
    )
}

/// Connects to the cluster, and starts it first if there is none.
fn connect(meeting: &Meeting, idle: Duration, flags: &[&str]) -> anyhow::Result<net::UnixStream> {
    let _lock = meeting.lock()?;
    if let Some(connection) = meeting.connect() {
        return Ok(connection);
    }
    meeting.sweep();
    let log = std::fs::File::create(meeting.log()).context("cannot make the log of the shared cluster")?;
    let mut supervisor = Command::new(own_binary("ensign-cluster")?)
        .arg("shared")
        .arg(meeting.folder())
        .arg(idle.as_secs().to_string())
        .args(flags)
        // Whoever ends this test must not end the cluster of the others, nor wait for its output.
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(log.try_clone().context("cannot share a log")?)
        .stderr(log)
        .spawn()
        .context("cannot start the shared cluster")?;
    for _ in 0..PATIENCE.as_millis() / 20 {
        if let Some(connection) = meeting.connect() {
            return Ok(connection);
        }
        if let Some(status) = supervisor.try_wait().context("cannot look at the shared cluster")? {
            let log = std::fs::read_to_string(meeting.log()).unwrap_or_default();
            bail!("the shared cluster ended with {status}; it said:\n{log}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    bail!("the shared cluster does not listen at {}", meeting.socket().display())
}

/// Waits for the cluster to be ready: its folder, why not, or nothing if its supervisor has gone.
fn answer(connection: &net::UnixStream) -> anyhow::Result<Option<PathBuf>> {
    connection
        .set_read_timeout(Some(PATIENCE * 2))
        .context("cannot limit a wait")?;
    let mut line = String::new();
    match BufReader::new(connection).read_line(&mut line) {
        Err(e) if e.kind() == ErrorKind::ConnectionReset => return Ok(None),
        read => read.context("the shared cluster does not become ready")?,
    };
    match line.trim_end().split_once(' ') {
        Some(("ready", folder)) => Ok(Some(folder.into())),
        Some(("failed", why)) => bail!("the shared cluster did not start: {why}"),
        _ => Ok(None),
    }
}
