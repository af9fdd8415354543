//! Workloads from a file, for machines without Kubernetes and for tests. The operator is the attestor.
//!
//! The file is watched: entries that are added, changed or removed take effect at once. A file with any mistake is refused
//! whole, and the workloads of the last good one stay. A workload whose socket cannot be bound is offered again until it
//! can, and delays no other.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ensign_daemon::watched_file::{FileSet, WatchError, WatchMetrics, WatchedFile};
use ensign_pki::{KeyType, TrustDomain};
use tokio::sync::{oneshot, watch};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::{Event, Notice, Notices, Workload};

mod file;
use file::Entry;
pub use file::{FileError, Mistakes, WorkloadsFile};

/// Settings of this source.
#[derive(Clone, Debug)]
pub struct Config {
    /// The file that lists the workloads.
    pub workloads_file: PathBuf,
    /// The trust domain of their identities.
    pub trust_domain: TrustDomain,
    /// The kind of keys of an entry that names none.
    pub key_type: KeyType,
}

/// Turns changes of the file into notices.
#[derive(Debug)]
pub struct Source {
    files: watch::Receiver<Arc<WorkloadsFile>>,
    /// What was acknowledged, by name.
    served: BTreeMap<String, Entry>,
}

/// Reads the file, which must be good, and gives its workloads; later changes come from [`Source::run`].
pub async fn open(
    config: Config,
    metrics: &WatchMetrics,
) -> Result<(Vec<Workload>, Source, WatchedFile<WorkloadsFile>), WatchError> {
    let Config {
        workloads_file,
        trust_domain,
        key_type,
    } = config;
    let parse = move |contents: &ensign_daemon::watched_file::Contents| {
        Ok(WorkloadsFile::parse(contents.bytes(0), &trust_domain, key_type)?)
    };
    let set = FileSet::file("workloads file", workloads_file)
        .max_bytes(MAX_BYTES)
        .metrics(metrics);
    let (mut files, watched) = set.required(parse).await?;
    let served = files.borrow_and_update().entries.clone();
    let workloads = served.values().map(Entry::workload).collect();
    Ok((workloads, Source { files, served }, watched))
}

// === impl Source ===

impl Source {
    /// Sends a notice for each change until `stop`. The workloads that [`open`] gave count as served.
    pub async fn run(mut self, notices: Notices, stop: CancellationToken) -> anyhow::Result<()> {
        let mut retry = interval(RETRY);
        retry.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                changed = self.files.changed() => {
                    if changed.is_err() {
                        // The watcher has stopped, so we are stopping.
                        stop.cancelled().await;
                        return Ok(());
                    }
                }
                _ = retry.tick() => {}
            }
            let wanted = Arc::clone(&self.files.borrow_and_update());
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = self.bring_about(&wanted.entries, &notices) => {}
            }
        }
    }

    /// Sends what leads from what is served to what is wanted. Closes before it opens: a path may pass to another name.
    async fn bring_about(&mut self, wanted: &BTreeMap<String, Entry>, notices: &Notices) {
        let gone = self.served.iter().filter(|(name, _)| !wanted.contains_key(*name));
        let gone: Vec<_> = gone
            .map(|(name, entry)| (name.clone(), Event::Gone(entry.uid())))
            .collect();
        for (name, _) in send(gone, notices).await {
            self.served.remove(&name);
        }
        let open = wanted.iter().filter_map(|(name, entry)| match self.served.get(name) {
            None => Some((name.clone(), Event::Appeared(entry.workload()))),
            Some(served) if served != entry => Some((name.clone(), Event::Changed(entry.workload()))),
            Some(_) => None,
        });
        for (name, bound) in send(open.collect(), notices).await {
            // What is not bound stays as it was here, and is so offered again.
            if bound && let Some(entry) = wanted.get(&name) {
                self.served.insert(name, entry.clone());
            }
        }
    }
}

/// Sends all, then waits for all acknowledgements; tells which were positive.
async fn send(events: Vec<(String, Event)>, notices: &Notices) -> Vec<(String, bool)> {
    let mut waiting = Vec::with_capacity(events.len());
    let mut answers = Vec::with_capacity(events.len());
    for (name, event) in events {
        let (done, answer) = oneshot::channel();
        if notices.send(Notice { event, done }).await.is_ok() {
            waiting.push((name, answer));
        }
    }
    for (name, answer) in waiting {
        answers.push((name, matches!(answer.await, Ok(Ok(())))));
    }
    answers
}

/// Five thousand entries with long paths.
const MAX_BYTES: u64 = 4 * 1024 * 1024;
/// How often a workload is offered again whose socket could not be bound.
const RETRY: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests;
