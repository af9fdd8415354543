//! What a signer gives: a chain, and what is left to do once it is delivered.
//!
//! The object of the API server behind a chain must stay until the caller has it: a caller that gave up meanwhile comes
//! back and finds it. So the signer does not delete it, but hands out a [`Receipt`] that does.

use std::fmt;

use rustls_pki_types::CertificateDer;

/// The leaf, then the intermediates in the order in which they verify it.
pub type IssuedChain = Vec<CertificateDer<'static>>;

/// A signer's answer.
#[derive(Debug)]
pub struct Issued {
    /// The leaf first. A root that the backend put among them is no harm: it is left out of the reply.
    pub chain: IssuedChain,
    /// What the issuer says its CA is, in PEM. Roots come from `trust`, so nobody believes it but the discovery of roots,
    /// where an operator chose that.
    pub ca: Option<Vec<u8>>,
    /// To be settled once the chain was judged and is on its way.
    pub receipt: Receipt,
}

/// Clears up behind an answer. Dropped without [`settle`](Self::settle), it leaves everything for a retry.
#[derive(Default)]
pub struct Receipt {
    object: Option<String>,
    settle: Option<Box<dyn FnOnce() + Send + Sync>>,
}

// === impl Issued ===

impl From<IssuedChain> for Issued {
    /// A chain that nothing is left behind of.
    fn from(chain: IssuedChain) -> Self {
        Self {
            chain,
            ca: None,
            receipt: Receipt::default(),
        }
    }
}

// === impl Receipt ===

impl Receipt {
    /// For an object of that name, cleared up by `settle`.
    pub fn new(object: String, settle: impl FnOnce() + Send + Sync + 'static) -> Self {
        Self {
            object: Some(object),
            settle: Some(Box::new(settle)),
        }
    }

    /// The object that the chain came from, for the log.
    pub fn object(&self) -> Option<&str> {
        self.object.as_deref()
    }

    /// The answer is delivered, or turned out to be of no use to anybody. Returns at once.
    pub fn settle(mut self) {
        if let Some(settle) = self.settle.take() {
            settle();
        }
    }
}

impl fmt::Debug for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receipt")
            .field("object", &self.object)
            .finish_non_exhaustive()
    }
}
