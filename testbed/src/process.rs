//! A program under test as a process: started with a clean environment, its output kept and searchable line by line,
//! stopped by its id.
//!
//! Children stay in the caller's process group, so that whoever kills that group (Ctrl-C, a test runner's time
//! limit) leaves nothing behind; dropping a [`Program`] kills and reaps it in every other case.

use std::{
    collections::BTreeMap,
    env,
    fs::File,
    io::Write,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, BufReader},
    process::{Child, Command},
    sync::watch,
    time::timeout,
};

use crate::wait::{self, PATIENCE};

/// How to start a program; kept, so that it can be started again just so.
#[derive(Debug, Clone)]
pub struct Spec {
    /// Name in logs and error texts, for example `agent`.
    pub name: String,
    /// The binary.
    pub binary: PathBuf,
    /// Arguments.
    pub args: Vec<String>,
    /// The whole environment: nothing is inherited, so that the developer's shell changes no test.
    pub env: BTreeMap<String, String>,
}

/// A running (or ended) process.
#[derive(Debug)]
pub struct Program {
    spec: Spec,
    folder: PathBuf,
    child: Child,
    log: Log,
}

/// Everything that a program has printed so far, over all its restarts. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Log {
    name: Arc<str>,
    lines: Arc<Mutex<Vec<String>>>,
    file: Arc<Mutex<File>>,
    count: watch::Sender<usize>,
}

/// One of our own programs: the path in `ENSIGN_BIN_DIR` if set, else beside the running binary, where cargo puts it.
pub fn own_binary(name: &str) -> anyhow::Result<PathBuf> {
    let folders: Vec<PathBuf> = if let Some(folder) = env::var_os("ENSIGN_BIN_DIR") {
        vec![folder.into()]
    } else {
        let current = env::current_exe().context("cannot tell where this program is")?;
        // target/debug/<program>, or target/debug/deps/<test>-<hash>.
        current.ancestors().skip(1).take(2).map(Path::to_path_buf).collect()
    };
    let candidates = folders.iter().map(|folder| folder.join(name));
    match candidates.clone().find(|path| path.is_file()) {
        Some(found) => Ok(found),
        None => bail!(
            "{name} is not built; looked for {:?}: run `make build`",
            candidates.collect::<Vec<_>>()
        ),
    }
}

// === impl Program ===

impl Program {
    /// Starts it in `folder`; its output goes to `<folder>/<name>.log` and into [`Log`].
    pub fn start(spec: Spec, folder: &Path) -> anyhow::Result<Self> {
        let log = Log::new(&spec.name, folder)?;
        let child = spawn(&spec, folder, &log)?;
        Ok(Self {
            spec,
            folder: folder.to_owned(),
            child,
            log,
        })
    }

    /// What it printed.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// How it was started. Changes take effect with [`Program::restart`].
    pub fn spec_mut(&mut self) -> &mut Spec {
        &mut self.spec
    }

    /// Its process id, while it runs.
    pub fn pid(&self) -> anyhow::Result<u32> {
        self.child
            .id()
            .with_context(|| format!("{} has ended; its last lines:\n{}", self.spec.name, self.log.tail()))
    }

    /// Whether it has ended, by itself or not.
    pub fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// SIGKILL, then waits for its end.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        self.child
            .kill()
            .await
            .with_context(|| format!("cannot kill {}", self.spec.name))
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let pid = i32::try_from(self.pid()?)
            .ok()
            .and_then(Pid::from_raw)
            .context("not a process id")?;
        kill_process(pid, signal).with_context(|| format!("cannot send {signal:?} to {}", self.spec.name))
    }

    /// SIGTERM, then waits for its end.
    pub async fn terminate(&mut self) -> anyhow::Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        self.ended(PATIENCE).await
    }

    /// Waits until it ends by itself.
    pub async fn ended(&mut self, patience: Duration) -> anyhow::Result<ExitStatus> {
        timeout(patience, self.child.wait())
            .await
            .with_context(|| format!("{} still runs; its last lines:\n{}", self.spec.name, self.log.tail()))?
            .with_context(|| format!("cannot wait for {}", self.spec.name))
    }

    /// Starts it again with the same arguments, after it has ended.
    pub fn restart(&mut self) -> anyhow::Result<()> {
        ensure!(self.child.id().is_none(), "{} still runs", self.spec.name);
        self.child = spawn(&self.spec, &self.folder, &self.log)?;
        Ok(())
    }

    /// Waits for the addresses file that both programs write once everything is bound.
    pub async fn addresses(&mut self, file: &Path) -> anyhow::Result<BTreeMap<String, SocketAddr>> {
        let what = format!("the addresses of {}", self.spec.name);
        let (child, log) = (&mut self.child, &self.log);
        wait::until(&what, PATIENCE, async || {
            if let Some(status) = child.try_wait()? {
                return Ok(Err(anyhow::anyhow!(
                    "it ended with {status}; its last lines:\n{}",
                    log.tail()
                )));
            }
            let text = std::fs::read_to_string(file).with_context(|| format!("no {}", file.display()))?;
            Ok(Ok(
                serde_json::from_str(&text).with_context(|| format!("{} holds {text:?}", file.display()))?
            ))
        })
        .await?
        .context(what)
    }
}

