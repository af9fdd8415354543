//! What the sockets of one pod may take together: connections, streams, and bytes of requests that are received in part.
//!
//! Owns which sockets belong together. Promises that another socket brings a pod no more: what is each one's own, and the most that it may
//! take, is the pod's. Counting is [`allowance`](super::allowance)'s.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::allowance::{Allowance, Pool};
use super::config::Config;

/// One pod's. It lives for as long as a socket, or a connection, of the pod does.
#[derive(Debug)]
pub(crate) struct Share {
    pub(crate) connections: Allowance,
    pub(crate) streams: Allowance,
    pub(crate) partial: Allowance,
}

/// All of a node. Clones are the same ones.
#[derive(Clone, Debug)]
pub(crate) struct Shares(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    connections: Arc<Pool>,
    streams: Arc<Pool>,
    partial: Arc<Pool>,
    known: Mutex<HashMap<Arc<str>, Weak<Share>>>,
}

// === impl Shares ===

impl Shares {
    pub(crate) fn new(config: &Config) -> Self {
        let shared = &config.shared;
        Self(Arc::new(Inner {
            connections: Pool::new(shared.connections),
            streams: Pool::new(shared.streams),
            partial: Pool::new(shared.partial),
            known: Mutex::default(),
        }))
    }

    /// The share under this name, a new one if nobody has it.
    pub(crate) fn of(&self, name: &Arc<str>, config: &Config) -> Arc<Share> {
        let Inner {
            connections,
            streams,
            partial,
            known,
        } = &*self.0;
        let mut known = known.lock();
        if let Some(share) = known.get(name).and_then(Weak::upgrade) {
            return share;
        }
        known.retain(|_, share| share.strong_count() > 0);
        let own = &config.own;
        let share = Arc::new(Share {
            connections: Allowance::new(own.connections, config.max_connections, connections),
            streams: Allowance::new(own.streams, config.max_streams, streams),
            partial: Allowance::new(own.partial, usize::MAX, partial),
        });
        known.insert(Arc::clone(name), Arc::downgrade(&share));
        share
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_of_one_name_have_one_share_and_it_goes_with_the_last() {
        let config = Config::default();
        let shares = Shares::new(&config);
        let (pod, other) = (Arc::from("pod"), Arc::from("other"));
        let [first, second] = [(), ()].map(|()| shares.of(&pod, &config));
        let most = config.max_streams;
        let taken = first.streams.take(most).unwrap();
        assert!(second.streams.take(1).is_none());
        assert!(shares.of(&other, &config).streams.take(1).is_some());
        drop((first, second));
        // Whoever holds something of it keeps nobody from a new one.
        assert!(shares.of(&pod, &config).streams.take(1).is_some());
        drop(taken);
        drop(shares.of(&Arc::from("third"), &config));
        assert_eq!(shares.0.known.lock().len(), 1);
    }
}
