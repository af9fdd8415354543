//! Files that an operator or Kubernetes replaces while we run: roots, policies, certificates, lists.
//!
//! Promises: what was good stays in effect until something better is read; a failure is logged once
//! and counted; the same content is never published twice. Folders are watched, not files, since a
//! Kubernetes volume swaps its `..data` link and editors rename; a slow poll is the belt for folders
//! that appear later, are replaced, or lie on file systems without notification. Parsing, and so the
//! meaning of a file, is the caller's; it runs on a blocking thread.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};
use tokio::{
    sync::{Notify, watch},
    task::spawn_blocking,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

mod read;
pub use read::{Contents, ReadError};

/// What to watch: one file, or several that only make sense together (a certificate and its key).
#[derive(Clone, Debug)]
pub struct FileSet {
    label: &'static str,
    wanted: Vec<read::Wanted>,
    max_bytes: u64,
    poll: Duration,
    metrics: WatchMetrics,
}

/// Counts failures per kind of file. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct WatchMetrics {
    failures: Family<FileLabels, Counter>,
    good: Family<FileLabels, Gauge>,
}

/// Watches a [`FileSet`] and publishes what its parser makes of it. Run it under the supervisor.
pub struct WatchedFile<T> {
    files: FileSet,
    parse: Arc<Parse<T>>,
    publish: Publish<T>,
    last: Last,
    wake: Arc<Notify>,
    watcher: Option<RecommendedWatcher>,
    folders: BTreeMap<PathBuf, FolderId>,
}

/// Why a set of files is not in effect.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// Reading was cut short; the process is stopping.
    #[error("reading the {label} was interrupted")]
    Interrupted {
        /// What the files are.
        label: &'static str,
    },
    /// Read, but the content is wrong.
    #[error("the {label} in {path} is wrong")]
    Parse {
        /// What the files are.
        label: &'static str,
        /// The first file of the set.
        path: String,
        /// What is wrong with it.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Not readable.
    #[error("the {label} cannot be read")]
    Read {
        /// What the files are.
        label: &'static str,
        /// Why.
        #[source]
        source: ReadError,
    },
}

type Parse<T> = dyn Fn(&Contents) -> anyhow::Result<T> + Send + Sync;

/// Device and inode, to see that a folder was replaced.
type FolderId = (u64, u64);

enum Publish<T> {
    Required(watch::Sender<Arc<T>>),
    Optional(watch::Sender<Option<Arc<T>>>),
}

/// What the last look at the files gave.
#[derive(Default)]
struct Last {
    /// Content that is in effect.
    good: Option<Arc<Contents>>,
    /// Text of the failure that was reported last.
    failure: Option<String>,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct FileLabels {
    file: &'static str,
}

// === impl FileSet ===

impl FileSet {
    /// One file; `label` says in logs and metrics what it is (`workloads file`).
    pub fn file(label: &'static str, path: impl Into<PathBuf>) -> Self {
        Self {
            label,
            wanted: Vec::new(),
            max_bytes: MAX_BYTES,
            poll: POLL,
            metrics: WatchMetrics::default(),
        }
        .and(path)
    }

    /// One file whose absence is content as well: the parser is called without it ([`Contents::optional`]), so that it
    /// can tell a removal from damage.
    pub fn optional_file(label: &'static str, path: impl Into<PathBuf>) -> Self {
        let mut files = Self::file(label, path);
        files.wanted.iter_mut().for_each(|wanted| wanted.optional = true);
        files
    }

    /// Adds a file that must be there too.
    pub fn and(mut self, path: impl Into<PathBuf>) -> Self {
        self.wanted.push(read::Wanted {
            path: path.into(),
            optional: false,
        });
        self
    }

    /// Adds a file that may be absent.
    pub fn and_optional(mut self, path: impl Into<PathBuf>) -> Self {
        self.wanted.push(read::Wanted {
            path: path.into(),
            optional: true,
        });
        self
    }

    /// Refuses larger files (default 1 MiB).
    pub fn max_bytes(mut self, limit: u64) -> Self {
        self.max_bytes = limit;
        self
    }

    /// Looks without an event this often.
    #[cfg(test)]
    fn poll_every(mut self, interval: Duration) -> Self {
        self.poll = interval;
        self
    }

