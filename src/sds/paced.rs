//! How many lines of the log one socket's clients may cause: enough to see what goes on, too few to fill a disk or to push out what others said.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// So many lines …
const MOST: u32 = 20;

/// … in so long a time.
const SPAN: Duration = Duration::from_mins(1);

/// Counts the lines of one socket.
#[derive(Debug, Default)]
pub(crate) struct Paced(Mutex<Option<(Instant, u32)>>);

impl Paced {
    /// Whether one more may be written.
    pub(crate) fn allows(&self) -> bool {
        let mut state = self.0.lock();
        let (since, lines) = match *state {
            Some((since, lines)) if since.elapsed() < SPAN => (since, lines),
            Some(_) | None => (Instant::now(), 0),
        };
        *state = Some((since, lines.saturating_add(1)));
        lines < MOST
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_loop_gets_some_lines_and_then_some_more_a_minute_later() {
        let paced = Paced::default();
        let allowed = || (0..1000).filter(|_| paced.allows()).count();
        assert_eq!((allowed(), allowed()), (20, 0));
        advance(SPAN).await;
        assert_eq!(allowed(), 20);
    }
}
