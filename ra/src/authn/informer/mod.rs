//! Tokens by their signature and the live objects that they are bound to, with no request to the API server.
//!
//! Signature and claims are checked as with a JWKS file, with keys that the cluster's API server hands out; account and
//! pod are looked up in informers. As soon as those cannot be relied on (not complete yet, or broken for too long),
//! every token is reviewed by the API server instead, and that is said once and counted.

mod keys;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ensign_pki::SharedClock;
use kube::Client;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::keys::{Issuer, Keys, Newer};
use super::caller::Proof;
use super::claims::{self, Expectations};
use super::error::AuthnError;
use super::live::{Live, LiveError, Surroundings};
use super::review::Reviewer;
use super::subject::Subject;
use super::token::{self, TokenError};

/// Judges the tokens of one cluster.
#[derive(Debug)]
pub(super) struct Informer {
    keys: Keys,
    live: Arc<Live>,
    reviewer: Reviewer,
    expected: Arc<Expectations>,
    cluster: Arc<str>,
    clock: SharedClock,
    surroundings: Surroundings,
    /// As of the last token, so that a change is told once.
    fresh: AtomicBool,
}

/// What the informers say of a token.
enum Opinion {
    /// This.
    Verdict(Result<Subject, AuthnError>),
    /// Nothing that counts.
    None,
}

// === impl Informer ===

impl Informer {
    /// Begins to fetch the keys; the task ends with `stop`.
    pub(super) fn open(
        client: &Client,
        issuer: Option<String>,
        live: Arc<Live>,
        reviewer: Reviewer,
        expected: Arc<Expectations>,
        surroundings: &Surroundings,
        stop: &CancellationToken,
    ) -> Self {
        let cluster: Arc<str> = live.cluster().into();
        let (keys, keeper) = Keys::new(
            client.clone(),
            Arc::clone(&cluster),
            issuer,
            surroundings.metrics.clone(),
        );
        surroundings.tasks.spawn(keeper.run(stop.clone()));
        surroundings.metrics.informer(&cluster, false);
        Self {
            keys,
            live,
            reviewer,
            expected,
            cluster,
            clock: Arc::clone(&surroundings.clock),
            surroundings: surroundings.clone(),
            fresh: AtomicBool::new(false),
        }
    }

    /// Whom the token speaks for, and by what that is known.
    pub(super) async fn judge(&self, token: &str, until: Instant) -> Result<(Subject, Proof), AuthnError> {
        if let Opinion::Verdict(verdict) = self.opinion(token, until).await {
            return Ok((verdict?, Proof::Informer));
        }
        self.surroundings.metrics.fallback(&self.cluster);
        Ok((self.reviewer.review(token, until).await?, Proof::TokenReview))
    }

    async fn opinion(&self, token: &str, until: Instant) -> Opinion {
        let issuer = self.keys.current();
        self.tell(issuer.is_some() && self.live.is_fresh());
        let Some(issuer) = issuer.filter(|_| self.live.is_fresh()) else {
            return Opinion::None;
        };
        let subject = match self.genuine(token, issuer, until).await {
            Ok(subject) => subject,
            Err(error) => return Opinion::Verdict(Err(error)),
        };
        match self.live.confirm(subject).await {
            Ok(subject) => Opinion::Verdict(Ok(subject)),
            // What a watch that just broke has not seen may well be there.
            Err(error) if error.may_be_late() && !self.live.is_whole() => Opinion::None,
            Err(error) => Opinion::Verdict(Err(AuthnError::Live(error))),
        }
    }

    /// Signature and claims.
    async fn genuine(&self, token: &str, issuer: Issuer, until: Instant) -> Result<Subject, AuthnError> {
        let (issuer, payload) = match token::verify(token, &issuer.jwks) {
            Err(TokenError::UnknownKey(kid)) => {
                let issuer = match self.keys.newer(&issuer, until).await {
                    Newer::Fetched(issuer) => issuer,
                    Newer::Same => return Err(AuthnError::Token(TokenError::UnknownKey(kid))),
                    Newer::Failed(why) => {
                        return Err(AuthnError::Away {
                            cluster: self.cluster.to_string(),
                            reason: "issuer_keys",
                            why: format!("kid {kid:?} is not known and newer keys cannot be fetched: {why}"),
                        });
                    }
                };
                let payload = token::verify(token, &issuer.jwks);
                (issuer, payload)
            }
            payload => (issuer, payload),
        };
        let payload = payload.map_err(AuthnError::Token)?;
        claims::check(&payload, &issuer.name, &self.expected, self.clock.now()).map_err(AuthnError::Claims)
    }

    fn tell(&self, fresh: bool) {
        if self.fresh.swap(fresh, Ordering::Relaxed) == fresh {
            return;
        }
        let cluster = &*self.cluster;
        self.surroundings.metrics.informer(cluster, fresh);
        if fresh {
            tracing::info!(cluster, "tokens are judged by informers");
        } else {
            tracing::warn!(
                cluster,
                "informers cannot be relied on, tokens are reviewed by the API server"
            );
        }
    }
}

// === impl LiveError ===

impl LiveError {
    /// Whether a later event could turn it.
    fn may_be_late(&self) -> bool {
        match self {
            Self::AccountNotSeen(_) | Self::AccountChanged { .. } | Self::PodNotSeen(_) | Self::PodChanged { .. } => {
                true
            }
            Self::NoAccountUid(_)
            | Self::PodAccount { .. }
            | Self::PodNode { .. }
            | Self::PodFinished(_)
            | Self::Overdue(_) => false,
        }
    }
}

#[cfg(test)]
mod tests;
