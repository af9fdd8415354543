//! Workloads that come, change and go, and the warming up of their entries.
//!
//! A certificate is fetched before anybody asks only where its signer is known, and not while an Envoy may be about to come
//! back with the one that it holds.

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
            let same =
                old.id == workload.id && old.key_type == workload.key_type && old.fixed_signer == workload.fixed_signer;
            if same {
                for (_, entry) in self.entries.iter_mut().filter(|(key, _)| key.workload == uid) {
                    entry.token = Arc::clone(&workload.token);
                    // What failed for want of a token may succeed now.
                    if entry.failures > 0 {
                        entry.quiet_until = None;
                    }
                }
            } else {
                self.drop_entries(|key| key.workload == uid);
            }
        }
        if let Some(signer) = self.warm_signer(&workload) {
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

    /// The signer that is known before the workload asks.
    fn warm_signer(&self, workload: &Workload) -> Option<SignerName> {
        workload
            .fixed_signer
            .clone()
            .or_else(|| self.config.default_signer.clone())
    }

    pub(super) fn ensure_entry(&mut self, key: &EntryKey, workload: &Workload, now: Now) -> &mut Entry {
        let warm = key.signer.is_some() && key.signer == self.warm_signer(workload);
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
        self.entries.entry(key.clone()).or_insert_with(|| {
            *next += 1;
            Entry::new(key, workload, *next, warm_from, now)
        })
    }
}
