//! What an answer of the API server means for whoever asked.
//!
//! Callers decide by variant, never by text or number. The text is for the log: it may name objects and us, never a
//! secret, since the API server does not repeat what it was sent as a token or key.

use std::time::Duration;

use thiserror::Error;

/// A request to the API server that did not succeed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ApiError {
    /// 429, or 503 with Retry-After: come back later; nothing was done.
    #[error("the API server asks to come back in {retry_after:?}: {message}")]
    Throttled {
        /// When.
        retry_after: Duration,
        /// What it said.
        message: String,
    },
    /// No answer, a broken connection, or a server error: it is not known whether anything was done.
    #[error("the API server cannot be reached or failed: {0}")]
    Away(String),
    /// 401: it does not know us.
    #[error("the API server does not accept our credentials: {0}")]
    Unauthorized(String),
    /// 403: RBAC or an admission plugin forbids it.
    #[error("the API server forbids it: {0}")]
    Forbidden(String),
    /// 404: no such object, or no such kind.
    #[error("not found: {0}")]
    NotFound(String),
    /// 409 for a name that is taken.
    #[error("already there: {0}")]
    AlreadyExists(String),
    /// 409: somebody else wrote first, or a precondition does not hold.
    #[error("conflict: {0}")]
    Conflict(String),
    /// 400 or 422: the object is not acceptable as it is.
    #[error("the API server refuses the object: {0}")]
    Invalid(String),
    /// Any other answer.
    #[error("unexpected answer {code} of the API server: {message}")]
    Other {
        /// The HTTP status.
        code: u16,
        /// What it said.
        message: String,
    },
}

/// Raised below kube's client for answers whose header counts.
#[derive(Debug, Error)]
#[error("{message}")]
pub(super) struct Throttled {
    pub(super) retry_after: Duration,
    pub(super) message: String,
}

// === impl ApiError ===

impl ApiError {
    /// The word for metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Throttled { .. } => "throttled",
            Self::Away(_) => "away",
            Self::Unauthorized(_) => "unauthorized",
            Self::Forbidden(_) => "forbidden",
            Self::NotFound(_) => "not_found",
            Self::AlreadyExists(_) => "already_exists",
            Self::Conflict(_) => "conflict",
            Self::Invalid(_) => "invalid",
            Self::Other { .. } => "other",
        }
    }

    /// Whether the same request may succeed without anybody changing anything.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Throttled { .. } | Self::Away(_) => true,
            Self::Unauthorized(_)
            | Self::Forbidden(_)
            | Self::NotFound(_)
            | Self::AlreadyExists(_)
            | Self::Conflict(_)
            | Self::Invalid(_)
            | Self::Other { .. } => false,
        }
    }

    fn of_status(status: &kube::core::Status) -> Self {
        let message = status.message.clone();
        match status.code {
            401 => Self::Unauthorized(message),
            403 => Self::Forbidden(message),
            404 => Self::NotFound(message),
            409 if status.reason == "AlreadyExists" => Self::AlreadyExists(message),
            409 => Self::Conflict(message),
            400 | 422 => Self::Invalid(message),
            500..=599 => Self::Away(format!("{} {message}", status.code)),
            code => Self::Other { code, message },
        }
    }
}

impl From<kube::Error> for ApiError {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => Self::of_status(&status),
            kube::Error::Service(source) => match source.downcast::<Throttled>() {
                Ok(throttled) => Self::Throttled {
                    retry_after: throttled.retry_after,
                    message: throttled.message,
                },
                Err(source) => Self::Away(ensign_daemon::logging::chain(&*source)),
            },
            other => Self::Away(ensign_daemon::logging::chain(&other)),
        }
    }
}

#[cfg(test)]
mod tests {
    use kube::core::Status;
    use test_case::test_case;

    use super::*;

    #[test_case(401, "Unauthorized", "unauthorized")]
    #[test_case(403, "Forbidden", "forbidden")]
    #[test_case(404, "NotFound", "not_found")]
    #[test_case(409, "AlreadyExists", "already_exists")]
    #[test_case(409, "Conflict", "conflict")]
    #[test_case(422, "Invalid", "invalid")]
    #[test_case(400, "BadRequest", "invalid")]
    #[test_case(500, "InternalError", "away")]
    #[test_case(504, "Timeout", "away")]
    #[test_case(418, "", "other")]
    fn each_answer_has_one_meaning(code: u16, reason: &str, meaning: &str) {
        let mut status = Status::failure("no", reason);
        status.code = code;
        assert_eq!(ApiError::from(kube::Error::Api(Box::new(status))).reason(), meaning);
    }

    #[test]
    fn retry_after_survives_the_client() {
        let throttled = Throttled {
            retry_after: Duration::from_secs(3),
            message: "429".to_owned(),
        };
        let error = ApiError::from(kube::Error::Service(Box::new(throttled)));
        assert!(
            matches!(error, ApiError::Throttled { retry_after, .. } if retry_after == Duration::from_secs(3)),
            "{error}"
        );
    }
}
