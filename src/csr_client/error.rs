//! What can go wrong with one request, sorted by what to do next.
//!
//! Nobody matches on texts: [`SignError::retry`] says when another try makes sense, [`SignError::resumable`] whether the
//! same CSR may still succeed, [`SignError::reason`] is the short name for metrics and `/status`.
//! The texts of a status come from the other side; they are cut and made printable before they are kept.

use std::time::Duration;

use super::{RequestId, TokenError};

/// When another try makes sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// Soon, then slowly: something on our side may just have been replaced, such as a token.
    Soon,
    /// With ordinary backoff.
    Later,
    /// At the slow cap: a person must change something first.
    SlowCap,
}

/// Why a request brought no certificate.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// No token to send.
    #[error("no token for the request")]
    Token(#[source] TokenError),
    /// No connection.
    #[error("cannot reach the certificate authority {address}: {reason}")]
    Connect {
        /// `CA_ADDR`.
        address: String,
        /// What each address said.
        reason: String,
    },
    /// The deadline passed.
    #[error("no answer from the certificate authority {address} within {}s", deadline.as_secs_f32())]
    Deadline {
        /// `CA_ADDR`.
        address: String,
        /// How long we waited.
        deadline: Duration,
    },
    /// The authority answered with a status.
    #[error("the certificate authority answered {code:?}: {message}")]
    Status {
        /// The gRPC code.
        code: tonic::Code,
        /// Its text, cut and made printable.
        message: String,
        /// What the authority calls the request in its own log, if it says so.
        request_id: Option<RequestId>,
    },
    /// The reply is no list of certificates that we would look at.
    #[error("the certificate authority's reply is malformed: {0}")]
    Malformed(String),
}

impl SignError {
    /// The error for a gRPC status. Its text is untrusted: cut to 256 characters, control characters replaced, and a token
    /// that the authority sends back is taken out.
    pub fn from_status(status: &tonic::Status) -> Self {
        let printable = |c: char| if c.is_control() { ' ' } else { c };
        Self::Status {
            code: status.code(),
            message: ensign_daemon::redact::secrets(status.message())
                .chars()
                .take(256)
                .map(printable)
                .collect(),
            request_id: RequestId::of(status.metadata()),
        }
    }

    /// Under which name the authority's own log has the exact reason.
    pub fn request_id(&self) -> Option<&RequestId> {
        match self {
            Self::Status { request_id, .. } => request_id.as_ref(),
            Self::Token(_) | Self::Connect { .. } | Self::Deadline { .. } | Self::Malformed(_) => None,
        }
    }

    /// When another try makes sense.
    pub fn retry(&self) -> Retry {
        match self {
            Self::Token(_)
            | Self::Status {
                code: tonic::Code::Unauthenticated,
                ..
            } => Retry::Soon,
            Self::Status {
                code: tonic::Code::InvalidArgument | tonic::Code::PermissionDenied,
                ..
            } => Retry::SlowCap,
            Self::Status { .. } | Self::Connect { .. } | Self::Deadline { .. } | Self::Malformed(_) => Retry::Later,
        }
    }

    /// Whether the same CSR may still succeed, so that key and CSR are kept for the next try.
    pub fn resumable(&self) -> bool {
        use tonic::Code;
        match self {
            Self::Token(_) | Self::Connect { .. } | Self::Deadline { .. } => true,
            // A slow authority may have the answer by the next try; a refusal for lack of a token or of room never
            // looked at the CSR. FailedPrecondition means that this very request was denied or failed.
            Self::Status { code, .. } => matches!(
                code,
                Code::Unavailable
                    | Code::DeadlineExceeded
                    | Code::Cancelled
                    | Code::Aborted
                    | Code::ResourceExhausted
                    | Code::Unauthenticated
            ),
            Self::Malformed(_) => false,
        }
    }

    /// A short name, one of few.
    pub fn reason(&self) -> &'static str {
        use tonic::Code;
        match self {
            Self::Token(_) => "token",
            Self::Connect { .. } => "connect",
            Self::Deadline { .. } => "deadline",
            Self::Malformed(_) => "malformed_reply",
            Self::Status { code, .. } => match code {
                Code::Unauthenticated => "unauthenticated",
                Code::PermissionDenied => "permission_denied",
                Code::InvalidArgument => "invalid_argument",
                Code::ResourceExhausted => "resource_exhausted",
                Code::FailedPrecondition => "failed_precondition",
                Code::Unavailable => "unavailable",
                Code::DeadlineExceeded => "deadline",
                Code::Internal => "internal",
                Code::Unimplemented => "unimplemented",
                _ => "status",
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use test_case::test_case;
    use tonic::Code;

    #[test_case(Code::Unauthenticated, Retry::Soon, true)]
    #[test_case(Code::InvalidArgument, Retry::SlowCap, false)]
    #[test_case(Code::PermissionDenied, Retry::SlowCap, false)]
    #[test_case(Code::Unavailable, Retry::Later, true)]
    #[test_case(Code::DeadlineExceeded, Retry::Later, true)]
    #[test_case(Code::ResourceExhausted, Retry::Later, true)]
    #[test_case(Code::FailedPrecondition, Retry::Later, false)]
    #[test_case(Code::Internal, Retry::Later, false)]
    #[test_case(Code::Unknown, Retry::Later, false)]
    fn codes_are_sorted(code: Code, retry: Retry, resumable: bool) {
        let error = SignError::from_status(&tonic::Status::new(code, "no"));
        assert_eq!((error.retry(), error.resumable()), (retry, resumable));
    }

    #[test]
    fn a_status_text_is_cut_and_printable() {
        let error = SignError::from_status(&tonic::Status::new(Code::Internal, "a\nb".repeat(5_000)));
        assert!(error.to_string().len() < 400);
        assert!(!error.to_string().contains('\n'));
        let echo = "bad token eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJ4In0.c2ln";
        let error = SignError::from_status(&tonic::Status::new(Code::Unauthenticated, echo));
        assert!(!error.to_string().contains("eyJ"), "{error}");
    }

    #[test_case("0af7651916cd43dd", true)]
    #[test_case("a b", false; "a blank")]
    #[test_case("", false; "empty")]
    fn the_authoritys_name_of_the_request_is_kept_if_it_can_be_shown(text: &str, kept: bool) {
        let mut status = tonic::Status::new(Code::PermissionDenied, "no");
        status.metadata_mut().insert("x-request-id", text.parse().unwrap());
        let error = SignError::from_status(&status);
        assert_eq!(error.request_id().map(RequestId::as_str), Some(text).filter(|_| kept));
        assert_eq!(
            SignError::from_status(&tonic::Status::new(Code::Internal, "no")).request_id(),
            None
        );
    }
}
