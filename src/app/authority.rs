//! The authority's client, from before its roots are there: Kubernetes may mount the file after our start.
//!
//! Until the first roots are read every request fails as one that cannot connect, which is retried; after that the
//! client follows each new version of the file.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use ensign_daemon::readiness::Gate;
use ensign_daemon::watched_file::{Contents, FileSet, WatchMetrics, WatchedFile};
use futures::future::BoxFuture;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::csr_client::{Answer, CaRoots, IstioCa, IstioCaConfig, Replica, Sign, SignError, SignRequest};

/// The authority, as soon as there are roots to check it with.
#[derive(Debug)]
pub(super) struct Authority {
    config: IstioCaConfig,
    roots_file: PathBuf,
    client: OnceLock<IstioCa>,
}

type Roots = watch::Receiver<Option<Arc<CaRoots>>>;

/// What is missing, in words.
pub(super) fn no_roots(file: &Path) -> String {
    format!(
        "no roots yet: {} (CA_ROOT_CA) is not there or holds no certificate",
        file.display()
    )
}

// === impl Authority ===

impl Authority {
    /// Reads the roots if they are there.
    pub(super) async fn open(
        config: IstioCaConfig,
        roots_file: &Path,
        metrics: &WatchMetrics,
    ) -> (Arc<Self>, Roots, WatchedFile<CaRoots>) {
        let parse = |contents: &Contents| Ok(CaRoots::from_pem(contents.bytes(0))?);
        let (roots, watched) = FileSet::file("CA roots", roots_file)
            .metrics(metrics)
            .optional(parse)
            .await;
        let authority = Self {
            config,
            roots_file: roots_file.to_owned(),
            client: OnceLock::new(),
        };
        (Arc::new(authority), roots, watched)
    }

    /// Makes the client with the first roots, opens the gate, and hands every later version on.
    pub(super) async fn follow(
        self: Arc<Self>,
        mut roots: Roots,
        gate: Gate,
        stop: CancellationToken,
    ) -> anyhow::Result<()> {
        let Some(first) = next(&mut roots, &stop).await else {
            return Ok(());
        };
        let (sender, receiver) = watch::channel(first);
        let client = IstioCa::new(self.config.clone(), receiver)?;
        // Set once, here.
        let _ = self.client.set(client);
        gate.open();
        while stop
            .run_until_cancelled(roots.changed())
            .await
            .is_some_and(|changed| changed.is_ok())
        {
            let newest = roots.borrow_and_update().clone();
            if let Some(newest) = newest {
                sender.send_replace(newest);
            }
        }
        stop.cancelled().await;
        Ok(())
    }
}

impl Sign for Authority {
    fn sign(&self, request: SignRequest) -> BoxFuture<'_, Result<Answer, SignError>> {
        match self.client.get() {
            Some(client) => client.sign(request),
            None => Box::pin(async {
                let (address, reason) = (self.config.address.to_string(), no_roots(&self.roots_file));
                Err(SignError::Connect { address, reason })
            }),
        }
    }

    fn leave(&self, replica: Replica) -> BoxFuture<'_, ()> {
        match self.client.get() {
            Some(client) => client.leave(replica),
            None => Box::pin(std::future::ready(())),
        }
    }
}

async fn next(roots: &mut Roots, stop: &CancellationToken) -> Option<Arc<CaRoots>> {
    let found = stop.run_until_cancelled(roots.wait_for(Option::is_some)).await;
    match found {
        Some(Ok(roots)) => roots.clone(),
        Some(Err(_)) | None => None,
    }
}
