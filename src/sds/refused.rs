//! Which secrets the clients of one socket refused, over all their streams.
//!
//! Envoy remembers what it refused and accepts the same bytes unread when they come again, under whatever version: it would then
//! say that it holds what it does not use. So what was refused is withheld from every later stream whose first request says that its
//! client holds something. One that holds nothing, as a fresh Envoy, gets it: it never saw it. Bounded; the oldest
//! are forgotten first. Keeps digests, never a secret.

use std::collections::VecDeque;

use ensign_pki::crypto;
use parking_lot::Mutex;

use super::names::{Name, PerName};

/// So many of each name are remembered. Another certificate follows a refused one, and roots change rarely.
const MOST: usize = 8;

/// What tells one secret from another.
pub(crate) type Digest = [u8; 32];

/// A secret that was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rejected {
    pub(crate) version: String,
    pub(crate) digest: Digest,
}

/// The memory of one socket.
#[derive(Debug, Default)]
pub(crate) struct Refused {
    digests: Mutex<PerName<VecDeque<Digest>>>,
}

impl Rejected {
    pub(crate) fn new(version: &str, secret: &[u8]) -> Self {
        Self {
            version: version.to_owned(),
            digest: crypto::sha256(secret),
        }
    }
}

impl Refused {
    pub(crate) fn remember(&self, name: Name, digest: Digest) {
        let mut digests = self.digests.lock();
        let digests = digests.of_mut(name);
        if !digests.contains(&digest) {
            digests.truncate(MOST - 1);
            digests.push_front(digest);
        }
    }

    pub(crate) fn of(&self, name: Name) -> Vec<Digest> {
        self.digests.lock().of(name).iter().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_few_of_each_name_are_remembered_once() {
        let refused = Refused::default();
        for number in 0..100 {
            refused.remember(Name::Certificate, [number; 32]);
            refused.remember(Name::Certificate, [99; 32]);
        }
        let known = refused.of(Name::Certificate);
        assert_eq!(known.len(), MOST);
        assert!(known.contains(&[98; 32]));
        assert_eq!(known.iter().filter(|digest| **digest == [99; 32]).count(), 1);
        assert!(refused.of(Name::Bundle).is_empty());
    }
}
