//! The roots of each signer: which of a reply's are accepted, and which bundle all entries of the signer offer.
//!
//! A pinned signer's bundle is the pin, whatever replies say; replies are only checked against it.
//! Otherwise it is the union of the roots that came with the last three certificates of each entry, as long as they are
//! unexpired. So a root that one reply adds reaches every entry at once, while a root goes only when three replies in a
//! row came without it for each entry. Ordered root rotation (add root 2, renew all, switch the CA, renew all, drop
//! root 1) therefore never leaves one of our leaves without its root; a single odd reply takes nothing away, and
//! replicas of which some lag behind make no bundle flap. The price: without a pin a dropped root lingers for three
//! renewals of the last entry. An operator who must drop a root at once pins the signer's bundle.
//! Workloads share a bundle only under a named signer. Which signer the authority takes for one that names none is its
//! policy, and may differ between accounts: their roots must not be mixed, so each identity has a bundle of its own.

use std::collections::{HashMap, HashSet};

use ensign_pki::{Bundle, Chain, SpiffeId};

use super::issue::IssueError;
use crate::csr_client::SignerName;

/// A reply with more roots is not looked at. Public bundles of whole operating systems hold 150.
const MAX_ROOTS: usize = 64;

/// Whose entries share one bundle.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Scope {
    /// Those of this identity, at whatever signer the authority takes for it.
    Default(SpiffeId),
    /// Those of this signer.
    Signer(SignerName),
}

impl Scope {
    pub(super) fn new(signer: Option<&SignerName>, id: &SpiffeId) -> Self {
        signer.map_or_else(|| Self::Default(id.clone()), |signer| Self::Signer(signer.clone()))
    }

    fn signer(&self) -> Option<&SignerName> {
        match self {
            Self::Default(_) => None,
            Self::Signer(signer) => Some(signer),
        }
    }
}

/// The bundles and pins. A pin of no signer holds for all that name none.
#[derive(Debug, Default)]
pub(super) struct Bundles {
    pins: HashMap<Option<SignerName>, Bundle>,
    current: HashMap<Scope, Bundle>,
}

impl Bundles {
    pub(super) fn pin(&mut self, signer: Option<SignerName>, bundle: Bundle) {
        self.pins.insert(signer, bundle);
    }

    pub(super) fn pinned(&self, signer: Option<&SignerName>) -> Option<&Bundle> {
        self.pins.get(&signer.cloned())
    }

    /// The bundle, given the roots of the entries. With none, the last known bundle stays: open streams have it.
    pub(super) fn refresh<'b>(&mut self, scope: &Scope, needed: impl Iterator<Item = &'b Bundle>) -> Option<&Bundle> {
        let bundle = self.pinned(scope.signer()).cloned().or_else(|| union(needed));
        if let Some(bundle) = bundle {
            self.current.insert(scope.clone(), bundle);
        }
        self.current.get(scope)
    }

    /// Forgets bundles of which no entry is left. Pins stay.
    pub(super) fn retain(&mut self, with_entries: &HashSet<&Scope>) {
        self.current.retain(|scope, _| with_entries.contains(scope));
    }
}

/// A union too large to be a bundle leaves out what makes it so, from the end: odd roots must not stop the others.
fn union<'b>(bundles: impl Iterator<Item = &'b Bundle>) -> Option<Bundle> {
    bundles.fold(None, |sum, bundle| match sum {
        None => Some(bundle.clone()),
        Some(sum) if sum == *bundle || sum.contains_all(bundle) => Some(sum),
        Some(sum) => Some(sum.union(bundle).unwrap_or(sum)),
    })
}

/// The anchors that a reply's leaf must verify to: its own roots, within the pin if there is one.
///
/// A pinned signer's reply may carry roots that the pin does not know yet; they are not used and not passed on.
pub(super) fn anchors(chain: &Chain, pin: Option<&Bundle>) -> Result<Bundle, IssueError> {
    match (chain.roots(), pin) {
        (Some(own), _) if own.len() > MAX_ROOTS => Err(IssueError::TooManyRoots {
            seen: own.len(),
            most: MAX_ROOTS,
        }),
        (Some(own), None) => Ok(own.clone()),
        (None, Some(pin)) => Ok(pin.clone()),
        (None, None) => Err(IssueError::NoRoots),
        (Some(own), Some(pin)) => {
            let within = own.iter().filter(|root| pin.contains(root)).cloned().collect();
            Bundle::from_certificates(within).map_err(|_| IssueError::OutsidePin)
        }
    }
}

/// Whether a certificate with these anchors still has one in the bundle.
pub(super) fn overlap(anchors: &Bundle, bundle: &Bundle) -> bool {
    anchors.iter().any(|root| bundle.contains(root))
}
