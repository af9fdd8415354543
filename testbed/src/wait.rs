//! Waiting for events of real processes, with patience.
//!
//! A process cannot always announce an event, so `until` asks again at short intervals. Patience is generous on
//! purpose: Envoy's own reconnect backoff reaches 30 s, and a busy machine is slow. No test asserts how long it took.

use std::time::Duration;

use anyhow::{Context, bail};
use tokio::time::{Instant, sleep};

/// How long a real part may take before a test gives up on it.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// Between two looks. Short enough to see every certificate of a fast rotation.
const INTERVAL: Duration = Duration::from_millis(50);

/// Calls `look` until it yields a value. Its last error explains the failure when patience runs out.
pub async fn until<T>(
    what: &str,
    patience: Duration,
    mut look: impl AsyncFnMut() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let deadline = Instant::now() + patience;
    loop {
        let error = match look().await {
            Ok(found) => return Ok(found),
            Err(error) => error,
        };
        if Instant::now() >= deadline {
            return Err(error).with_context(|| format!("waited {} s in vain for {what}", patience.as_secs()));
        }
        sleep(INTERVAL).await;
    }
}

/// Calls `look` until it says yes.
pub async fn until_true(
    what: &str,
    patience: Duration,
    mut look: impl AsyncFnMut() -> anyhow::Result<bool>,
) -> anyhow::Result<()> {
    until(
        what,
        patience,
        async || if look().await? { Ok(()) } else { bail!("not yet") },
    )
    .await
}
