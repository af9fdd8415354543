//! How much the pods of one node may take: each has a little of its own, and beyond that all draw from one pool.
//!
//! So what a pod can cost the agent ends at its own limit, what many greedy pods can cost ends at the pool, and a pod that asks for no
//! more than its own is served whatever the others do. Counts anything: connections, streams, bytes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

/// What no pod has for itself alone.
#[derive(Debug)]
pub(crate) struct Pool {
    left: AtomicUsize,
}

/// What one pod may take. Clones are the same one.
#[derive(Clone, Debug)]
pub(crate) struct Allowance(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// Never asked of the pool.
    own: usize,
    /// Never exceeded.
    most: usize,
    pool: Arc<Pool>,
    taken: Mutex<usize>,
}

/// A part of an [`Allowance`], given back on drop.
#[derive(Debug)]
pub(crate) struct Taken {
    amount: usize,
    from: Allowance,
}

// === impl Pool ===

impl Pool {
    pub(crate) fn new(amount: usize) -> Arc<Self> {
        Arc::new(Self {
            left: AtomicUsize::new(amount),
        })
    }

    fn draw(&self, amount: usize) -> bool {
        let drawn = self
            .left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(amount));
        drawn.is_ok()
    }

    fn give_back(&self, amount: usize) {
        self.left.fetch_add(amount, Ordering::Relaxed);
    }
}

// === impl Allowance ===

impl Allowance {
    pub(crate) fn new(own: usize, most: usize, pool: &Arc<Pool>) -> Self {
        Self(Arc::new(Inner {
            own,
            most,
            pool: Arc::clone(pool),
            taken: Mutex::new(0),
        }))
    }

    /// How much is taken.
    pub(crate) fn taken(&self) -> usize {
        *self.0.taken.lock()
    }

    /// Takes so much more, if there is so much.
    pub(crate) fn take(&self, amount: usize) -> Option<Taken> {
        let inner = &*self.0;
        let mut taken = inner.taken.lock();
        let after = taken.checked_add(amount).filter(|after| *after <= inner.most)?;
        let drawn = inner.beyond_own(after) - inner.beyond_own(*taken);
        inner.pool.draw(drawn).then(|| {
            *taken = after;
            Taken {
                amount,
                from: self.clone(),
            }
        })
    }
}

impl Inner {
    fn beyond_own(&self, amount: usize) -> usize {
        amount.saturating_sub(self.own)
    }
}

// === impl Taken ===

impl Taken {
    /// Takes what is missing to this amount; false if there is not so much.
    pub(crate) fn grow_to(&mut self, amount: usize) -> bool {
        let Some(missing) = amount.checked_sub(self.amount).filter(|missing| *missing > 0) else {
            return true;
        };
        let Some(mut more) = self.from.take(missing) else {
            return false;
        };
        self.amount += std::mem::take(&mut more.amount);
        true
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        let inner = &*self.from.0;
        let mut taken = inner.taken.lock();
        let before = *taken;
        *taken -= self.amount;
        inner
            .pool
            .give_back(inner.beyond_own(before) - inner.beyond_own(*taken));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_greedy_end_at_the_pool_and_the_modest_never_notice() {
        let pool = Pool::new(10);
        let greedy: Vec<_> = (0..3).map(|_| Allowance::new(2, 8, &pool)).collect();
        let held: Vec<_> = greedy
            .iter()
            .map(|socket| std::iter::from_fn(|| socket.take(1)).collect::<Vec<_>>())
            .collect();
        // Its own two and six of the pool, then what was left of it, then nothing but its own.
        assert_eq!(held.iter().map(Vec::len).collect::<Vec<_>>(), [8, 6, 2]);
        let modest = Allowance::new(2, 8, &pool);
        let two = [modest.take(1).unwrap(), modest.take(1).unwrap()];
        assert!(modest.take(1).is_none());
        drop(held);
        assert_eq!(modest.take(6).unwrap().amount, 6);
        drop(two);
        assert_eq!((modest.taken(), pool.left.load(Ordering::Relaxed)), (0, 10));
    }

    #[test]
    fn what_grows_takes_the_difference_or_stays_as_it_was() {
        let pool = Pool::new(10);
        let socket = Allowance::new(4, 100, &pool);
        let mut taken = socket.take(3).unwrap();
        assert!(taken.grow_to(2) && taken.grow_to(14));
        assert!(!taken.grow_to(15));
        assert_eq!(socket.taken(), 14);
        drop(taken);
        assert_eq!(pool.left.load(Ordering::Relaxed), 10);
    }

    proptest! {
        /// In whatever order: no more than there is, and all of it back at the end.
        #[test]
        fn nothing_is_lost_or_made(steps in proptest::collection::vec((0usize..3, 0usize..12, any::<bool>()), 0..80)) {
            let pool = Pool::new(20);
            let sockets: Vec<_> = (0..3).map(|_| Allowance::new(3, 15, &pool)).collect();
            let mut held = Vec::new();
            for (socket, amount, end) in steps {
                if end && !held.is_empty() {
                    held.swap_remove(amount % held.len());
                } else if let Some(taken) = sockets[socket].take(amount) {
                    held.push(taken);
                }
                let beyond: usize = sockets.iter().map(|socket| socket.taken().saturating_sub(3)).sum();
                prop_assert_eq!(pool.left.load(Ordering::Relaxed), 20 - beyond);
                prop_assert!(sockets.iter().all(|socket| socket.taken() <= 15));
            }
            held.clear();
            prop_assert_eq!(pool.left.load(Ordering::Relaxed), 20);
        }
    }
}
