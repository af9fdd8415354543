//! Waiting for what another part does in its own time.
//!
//! Tests wait for events, with patience, and assert no durations: `ENSIGN_TEST_PATIENCE` (seconds,
//! default 60) says how long a slow machine gets before a wait counts as a failure.

use std::fmt::Display;
use std::time::Duration;

/// How long a wait may take before it is a failure.
pub fn patience() -> Duration {
    let seconds = std::env::var("ENSIGN_TEST_PATIENCE")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(60);
    Duration::from_secs(seconds)
}

/// Calls `attempt` until it yields `Ok`, and returns that. Panics with the last reason when patience ends.
pub async fn eventually<T, E: Display>(what: &str, mut attempt: impl AsyncFnMut() -> Result<T, E>) -> T {
    let end = tokio::time::Instant::now() + patience();
    loop {
        match attempt().await {
            Ok(value) => return value,
            Err(reason) if tokio::time::Instant::now() >= end => panic!("waited in vain for {what}: {reason}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(25)).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn returns_the_first_success() {
        let mut left = 3;
        let value = eventually("three attempts", async || {
            left -= 1;
            if left == 0 { Ok(7) } else { Err("not yet") }
        })
        .await;
        assert_eq!(value, 7);
    }
}
