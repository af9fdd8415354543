//! The roots of each signer: what replies carry, and what every issued chain must end in.
//!
//! Owns the bundle of a signer, apart from the CA that issues: during a root rotation the bundle holds the next root
//! before anything is signed under it, and the last one until nothing of it is in use. Promises that a reader always
//! sees a whole, checked bundle, encoded once. Leaves to `signer` to join a CA and its roots, and to `daemon` to watch.

pub(crate) mod path;

use std::{
    fmt::Debug,
    sync::Arc,
    time::{Duration, SystemTime},
};

use ensign_pki::{Bundle, BundleError};
/// The roots of one signer at one time.
#[derive(Clone, Debug)]
pub struct Roots {
    bundle: Bundle,
    pem: Arc<str>,
}

/// The roots of one signer, now and after each change. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Trust(Arc<dyn RootsSource>);

/// Knows a signer's roots at any time. Implemented by the backend that loads them, so that roots and issuing CA change
/// in one step.
pub trait RootsSource: Debug + Send + Sync {
    /// The roots in effect.
    fn roots(&self) -> Arc<Roots>;
}

// === impl Roots ===

impl Roots {
    /// Reads PEM. Each certificate must be a CA; at least one is needed.
    pub fn parse(pem: &str) -> Result<Self, BundleError> {
        let bundle = Bundle::parse_pem(pem)?;
        let pem = bundle.to_pem().into();
        Ok(Self { bundle, pem })
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

    /// Seconds until the first of the roots dies, below zero once it has; for a metric.
    pub fn expires_in_seconds(&self, now: SystemTime) -> f64 {
        match self.not_after().duration_since(now) {
            Ok(left) => left.as_secs_f64(),
            Err(past) => -Duration::as_secs_f64(&past.duration()),
        }
    }
}

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

    /// The roots in effect.
    pub fn current(&self) -> Arc<Roots> {
        self.0.roots()
    }
}

#[derive(Debug)]
struct Fixed(Arc<Roots>);

impl RootsSource for Fixed {
    fn roots(&self) -> Arc<Roots> {
        Arc::clone(&self.0)
    }
}