impl Drop for Program {
    /// Kills and reaps, so that nothing writes into the folder that is removed next.
    fn drop(&mut self) {
        if self.child.start_kill().is_err() {
            return;
        }
        for _ in 0..1_000 {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn spawn(spec: &Spec, folder: &Path, log: &Log) -> anyhow::Result<Child> {
    let binary = std::path::absolute(&spec.binary).context("no current folder")?;
    let mut child = Command::new(binary)
        .args(&spec.args)
        // What a program leaves in its working directory (a core file, say) is found there, and goes with the world.
        .current_dir(folder)
        .env_clear()
        .envs(&spec.env)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("cannot start {}", spec.binary.display()))?;
    if let Some(output) = child.stdout.take() {
        log.follow(output);
    }
    if let Some(output) = child.stderr.take() {
        log.follow(output);
    }
    Ok(child)
}

// === impl Log ===

impl Log {
    fn new(name: &str, folder: &Path) -> anyhow::Result<Self> {
        let path = folder.join(format!("{name}.log"));
        let file = File::create(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self {
            name: name.into(),
            lines: Arc::default(),
            file: Arc::new(Mutex::new(file)),
            count: watch::Sender::new(0),
        })
    }

    /// All lines so far.
    pub fn lines(&self) -> Vec<String> {
        self.lines.lock().clone()
    }

    /// How many lines there are: a mark for [`Log::wait_after`].
    pub fn mark(&self) -> usize {
        self.lines.lock().len()
    }

    /// The first line that `wanted` accepts, now or within patience.
    pub async fn wait(&self, what: &str, wanted: impl Fn(&str) -> bool) -> anyhow::Result<String> {
        self.wait_after(0, what, wanted).await
    }

    /// The same for lines after a mark.
    pub async fn wait_after(&self, mark: usize, what: &str, wanted: impl Fn(&str) -> bool) -> anyhow::Result<String> {
        let mut count = self.count.subscribe();
        let mut seen = mark;
        let search = async {
            loop {
                {
                    let lines = self.lines.lock();
                    if let Some(found) = lines.iter().skip(seen).find(|line| wanted(line)) {
                        return Ok(found.clone());
                    }
                    seen = lines.len().max(mark);
                }
                count.changed().await.context("the log is closed")?;
            }
        };
        match timeout(PATIENCE, search).await {
            Ok(found) => found,
            Err(_) => bail!("{} did not log {what}; its last lines:\n{}", self.name, self.tail()),
        }
    }

    /// The last lines, for error texts.
    pub fn tail(&self) -> String {
        let lines = self.lines.lock();
        let last: Vec<&str> = lines
            .iter()
            .skip(lines.len().saturating_sub(12))
            .map(String::as_str)
            .collect();
        format!("  {}", last.join("\n  "))
    }

    #[expect(clippy::disallowed_methods, reason = "ends with the pipe, that is with the process")]
    fn follow(&self, output: impl AsyncRead + Send + Unpin + 'static) {
        let log = self.clone();
        tokio::spawn(async move {
            let mut output = BufReader::new(output);
            let mut line = Vec::new();
            while output.read_until(b'\n', &mut line).await.is_ok_and(|read| read > 0) {
                // A full disk shows elsewhere; the lines in memory are what tests search.
                drop(log.file.lock().write_all(&line));
                log.lines
                    .lock()
                    .push(String::from_utf8_lossy(&line).trim_end().to_owned());
                log.count.send_modify(|count| *count += 1);
                line.clear();
            }
        });
    }
}
