//! The roots of each signer: what replies carry, and what every issued chain must end in.
//!
//! Owns the bundle of a signer, apart from the CA that issues: during a root rotation the bundle holds the next root
//! before anything is signed under it, and the last one until nothing of it is in use. Promises that a reader always
//! sees a whole, checked bundle, encoded once, or a reason why there is none: what its owner took away is not served
//! from memory. Never reads a CA's Secret. Leaves to `signer` to join a local CA and its roots, to `daemon` and
//! `kubernetes` to watch and to `distribution` to tell the namespaces.

mod metrics;
pub(crate) mod path;
mod source;

use std::{fmt::Debug, sync::Arc, time::SystemTime};

use ensign_pki::{Bundle, BundleError};
use thiserror::Error;
use tokio::sync::watch;

pub use self::{
    metrics::TrustMetrics,
    source::{Discovery, OpenRootsError, open},
};

/// The roots of one signer at one time.
#[derive(Clone, Debug)]
pub struct Roots {
    bundle: Bundle,
    pem: Arc<str>,
}

/// The roots of one signer, now and after each change. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Trust(Arc<dyn RootsSource>);

/// Knows a signer's roots at any time. Implemented by a backend that loads them, so that roots and issuing CA change
/// in one step, and by the sources that stand for themselves.
pub trait RootsSource: Debug + Send + Sync {
    /// The roots in effect.
    fn roots(&self) -> Result<Arc<Roots>, NoRoots>;

    /// A chain of the signer ended in a root that is not among them. A source that can look again does.
    fn doubted(&self) {}
}

/// Why a signer has no roots now. It is refused then: without roots no chain of it can be judged, and roots that were
/// taken away are not served from memory.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NoRoots {
    /// They were never read so far.
    #[error("{place} has not been read yet: is the API server reachable, and may the RA list and watch it by name?")]
    NotYet {
        /// Where they should come from.
        place: String,
    },
    /// Their place is gone.
    #[error("{place} is not there; put it back, or give the signer other roots")]
    Gone {
        /// Where they should come from.
        place: String,
    },
    /// Their place holds no certificate.
    #[error("{place} holds no certificate; expected at least one root in PEM")]
    Empty {
        /// Where they should come from.
        place: String,
    },
    /// What was found first is no bundle. Damage that comes later leaves the roots before it in effect.
    #[error("{place} holds no bundle of roots: {fault}")]
    Damaged {
        /// Where they should come from.
        place: String,
        /// What is wrong.
        fault: String,
    },
    /// The issuer has not signed a certificate of the RA yet, or did not say what its CA is.
    #[error(
        "the roots are to be learnt from the RA's own certificate, and no issuer has named its CA yet; give the signer roots to be independent of that"
    )]
    Undiscovered,
}

// === impl Roots ===

impl Roots {
    /// Reads PEM. Each certificate must be a CA; at least one is needed.
    pub fn parse(pem: &str) -> Result<Self, BundleError> {
        Ok(Self::new(Bundle::parse_pem(pem)?))
    }

    /// From a bundle in hand.
    pub fn new(bundle: Bundle) -> Self {
        let pem = bundle.to_pem().into();
        Self { bundle, pem }
    }

    /// The roots themselves, to verify with.
    pub fn bundle(&self) -> &Bundle {
        &self.bundle
    }

    /// The roots as the last element of a reply, shared by all replies.
    pub fn pem(&self) -> &Arc<str> {
        &self.pem
    }

    /// When the first of the roots dies.
    pub fn not_after(&self) -> SystemTime {
        self.bundle.earliest_not_after()
    }
}

impl PartialEq for Roots {
    fn eq(&self, other: &Self) -> bool {
        self.bundle == other.bundle
    }
}

impl Eq for Roots {}

// === impl Trust ===

impl Trust {
    /// Follows a source.
    pub fn new(source: Arc<dyn RootsSource>) -> Self {
        Self(source)
    }

    /// Roots that never change, for backends and tests that have them in hand.
    pub fn fixed(roots: Roots) -> Self {
        Self(Arc::new(Fixed(Arc::new(roots))))
    }

    /// A chain of the signer ended in a root that is not among them.
    pub fn doubted(&self) {
        self.0.doubted();
    }

    /// The roots in effect.
    pub fn current(&self) -> Result<Arc<Roots>, NoRoots> {
        self.0.roots()
    }
}

// === impl NoRoots ===

impl NoRoots {
    /// The word for metrics and logs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NotYet { .. } => "roots_not_yet",
            Self::Gone { .. } => "roots_gone",
            Self::Empty { .. } => "roots_empty",
            Self::Damaged { .. } => "roots_damaged",
            Self::Undiscovered => "roots_undiscovered",
        }
    }

    /// Whether they were never seen so far, and so are to be expected. What was taken away or is damaged waits for a
    /// person.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::NotYet { .. } | Self::Undiscovered => true,
            Self::Gone { .. } | Self::Empty { .. } | Self::Damaged { .. } => false,
        }
    }
}

#[derive(Debug)]
struct Fixed(Arc<Roots>);

impl RootsSource for Fixed {
    fn roots(&self) -> Result<Arc<Roots>, NoRoots> {
        Ok(Arc::clone(&self.0))
    }
}

/// Roots, or why there are none.
pub(crate) type State = Result<Arc<Roots>, NoRoots>;

/// A source that a task of its own keeps up to date.
#[derive(Clone, Debug)]
struct Followed(watch::Receiver<Arc<State>>);

impl RootsSource for Followed {
    fn roots(&self) -> State {
        Clone::clone(&**self.0.borrow())
    }
}
