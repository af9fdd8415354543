//! Tokens by their signature alone, against a JWKS file: no API server is asked, so a deleted pod's token counts until
//! it expires.

use std::path::PathBuf;
use std::sync::Arc;

use ensign_daemon::watched_file::{FileSet, WatchError, WatchMetrics, WatchedFile};
use ensign_pki::SharedClock;
use tokio::sync::watch;

use super::claims::{self, Expectations};
use super::error::AuthnError;
use super::jwks::Jwks;
use super::subject::Subject;
use super::token;
use crate::metrics::Metrics;

/// Judges tokens by a file. The keys are reloaded live; one call sees one set of keys.
#[derive(Debug)]
pub(super) struct Offline {
    jwks: watch::Receiver<Arc<Jwks>>,
    issuer: String,
    expected: Arc<Expectations>,
    clock: SharedClock,
}

// === impl Offline ===

impl Offline {
    pub(super) fn new(
        jwks: watch::Receiver<Arc<Jwks>>,
        issuer: String,
        expected: Arc<Expectations>,
        clock: SharedClock,
    ) -> Self {
        Self {
            jwks,
            issuer,
            expected,
            clock,
        }
    }

    pub(super) fn judge(&self, token: &str) -> Result<Subject, AuthnError> {
        let jwks = Arc::clone(&self.jwks.borrow());
        let payload = token::verify(token, &jwks).map_err(AuthnError::Token)?;
        claims::check(&payload, &self.issuer, &self.expected, self.clock.now()).map_err(AuthnError::Claims)
    }
}

/// Reads the file, which must succeed; then it is to be followed.
pub(super) async fn keys(
    path: PathBuf,
    metrics: Metrics,
    files: &WatchMetrics,
    clock: SharedClock,
) -> Result<(watch::Receiver<Arc<Jwks>>, WatchedFile<Jwks>), WatchError> {
    FileSet::file(JWKS, path)
        .metrics(files)
        .required(move |contents| {
            let jwks = Jwks::parse(contents.bytes(0))?;
            metrics.reloaded(JWKS, clock.now());
            let (usable, passed_over) = (jwks.usable(), jwks.passed_over());
            tracing::info!(usable, passed_over, "keys of the token issuer read");
            Ok(jwks)
        })
        .await
}

/// What the file is called in logs and metrics.
const JWKS: &str = "jwks";
