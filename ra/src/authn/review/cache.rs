//! Verdicts of the last seconds, and the reviews under way, by a hash of what was asked.
//!
//! Bounded in number and in age. Whoever asks what is being asked already waits for that answer: one question, however
//! many want to know. The question is asked by those who wait, all of them, so it goes on for as long as one of them
//! does and ends when the last gives up. Verdicts are kept; that a server could not be asked is not.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use ensign_pki::crypto;
use futures::FutureExt as _;
use futures::future::{BoxFuture, WeakShared};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::verdict::ReviewError;
use crate::authn::subject::Subject;

/// What a review says of a token.
pub(super) type Verdict = Result<Arc<Subject>, ReviewError>;

/// How long verdicts are kept, and how many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheConfig {
    /// How long a good token is believed without asking again; 0: not at all.
    pub good: Duration,
    /// How long a bad one is refused without asking again; 0: not at all.
    pub bad: Duration,
    /// How many verdicts are kept.
    pub entries: usize,
}

/// What was asked: a hash, so that no token is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Key([u8; 32]);

/// The verdicts of one cluster's reviews.
#[derive(Debug, Clone)]
pub(super) struct Verdicts {
    config: CacheConfig,
    inner: Arc<Mutex<Inner>>,
}

/// Two generations: what is asked for again moves to the young one, and when that is full the old one goes. So at most
/// `entries` are kept, and those in use stay.
#[derive(Default)]
struct Inner {
    young: HashMap<Key, Kept>,
    old: HashMap<Key, Kept>,
    flights: HashMap<Key, WeakShared<BoxFuture<'static, Verdict>>>,
}

#[derive(Clone)]
struct Kept {
    verdict: Verdict,
    until: Instant,
}

/// How an answer came about, for a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// It was known.
    Kept,
    /// Somebody was asking already.
    Joined,
    /// It was asked for.
    Asked,
}

/// Forgets a review that nobody waits for any more. Held by each who waits, and dropped after its share of the review.
struct Forget {
    key: Key,
    inner: Arc<Mutex<Inner>>,
}

// === impl Key ===

impl Key {
    /// Each part is preceded by its length, so that no two lists of parts run together to the same bytes.
    pub(super) fn of(cluster: &str, token: &str, audiences: &[String]) -> Self {
        let parts = [cluster, token].into_iter().chain(audiences.iter().map(String::as_str));
        let mut input = Vec::with_capacity(token.len() + 128);
        for part in parts {
            input.extend_from_slice(&(part.len() as u64).to_be_bytes());
            input.extend_from_slice(part.as_bytes());
        }
        Self(crypto::sha256(&input))
    }
}

// === impl Verdicts ===

impl Verdicts {
    pub(super) fn new(config: CacheConfig) -> Self {
        Self {
            config,
            inner: Arc::default(),
        }
    }

    /// The verdict that is known, or that of `review`, or that of the same question under way. `left` is how long the
    /// token itself has still to live.
    pub(super) async fn judge(
        &self,
        key: Key,
        left: Duration,
        review: impl FnOnce() -> BoxFuture<'static, Verdict>,
    ) -> (Source, Verdict) {
        let (source, flight) = {
            let mut inner = self.inner.lock();
            if let Some(verdict) = inner.known(&key, self.half()) {
                return (Source::Kept, verdict);
            }
            if let Some(flight) = inner.flights.get(&key).and_then(WeakShared::upgrade) {
                (Source::Joined, flight)
            } else {
                let flight = self.clone().asked(key, left, review()).boxed().shared();
                if let Some(weak) = flight.downgrade() {
                    inner.flights.insert(key, weak);
                }
                (Source::Asked, flight)
            }
        };
        // In this order: the flight goes first, then its memory.
        let _forget = Forget {
            key,
            inner: Arc::clone(&self.inner),
        };
        let flight = flight;
        (source, flight.await)
    }

    async fn asked(self, key: Key, left: Duration, review: BoxFuture<'static, Verdict>) -> Verdict {
        let verdict = review.await;
        let keep = match &verdict {
            Ok(_) => self.config.good.min(left),
            Err(error) if error.is_verdict() => self.config.bad,
            Err(_) => Duration::ZERO,
        };
        let mut inner = self.inner.lock();
        inner.flights.remove(&key);
        if !keep.is_zero() {
            let kept = Kept {
                verdict: verdict.clone(),
                until: Instant::now() + keep,
            };
            inner.keep(key, kept, self.half());
        }
        verdict
    }

    fn half(&self) -> usize {
        (self.config.entries / 2).max(1)
    }
}

// === impl Forget ===

impl Drop for Forget {
    fn drop(&mut self) {
        let mut inner = self.inner.lock();
        let left_alone = |flight: &WeakShared<_>| flight.upgrade().is_none();
        if inner.flights.get(&self.key).is_some_and(left_alone) {
            inner.flights.remove(&self.key);
        }
    }
}

// === impl Inner ===

impl Inner {
    fn known(&mut self, key: &Key, half: usize) -> Option<Verdict> {
        let now = Instant::now();
        if let Some(kept) = self.young.get(key) {
            return (now < kept.until).then(|| kept.verdict.clone());
        }
        let kept = self.old.remove(key).filter(|kept| now < kept.until)?;
        let verdict = kept.verdict.clone();
        self.keep(*key, kept, half);
        Some(verdict)
    }

    fn keep(&mut self, key: Key, kept: Kept, half: usize) {
        if self.young.len() >= half && !self.young.contains_key(&key) {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, kept);
    }
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inner")
            .field("kept", &(self.young.len() + self.old.len()))
            .field("under_way", &self.flights.len())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::oneshot;

    use super::*;
    use crate::kubernetes::ApiError;

    const LONG: Duration = Duration::from_secs(3600);

