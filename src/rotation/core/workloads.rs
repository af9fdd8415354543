//! Workloads that come, change and go, and the warming up of their entries.
//!
//! A certificate is fetched before anybody asks only where its signer is known, and not while an Envoy may be about to come
//! back with the one that it holds.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::Core;
use crate::csr_client::SignerName;
use crate::rotation::entry::{Entry, EntryKey, Now};
use crate::rotation::{Workload, WorkloadUid};

/// Until something happens that is not a matter of time.
const NOT_YET: Duration = Duration::from_hours(24 * 365);

impl Core {
    /// From now on what is added is new, not left from before our start.
    pub(in super::super) fn begin(&mut self) {
        self.running = true;
    }

    /// An older agent serves beside us: no warm-up of what returns until it is gone.
    pub(in super::super) fn beside_another(&mut self) {
        self.beside_another = true;
    }

    /// It is gone, and its Envoys are about to come.
    pub(in super::super) fn alone(&mut self, now: Now) {
        self.beside_another = false;
        let latest = now.mono + self.config.adoption_window;
        for entry in self.entries.values_mut() {
            entry.warm_from = entry.warm_from.map(|from| from.min(latest));
        }
    }

    /// Adds or changes a workload.
    pub(in super::super) fn put(&mut self, workload: Workload, now: Now) {
        let uid = workload.uid.clone();
        if let Some(old) = self.workloads.get(&uid) {
            let same = old.id == workload.id && old.key_type == workload.key_type;
            let fits =
                |signer: &Option<SignerName>| workload.signers.contains(&None) || workload.signers.contains(signer);
            self.drop_entries(|key| key.workload == uid && !(same && fits(&key.signer)));
            let warm = self.warm_signers(&workload);
            for (key, entry) in self.entries.iter_mut().filter(|(key, _)| key.workload == uid) {
                entry.token = Arc::clone(&workload.token);
                // What failed for want of a token may succeed now.
                if entry.failures > 0 {
                    entry.quiet_until = None;
                }
                if key.signer.as_ref().is_none_or(|signer| !warm.contains(signer)) {
                    entry.warm_from = None;
                }
            }
        }
        for signer in self.warm_signers(&workload) {
            let key = EntryKey {
                workload: uid.clone(),
                signer: Some(signer),
                key_type: workload.key_type,
            };
            self.ensure_entry(&key, &workload, now);
        }
        self.workloads.insert(uid, workload);
    }

    /// Forgets a workload and all that it had.
    pub(in super::super) fn remove(&mut self, uid: &WorkloadUid) {
        self.workloads.remove(uid);
        self.drop_entries(|key| &key.workload == uid);
    }

    /// The signers that are known before anybody asks.
    fn warm_signers(&self, workload: &Workload) -> BTreeSet<SignerName> {
        let signer = |fixed: &Option<SignerName>| fixed.clone().or_else(|| self.config.default_signer.clone());
        workload.signers.iter().filter_map(signer).collect()
    }

    pub(super) fn ensure_entry(&mut self, key: &EntryKey, workload: &Workload, now: Now) -> &mut Entry {
        let warm = key
            .signer
            .as_ref()
            .is_some_and(|signer| self.warm_signers(workload).contains(signer));
        // Right after our start an Envoy may be about to tell that it needs nothing (I9), and beside an older agent it will do
        // so only when that one has ended. The socket of a workload that came later did not exist before, so nobody comes
        // back to it.
        let wait = if self.running && !workload.returning {
            Duration::ZERO
        } else if self.beside_another {
            NOT_YET
        } else {
            self.config.adoption_window
        };
        let warm_from = warm.then(|| now.mono + wait);
        let next = &mut self.next;
        let entry = self.entries.entry(key.clone()).or_insert_with(|| {
            *next += 1;
            Entry::new(key, workload, *next, warm_from, now)
        });
        // A client's wish until now, and fixed from now on.
        entry.warm_from = entry.warm_from.or(warm_from);
        entry
    }
}
