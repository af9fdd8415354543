//! How many callers may wait for one cluster's word while its API server does not answer.
//!
//! Each caller holds one of the places of `--max-in-flight` meanwhile, which all clusters share. Promises that the
//! clusters whose servers are silent hold half of them at most, and each of them a quarter, so that the others are
//! served; whoever finds that many waiting is told at once, and asks again when it likes. A server that answers, however many
//! wait for it and however long, is held to no number: the bound counts once it has said nothing to anybody for [`GRACE`].

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout, timeout_at};

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
    /// When its server last said something.
    heard: Mutex<Option<Instant>>,
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
            heard: Mutex::new(None),
        }
    }
}

// === impl Crowd ===

impl Crowd {
    /// What comes of `work`, or `None` where the server is silent and too many wait for it already. `answered` says whether an
    /// outcome is the server's word. What is known without a wait is never refused, and says nothing of the server.
    pub(super) async fn wait<T>(&self, work: impl Future<Output = T>, answered: impl Fn(&T) -> bool) -> Option<T> {
        let mut work = pin!(work);
        if let Ok(known) = timeout(Duration::ZERO, &mut work).await {
            return Some(known);
        }
        let done = self.waited(work, Instant::now()).await?;
        if answered(&done) {
            *self.heard.lock() = Some(Instant::now());
        }
        Some(done)
    }

    async fn waited<T>(&self, mut work: Pin<&mut impl Future<Output = T>>, began: Instant) -> Option<T> {
        loop {
            let silent = self.silent_from(began);
            match timeout_at(silent, &mut work).await {
                Ok(done) => return Some(done),
                // Others were answered meanwhile.
                Err(_) if self.silent_from(began) > silent => {}
                Err(_) => break,
            }
        }
        let _own = self.own.try_acquire().ok()?;
        let _all = self.all.try_acquire().ok()?;
        Some(work.await)
    }

    /// When the server counts as silent if nothing more is heard, for one who began to wait then.
    fn silent_from(&self, began: Instant) -> Instant {
        let heard = *self.heard.lock();
        let others_wait_in_vain = self.own.available_permits() < self.most;
        match heard {
            Some(heard) if others_wait_in_vain => heard + GRACE,
            None if others_wait_in_vain => began,
            Some(heard) => heard.max(began) + GRACE,
            None => began + GRACE,
        }
    }
}

/// Longer than an informer may be late and a server takes for its next answer, far below what a caller waits.
const GRACE: Duration = Duration::from_secs(3);

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::task::JoinSet;
    use tokio::time::sleep;

    use super::*;

    /// So many callers of a cluster that says nothing; how many of them were sent away.
    fn silent(crowd: &Arc<Crowd>, callers: usize, tasks: &mut JoinSet<()>) -> Arc<AtomicUsize> {
        let refused = Arc::new(AtomicUsize::new(0));
        for _ in 0..callers {
            let (crowd, refused) = (Arc::clone(crowd), Arc::clone(&refused));
            tasks.spawn(async move {
                if crowd.wait(pending::<()>(), |()| true).await.is_none() {
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
        assert_eq!(silents[full].wait(pending::<()>(), |()| true).await, None);
        assert_eq!(
            silents[full].wait(ready(()), |()| true).await,
            Some(()),
            "what is known needs no wait"
        );
        assert!(began.elapsed() < GRACE, "nobody waits to be told that it may not wait");
        // Another cluster is held to nothing.
        let healthy = crowds.one();
        let answers = (0..50).map(|_| healthy.wait(sleep(GRACE / 2), |()| true));
        assert!(futures::future::join_all(answers).await.iter().all(Option::is_some));
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_comes_back_is_held_to_nothing() {
        let crowd = Arc::new(Crowds::of(8).one());
        let mut tasks = JoinSet::new();
        silent(&crowd, 10, &mut tasks);
        sleep(GRACE * 2).await;
        tasks.shutdown().await;
        let answers = (0..50).map(|_| crowd.wait(sleep(GRACE / 2), |()| true));
        assert!(futures::future::join_all(answers).await.iter().all(Option::is_some));
    }

    /// Two thousand pods start at once, and the server answers one after the other.
    #[tokio::test(start_paused = true)]
    async fn a_server_that_is_slow_for_many_and_answers_some_is_held_to_nothing() {
        let crowd = Crowds::of(8).one();
        let answers = (1..=50).map(|second| crowd.wait(sleep(GRACE / 3 * second), |()| true));
        assert!(futures::future::join_all(answers).await.iter().all(Option::is_some));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_known_and_what_ends_without_an_answer_is_no_sign_of_life() {
        let crowd = Arc::new(Crowds::of(8).one());
        let mut tasks = JoinSet::new();
        let refused = silent(&crowd, 10, &mut tasks);
        for _ in 0..20 {
            crowd.wait(ready(()), |()| true).await;
            crowd.wait(sleep(Duration::ZERO), |()| false).await;
            sleep(GRACE / 10).await;
        }
        assert_eq!(refused.load(Ordering::Relaxed), 8, "a quarter of the places");
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_speaks_again_is_held_to_nothing_although_some_wait_in_vain() {
        let crowd = Arc::new(Crowds::of(8).one());
        let mut tasks = JoinSet::new();
        silent(&crowd, 2, &mut tasks);
        sleep(GRACE * 2).await;
        assert_eq!(crowd.wait(pending::<()>(), |()| true).await, None);
        *crowd.heard.lock() = Some(Instant::now());
        assert_eq!(crowd.wait(sleep(GRACE / 2), |()| true).await, Some(()));
    }
}
