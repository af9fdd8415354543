//! What is distributed now: the roots in use, those of before, and their text.

use std::collections::BTreeMap;
use std::time::SystemTime;

use ensign_pki::{Bundle, Certificate};

use super::Source;
use super::history::History;
use super::object::{Digest, digest};

/// The text for every object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Content {
    pub(super) pem: String,
    pub(super) digest: Digest,
    pub(super) roots: usize,
}

/// Roots as the sources give them.
#[derive(Debug, Clone, Default)]
pub(super) struct InUse {
    /// To be remembered.
    pub(super) lasting: Vec<Certificate>,
    /// There while their source has them.
    pub(super) passing: Vec<Certificate>,
    /// Sources without any.
    pub(super) silent: Vec<&'static str>,
}

// === impl InUse ===

impl InUse {
    pub(super) fn ask(sources: &[Source]) -> Self {
        let mut all = Self::default();
        for source in sources {
            let Some(roots) = (source.roots)() else {
                all.silent.push(source.name);
                continue;
            };
            let into = if source.remember {
                &mut all.lasting
            } else {
                &mut all.passing
            };
            into.extend(roots.bundle().iter().cloned());
        }
        all
    }
}

// === impl Content ===

impl Content {
    /// `None` while there is no root at all. Expired ones are of no use to anybody; in order of their bytes, so that equal
    /// roots are equal texts. If there are too many for a bundle, those in use go first.
    pub(super) fn new(in_use: &InUse, history: &History, now: SystemTime) -> Option<Self> {
        let alive = |root: &&Certificate| now <= root.not_after();
        let current = in_use.lasting.iter().chain(&in_use.passing).filter(alive);
        let all = current.clone().chain(history.roots.values().filter(alive)).cloned();
        let bundle = Bundle::from_certificates(all.collect())
            .or_else(|_| Bundle::from_certificates(current.cloned().collect()))
            .ok()?;
        let pem = bundle.to_pem();
        Some(Self {
            digest: digest(&pem),
            roots: bundle.len(),
            pem,
        })
    }
}

/// What the history should become, if it must be written before anything is distributed.
pub(super) fn next_history(
    in_use: &InUse,
    history: &History,
    now: SystemTime,
) -> Option<BTreeMap<String, Certificate>> {
    history.next(in_use.lasting.iter(), now)
}
