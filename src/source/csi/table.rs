//! The volumes of this node and what is being done with each.
//!
//! Pure bookkeeping under one short lock. Owns the rules that need the whole node: one call per volume at a time, at most
//! [`MOST_PER_POD`] volumes for a pod, one token for all volumes of a pod, which goes with the last of them.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use ensign_pki::SharedClock;
use parking_lot::Mutex;

use super::refusal::Refusal;
use super::request::Volume;
use super::state::{Revision, Volumes};
use super::target::Target;
use super::token::PodToken;

/// One pod has one identity; more sockets than this are no use of it.
pub(super) const MOST_PER_POD: usize = 4;

/// A published volume.
#[derive(Clone, Debug)]
pub(super) struct Published {
    pub(super) volume: Volume,
    pub(super) token: Arc<PodToken>,
    /// The inode that containers hold; none if something else removed it while no agent ran.
    pub(super) folder: Option<u64>,
    /// Whether its socket was bound by this process.
    pub(super) bound: bool,
    /// Whether an agent before us published it, so that Envoys may come back with what they hold.
    pub(super) returning: bool,
    /// The number of the token that its requests were told of.
    pub(super) told: u64,
}

/// What [`Table::begin`] found.
#[derive(Debug)]
pub(super) enum Begun {
    /// Nothing: the place is held for a first publish, with the pod's token.
    New(Arc<PodToken>),
    /// It is published: the place is held until it is put back.
    Again(Box<Published>),
    /// It is published, and another call looks at it already.
    UnderWay,
}

#[derive(Debug)]
enum Slot {
    /// A first publish or an unpublish is under way.
    Busy,
    Published(Box<Published>),
    /// A later publish is under way; as it was before that.
    Again(Box<Published>),
}

#[derive(Debug)]
struct PodEntry {
    token: Arc<PodToken>,
    volumes: usize,
}

#[derive(Debug, Default)]
struct Inner {
    slots: BTreeMap<Target, Slot>,
    pods: HashMap<String, PodEntry>,
    revision: u64,
}

/// All volumes.
#[derive(Debug)]
pub(super) struct Table {
    clock: SharedClock,
    inner: Mutex<Inner>,
}

// === impl Table ===

impl Table {
    pub(super) fn new(clock: SharedClock) -> Self {
        Self {
            clock,
            inner: Mutex::default(),
        }
    }

    /// Begins a publish.
    pub(super) fn begin(&self, target: &Target) -> Result<Begun, Refusal> {
        let mut inner = self.inner.lock();
        match inner.slots.get(target) {
            Some(Slot::Busy) => return Err(Refusal::Pending),
            Some(Slot::Again(_)) => return Ok(Begun::UnderWay),
            Some(Slot::Published(published)) => {
                let published = published.clone();
                inner.slots.insert(target.clone(), Slot::Again(published.clone()));
                return Ok(Begun::Again(published));
            }
            None => {}
        }
        let pod = inner.pod(&target.pod_uid, &self.clock);
        if pod.volumes >= MOST_PER_POD {
            return Err(Refusal::TooMany { most: MOST_PER_POD });
        }
        pod.volumes += 1;
        let token = Arc::clone(&pod.token);
        inner.slots.insert(target.clone(), Slot::Busy);
        Ok(Begun::New(token))
    }

    /// A publish succeeded, or the volume stays as it is.
    pub(super) fn put(&self, target: &Target, published: Published) {
        let mut inner = self.inner.lock();
        inner.slots.insert(target.clone(), Slot::Published(Box::new(published)));
    }

    /// Begins an unpublish: what was published, if anything was.
    pub(super) fn take(&self, target: &Target) -> Result<Option<Published>, Refusal> {
        let mut inner = self.inner.lock();
        match inner.slots.get_mut(target) {
            None => Ok(None),
            Some(Slot::Busy | Slot::Again(_)) => Err(Refusal::Pending),
            Some(slot @ Slot::Published(_)) => match std::mem::replace(slot, Slot::Busy) {
                Slot::Published(published) => Ok(Some(*published)),
                Slot::Busy | Slot::Again(_) => Err(Refusal::Pending),
            },
        }
    }

    /// A first publish failed, or an unpublish is done.
    pub(super) fn remove(&self, target: &Target) {
        let mut inner = self.inner.lock();
        if inner.slots.remove(target).is_none() {
            return;
        }
        if let Some(pod) = inner.pods.get_mut(&target.pod_uid) {
            pod.volumes -= 1;
            if pod.volumes == 0 {
                inner.pods.remove(&target.pod_uid);
            }
        }
    }

    /// Takes over what a predecessor published; none if the place is taken.
    pub(super) fn restore(&self, target: &Target, volume: Volume, folder: Option<u64>) -> Option<Published> {
        match self.begin(target) {
            Ok(Begun::New(token)) => {
                let published = Published {
                    volume,
                    told: token.number(),
                    token,
                    folder,
                    bound: false,
                    returning: true,
                };
                self.put(target, published.clone());
                Some(published)
            }
            Ok(Begun::Again(published)) => {
                self.put(target, *published);
                None
            }
            Ok(Begun::UnderWay) | Err(_) => None,
        }
    }

    /// What is published and fits.
    pub(super) fn published(&self, fits: impl Fn(&Published) -> bool) -> Vec<Target> {
        let inner = self.inner.lock();
        let found = inner.slots.iter().filter(|(_, slot)| match slot {
            Slot::Busy | Slot::Again(_) => false,
            Slot::Published(published) => fits(published),
        });
        found.map(|(target, _)| target.clone()).collect()
    }

    /// Whether the socket of a published volume is bound.
    pub(super) fn set_bound(&self, target: &Target, bound: bool) {
        if let Some(Slot::Published(published)) = self.inner.lock().slots.get_mut(target) {
            published.bound = bound;
        }
    }

    /// Everything that is published, as a new revision.
    pub(super) fn revision(&self) -> Revision {
        let mut inner = self.inner.lock();
        inner.revision += 1;
        let volumes: Volumes = inner
            .slots
            .iter()
            .filter_map(|(target, slot)| match slot {
                Slot::Busy => None,
                Slot::Published(published) | Slot::Again(published) => Some((target.clone(), published.volume.clone())),
            })
            .collect();
        Revision {
            number: inner.revision,
            volumes,
        }
    }

    /// How many are published or about to be, and how many pods they belong to.
    pub(super) fn counts(&self) -> (usize, usize) {
        let inner = self.inner.lock();
        (inner.slots.len(), inner.pods.len())
    }
}

impl Inner {
    fn pod(&mut self, uid: &str, clock: &SharedClock) -> &mut PodEntry {
        self.pods.entry(uid.to_owned()).or_insert_with(|| PodEntry {
            token: Arc::new(PodToken::new(Arc::clone(clock))),
            volumes: 0,
        })
    }
}
