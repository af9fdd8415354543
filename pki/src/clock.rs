//! Wall-clock time as a value that is passed in.
//!
//! Every schedule and every validity check takes a [`Clock`], so a test can hold, step and suspend time. The only
//! place in the product that asks the operating system is [`SystemClock`].

use std::{fmt::Debug, sync::Arc, time::SystemTime};

/// Tells the current wall-clock time.
pub trait Clock: Debug + Send + Sync {
    /// The time now. It may step backwards: callers compare, they never subtract without saturating.
    fn now(&self) -> SystemTime;
}

/// A clock that many owners share.
pub type SharedClock = Arc<dyn Clock>;

/// The operating system's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl SystemClock {
    /// This clock in the form in which it is passed around.
    pub fn shared() -> SharedClock {
        Arc::new(Self)
    }
}

impl Clock for SystemClock {
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place that may ask the operating system"
    )]
    fn now(&self) -> SystemTime {
        SystemTime::now()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_clock_is_later_than_the_year_2020() {
        let year_2020 = SystemTime::UNIX_EPOCH + std::time::Duration::from_hours(50 * 8766);
        assert!(SystemClock::shared().now() > year_2020);
    }
}
