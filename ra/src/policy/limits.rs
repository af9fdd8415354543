//! How much a signer may be asked at once and how fast.
//!
//! No part of a signer's spec: changed limits reach a signer that runs, and restart none.

use std::fmt::{self, Display};

use super::form;
use super::mistakes::Mistakes;

/// What one signer may be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SignerLimits {
    /// Requests that are with the signer at once, at each replica.
    pub concurrency: usize,
    /// Requests that may wait for that, at each replica; one more is turned away.
    pub queue: usize,
    /// Requests that reach the signer, over all replicas; without it as many as it bears.
    pub rate: Option<Rate>,
}

/// Certificates per second: a number above zero.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate(f64);

/// It is never the one number that does not equal itself.
impl Eq for Rate {}

// === impl SignerLimits ===

impl Default for SignerLimits {
    /// Two hundred at once keep a backend busy that takes two seconds for a certificate and gives a hundred a second. Ten
    /// thousand waiting are the pods of a large mesh: clients of Istio retry faster the more of them are turned away,
    /// and a waiting request costs some kilobytes.
    fn default() -> Self {
        Self {
            concurrency: 200,
            queue: 10_000,
            rate: None,
        }
    }
}

impl SignerLimits {
    /// These, but for what the form says.
    pub(super) fn changed_by(mut self, form: &form::Limits, mistakes: &mut Mistakes) -> Self {
        if let Some(form) = &form.concurrency {
            self.concurrency = form.value;
            if !(1..=MAX_COUNT).contains(&form.value) {
                let seen = form.value;
                mistakes.at(form, format!("limits.concurrency is {seen}: expected 1 to {MAX_COUNT}"));
            }
        }
        if let Some(form) = &form.queue {
            self.queue = form.value;
            if form.value > MAX_COUNT {
                let seen = form.value;
                mistakes.at(form, format!("limits.queue is {seen}: expected 0 to {MAX_COUNT}"));
            }
        }
        if let Some(form) = &form.rate {
            self.rate = Rate::new(form.value);
            if self.rate.is_none() {
                let seen = form.value;
                mistakes.at(
                    form,
                    format!(
                        "limits.rate is {seen}: expected certificates per second, from 0.0003 (one an hour) to a million"
                    ),
                );
            }
        }
        self
    }
}

// === impl Rate ===

impl Rate {
    /// A rate within bounds that make sense: about one an hour to a million a second.
    pub fn new(per_second: f64) -> Option<Self> {
        (0.0003..=1e6).contains(&per_second).then_some(Self(per_second))
    }

    /// The number.
    pub fn per_second(self) -> f64 {
        self.0
    }
}

impl Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A number above this is a slip of the keyboard: so many waiting requests do not fit into a machine.
const MAX_COUNT: usize = 1_000_000;
