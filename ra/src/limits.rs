//! How much is let in at once: a bounded number of requests that are authenticated and judged, a bounded queue before
//! it, a share per caller.
//!
//! A request that finds no place is told so at once if the queue is full, else at its deadline; it never hangs. Places are
//! guards: they come back when the request ends, is cancelled or panics, and a request that goes to its signer gives its
//! place back, because signers have gates of their own (`signer::Gate`). The caller's share is taken after
//! authentication, because before it nobody knows whose share it is, and kept to the end.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use thiserror::Error;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

/// The bounds.
#[derive(Debug, Clone)]
pub struct LimitsConfig {
    /// Requests authenticated and judged at once.
    pub in_flight: usize,
    /// Requests that may wait for that.
    pub queued: usize,
    /// Requests of one account at once, wherever they are.
    pub per_caller: usize,
    /// Size of the largest request.
    pub message_bytes: usize,
    /// Connections at once.
    pub connections: usize,
    /// How long a connection may live before the client is asked to open another.
    pub connection_age: Duration,
}

/// Why a request was turned away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum LimitError {
    /// As many in flight and in the queue as are allowed.
    #[error("all places in flight and in the queue are taken (--max-in-flight, --max-queued)")]
    QueueFull,
    /// No place became free in time.
    #[error("the request's deadline passed while it waited to be looked at (--max-in-flight)")]
    QueueDeadline,
    /// This account has as many in flight as it may.
    #[error("the caller's account has as many requests in flight as it may (--max-in-flight-per-caller)")]
    PerCaller,
    /// The request is larger than allowed.
    #[error("the request is larger than --max-message-bytes")]
    MessageSize,
}

/// Hands out places.
#[derive(Debug)]
pub struct Limits {
    places: Arc<Semaphore>,
    queued: AtomicUsize,
    max_queued: usize,
    max_per_caller: usize,
    callers: Arc<Mutex<HashMap<String, usize>>>,
}

/// A place among the requests in flight; dropping it frees it.
#[derive(Debug)]
pub struct Place {
    _permit: OwnedSemaphorePermit,
}

/// A caller's share of one; dropping it gives it back.
#[derive(Debug)]
pub struct Share {
    account: String,
    callers: Arc<Mutex<HashMap<String, usize>>>,
}

/// Counts one waiting request for as long as it waits, also when the call is dropped meanwhile.
struct Waiting<'a>(&'a AtomicUsize);

// === impl Limits ===

impl Limits {
    /// Nothing taken yet.
    pub fn new(config: &LimitsConfig) -> Self {
        Self {
            places: Arc::new(Semaphore::new(config.in_flight)),
            queued: AtomicUsize::new(0),
            max_queued: config.queued,
            max_per_caller: config.per_caller,
            callers: Arc::default(),
        }
    }

    /// A place in flight, at once or after a wait in the queue (first come, first served) until `deadline`.
    pub async fn place(&self, deadline: Instant) -> Result<Place, LimitError> {
        if let Ok(permit) = Arc::clone(&self.places).try_acquire_owned() {
            return Ok(Place { _permit: permit });
        }
        let before = self.queued.fetch_add(1, Ordering::Relaxed);
        let _waiting = Waiting(&self.queued);
        if before >= self.max_queued {
            return Err(LimitError::QueueFull);
        }
        match timeout_at(deadline, Arc::clone(&self.places).acquire_owned()).await {
            Ok(Ok(permit)) => Ok(Place { _permit: permit }),
            // The semaphore is never closed; a full queue is the honest answer if it were.
            Ok(Err(_)) => Err(LimitError::QueueFull),
            Err(_) => Err(LimitError::QueueDeadline),
        }
    }

    /// One of the caller's places.
    pub fn share(&self, namespace: &str, service_account: &str) -> Result<Share, LimitError> {
        let account = format!("{namespace}/{service_account}");
        let mut callers = self.callers.lock();
        let taken = callers.entry(account.clone()).or_default();
        if *taken >= self.max_per_caller {
            return Err(LimitError::PerCaller);
        }
        *taken += 1;
        drop(callers);
        Ok(Share {
            account,
            callers: Arc::clone(&self.callers),
        })
    }

    /// Requests that wait now.
    pub fn queued(&self) -> usize {
        self.queued.load(Ordering::Relaxed)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut callers = self.callers.lock();
        if let Some(taken) = callers.get_mut(&self.account) {
            *taken -= 1;
            // Accounts come and go; only those with requests in flight are remembered.
            if *taken == 0 {
                callers.remove(&self.account);
            }
        }
    }
}

// === impl LimitError ===

impl LimitError {
    /// The word for metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::QueueFull => "queue_full",
            Self::QueueDeadline => "queue_deadline",
            Self::PerCaller => "per_caller",
            Self::MessageSize => "message_size",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(5)
    }

    fn limits(in_flight: usize, queued: usize, per_caller: usize) -> Limits {
        Limits::new(&LimitsConfig {
            in_flight,
            queued,
            per_caller,
            message_bytes: 1024,
            connections: 1,
            connection_age: Duration::from_secs(1),
        })
    }

    #[tokio::test(start_paused = true)]
    async fn the_queue_is_bounded_in_length_and_time() {
        let limits = limits(1, 1, 1);
        let place = limits.place(soon()).await.unwrap();
        let (second, third) = tokio::join!(limits.place(soon()), limits.place(soon()));
        assert_eq!(second.unwrap_err(), LimitError::QueueDeadline);
        assert_eq!(third.unwrap_err(), LimitError::QueueFull);
        drop(place);
        limits.place(soon()).await.unwrap();
        assert_eq!(limits.queued(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_place_that_comes_free_goes_to_the_one_that_waits() {
        let limits = limits(1, 1, 1);
        let place = limits.place(soon()).await.unwrap();
        let (waited, ()) = tokio::join!(limits.place(soon()), async { drop(place) });
        waited.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_dropped_wait_leaves_the_queue() {
        let limits = limits(1, 1, 1);
        let _place = limits.place(soon()).await.unwrap();
        let short = timeout_at(Instant::now() + Duration::from_millis(1), limits.place(soon())).await;
        assert!(short.is_err());
        assert_eq!(limits.queued(), 0);
    }

    #[test]
    fn one_account_cannot_take_the_share_of_another() {
        let limits = limits(8, 0, 1);
        let share = limits.share("foo", "a").unwrap();
        assert_eq!(limits.share("foo", "a").unwrap_err(), LimitError::PerCaller);
        let _other = limits.share("foo", "b").unwrap();
        drop(share);
        limits.share("foo", "a").unwrap();
        assert_eq!(limits.callers.lock().len(), 1);
    }
}