    /// Counts failures there.
    pub fn metrics(mut self, metrics: &WatchMetrics) -> Self {
        self.metrics = metrics.clone();
        self
    }

    /// Reads now and fails if that fails; then publishes every good change.
    pub async fn required<T, P>(self, parse: P) -> Result<(watch::Receiver<Arc<T>>, WatchedFile<T>), WatchError>
    where
        T: Send + Sync + 'static,
        P: Fn(&Contents) -> anyhow::Result<T> + Send + Sync + 'static,
    {
        let parse: Arc<Parse<T>> = Arc::new(parse);
        let mut last = Last::default();
        let value = match look(&self, &parse, &last).await {
            Look::Good(contents, value) => {
                last.good = Some(contents);
                Arc::new(value)
            }
            Look::Bad(error) => return Err(error),
            Look::Same => return Err(WatchError::Interrupted { label: self.label }),
        };
        self.metrics.good(self.label).set(1);
        let (sender, receiver) = watch::channel(value);
        Ok((receiver, WatchedFile::new(self, parse, Publish::Required(sender), last)))
    }

    /// Reads now if possible; `None` until the files are there and good.
    pub async fn optional<T, P>(self, parse: P) -> (watch::Receiver<Option<Arc<T>>>, WatchedFile<T>)
    where
        T: Send + Sync + 'static,
        P: Fn(&Contents) -> anyhow::Result<T> + Send + Sync + 'static,
    {
        let (sender, receiver) = watch::channel(None);
        let publish = Publish::Optional(sender);
        let mut watched = WatchedFile::new(self, Arc::new(parse), publish, Last::default());
        watched.refresh().await;
        (receiver, watched)
    }
}

// === impl WatchedFile ===

impl<T: Send + Sync + 'static> WatchedFile<T> {
    fn new(files: FileSet, parse: Arc<Parse<T>>, publish: Publish<T>, last: Last) -> Self {
        Self {
            files,
            parse,
            publish,
            last,
            wake: Arc::new(Notify::new()),
            watcher: None,
            folders: BTreeMap::new(),
        }
    }

    /// Watches until `stop`.
    pub async fn run(mut self, stop: CancellationToken) -> anyhow::Result<()> {
        self.watcher = self.notifier();
        // Between the first read and the first watch something may have changed.
        self.wake.notify_one();
        loop {
            let poll = if self.watches_all() {
                self.files.poll
            } else {
                self.files.poll.min(EAGER)
            };
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                _ = timeout(poll, self.wake.notified()) => {}
            }
            // A writer makes several events; wait until it is done, then look once.
            sleep(SETTLE.min(self.files.poll)).await;
            self.watch_folders().await;
            self.refresh().await;
        }
    }

    /// Looks at the files and publishes what is new and good.
    async fn refresh(&mut self) {
        let label = self.files.label;
        match look(&self.files, &self.parse, &self.last).await {
            Look::Same => {
                if self.last.failure.take().is_some() {
                    self.files.metrics.good(label).set(1);
                    tracing::info!(file = label, path = %self.path(), "file is again what is in effect");
                }
            }
            Look::Good(contents, value) => {
                self.last = Last {
                    good: Some(contents),
                    failure: None,
                };
                self.files.metrics.good(label).set(1);
                tracing::info!(file = label, path = %self.path(), "file loaded");
                match &self.publish {
                    Publish::Required(sender) => _ = sender.send_replace(Arc::new(value)),
                    Publish::Optional(sender) => _ = sender.send_replace(Some(Arc::new(value))),
                }
            }
            Look::Bad(error) => self.report(&error),
        }
    }

    fn report(&mut self, error: &WatchError) {
        let label = self.files.label;
        let reason = crate::logging::chain(error);
        if self.last.failure.as_ref() == Some(&reason) {
            return;
        }
        self.files.metrics.failed(label);
        let in_effect = if self.last.good.is_some() {
            "the last good content"
        } else {
            "nothing yet"
        };
        tracing::warn!(file = label, path = %self.path(), reason, in_effect, "file not loaded");
        self.last.failure = Some(reason);
    }

    fn path(&self) -> std::path::Display<'_> {
        self.files.first_path().display()
    }

    fn notifier(&self) -> Option<RecommendedWatcher> {
        let wake = Arc::clone(&self.wake);
        let on_event = move |event: notify::Result<notify::Event>| {
            // Our own reads are Access events: reacting to them would never end.
            if !matches!(
                event,
                Ok(notify::Event {
                    kind: EventKind::Access(_),
                    ..
                })
            ) {
                wake.notify_one();
            }
        };
        notify::recommended_watcher(on_event)
            .inspect_err(|error| {
                let poll = self.files.poll;
                tracing::warn!(file = self.files.label, %error, ?poll, "no file notification, polling only");
            })
            .ok()
    }

    /// Watches each parent folder; again if it was replaced.
    async fn watch_folders(&mut self) {
        let Some(watcher) = &mut self.watcher else { return };
        for folder in self.files.folders() {
            let now = tokio::fs::metadata(&folder).await.ok().map(|metadata| {
                use std::os::unix::fs::MetadataExt as _;
                (metadata.dev(), metadata.ino())
            });
            if now == self.folders.get(&folder).copied() {
                continue;
            }
            // The old watch died with the old folder; an error only says so.
            _ = watcher.unwatch(&folder);
            self.folders.remove(&folder);
            if let Some(id) = now
                && watcher.watch(&folder, RecursiveMode::NonRecursive).is_ok()
            {
                self.folders.insert(folder, id);
            }
        }
    }

    fn watches_all(&self) -> bool {
        self.watcher.is_some() && self.folders.len() == self.files.folders().len()
    }
}

