//! How many callers may wait for one cluster's word while its API server does not answer.
//!
//! Each caller holds one of the places of `--max-in-flight` meanwhile, which all clusters share. Promises that the
//! clusters whose servers are silent hold half of them at most, and each of them a quarter, so that the others are
//! served; whoever finds that many waiting is told at once, and asks again when it likes. A server that answers in time
//! is held to no number: the bound counts once somebody has waited for [`GRACE`].

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::timeout;

/// The bounds for all clusters together. Cheap to clone.
#[derive(Debug, Clone)]
pub(in crate::authn) struct Crowds {
    all: Arc<Semaphore>,
    each: usize,
}

/// Those who wait for one cluster.
#[derive(Debug)]
pub(super) struct Crowd {
    all: Arc<Semaphore>,
    own: Semaphore,
    most: usize,
}

// === impl Crowds ===

impl Crowds {
    /// For so many callers in flight.
    pub(in crate::authn) fn of(in_flight: usize) -> Self {
        Self {
            all: Arc::new(Semaphore::new((in_flight / 2).max(1))),
            each: (in_flight / 4).max(1),
        }
    }

    /// Of one more cluster.
    pub(super) fn one(&self) -> Crowd {
        Crowd {
            all: Arc::clone(&self.all),
            own: Semaphore::new(self.each),
            most: self.each,
        }
    }
}

// === impl Crowd ===

impl Crowd {
    /// What comes of `work`, or `None` where it does not come at once and too many wait already. What is known without
    /// a wait is never refused.
    pub(super) async fn wait<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let mut work = pin!(work);
        let grace = if self.own.available_permits() < self.most {
            Duration::ZERO
        } else {
            GRACE
        };
        if let Ok(done) = timeout(grace, &mut work).await {
            return Some(done);
        }
        let _own = self.own.try_acquire().ok()?;
        let _all = self.all.try_acquire().ok()?;
        Some(work.await)
    }
}

/// Longer than an informer may be late and a healthy server takes, far below what a caller waits.
const GRACE: Duration = Duration::from_secs(3);

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::task::JoinSet;
    use tokio::time::{Instant, sleep};

    use super::*;

    /// So many callers of a cluster that says nothing; how many of them were sent away.
    fn silent(crowd: &Arc<Crowd>, callers: usize, tasks: &mut JoinSet<()>) -> Arc<AtomicUsize> {
        let refused = Arc::new(AtomicUsize::new(0));
        for _ in 0..callers {
            let (crowd, refused) = (Arc::clone(crowd), Arc::clone(&refused));
            tasks.spawn(async move {
                if crowd.wait(pending::<()>()).await.is_none() {
                    refused.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        refused
    }

    #[tokio::test(start_paused = true)]
    async fn silent_clusters_hold_half_of_the_places_and_each_a_quarter() {
        let crowds = Crowds::of(16);
        let silents = [(); 3].map(|()| Arc::new(crowds.one()));
        let mut tasks = JoinSet::new();
        let refused = silents.each_ref().map(|crowd| silent(crowd, 10, &mut tasks));
        sleep(GRACE * 2).await;
        let waiting: Vec<_> = refused.iter().map(|one| 10 - one.load(Ordering::Relaxed)).collect();
        assert!(waiting.iter().all(|&one| one <= 4), "{waiting:?}");
        assert_eq!(waiting.iter().sum::<usize>(), 8, "{waiting:?}");
        let began = Instant::now();
        let full = waiting.iter().position(|&one| one == 4).unwrap();
        assert_eq!(silents[full].wait(pending::<()>()).await, None);
        assert_eq!(
            silents[full].wait(ready(())).await,
            Some(()),
            "what is known needs no wait"
        );
        assert!(began.elapsed() < GRACE, "nobody waits to be told that it may not wait");
        // Another cluster is held to nothing.
        let healthy = crowds.one();
        let answers = (0..50).map(|_| healthy.wait(sleep(GRACE / 2)));
        assert!(futures::future::join_all(answers).await.iter().all(Option::is_some));
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_comes_back_is_held_to_nothing() {
        let crowd = Arc::new(Crowds::of(8).one());
        let mut tasks = JoinSet::new();
        silent(&crowd, 10, &mut tasks);
        sleep(GRACE * 2).await;
        tasks.shutdown().await;
        let answers = (0..50).map(|_| crowd.wait(sleep(GRACE / 2)));
        assert!(futures::future::join_all(answers).await.iter().all(Option::is_some));
    }
}
