//! Why somebody was not let in. The texts are for the log, never for the caller.

use std::fmt::{self, Display};
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tonic::Code;

use super::Rate;

/// Why a request was not let in to its signer.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum GateError {
    /// As many wait as may.
    #[error("{queue} requests wait for the signer already, as many as may (limits.queue of the policy)")]
    QueueFull {
        /// How many may.
        queue: usize,
    },
    /// Its deadline passed while it waited.
    #[error("its deadline passed after {waited:?} in the signer's queue: {obstacle}")]
    Deadline {
        /// How long it stood there.
        waited: Duration,
        /// What held it up in the end.
        obstacle: Obstacle,
    },
    /// The signer has been away so often that it is not asked for a while.
    #[error("the signer is not asked again before its circuit breaker's cool-down is over; its last failure: {why}")]
    CircuitOpen {
        /// What the signer's last failure said.
        why: Arc<str>,
    },
}

/// What holds up the one whose turn it is.
#[derive(Debug, Clone, PartialEq)]
pub enum Obstacle {
    /// As many are being signed for as may.
    Concurrency(usize),
    /// The signer's rate, as far as this replica has a share of it.
    Rate(Rate),
    /// The backend asked for a pause.
    Pause,
    /// The circuit breaker is open.
    Circuit(Arc<str>),
    /// Nothing: it came too late for its own turn.
    Nothing,
}

// === impl GateError ===

impl GateError {
    /// The word for metrics and logs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::QueueFull { .. } => "signer_queue_full",
            Self::Deadline { .. } => "signer_queue_deadline",
            Self::CircuitOpen { .. } => "signer_circuit_open",
        }
    }

    /// What the caller is told.
    pub fn code(&self) -> Code {
        match self {
            Self::QueueFull { .. } => Code::ResourceExhausted,
            Self::Deadline { .. } => Code::DeadlineExceeded,
            Self::CircuitOpen { .. } => Code::Unavailable,
        }
    }
}

// === impl Obstacle ===

impl Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Concurrency(most) => write!(
                f,
                "{most} requests were with the signer, as many as may (limits.concurrency of the policy)"
            ),
            Self::Rate(rate) => write!(
                f,
                "the signer's rate of {rate} a second over all replicas was used up (limits.rate of the policy)"
            ),
            Self::Pause => f.write_str("the signer's backend had asked for a pause"),
            Self::Circuit(why) => write!(f, "the signer was away; its last failure: {why}"),
            Self::Nothing => f.write_str("it had hardly any time left"),
        }
    }
}
