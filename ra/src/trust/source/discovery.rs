//! Roots that an issuer named when it signed the RA's own certificate, as istio-csr does without a root file.
//!
//! A root that is named anew joins those before it, which stay until they expire: leaves signed under them are still
//! out there. Who may write the status of the RA's request can add a root, so this is warned of wherever it is used.

use std::sync::Arc;
use std::time::SystemTime;

use ensign_pki::{Bundle, BundleError, Certificate};
use tokio::sync::watch;

use crate::trust::{NoRoots, Roots, RootsSource, State};

/// The discovered roots, told by whoever gets the RA its certificate and read by signers. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Discovery(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    roots: watch::Sender<Option<Arc<Roots>>>,
    doubts: watch::Sender<u64>,
}

// === impl Discovery ===

impl Discovery {
    /// Nothing discovered yet.
    pub fn new() -> Self {
        Self(Arc::new(Inner {
            roots: watch::channel(None).0,
            doubts: watch::channel(0).0,
        }))
    }

    /// An issuer named these as its CA. Expired ones are forgotten on this occasion.
    pub fn found(&self, named: &[Certificate], now: SystemTime) -> Result<Arc<Roots>, BundleError> {
        let known = self.0.roots.borrow().clone();
        let known = known.iter().flat_map(|roots| roots.bundle().iter().cloned());
        let alive = known
            .chain(named.iter().cloned())
            .filter(|root| now <= root.not_after());
        let roots = Arc::new(Roots::new(Bundle::from_certificates(alive.collect())?));
        self.0.roots.send_if_modified(|old| {
            let changed = old.as_ref() != Some(&roots);
            if changed {
                let roots = roots.bundle().len();
                tracing::warn!(roots, "roots discovered from the RA's own certificate have changed");
            }
            *old = Some(Arc::clone(&roots));
            changed
        });
        Ok(roots)
    }

    /// What is known now.
    pub fn current(&self) -> Option<Arc<Roots>> {
        self.0.roots.borrow().clone()
    }

    /// Tells of each change.
    pub fn changes(&self) -> watch::Receiver<Option<Arc<Roots>>> {
        self.0.roots.subscribe()
    }

    /// Tells when a chain ended in a root that is not among them: the issuer may have another CA by now.
    pub fn doubts(&self) -> watch::Receiver<u64> {
        self.0.doubts.subscribe()
    }
}

impl Default for Discovery {
    fn default() -> Self {
        Self::new()
    }
}

impl RootsSource for Discovery {
    fn roots(&self) -> State {
        self.current().ok_or(NoRoots::Undiscovered)
    }

    fn doubted(&self) {
        self.0.doubts.send_modify(|count| *count = count.wrapping_add(1));
    }
}
