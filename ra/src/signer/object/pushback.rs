//! Word from the API server to come back later, for whoever lets requests in.
//!
//! A request that was told so waits by itself and is not failed before its deadline. Letting more in meanwhile only makes
//! the server's queue longer: the gate before the signers follows [`Pushback`] and pauses.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

/// Until when the API server wants to be left alone. Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub struct Pushback(watch::Sender<Option<Instant>>);

// === impl Pushback ===

impl Pushback {
    /// Follows what the server says; `None` until it first says something. A time in the past means nothing any more.
    pub fn follow(&self) -> watch::Receiver<Option<Instant>> {
        self.0.subscribe()
    }

    pub(crate) fn come_back_in(&self, retry_after: Duration) {
        let until = Instant::now() + retry_after.min(LONGEST);
        self.0.send_if_modified(|known| {
            let later = known.is_none_or(|known| known < until);
            if later {
                *known = Some(until);
            }
            later
        });
    }
}

impl Default for Pushback {
    fn default() -> Self {
        Self(watch::channel(None).0)
    }
}

/// A server that is wrong about its own future must not stop us for hours.
pub(crate) const LONGEST: Duration = Duration::from_mins(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_latest_word_counts_and_none_is_endless() {
        let pushback = Pushback::default();
        let told = pushback.follow();
        assert_eq!(*told.borrow(), None);
        pushback.come_back_in(Duration::from_secs(10));
        let ten = *told.borrow();
        pushback.come_back_in(Duration::from_secs(1));
        assert_eq!(*told.borrow(), ten, "an earlier time takes nothing back");
        pushback.come_back_in(Duration::MAX);
        assert_eq!(*told.borrow(), Some(Instant::now() + LONGEST));
    }
}
