//! Roots in a file that somebody mounts and replaces.
//!
//! A swap of a Kubernetes volume, a rename over it and a rewrite in place are changes; a file that is gone when the
//! writer is done is a removal. At the start it must be there.

use std::path::Path;
use std::sync::Arc;

use ensign_daemon::watched_file::{FileSet, WatchError, WatchMetrics, WatchedFile};
use tokio::sync::watch;

use super::{Judge, State};

pub(super) async fn open(
    path: &Path,
    judge: Judge,
    files: &WatchMetrics,
) -> Result<(watch::Receiver<Arc<State>>, WatchedFile<State>), WatchError> {
    let set = FileSet::optional_file("signer roots", path).metrics(files);
    let (states, watched) = set
        .required(move |contents| {
            let text = match contents.optional(0) {
                Some(_) => Some(contents.text(0)?),
                None => None,
            };
            Ok(judge.judge(text)?)
        })
        .await?;
    let first = Arc::clone(&states.borrow());
    match &*first {
        Ok(_) => Ok((states, watched)),
        Err(none) => Err(WatchError::Parse {
            label: "signer roots",
            path: path.display().to_string(),
            source: none.clone().into(),
        }),
    }
}
