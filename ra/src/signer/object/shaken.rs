//! A server that has just come back does not know our rights yet.
//!
//! kube-apiserver answers 403 to everybody between its start and the moment at which its roles are loaded, a second or
//! so (seen: `object_life::an_api_server_that_is_killed_in_a_burst_fails_nobody`). Taken at its word that would fail
//! every request under way. So a 403 shortly after the server was away counts as "still away".

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::kubernetes::{ApiError, WatchState};

/// When the server was last seen away.
#[derive(Debug, Default)]
pub(super) struct Shaken(Mutex<Option<Instant>>);

// === impl Shaken ===

impl Shaken {
    /// What an error means, given those before it.
    pub(super) fn judge(&self, error: ApiError, watch: WatchState) -> ApiError {
        let broken = match watch {
            WatchState::Broken { .. } => true,
            WatchState::Starting | WatchState::Synced => false,
        };
        let mut last = self.0.lock();
        let away = matches!(error, ApiError::Away(_));
        if away || broken {
            *last = Some(Instant::now());
        }
        let recently = last.is_some_and(|last| last.elapsed() < SETTLING);
        match error {
            ApiError::Forbidden(why) if recently => ApiError::Away(format!("it was away, and now forbids: {why}")),
            error => error,
        }
    }
}

/// Longer than a server takes to learn its roles.
const SETTLING: Duration = Duration::from_secs(15);

#[cfg(test)]
mod tests {
    use super::*;

    fn forbidden() -> ApiError {
        ApiError::Forbidden("no".to_owned())
    }

    #[tokio::test(start_paused = true)]
    async fn a_no_counts_unless_the_server_was_away_just_now() {
        let shaken = Shaken::default();
        assert_eq!(shaken.judge(forbidden(), WatchState::Synced), forbidden());
        let away = ApiError::Away("reset".to_owned());
        assert_eq!(shaken.judge(away.clone(), WatchState::Synced), away);
        assert_eq!(shaken.judge(forbidden(), WatchState::Synced).reason(), "away");
        // Each no does not make the next one passing.
        tokio::time::advance(SETTLING).await;
        assert_eq!(shaken.judge(forbidden(), WatchState::Synced), forbidden());
    }

    #[tokio::test(start_paused = true)]
    async fn a_broken_watch_says_that_the_server_was_away() {
        let broken = WatchState::Broken { since: Instant::now() };
        assert_eq!(Shaken::default().judge(forbidden(), broken).reason(), "away");
        assert_eq!(Shaken::default().judge(forbidden(), WatchState::Starting), forbidden());
    }
}
