//! What others see of the entries: copies for status and metrics.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use super::{Core, Counters, Load};
use crate::rotation::EntrySnapshot;
use crate::rotation::entry::Now;
use crate::rotation::issue::Work;
use crate::rotation::need::Need;
use crate::rotation::snapshot::RootSnapshot;

impl Core {
    pub(in super::super) fn snapshot(&self, now: Now) -> Vec<EntrySnapshot> {
        let mut all: Vec<_> = self
            .entries
            .iter()
            .map(|(key, entry)| entry.snapshot(key, now))
            .collect();
        all.sort_unstable_by(|a, b| (&a.workload, &a.signer).cmp(&(&b.workload, &b.signer)));
        all
    }

    /// Each root that some workload is offered, once for each signer.
    pub(in super::super) fn roots(&self) -> BTreeSet<RootSnapshot> {
        let bundles: HashMap<_, _> = self
            .entries
            .iter()
            .filter_map(|(key, entry)| Some((key.signer.as_ref(), &entry.bundle.as_ref()?.bundle)))
            .map(|(signer, bundle)| ((signer, bundle.digest()), bundle))
            .collect();
        bundles
            .into_iter()
            .flat_map(|((signer, _), bundle)| bundle.iter().map(move |root| RootSnapshot::of(signer, root)))
            .collect()
    }

    pub(in super::super) fn outage_budget(&self, now: Now) -> Option<Duration> {
        self.entries.values().filter_map(|entry| entry.least_left(now)).min()
    }

    pub(in super::super) fn counters(&self) -> Counters {
        self.counters.clone()
    }

    pub(in super::super) fn load(&self, now: Now) -> Load {
        let mut load = Load::default();
        for entry in self.entries.values() {
            match entry.in_flight.as_ref().map(|request| request.work) {
                Some(Work::Request) => load.in_flight += 1,
                Some(Work::Key) => load.queued += 1,
                None => load.queued += usize::from(matches!(entry.need(now), Need::Request(_))),
            }
        }
        load
    }
}
