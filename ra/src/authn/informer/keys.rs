//! The keys and the name of a cluster's token issuer, fetched from its API server.
//!
//! Fetched at the start, then every few minutes, so that a key that was withdrawn stops counting; and when a token names
//! a key that is not known, at most once per few seconds, since anybody can name a key. What was fetched last stays
//! in effect while a fetch fails, for a bounded time.

use std::sync::Arc;
use std::time::Duration;

use ensign_daemon::logging;
use http::Request;
use kube::Client;
use serde::Deserialize;
use thiserror::Error;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::super::jwks::{Jwks, JwksError};
use super::super::metrics::AuthnMetrics;
use crate::kubernetes::ApiError;

/// An issuer: what its tokens call it, and the keys of its signatures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Issuer {
    pub(super) name: String,
    pub(super) jwks: Arc<Jwks>,
}

/// The issuer of a cluster, as of the last fetch.
#[derive(Debug)]
pub(super) struct Keys {
    state: watch::Receiver<State>,
    wishes: mpsc::Sender<()>,
}

/// Fetches them. Run it as a task.
pub(super) struct Keeper {
    client: Client,
    cluster: Arc<str>,
    /// The operator's word for the issuer; the server's own without it.
    named: Option<String>,
    state: watch::Sender<State>,
    wishes: mpsc::Receiver<()>,
    metrics: AuthnMetrics,
}

#[derive(Debug, Clone, Default)]
struct State {
    issuer: Option<Issuer>,
    /// How many fetches there were, good or bad.
    fetches: u64,
    last: Option<Instant>,
    /// When the issuer was fetched.
    good: Option<Instant>,
    failed: Option<String>,
}

/// What came of wishing for newer keys.
#[derive(Debug)]
pub(super) enum Newer {
    /// There are some.
    Fetched(Issuer),
    /// They were fetched just now: there are none.
    Same,
    /// They could not be fetched.
    Failed(String),
}

#[derive(Deserialize)]
struct Discovery {
    issuer: String,
}

#[derive(Debug, Error)]
enum FetchError {
    #[error("{0}")]
    Api(#[from] ApiError),
    #[error("what it calls its configuration is none (/.well-known/openid-configuration)")]
    Discovery,
    #[error("its keys are refused (/openid/v1/jwks)")]
    Jwks(#[from] JwksError),
}

impl Keys {
    /// Nothing yet; the keeper brings it.
    pub(super) fn new(
        client: Client,
        cluster: Arc<str>,
        named: Option<String>,
        metrics: AuthnMetrics,
    ) -> (Self, Keeper) {
        let (state, seen) = watch::channel(State::default());
        // One wish is as good as many.
        let (wish, wishes) = mpsc::channel(1);
        let keeper = Keeper {
            client,
            cluster,
            named,
            state,
            wishes,
            metrics,
        };
        (
            Self {
                state: seen,
                wishes: wish,
            },
            keeper,
        )
    }

    /// The issuer, if it was fetched and not too long ago.
    pub(super) fn current(&self) -> Option<Issuer> {
        let state = self.state.borrow();
        let young = state.good.is_some_and(|good| good.elapsed() <= TOO_OLD);
        state.issuer.clone().filter(|_| young)
    }

    /// Has them fetched again, unless that was just done; `seen` is what did not suffice.
    pub(super) async fn newer(&self, seen: &Issuer, until: Instant) -> Newer {
        let mut state = self.state.clone();
        let before = {
            let state = state.borrow_and_update();
            if let Some(issuer) = state.issuer.as_ref().filter(|issuer| *issuer != seen) {
                return Newer::Fetched(issuer.clone());
            }
            if state.last.is_some_and(|last| last.elapsed() < REST) {
                return match &state.failed {
                    Some(why) => Newer::Failed(why.clone()),
                    None => Newer::Same,
                };
            }
            state.fetches
        };
        // Full: somebody wishes already.
        _ = self.wishes.try_send(());
        let fetched = state.wait_for(|state| state.fetches > before);
        match timeout_at(until, fetched).await {
            Ok(Ok(state)) => match (&state.failed, &state.issuer) {
                (None, Some(issuer)) => Newer::Fetched(issuer.clone()),
                (failed, _) => Newer::Failed(failed.clone().unwrap_or_default()),
            },
            Ok(Err(_)) | Err(_) => Newer::Failed("no answer in time".to_owned()),
        }
    }
}

// === impl Keeper ===

impl Keeper {
    pub(super) async fn run(mut self, stop: CancellationToken) {
        let mut pause = PAUSE_FIRST;
        loop {
            let Some(good) = stop.run_until_cancelled(self.fetch()).await else {
                return;
            };
            let next = if good { PERIOD } else { pause };
            pause = if good { PAUSE_FIRST } else { (pause * 2).min(PAUSE_MAX) };
            let wait = async {
                sleep(REST).await;
                // A wish that came during the rest is granted after it; no wish at all ends with the period.
                _ = timeout(next.saturating_sub(REST), self.wishes.recv()).await;
            };
            if stop.run_until_cancelled(wait).await.is_none() {
                return;
            }
        }
    }

    /// One fetch; whether it went well.
    async fn fetch(&mut self) -> bool {
        let outcome = self.issuer().await;
        self.metrics
            .keys(&self.cluster, if outcome.is_ok() { "fetched" } else { "failed" });
        let good = outcome.is_ok();
        let cluster = &*self.cluster;
        self.state.send_modify(|state| {
            state.fetches += 1;
            state.last = Some(Instant::now());
            match outcome {
                Ok(issuer) => {
                    if state.issuer.as_ref() != Some(&issuer) {
                        let (usable, passed_over) = (issuer.jwks.usable(), issuer.jwks.passed_over());
                        tracing::info!(
                            cluster,
                            issuer = issuer.name,
                            usable,
                            passed_over,
                            "keys of the token issuer fetched"
                        );
                    }
                    state.issuer = Some(issuer);
                    state.good = state.last;
                    state.failed = None;
                }
                Err(error) => {
                    let error = logging::chain(&error);
                    if state.failed.as_ref() != Some(&error) {
                        tracing::warn!(
                            cluster,
                            error,
                            "keys of the token issuer cannot be fetched, the old ones stay"
                        );
                    }
                    state.failed = Some(error);
                }
            }
        });
        good
    }

    async fn issuer(&self) -> Result<Issuer, FetchError> {
        let name = if let Some(name) = &self.named {
            name.clone()
        } else {
            let text = self.get("/.well-known/openid-configuration").await?;
            let discovery: Discovery = serde_json::from_str(&text).map_err(|_| FetchError::Discovery)?;
            discovery.issuer
        };
        let jwks = Jwks::parse(self.get("/openid/v1/jwks").await?.as_bytes())?;
        Ok(Issuer {
            name,
            jwks: Arc::new(jwks),
        })
    }

    async fn get(&self, path: &str) -> Result<String, ApiError> {
        let request = Request::get(path)
            .body(Vec::new())
            .map_err(|error| ApiError::Away(error.to_string()))?;
        Ok(self.client.request_text(request).await?)
    }
}

/// Between two fetches, whatever tokens say.
const REST: Duration = Duration::from_secs(5);
/// How long a key that was withdrawn may count.
const PERIOD: Duration = Duration::from_mins(2);
/// How long keys count that cannot be fetched again.
const TOO_OLD: Duration = Duration::from_mins(10);
/// After a failure.
const PAUSE_FIRST: Duration = Duration::from_secs(5);
const PAUSE_MAX: Duration = Duration::from_secs(20);
