//! The roots of each signer: which of a reply's are accepted, and which bundle all entries of the signer offer.
//!
//! A pinned signer's bundle is the pin, whatever replies say; replies are only checked against it.
//! Otherwise it is the union of the roots that came with the newest certificate of each entry, as long as that
//! certificate is unexpired. So a root that one reply adds reaches every entry at once, while a root goes only when no
//! certificate of ours came with it any more. Ordered root rotation (add root 2, renew all, switch the CA, renew all,
//! drop root 1) therefore never leaves one of our leaves without its root, and a single odd reply, or a replica that
//! lags behind, can take nothing away from other entries. The price: without a pin a dropped root lingers until the
//! last entry has renewed. An operator who must drop a root at once pins the signer's bundle.

use std::collections::HashMap;

use ensign_pki::{Bundle, Chain};

use super::issue::IssueError;
use crate::csr_client::SignerName;

/// A reply with more roots is not looked at. Public bundles of whole operating systems hold 150.
const MAX_ROOTS: usize = 64;

/// The signers' bundles and pins. A signer of none is the authority's default.
#[derive(Debug, Default)]
pub(super) struct Bundles {
    pins: HashMap<Option<SignerName>, Bundle>,
    current: HashMap<Option<SignerName>, Bundle>,
}

impl Bundles {
    pub(super) fn pin(&mut self, signer: Option<SignerName>, bundle: Bundle) {
        self.pins.insert(signer, bundle);
    }

    pub(super) fn pinned(&self, signer: Option<&SignerName>) -> Option<&Bundle> {
        self.pins.get(&signer.cloned())
    }

    /// The signer's bundle, given the roots of its entries. With none, the last known bundle stays: open streams have it.
    pub(super) fn refresh<'b>(
        &mut self,
        signer: Option<&SignerName>,
        needed: impl Iterator<Item = &'b Bundle>,
    ) -> Option<&Bundle> {
        let key = signer.cloned();
        let bundle = self.pins.get(&key).cloned().or_else(|| union(needed));
        if let Some(bundle) = bundle {
            self.current.insert(key.clone(), bundle);
        }
        self.current.get(&key)
    }

    /// Forgets signers that have no entry left. Pins stay.
    pub(super) fn retain(&mut self, has_entries: impl Fn(Option<&SignerName>) -> bool) {
        self.current.retain(|signer, _| has_entries(signer.as_ref()));
    }
}

/// A union too large to be a bundle leaves out what makes it so: one entry's odd roots must not stop the others.
fn union<'b>(bundles: impl Iterator<Item = &'b Bundle>) -> Option<Bundle> {
    bundles.fold(None, |sum, bundle| match sum {
        None => Some(bundle.clone()),
        Some(sum) if sum.contains_all(bundle) => Some(sum),
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
