//! Which of the requests that are due go out now.
//!
//! Pure, made anew at each look. Owns two rules: the most urgent first; and no starving, neither of what never failed by
//! what fails (which gets half of the slots, and a single slot only when nothing else wants it), nor of one retry by
//! others: retries take turns, or the many that wait for one authority in trouble would keep the few of another waiting for
//! ever. Leaves urgency to [`need`](super::need).

use tokio::time::Instant;

use super::entry::EntryKey;
use super::need::Rank;

/// What is due.
#[derive(Debug, Default)]
pub(super) struct Queue {
    fresh: Vec<(Rank, EntryKey)>,
    /// Since when each is due comes first.
    retries: Vec<(Option<Instant>, Rank, EntryKey)>,
}

impl Queue {
    /// Adds a request; `since` tells for a retry since when it is due.
    pub(super) fn push(&mut self, rank: Rank, since: Option<Instant>, key: &EntryKey) {
        if rank.failed {
            self.retries.push((since, rank, key.clone()));
        } else {
            self.fresh.push((rank, key.clone()));
        }
    }

    pub(super) fn len(&self) -> usize {
        self.fresh.len() + self.retries.len()
    }

    /// Those whose turn it is, in order, given the number of slots, and how many are taken, by all and by retries.
    pub(super) fn turns(self, most: usize, taken: usize, taken_by_retries: usize) -> Vec<(Rank, EntryKey)> {
        let Self { mut fresh, mut retries } = self;
        // Uid and signer break ties, so that equal runs are equal.
        retries.sort_unstable_by(|(a, _, x), (b, _, y)| (a, &x.workload, &x.signer).cmp(&(b, &y.workload, &y.signer)));
        let share = if most == 1 {
            usize::from(fresh.is_empty())
        } else {
            most / 2
        };
        let retries = retries.into_iter().take(share.saturating_sub(taken_by_retries));
        fresh.extend(retries.map(|(_, rank, key)| (rank, key)));
        fresh.sort_unstable_by(|(a, x), (b, y)| (a, &x.workload, &x.signer).cmp(&(b, &y.workload, &y.signer)));
        fresh.truncate(most.saturating_sub(taken));
        fresh
    }
}
