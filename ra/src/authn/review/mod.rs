//! Tokens by the API server's own word: TokenReview, asked once per token and few seconds.
//!
//! Promises that a token without the form of a JWT, or past its own end, costs no request; that a server that throttles
//! or is away is asked again until the caller's time is over; and that its absence is never taken for a bad token. What
//! a review says is in `verdict`, what is remembered in `cache`.

mod cache;
mod verdict;

use std::sync::Arc;
use std::time::Duration;

use ensign_pki::SharedClock;
use futures::FutureExt as _;
use http::Request;
use http::header::{ACCEPT, CONTENT_TYPE};
use parking_lot::Mutex;
use tokio::time::{Instant, sleep, timeout_at};

pub use self::cache::CacheConfig;
pub use self::verdict::ReviewError;

use self::cache::{Key, Source, Verdict, Verdicts};
use self::verdict::{Answer, Question};
use super::claims::{ClaimsError, Expectations};
use super::error::AuthnError;
use super::metrics::AuthnMetrics;
use super::subject::Subject;
use super::token;
use crate::kubernetes::ApiError;

/// Has the tokens of one cluster reviewed by its API server.
#[derive(Clone)]
pub(super) struct Reviewer {
    client: kube::Client,
    cluster: Arc<str>,
    expected: Arc<Expectations>,
    verdicts: Verdicts,
    /// Why the server did not answer the last time, for those who give up.
    last: Arc<Mutex<Option<ApiError>>>,
    clock: SharedClock,
    metrics: AuthnMetrics,
}

/// One question until it is answered.
struct Review {
    client: kube::Client,
    cluster: Arc<str>,
    expected: Arc<Expectations>,
    token: String,
    metrics: AuthnMetrics,
    last: Arc<Mutex<Option<ApiError>>>,
}

// === impl Reviewer ===

impl Reviewer {
    pub(super) fn new(
        client: kube::Client,
        cluster: Arc<str>,
        expected: Arc<Expectations>,
        cache: CacheConfig,
        clock: SharedClock,
        metrics: AuthnMetrics,
    ) -> Self {
        Self {
            client,
            cluster,
            expected,
            verdicts: Verdicts::new(cache),
            last: Arc::default(),
            clock,
            metrics,
        }
    }

    /// Whom the token speaks for, known by `until`. When this is dropped, others who ask for the same token go on.
    pub(super) async fn review(&self, token: &str, until: Instant) -> Result<Subject, AuthnError> {
        let left = self.left(token)?;
        let key = Key::of(&self.cluster, token, &self.expected.audiences);
        let ask = || {
            let review = Review {
                client: self.client.clone(),
                cluster: Arc::clone(&self.cluster),
                expected: Arc::clone(&self.expected),
                token: token.to_owned(),
                metrics: self.metrics.clone(),
                last: Arc::clone(&self.last),
            };
            async move { review.run().await }.boxed()
        };
        let Ok((source, verdict)) = timeout_at(until, self.verdicts.judge(key, left, ask)).await else {
            let why = self.last.lock().clone();
            return Err(AuthnError::Away {
                cluster: self.cluster.to_string(),
                reason: why.as_ref().map_or("review_timeout", ApiError::reason),
                why: why.map_or_else(|| "no answer in time".to_owned(), |error| error.to_string()),
            });
        };
        self.metrics.verdict(match (source, &verdict) {
            (Source::Kept, Ok(_)) => "kept_good",
            (Source::Kept, Err(_)) => "kept_bad",
            (Source::Joined, _) => "joined",
            (Source::Asked, _) => "asked",
        });
        match verdict {
            Ok(subject) => Ok(Subject::clone(&subject)),
            Err(ReviewError::Api(error)) => Err(AuthnError::Away {
                cluster: self.cluster.to_string(),
                reason: error.reason(),
                why: error.to_string(),
            }),
            Err(error @ ReviewError::Failed(_)) => Err(AuthnError::Away {
                cluster: self.cluster.to_string(),
                reason: error.reason(),
                why: error.to_string(),
            }),
            Err(error) => Err(AuthnError::Review(error)),
        }
    }

    /// How long the token has still to live by its own word.
    fn left(&self, token: &str) -> Result<Duration, AuthnError> {
        let Some(end) = token::claimed_end(token).map_err(AuthnError::Token)? else {
            return Ok(Duration::MAX);
        };
        let now = self.clock.now();
        match end.duration_since(now) {
            Ok(left) => Ok(left),
            // The clocks may be apart: the server decides, and nothing is kept.
            Err(past) if past.duration() < self.expected.leeway => Ok(Duration::ZERO),
            Err(past) => Err(AuthnError::Claims(ClaimsError::Expired(past.duration().as_secs()))),
        }
    }
}

impl std::fmt::Debug for Reviewer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reviewer")
            .field("cluster", &self.cluster)
            .finish_non_exhaustive()
    }
}

// === impl Review ===

impl Review {
    /// Asks until there is a verdict, or an answer that asking again does not change. It has no end of its own: it is
    /// dropped with the last who waits for it.
    async fn run(self) -> Verdict {
        let mut pause = PAUSE_FIRST;
        loop {
            let error = match self.once().await {
                Ok(answer) => {
                    *self.last.lock() = None;
                    let verdict = answer.verdict(&self.expected.audiences).map(Arc::new);
                    let outcome = verdict.as_ref().map_or_else(ReviewError::reason, |_| "authenticated");
                    self.metrics.review(&self.cluster, outcome);
                    return verdict;
                }
                Err(error) => error,
            };
            self.metrics.review(&self.cluster, error.reason());
            *self.last.lock() = Some(error.clone());
            let jittered = pause.mul_f64(fastrand::f64() + 0.5);
            match error {
                ApiError::Throttled { retry_after, .. } => sleep(retry_after.min(RETRY_AFTER_MAX) + jittered).await,
                ApiError::Away(_) => sleep(jittered).await,
                other => return Err(ReviewError::Api(other)),
            }
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    async fn once(&self) -> Result<Answer, ApiError> {
        let question = Question::new(&self.token, &self.expected.audiences);
        let body = serde_json::to_vec(&question).map_err(|_| unreadable("the question"))?;
        let request = Request::post(PATH)
            .header(CONTENT_TYPE, "application/json")
            .header(ACCEPT, "application/json")
            .body(body)
            .map_err(|_| unreadable("the question"))?;
        // Not through `Api`: kube logs an answer that it cannot parse, and this one holds the token.
        let text = self.client.request_text(request).await?;
        serde_json::from_str(&text).map_err(|_| unreadable("the answer"))
    }
}

fn unreadable(what: &str) -> ApiError {
    ApiError::Other {
        code: 200,
        message: format!("{what} is no TokenReview"),
    }
}

const PATH: &str = "/apis/authentication.k8s.io/v1/tokenreviews";
const PAUSE_FIRST: Duration = Duration::from_millis(100);
/// A restarted API server is found again within this time.
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// Kubernetes asks for seconds; a server that asks for more is asked again at this rate.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests;
