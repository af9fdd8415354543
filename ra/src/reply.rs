//! From a signer's chain to the elements of a reply, checked as the client will see them.
//!
//! The leaf first, then one intermediate per element, and the root bundle unsplit as the last: Istio's clients take the
//! last element for the roots and read one certificate of each other. So there are always at least two elements, an
//! intermediate is never the last, and each ends in exactly one line feed. A certificate that begins a little later, by a
//! signer whose clock is ahead of ours, is no mistake: [`begins_in`] says how long to wait with the reply.

use std::time::{Duration, SystemTime};

use ensign_daemon::logging;
use ensign_pki::csr::Csr;
use ensign_pki::{Certificate, Chain, SpiffeId, Validity, verify_issued};
use thiserror::Error;

use crate::signer::IssuedChain;
use crate::trust::Roots;

/// What an answer is held against.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// The request.
    pub csr: &'a Csr,
    /// The identity.
    pub id: &'a SpiffeId,
    /// The lifetime.
    pub ttl: Duration,
    /// Whether another lifetime is no answer at all.
    pub exact: bool,
}

/// A reply that holds.
#[derive(Debug)]
pub struct Reply {
    /// What the client gets.
    pub elements: Vec<String>,
    /// From when to when, and the serial number.
    pub validity: Validity,
    /// Its lifetime beside the one that the signer was asked for.
    pub lifetime: Lifetime,
}

/// What a signer made of the lifetime that it was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lifetime {
    /// The same, give or take the clocks.
    AsAsked,
    /// The chain ends earlier.
    Shorter,
    /// The chain ends later.
    Longer,
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

/// Reads what a signer answered: ordered, without duplicates, and without the roots that a backend may have added.
pub fn read(issued: &IssuedChain) -> Result<Chain, AnswerError> {
    Chain::from_ders(issued).map_err(|error| AnswerError {
        reason: error.reason(),
        why: logging::chain(&error),
    })
}

/// How far the clock that a leaf was dated by was ahead of ours, at least; zero if its time has come.
pub fn dated_ahead(chain: &Chain, now: SystemTime) -> Duration {
    chain.leaf().not_before().duration_since(now).unwrap_or_default()
}

/// How long until all of a chain is valid, if that is worth waiting for; nothing if it is valid, or so far ahead that
/// [`compose`] refuses it.
pub fn begins_in(chain: &Chain, now: SystemTime) -> Option<Duration> {
    let begin = chain.iter().map(Certificate::not_before).max()?;
    let ahead = begin.duration_since(now).ok()?;
    (!ahead.is_zero() && ahead <= MAX_AHEAD).then_some(ahead)
}

/// Checks what a signer answered and puts it in the form of a reply.
pub fn compose(chain: &Chain, roots: &Roots, asked: Asked<'_>, now: SystemTime) -> Result<Reply, AnswerError> {
    let verified = verify_issued(chain, roots.bundle(), asked.id, asked.csr.spki_der(), now);
    let validity = verified.map_err(|error| AnswerError {
        reason: error.reason(),
        why: logging::chain(&error),
    })?;
    let lifetime = Lifetime::of(&validity, asked.ttl, now);
    if asked.exact && lifetime != Lifetime::AsAsked {
        return Err(AnswerError {
            reason: "wrong_lifetime",
            why: format!(
                "it is valid for {:?} in all, {:?} was asked for, and exactLifetime allows no other",
                span(validity.not_before, validity.not_after),
                asked.ttl
            ),
        });
    }
    let mut elements: Vec<String> = chain.iter().map(|one| one_line_feed(&one.to_pem())).collect();
    elements.push(one_line_feed(roots.pem()));
    Ok(Reply {
        elements,
        validity,
        lifetime,
    })
}

fn one_line_feed(pem: &str) -> String {
    format!("{}\n", pem.trim_end())
}

fn span(from: SystemTime, to: SystemTime) -> Duration {
    to.duration_since(from).unwrap_or_default()
}

// === impl Lifetime ===

impl Lifetime {
    /// A signer may backdate NotBefore, and may have signed a while ago: so the lifetime asked for lies between what is
    /// left and the whole.
    fn of(validity: &Validity, asked: Duration, now: SystemTime) -> Self {
        let whole = span(validity.not_before, validity.not_after);
        let left = span(now, validity.not_after);
        if whole.saturating_add(ROUNDING) < asked {
            Self::Shorter
        } else if left > asked.saturating_add(MAX_AHEAD) {
            Self::Longer
        } else {
            Self::AsAsked
        }
    }

    /// The word for logs and metrics, if there is something to say.
    pub fn change(self) -> Option<&'static str> {
        match self {
            Self::AsAsked => None,
            Self::Shorter => Some("granted_shorter"),
            Self::Longer => Some("granted_longer"),
        }
    }
}

/// How far a signer's clock may be ahead of ours: so long a reply waits until its certificate is valid.
const MAX_AHEAD: Duration = Duration::from_mins(1);
/// Times in certificates are whole seconds, and some count the last one in.
const ROUNDING: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;
    use test_case::test_case;

    const HOUR: u64 = 3600;

    // From and to in seconds beside now, the lifetime asked for.
    #[test_case(0, HOUR, HOUR, Lifetime::AsAsked; "to the second")]
    #[test_case(0, HOUR - 1, HOUR, Lifetime::AsAsked; "with the last second counted in")]
    #[test_case(300, HOUR, HOUR, Lifetime::AsAsked; "backdated on top")]
    #[test_case(300, HOUR - 300, HOUR, Lifetime::AsAsked; "backdated within")]
    #[test_case(90, HOUR - 90, HOUR, Lifetime::AsAsked; "signed a while ago")]
    #[test_case(0, HOUR + 30, HOUR, Lifetime::AsAsked; "by a clock ahead")]
    #[test_case(0, HOUR - 2, HOUR, Lifetime::Shorter; "cut")]
    #[test_case(0, HOUR / 2, HOUR, Lifetime::Shorter; "half of it")]
    #[test_case(0, 90 * 24 * HOUR, HOUR, Lifetime::Longer; "cert-manager's default")]
    #[test_case(0, HOUR + 61, HOUR, Lifetime::Longer; "a minute more")]
    fn a_lifetime_beside_the_one_asked_for(back: u64, ahead: u64, asked: u64, expected: Lifetime) {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        let validity = Validity {
            not_before: now - Duration::from_secs(back),
            not_after: now + Duration::from_secs(ahead),
            serial: "01".to_owned(),
        };
        assert_eq!(Lifetime::of(&validity, Duration::from_secs(asked), now), expected);
    }
}