impl<T> fmt::Debug for WatchedFile<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("WatchedFile")
            .field("files", &self.files)
            .finish_non_exhaustive()
    }
}

impl FileSet {
    fn first_path(&self) -> &Path {
        self.wanted.first().map_or(Path::new(""), |wanted| &wanted.path)
    }

    fn folders(&self) -> BTreeSet<PathBuf> {
        let parent = |wanted: &read::Wanted| match wanted.path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        self.wanted.iter().map(parent).collect()
    }
}

// === impl WatchMetrics ===

impl WatchMetrics {
    /// Makes the metrics and registers them with `registry` (which brings the program's prefix).
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register(
            "file_load_failures",
            "Watched files that could not be read or parsed; the last good content stayed",
            metrics.failures.clone(),
        );
        registry.register(
            "file_loaded",
            "1 if the newest content of a watched file is in effect, 0 if an older one is",
            metrics.good.clone(),
        );
        metrics
    }

    fn failed(&self, file: &'static str) {
        self.failures.get_or_create(&FileLabels { file }).inc();
        self.good(file).set(0);
    }

    fn good(&self, file: &'static str) -> Gauge {
        self.good.get_or_create(&FileLabels { file }).clone()
    }
}

/// One look at the files.
enum Look<T> {
    Same,
    Good(Arc<Contents>, T),
    Bad(WatchError),
}

async fn look<T: Send + Sync + 'static>(files: &FileSet, parse: &Arc<Parse<T>>, last: &Last) -> Look<T> {
    let (files, parse, label) = (files.clone(), Arc::clone(parse), files.label);
    let in_effect = last.good.clone();
    let work = move || {
        let contents = match read::consistent(&files.wanted, files.max_bytes) {
            Ok(contents) => Arc::new(contents),
            Err(source) => return Look::Bad(WatchError::Read { label, source }),
        };
        // Bad content is parsed at every look: what it refers to may be there now.
        if in_effect.as_ref() == Some(&contents) {
            return Look::Same;
        }
        match parse(&contents) {
            Ok(value) => Look::Good(contents, value),
            Err(error) => {
                let path = files.first_path().display().to_string();
                Look::Bad(WatchError::Parse {
                    label,
                    path,
                    source: error.into(),
                })
            }
        }
    };
    spawn_blocking(work)
        .await
        .unwrap_or(Look::Bad(WatchError::Interrupted { label }))
}

/// Larger than any bundle, policy or list that we read.
const MAX_BYTES: u64 = 1024 * 1024;
const POLL: Duration = Duration::from_secs(10);
/// While a folder is missing there is nothing to be notified of.
const EAGER: Duration = Duration::from_secs(1);
const SETTLE: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests;
