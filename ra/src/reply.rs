//! From a signer's chain to the elements of a reply, checked as the client will see them.
//!
//! The leaf first, then one intermediate per element, and the root bundle unsplit as the last: Istio's clients take the
//! last element for the roots and read one certificate of each other. So there are always at least two elements, an
//! intermediate is never the last, and each ends in exactly one line feed.

use std::time::SystemTime;

use ensign_daemon::logging;
use ensign_pki::csr::Csr;
use ensign_pki::{Chain, SpiffeId, Validity, verify_issued};
use thiserror::Error;

use crate::signer::IssuedChain;
use crate::trust::Roots;

/// A reply that holds.
#[derive(Debug)]
pub struct Reply {
    /// What the client gets.
    pub elements: Vec<String>,
    /// From when to when, and the serial number.
    pub validity: Validity,
}

/// What is wrong with a signer's answer.
#[derive(Debug, Error)]
#[error("{why}")]
pub struct AnswerError {
    /// As a word.
    pub reason: &'static str,
    /// In full.
    pub why: String,
}

/// Checks what a signer answered and puts it in the form of a reply.
pub fn compose(
    issued: &IssuedChain,
    roots: &Roots,
    csr: &Csr,
    id: &SpiffeId,
    now: SystemTime,
) -> Result<Reply, AnswerError> {
    // Ordered, without duplicates, and without the roots that a backend may have added.
    let chain = Chain::from_ders(issued).map_err(|error| AnswerError {
        reason: error.reason(),
        why: logging::chain(&error),
    })?;
    let validity = verify_issued(&chain, roots.bundle(), id, csr.spki_der(), now).map_err(|error| AnswerError {
        reason: error.reason(),
        why: logging::chain(&error),
    })?;
    let mut elements: Vec<String> = chain.iter().map(|one| one_line_feed(&one.to_pem())).collect();
    elements.push(one_line_feed(roots.pem()));
    Ok(Reply { elements, validity })
}

fn one_line_feed(pem: &str) -> String {
    format!("{}\n", pem.trim_end())
}
