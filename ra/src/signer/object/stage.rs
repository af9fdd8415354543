//! How far a conversation came, so that its deadline can say what was missing.

use std::fmt::Write as _;

use ensign_pki::SignerName;

use super::kind::Said;
use crate::kubernetes::{WatchState, Watched};
use crate::signer::SignerError;

/// What a conversation waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Stage {
    /// The first complete list of the shared watch.
    Watch,
    /// Whether the signer behind the API is ready.
    Readiness,
    /// The server to take the object.
    Create {
        /// Its last no.
        last: Option<String>,
    },
    /// The watch to show what the server says is there.
    Sight {
        /// Its name.
        object: String,
    },
    /// The server to take our approval.
    Approve {
        /// Of what.
        object: String,
        /// Its last no.
        last: Option<String>,
    },
    /// Somebody's approval.
    Approval {
        /// Of what.
        object: String,
    },
    /// The signer.
    Certificate {
        /// For what.
        object: String,
        /// What it says meanwhile.
        said: Option<String>,
    },
}

/// What a dialect knows of those who keep us waiting.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Hints {
    /// Who approves.
    pub(crate) approval: String,
    /// What may keep the signer.
    pub(crate) signing: String,
}

// === impl Stage ===

impl Stage {
    pub(super) fn certificate(object: &str, said: Option<Said<'_>>) -> Self {
        Self::Certificate {
            object: object.to_owned(),
            said: said.map(|said| said.to_string()),
        }
    }

    /// What the deadline means when it passes here.
    pub(super) fn overdue(self, signer: &SignerName, hints: &Hints, watched: &Watched) -> SignerError {
        let signer = signer.clone();
        let watch = Self::watch(watched);
        match self {
            Self::Watch => SignerError::Unavailable {
                signer,
                detail: format!("the watch of its requests is not complete yet{watch}"),
            },
            Self::Readiness => SignerError::Unavailable {
                signer,
                detail: "the server did not say whether its issuer is ready".to_owned(),
            },
            Self::Create { last } => SignerError::Unavailable {
                signer,
                detail: format!("no request could be created{}", last_word(last)),
            },
            Self::Sight { object } => SignerError::TimedOut {
                signer,
                detail: format!("{object} is there and the watch does not show it{watch}"),
            },
            Self::Approve { object, last } => SignerError::NotApproved {
                signer,
                detail: format!("{object}: our approval was not taken{}", last_word(last)),
            },
            Self::Approval { object } => SignerError::NotApproved {
                signer,
                detail: format!("{object}: {}{watch}", hints.approval),
            },
            Self::Certificate { object, said } => SignerError::NotIssued {
                signer,
                detail: format!("{object}{}: {}{watch}", last_word(said), hints.signing),
            },
        }
    }

    fn watch(watched: &Watched) -> String {
        let mut text = String::new();
        if let WatchState::Broken { since } = watched.state() {
            _ = write!(text, "; the watch is broken since {:?}", since.elapsed());
        }
        if let Some(trouble) = watched.trouble() {
            _ = write!(text, "; its last error: {}", trouble.as_str());
        }
        text
    }
}

fn last_word(last: Option<String>) -> String {
    last.map_or_else(String::new, |last| format!(", last said: {last}"))
}
