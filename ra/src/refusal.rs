//! Every way in which a request can end without a certificate: one gRPC code and one fixed text per kind.
//!
//! The caller learns the code and the text, which say nothing about keys, policy, signers or the cluster; the exact
//! reason is `Display`, for the log, and [`Refusal::reason`], a word for metrics. The order of the variants is the
//! order of the steps of a request.

use ensign_pki::SignerName;
use ensign_pki::csr::CsrError;
use thiserror::Error;
use tonic::{Code, Status};

use crate::authn::AuthnError;
use crate::authz::{AuthzError, GrantError};
use crate::desk::Closed;
use crate::limits::LimitError;
use crate::policy::Denial;
use crate::reply::AnswerError;
use crate::request::ExtrasError;
use crate::signer::{GateError, NotSigned, SignerError};
use crate::trust::NoRoots;

/// Why a request is not served.
#[derive(Debug, Error)]
pub enum Refusal {
    /// The bytes that came are no request.
    #[error("the message is no IstioCertificateRequest, or was cut off")]
    Message,
    /// The bytes did not all come.
    #[error("the message did not arrive in time")]
    SlowMessage,
    /// Too much at once.
    #[error(transparent)]
    Limit(#[from] LimitError),
    /// The caller is unknown.
    #[error(transparent)]
    Authn(#[from] AuthnError),
    /// The metadata of the request is refused.
    #[error(transparent)]
    Extras(#[from] ExtrasError),
    /// The CSR is refused.
    #[error("the CSR is refused: {0}")]
    Csr(#[from] CsrError),
    /// Nothing to judge it by.
    #[error(transparent)]
    Closed(#[from] Closed),
    /// Not the caller's own identity.
    #[error(transparent)]
    Authz(#[from] AuthzError),
    /// The caller's certificate is of another signer than the one asked for.
    #[error("{0}")]
    OtherSigner(String),
    /// Not within the policy.
    #[error(transparent)]
    Policy(#[from] Denial),
    /// The policy grants a signer that does not run: a mistake of ours.
    #[error("signer {0} is granted by the policy and does not run")]
    NoSigner(SignerName),
    /// The signer's chains cannot be judged: its roots are not there, or were taken away.
    #[error("signer {signer} has no roots: {source}")]
    NoRoots {
        /// The signer.
        signer: SignerName,
        /// Why.
        source: NoRoots,
    },
    /// The signer was not asked: too many wait for it, or it is away.
    #[error("signer {signer} was not asked: {why}")]
    Gate {
        /// The signer.
        signer: SignerName,
        /// Why not.
        why: GateError,
    },
    /// The signer said no, in one of its ways.
    #[error(transparent)]
    Signer(#[from] SignerError),
    /// The signer said nothing.
    #[error("signer {0} did not answer before the deadline")]
    SignerDeadline(SignerName),
    /// The client's own deadline passed while no step was waiting that has a better answer.
    #[error("the client's deadline passed before the request was through")]
    ClientDeadline,
    /// The signer's answer is not what was asked for.
    #[error("the answer of signer {signer} is refused: {why}")]
    Answer {
        /// The signer.
        signer: SignerName,
        /// What is wrong, as a word.
        reason: &'static str,
        /// What is wrong, in full.
        why: String,
    },
}

// === impl Refusal ===

impl Refusal {
    /// An answer that does not hold.
    pub fn answer(signer: &SignerName, error: AnswerError) -> Self {
        Self::Answer {
            signer: signer.clone(),
            reason: error.reason,
            why: error.why,
        }
    }

    /// No roots to judge a signer's answer by.
    pub fn no_roots(signer: &SignerName, source: NoRoots) -> Self {
        Self::NoRoots {
            signer: signer.clone(),
            source,
        }
    }

    /// A signer gave no certificate.
    pub fn not_signed(signer: &SignerName, error: NotSigned) -> Self {
        match error {
            NotSigned::Gate(why) => Self::Gate {
                signer: signer.clone(),
                why,
            },
            NotSigned::Signer(error) => Self::Signer(error),
            NotSigned::Deadline => Self::SignerDeadline(signer.clone()),
        }
    }

    /// The code for the caller.
    pub fn code(&self) -> Code {
        match self {
            Self::Limit(LimitError::QueueDeadline)
            | Self::SlowMessage
            | Self::SignerDeadline(_)
            | Self::ClientDeadline => Code::DeadlineExceeded,
            Self::Limit(_) => Code::ResourceExhausted,
            // A server that is away says nothing about a token: such a call is to be repeated, not given up.
            Self::Authn(error) if error.is_passing() => Code::Unavailable,
            Self::Authz(AuthzError::Impersonation(error)) if error.is_passing() => Code::Unavailable,
            Self::Authn(_)
            | Self::Extras(ExtrasError::ImpersonationType)
            | Self::Authz(AuthzError::Impersonation(_)) => Code::Unauthenticated,
            Self::Message | Self::Extras(ExtrasError::SignerType | ExtrasError::SignerName(_)) | Self::Csr(_) => {
                Code::InvalidArgument
            }
            Self::Authz(AuthzError::NoIdentity { .. } | AuthzError::NotOwn { .. })
            | Self::OtherSigner(_)
            | Self::Policy(_) => Code::PermissionDenied,
            Self::Closed(_) | Self::NoSigner(_) | Self::NoRoots { .. } => Code::Unavailable,
            Self::Gate { why, .. } => why.code(),
            Self::Signer(error) => error.code(),
            Self::Answer { .. } => Code::Internal,
        }
    }

    /// The word for metrics and logs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Message => "message",
            Self::SlowMessage => "slow_message",
            Self::Limit(error) => error.reason(),
            Self::Authn(error) => error.reason(),
            Self::Extras(error) => error.reason(),
            Self::Csr(error) => error.reason(),
            Self::Closed(_) => "no_policy",
            Self::Authz(error) => error.reason(),
            Self::OtherSigner(_) => "certificate_of_other_signer",
            Self::Policy(error) => error.reason(),
            Self::NoSigner(_) => "no_signer",
            Self::NoRoots { source, .. } => source.reason(),
            Self::Gate { why, .. } => why.reason(),
            Self::Signer(error) => error.reason(),
            Self::SignerDeadline(_) => "signer_deadline",
            Self::ClientDeadline => "client_deadline",
            Self::Answer { reason, .. } => reason,
        }
    }

    /// What the caller gets.
    pub fn status(&self) -> Status {
        Status::new(self.code(), text(self.code()))
    }
}

impl From<GrantError> for Refusal {
    fn from(error: GrantError) -> Self {
        match error {
            GrantError::Policy(denial) => Self::Policy(denial),
            other @ GrantError::OtherSigner { .. } => Self::OtherSigner(other.to_string()),
        }
    }
}

/// The one text of each code. Nothing of a request or of our state ever becomes part of it.
pub fn text(code: Code) -> &'static str {
    match code {
        Code::ResourceExhausted => "too many requests or too large a request, try again later",
        Code::Unauthenticated => "the caller could not be authenticated",
        Code::InvalidArgument => "the request is not acceptable",
        Code::PermissionDenied => "the caller may not have this certificate",
        Code::Unavailable => "no certificate can be issued now, try again later",
        Code::DeadlineExceeded => "no certificate was issued in time, try again",
        Code::FailedPrecondition => "the signer refused the request",
        _ => "no certificate could be issued",
    }
}