    fn verdicts(entries: usize) -> Verdicts {
        Verdicts::new(CacheConfig {
            good: Duration::from_secs(10),
            bad: Duration::from_secs(5),
            entries,
        })
    }

    fn key(token: &str) -> Key {
        Key::of("Kubernetes", token, &["istio-ca".to_owned()])
    }

    fn subject(name: &str) -> Arc<Subject> {
        Arc::new(Subject {
            namespace: "foo".to_owned(),
            service_account: name.to_owned(),
            account_uid: None,
            pod: None,
            node: None,
            token_id: None,
        })
    }

    /// Asks with an answer in hand and tells where the verdict came from.
    async fn ask(verdicts: &Verdicts, token: &str, left: Duration, answer: Verdict) -> Source {
        let (source, _) = verdicts.judge(key(token), left, || async move { answer }.boxed()).await;
        source
    }

    #[test]
    fn another_cluster_or_audience_is_another_question() {
        let ours = key("t");
        assert_ne!(ours, Key::of("other", "t", &["istio-ca".to_owned()]));
        assert_ne!(ours, Key::of("Kubernetes", "t", &["vault".to_owned()]));
        assert_ne!(Key::of("a", "bc", &[]), Key::of("ab", "c", &[]));
        assert_ne!(
            Key::of("a", "b", &["c".to_owned()]),
            Key::of("a", "b", &["c".to_owned(), String::new()])
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_good_token_is_believed_for_its_time_and_never_longer_than_it_lives() {
        let verdicts = verdicts(100);
        let short = Duration::from_secs(3);
        assert_eq!(ask(&verdicts, "long", LONG, Ok(subject("a"))).await, Source::Asked);
        assert_eq!(ask(&verdicts, "short", short, Ok(subject("a"))).await, Source::Asked);
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(ask(&verdicts, "short", short, Ok(subject("a"))).await, Source::Kept);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(ask(&verdicts, "short", short, Ok(subject("a"))).await, Source::Asked);
        assert_eq!(ask(&verdicts, "long", LONG, Ok(subject("a"))).await, Source::Kept);
        tokio::time::advance(Duration::from_secs(7)).await;
        assert_eq!(ask(&verdicts, "long", LONG, Ok(subject("a"))).await, Source::Asked);
    }

    #[tokio::test(start_paused = true)]
    async fn a_bad_token_is_kept_for_less_and_an_absent_server_not_at_all() {
        let verdicts = verdicts(100);
        let away = ReviewError::Api(ApiError::Away("x".to_owned()));
        for _ in 0..2 {
            assert_eq!(ask(&verdicts, "away", LONG, Err(away.clone())).await, Source::Asked);
        }
        assert_eq!(
            ask(&verdicts, "bad", LONG, Err(ReviewError::NotAuthenticated)).await,
            Source::Asked
        );
        tokio::time::advance(Duration::from_secs(4)).await;
        assert_eq!(
            ask(&verdicts, "bad", LONG, Err(ReviewError::NotAuthenticated)).await,
            Source::Kept
        );
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(ask(&verdicts, "bad", LONG, Ok(subject("a"))).await, Source::Asked);
    }

    #[tokio::test(start_paused = true)]
    async fn their_number_is_bounded_and_those_in_use_stay() {
        let verdicts = verdicts(100);
        ask(&verdicts, "used", LONG, Ok(subject("a"))).await;
        for flood in 0..1000 {
            let token = flood.to_string();
            ask(&verdicts, &token, LONG, Err(ReviewError::NotAuthenticated)).await;
            if flood % 40 == 0 {
                assert_eq!(ask(&verdicts, "used", LONG, Ok(subject("a"))).await, Source::Kept);
            }
            let inner = verdicts.inner.lock();
            assert!(inner.young.len() + inner.old.len() <= 100);
            assert!(inner.flights.is_empty());
        }
    }

    #[tokio::test]
    async fn many_with_one_token_are_one_review_and_one_that_leaves_takes_nothing_along() {
        let verdicts = verdicts(100);
        let asked = Arc::new(AtomicUsize::new(0));
        let (answer, answered) = oneshot::channel::<Verdict>();
        let mut answered = Some(answered);
        let mut one = || {
            let (asked, answered) = (Arc::clone(&asked), answered.take());
            let verdicts = verdicts.clone();
            Box::pin(async move {
                let review = || {
                    asked.fetch_add(1, Ordering::Relaxed);
                    async move { answered.unwrap().await.unwrap() }.boxed()
                };
                verdicts.judge(key("t"), LONG, review).await
            })
        };
        let (mut first, mut second, mut third) = (one(), one(), one());
        assert!(futures::poll!(&mut first).is_pending());
        assert!(futures::poll!(&mut second).is_pending());
        assert!(futures::poll!(&mut third).is_pending());
        // The one that asked goes away, and so does one that joined.
        drop(first);
        drop(third);
        answer.send(Ok(subject("a"))).unwrap();
        let (source, verdict) = second.await;
        assert_eq!((source, verdict.unwrap()), (Source::Joined, subject("a")));
        assert_eq!(asked.load(Ordering::Relaxed), 1);
        assert!(verdicts.inner.lock().flights.is_empty());
    }

    #[tokio::test]
    async fn a_review_that_nobody_waits_for_is_forgotten() {
        let verdicts = verdicts(100);
        let mut waits = Box::pin(verdicts.judge(key("t"), LONG, || futures::future::pending().boxed()));
        assert!(futures::poll!(&mut waits).is_pending());
        assert_eq!(verdicts.inner.lock().flights.len(), 1);
        drop(waits);
        assert!(verdicts.inner.lock().flights.is_empty());
        assert_eq!(ask(&verdicts, "t", LONG, Ok(subject("a"))).await, Source::Asked);
    }
}
