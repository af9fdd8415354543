//! What an agent takes over from the one before it, and what it lets go to the one after it.
//!
//! Two agents live side by side while the node is upgraded. Kubelet calls the one whose socket is at the path, so for each
//! volume there is one order of calls, a part of it with either agent; the folder, which the last unpublish removes, and the
//! state, which the older one writes before it clears a folder, say between them what became of it. Promises: nothing that
//! was published with either is lost, nothing that was unpublished with either comes back, and no folder is made here.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use super::super::state::{Revision, Volumes as Saved};
use super::super::table::Published;
use super::super::target::Target;
use super::Volumes;
use crate::source::{Event, Workload};

impl Volumes {
    /// Takes over what the state holds and gives the workloads whose sockets are to be bound.
    pub(in super::super) fn restore(&self, saved: Saved) -> Vec<Workload> {
        let mut workloads = Vec::with_capacity(saved.len());
        for (target, volume) in saved {
            let inode = self.folders.inode(&target);
            let pod = &volume.pod;
            if inode.is_none() && self.folders.is_unpublished(&target) {
                tracing::info!(volume = %target, pod = pod.name, namespace = pod.namespace, "volume went while no agent ran");
                continue;
            }
            if inode.is_none() {
                tracing::warn!(
                    volume = %target, pod = pod.name, namespace = pod.namespace,
                    "target folder was removed by something else while no agent ran; kubelet's next look at the pod brings it back"
                );
            }
            if let Some(published) = self.table.restore(&target, volume, inode) {
                if inode.is_some() {
                    workloads.push(self.workload(&target, &published));
                }
                self.at_our_start.lock().insert(target);
            }
        }
        self.count();
        // Else the state could not be written again should it be taken away before the first change.
        self.saver.begin_with(self.table.revision());
        workloads
    }

    /// The sockets of all that was restored are bound, except for these.
    pub(in super::super) fn restored(&self, unbound: &HashSet<Arc<str>>) {
        for target in self.table.published(|_| true) {
            if !unbound.contains(target.to_string().as_str()) {
                self.table.set_bound(&target, true);
            }
        }
    }

    /// Tries once more to bind what could not be bound at our start; gives how many are left.
    pub(in super::super) async fn bind_the_rest(&self) -> usize {
        let mut left = 0;
        for target in self.table.published(|published| !published.bound) {
            let Ok(Some(published)) = self.table.take(&target) else {
                continue;
            };
            if self.folders.is_unpublished(&target) {
                self.table.remove(&target);
                continue;
            }
            if self.folders.is_gone(&target) {
                // No folder is made but when kubelet asks.
                self.table.put(&target, published);
                continue;
            }
            let bound = self
                .tell(Event::Appeared(self.workload(&target, &published)))
                .await
                .is_ok();
            left += usize::from(!bound);
            self.table.put(&target, Published { bound, ..published });
        }
        self.count();
        left
    }

    /// The agent before us is gone and left this: serves what was published with it since our start, and lets go of what was
    /// unpublished with it.
    pub(in super::super) async fn inherit(&self, saved: Saved) -> Revision {
        let mut known = BTreeSet::new();
        for (target, volume) in saved {
            known.insert(target.clone());
            let Some(inode) = self.folders.inode(&target) else {
                continue;
            };
            // None: we know it, by now perhaps better.
            let Some(published) = self.table.restore(&target, volume, Some(inode)) else {
                continue;
            };
            tracing::info!(volume = %target, "volume was published with the agent before us since our start");
            let outcome = self.tell(Event::Appeared(self.workload(&target, &published))).await;
            self.table.set_bound(&target, outcome.is_ok());
        }
        let at_our_start = std::mem::take(&mut *self.at_our_start.lock());
        for target in at_our_start.difference(&known) {
            if self.folders.is_gone(target) {
                self.let_go(target).await;
            }
        }
        self.count();
        self.table.revision()
    }

    /// Lets go of what was unpublished with another agent: keys, streams, series. Kubelet removes its own folder of a volume
    /// when some agent has unpublished it, and not before.
    pub(in super::super) async fn let_go_of_unpublished(&self) {
        let mut any = false;
        for target in self.table.published(|_| true) {
            if self.folders.is_unpublished(&target) {
                any |= self.let_go(&target).await;
            }
        }
        if any {
            self.save().await;
        }
    }

    /// Whether there is no volume left, and the state, if it is ours, says so.
    pub(in super::super) async fn saved_as_none(&self) -> bool {
        let (volumes, _) = self.table.counts();
        if volumes == 0 {
            self.save().await;
        }
        volumes == 0
    }

    async fn let_go(&self, target: &Target) -> bool {
        let Ok(Some(published)) = self.table.take(target) else {
            return false;
        };
        let told = self.tell(Event::Gone(target.to_string().into())).await;
        if told.is_ok() {
            tracing::info!(volume = %target, "volume was unpublished with another agent");
            self.table.remove(target);
        } else {
            self.table.put(target, published);
        }
        told.is_ok()
    }
}
