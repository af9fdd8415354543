//! What an entry offers to its subscribers, and what a subscriber claims to hold.
//!
//! States are cheap to clone: certificate and bundle are shared, and each is encoded once, by `sds`, into the cell that
//! it carries. Nothing here decides anything.

use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use bytes::Bytes;
use ensign_pki::{Bundle, Svid};

use super::bundles::overlap;

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
/// certificate is absent once it expired, and for an adopted entry whose signer is pinned.
#[derive(Debug, Clone, Default)]
pub struct EntryState {
    /// The certificate and its key.
    pub certificate: Option<Arc<CertificateSecret>>,
    /// The roots of the entry's signer.
    pub bundle: Option<Arc<BundleSecret>>,
}

impl EntryState {
    /// Whether both offer the same. Asked often, for every entry.
    pub(super) fn same(&self, other: &Self) -> bool {
        same(self.certificate.as_ref(), other.certificate.as_ref()) && same(self.bundle.as_ref(), other.bundle.as_ref())
    }
}

/// Secrets are made once per version, so that one version is one allocation.
fn same<T>(one: Option<&Arc<T>>, other: Option<&Arc<T>>) -> bool {
    match (one, other) {
        (None, None) => true,
        (Some(one), Some(other)) => Arc::ptr_eq(one, other),
        (None, Some(_)) | (Some(_), None) => false,
    }
}

/// A verified certificate with its key, under its version.
#[derive(Debug)]
pub struct CertificateSecret {
    /// Goes out as `version_info`; see `version.rs`.
    pub version: String,
    /// The certificate and its key.
    pub svid: Svid,
    /// The roots in which its chain really ends: mostly one, whatever else came with it.
    pub(super) anchors: Bundle,
    /// When it expires (the earliest end in the chain).
    pub not_after: SystemTime,
    /// The encoded secret. `sds` fills it, once.
    pub encoded: OnceLock<Bytes>,
}

impl CertificateSecret {
    /// Whether someone who trusts `bundle` trusts this certificate.
    pub fn is_rooted_in(&self, bundle: &BundleSecret) -> bool {
        overlap(&self.anchors, &bundle.bundle)
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
