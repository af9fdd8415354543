//! What an entry offers to its subscribers, and what a subscriber claims to hold.
//!
//! States are cheap to clone: certificate and bundle are shared, and each is encoded once, by `sds`, into the cell that
//! it carries. Nothing here decides anything.

use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use bytes::Bytes;
use ensign_pki::{Bundle, Svid};

/// What a subscriber says it holds already. Untrusted: rotation judges it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Held {
    /// Nothing: it needs an answer.
    Nothing,
    /// The certificate with this `version_info`.
    Certificate(String),
    /// The bundle with this `version_info`.
    Bundle(String),
}

/// What an entry offers now.
///
/// Both are absent while nothing was issued yet and while the entry is adopted: hold the stream then. Only the
/// certificate is absent once it expired.
#[derive(Debug, Clone, Default)]
pub struct EntryState {
    /// The certificate and its key.
    pub certificate: Option<Arc<CertificateSecret>>,
    /// The roots of the entry's signer.
    pub bundle: Option<Arc<BundleSecret>>,
}

impl EntryState {
    /// Whether both offer the same.
    pub(super) fn same(&self, other: &Self) -> bool {
        let version = |secret: &Option<Arc<CertificateSecret>>| secret.as_ref().map(|secret| secret.version.clone());
        let bundle = |secret: &Option<Arc<BundleSecret>>| secret.as_ref().map(|secret| secret.version.clone());
        version(&self.certificate) == version(&other.certificate) && bundle(&self.bundle) == bundle(&other.bundle)
    }
}

/// A verified certificate with its key, under its version.
#[derive(Debug)]
pub struct CertificateSecret {
    /// Goes out as `version_info`; see `version.rs`.
    pub version: String,
    /// The certificate and its key.
    pub svid: Svid,
    /// The version of the bundle with which it was published: that bundle holds the root that the leaf needs.
    pub roots_needed: String,
    /// The roots that came with it and were accepted; see [`CertificateSecret::is_rooted_in`].
    pub(super) roots: Bundle,
    /// When it expires (the earliest end in the chain).
    pub not_after: SystemTime,
    /// The encoded secret. `sds` fills it, once.
    pub encoded: OnceLock<Bytes>,
}

impl CertificateSecret {
    /// Whether someone who trusts `bundle` trusts this certificate: each root that came with it is there.
    ///
    /// More than strictly needed (one root would do), which errs on the side of waiting for an acknowledgement.
    pub fn is_rooted_in(&self, bundle: &BundleSecret) -> bool {
        self.roots_needed == bundle.version || bundle.bundle.contains_all(&self.roots)
    }
}

/// The roots of one signer, under their version for one entry.
#[derive(Debug)]
pub struct BundleSecret {
    /// Goes out as `version_info`; see `version.rs`.
    pub version: String,
    /// The roots.
    pub bundle: Bundle,
    /// The encoded secret. `sds` fills it, once.
    pub encoded: OnceLock<Bytes>,
}

/// The entry is gone: its workload was removed or changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the workload was removed or changed, its certificates end here")]
pub struct EntryEnded;
