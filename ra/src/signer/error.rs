//! The ways in which a signer says no, told apart for the log, the metrics and the caller's next step.

use ensign_pki::SignerName;
use thiserror::Error;
use tonic::Code;

use super::Outcome;

/// Why a signer gave no certificate. The texts are for the log, never for the caller.
#[derive(Debug, Error)]
pub enum SignerError {
    /// Whoever approves requests refused this one, not the signer: somebody decided that it must not be had.
    #[error("the request to signer {signer} was not approved but denied: {detail}")]
    ApprovalDenied {
        /// Name of the signer.
        signer: SignerName,
        /// Which object, and what the approver said.
        detail: String,
    },
    /// The signer, or a person behind it, refused this request. The same request will be refused again.
    #[error("signer {signer} denied the request: {detail}")]
    Denied {
        /// Name of the signer.
        signer: SignerName,
        /// What the backend said.
        detail: String,
    },
    /// The backend tried and failed for good.
    #[error("signer {signer} failed the request: {detail}")]
    Failed {
        /// Name of the signer.
        signer: SignerName,
        /// What the backend said.
        detail: String,
    },
    /// The request vanished at the backend before it was answered: somebody else deleted it. A new one may succeed.
    #[error("the request to signer {signer} is gone: {detail}")]
    Gone {
        /// Name of the signer.
        signer: SignerName,
        /// What vanished.
        detail: String,
    },
    /// The deadline passed and nobody had approved the request. A retry resumes it.
    #[error("the request to signer {signer} was approved by nobody within the deadline: {detail}")]
    NotApproved {
        /// Name of the signer.
        signer: SignerName,
        /// Which object, and who should have approved it.
        detail: String,
    },
    /// The request was approved, and the deadline passed without a certificate. A retry resumes it.
    #[error("signer {signer} issued nothing for the approved request within the deadline: {detail}")]
    NotIssued {
        /// Name of the signer.
        signer: SignerName,
        /// Which object, and what may keep the signer.
        detail: String,
    },
    /// No answer before the deadline. A retry resumes the request where the backend can.
    #[error("signer {signer} gave no answer within the deadline: {detail}")]
    TimedOut {
        /// Name of the signer.
        signer: SignerName,
        /// What was waited for.
        detail: String,
    },
    /// Whoever signs behind the backend cannot do so now, as the backend itself says; nothing was asked of it.
    #[error("signer {signer} is not ready: {detail}")]
    NotReady {
        /// Name of the signer.
        signer: SignerName,
        /// Who, and what it says of itself.
        detail: String,
    },
    /// The backend cannot sign at all now: unreachable, its CA expired.
    #[error("signer {signer} is unavailable: {detail}")]
    Unavailable {
        /// Name of the signer.
        signer: SignerName,
        /// What is missing and what to do.
        detail: String,
    },
    /// Each name that the request may have is taken by somebody else's object. Other requests have other names.
    #[error("the request to signer {signer} finds no free name: {detail}")]
    NamesTaken {
        /// Name of the signer.
        signer: SignerName,
        /// Which names.
        detail: String,
    },
    /// What it calls a certificate is none.
    #[error("the answer of signer {signer} cannot be read: {detail}")]
    Unreadable {
        /// Name of the signer.
        signer: SignerName,
        /// Where it stood, and what is wrong with it.
        detail: String,
    },
}

// === impl SignerError ===

impl SignerError {
    /// A word for logs and metric labels, one per variant.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::ApprovalDenied { .. } => "approval_denied",
            Self::Denied { .. } => "denied",
            Self::Failed { .. } => "failed",
            Self::Gone { .. } => "gone",
            Self::NotApproved { .. } => "not_approved",
            Self::NotIssued { .. } => "not_issued",
            Self::NotReady { .. } => "not_ready",
            Self::TimedOut { .. } => "timed_out",
            Self::Unavailable { .. } => "unavailable",
            Self::NamesTaken { .. } => "names_taken",
            Self::Unreadable { .. } => "unreadable_answer",
        }
    }

    /// What the caller is told. An approver's no is one about the caller; what a retry cannot mend otherwise is
    /// FAILED_PRECONDITION; an answer that is none is our side's fault; the rest asks for a retry.
    pub fn code(&self) -> Code {
        match self {
            Self::ApprovalDenied { .. } => Code::PermissionDenied,
            Self::Denied { .. } | Self::Failed { .. } => Code::FailedPrecondition,
            Self::Gone { .. } | Self::NotReady { .. } | Self::Unavailable { .. } | Self::NamesTaken { .. } => {
                Code::Unavailable
            }
            Self::NotApproved { .. } | Self::NotIssued { .. } | Self::TimedOut { .. } => Code::DeadlineExceeded,
            Self::Unreadable { .. } => Code::Internal,
        }
    }

    /// What the signer's gate learns from it.
    ///
    /// A request without an answer is no sign that the signer is away: it may wait for a person, or belong to a CA that
    /// takes longer than a request may. Several of those at once are its usual state, and to stop asking would keep out
    /// the retries that fetch what was signed meanwhile. A backend that does not answer a call of the signer's own is
    /// [`SignerError::Unavailable`]. One that is not ready was not asked, which costs nothing, and a watch tells at once when it is. Nor was it
    /// asked by a request whose names are all taken, whoever took them: nobody may stop a signer for all with objects.
    pub fn outcome(&self) -> Option<Outcome> {
        match self {
            Self::ApprovalDenied { .. }
            | Self::Denied { .. }
            | Self::Failed { .. }
            | Self::Gone { .. }
            | Self::Unreadable { .. } => Some(Outcome::Answered),
            Self::NotApproved { .. }
            | Self::NotIssued { .. }
            | Self::NotReady { .. }
            | Self::TimedOut { .. }
            | Self::NamesTaken { .. } => None,
            Self::Unavailable { detail, .. } => Some(Outcome::Away(detail.clone())),
        }
    }
}
