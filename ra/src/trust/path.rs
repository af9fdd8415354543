//! The way from an issuing CA to a root of its signer.
//!
//! Owns the choice of the intermediates that go with each leaf, and the span in which all of them are valid. Promises
//! that each link is a checked signature, so that two certificates with one subject are told apart. Leaves the
//! judgement of a whole chain (key usages, path lengths, name constraints) to the check that follows each issue.

use std::time::SystemTime;

use ensign_pki::{Bundle, Certificate};
use rustls_pki_types::CertificateDer;
use thiserror::Error;

/// The certificates between a leaf and its root, and the span in which all, the root included, are valid.
#[derive(Clone, Debug)]
pub(crate) struct Path {
    /// The issuing CA first; empty where the issuing CA is itself a root.
    pub(crate) intermediates: Vec<CertificateDer<'static>>,
    /// The latest NotBefore.
    pub(crate) not_before: SystemTime,
    /// The earliest NotAfter.
    pub(crate) not_after: SystemTime,
    /// Where it ends.
    pub(crate) root: Certificate,
}

/// The issuing CA leads to no root.
#[derive(Debug, Error)]
#[error(
    "the issuing CA ({issuing}) does not chain into the signer's roots: neither they nor the chain file hold what signed {last}; add that root to the roots, or the missing intermediate to cert-chain.pem"
)]
pub(crate) struct NoRoot {
    issuing: String,
    last: String,
}

/// Finds the shortest way from `issuing` over certificates of `chain` to one of `roots`.
///
/// `chain` may hold the issuing CA again, roots, and certificates of no use; its order does not matter.
pub(crate) fn to_root(issuing: &Certificate, chain: &[Certificate], roots: &Bundle) -> Result<Path, NoRoot> {
    // Breadth first: each entry is a way from the issuing CA up to a certificate not looked at yet.
    let mut ways = vec![vec![issuing]];
    let mut seen = 0;
    while let Some(way) = ways.get(seen).cloned() {
        seen += 1;
        let Some((last, below)) = way.split_last() else {
            continue;
        };
        if let Some(root) = roots.iter().find(|root| root == last) {
            return Ok(Path::along(below, root));
        }
        // Of roots with one key, say a root and its renewal, the one that lives longest: a peer needs only one.
        let signers = roots.iter().filter(|root| last.is_signed_by(root));
        if let Some(root) = signers.max_by_key(|root| root.not_after()) {
            return Ok(Path::along(&way, root));
        }
        if way.len() >= MAX_INTERMEDIATES {
            continue;
        }
        for next in chain
            .iter()
            .filter(|next| !way.contains(next) && last.is_signed_by(next))
        {
            ways.push(way.iter().copied().chain([next]).collect());
        }
    }
    // The end of the longest way is the certificate whose issuer is missing.
    let last = ways
        .iter()
        .max_by_key(|way| way.len())
        .and_then(|way| way.last().copied())
        .unwrap_or(issuing);
    Err(NoRoot {
        issuing: issuing.subject().to_owned(),
        last: last.subject().to_owned(),
    })
}

// === impl Path ===

impl Path {
    fn along(way: &[&Certificate], root: &Certificate) -> Self {
        let all = || way.iter().copied().chain([root]);
        Self {
            intermediates: way.iter().map(|certificate| certificate.der().clone()).collect(),
            not_before: all()
                .map(Certificate::not_before)
                .max()
                .unwrap_or(SystemTime::UNIX_EPOCH),
            not_after: all()
                .map(Certificate::not_after)
                .min()
                .unwrap_or(SystemTime::UNIX_EPOCH),
            root: root.clone(),
        }
    }
}

/// Longer chains do not occur, and a peer has to read each certificate in each handshake.
const MAX_INTERMEDIATES: usize = 6;
