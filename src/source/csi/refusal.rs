//! Why kubelet gets an error instead of a volume.
//!
//! Each text names what was seen and what to do about it: kubelet shows it in `kubectl describe pod`, mostly to somebody
//! who does not know us. Texts quote attributes, cut short, and never a token. Codes are chosen by what kubelet does with
//! them: after `ABORTED` and `UNAVAILABLE` it keeps the target folder, after all others it removes it; it tries again after each.

use std::path::PathBuf;

use tonic::{Code, Status};

/// Why a volume is not published, or not cleared away.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    /// An attribute means nothing here.
    #[error(
        "volume attribute {name:?} is unknown, expected only signer, keyType and socketName; correct volumeAttributes in the pod"
    )]
    UnknownAttribute {
        /// Its name, cut short.
        name: String,
    },
    /// The call lacks what CSI requires.
    #[error(
        "the call has no {field}, which CSI requires and kubelet always sends; see what else calls this driver's socket"
    )]
    Missing {
        /// The field.
        field: &'static str,
    },
    /// An attribute has a wrong value.
    #[error("volume attribute {name} is {seen:?}, expected {expected}; correct volumeAttributes in the pod")]
    Attribute {
        /// Its name.
        name: &'static str,
        /// Its value, cut short.
        seen: String,
        /// What would be right.
        expected: String,
    },
    /// A persistent volume.
    #[error(
        "the volume is not ephemeral, but an identity ends with its pod; mount it as an inline `csi:` volume of the pod, not through a claim"
    )]
    NotEphemeral,
    /// A block device.
    #[error(
        "the volume is asked for as a block device, but it is a folder with a socket; list it in volumeMounts, not in volumeDevices"
    )]
    Block,
    /// Containers could replace the socket.
    #[error(
        "the volume is not read-only, so that a container could replace its socket; set `readOnly: true` in the pod's `csi:` volume"
    )]
    NotReadOnly,
    /// The CSIDriver object is not ours.
    #[error(
        "kubelet did not send {missing}; the CSIDriver object {driver} must set `{setting}`: install it from our manifests"
    )]
    Driver {
        /// What is not there.
        missing: &'static str,
        /// The driver's name.
        driver: &'static str,
        /// What brings it.
        setting: String,
    },
    /// What kubelet says of the pod is not what such a thing looks like.
    #[error(
        "{what} of the pod is {seen:?}, expected {expected}; if kubelet or the API server made it so, report this with their versions"
    )]
    Pod {
        /// What.
        what: &'static str,
        /// As sent, cut short.
        seen: String,
        /// What would be right.
        expected: String,
    },
    /// Tokens cannot be read. What they look like is not said.
    #[error(
        "the service account tokens that kubelet sent are not the JSON object that Kubernetes documents, expected {{\"AUDIENCE\":{{\"token\":…,\"expirationTimestamp\":…}}}}; report this with kubelet's version"
    )]
    Tokens,
    /// One pod, many volumes.
    #[error(
        "the pod has more than {most} volumes of this driver; one is enough for all its containers, mount that one where it is needed"
    )]
    TooMany {
        /// The bound.
        most: usize,
    },
    /// Not a place of kubelet's.
    #[error("target path {path:?} is not {expected}; start the agent with --kubelet-dir set to kubelet's --root-dir")]
    Target {
        /// As sent, cut short.
        path: String,
        /// The form of such a path.
        expected: String,
    },
    /// Something on the path is not what kubelet makes.
    #[error(
        "folder {path} cannot be used: {source}; on the way to it there may be no symlink and no other mount, look at it on the node"
    )]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Something of somebody else lies in the folder.
    #[error("folder {path} holds {name:?}, which is no socket of ours and is left as it is; remove it on the node")]
    Foreign {
        /// The folder.
        path: PathBuf,
        /// What is there.
        name: String,
    },
    /// The socket could not be bound.
    #[error("the pod's socket could not be made: {reason}; the log of the agent on this node tells more")]
    Socket {
        /// As its owner said.
        reason: String,
    },
    /// The folder is there already, so kubelet must not remove it.
    #[error("{0} (the volume was published before, its folder stays as it is)")]
    Kept(#[source] Box<Self>),
    /// Another call about the same volume is under way.
    #[error("another call for this volume is under way; kubelet asks again")]
    Pending,
    /// The agent stops.
    #[error("the agent is stopping; kubelet asks its successor")]
    Stopping,
}

impl Refusal {
    /// Kubelet brought no token of the wanted audience.
    pub(super) fn no_token(audience: &str) -> Self {
        Self::Driver {
            missing: "a token of our audience",
            driver: super::DRIVER,
            setting: format!("tokenRequests: [{{audience: {audience}}}]"),
        }
    }

    /// The same, after which kubelet leaves the target folder alone.
    pub(super) fn keeping_the_folder(self) -> Self {
        match self.code() {
            Code::Aborted | Code::Unavailable => self,
            _ => Self::Kept(Box::new(self)),
        }
    }

    /// One word, for metrics and logs.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::UnknownAttribute { .. } => "unknown_attribute",
            Self::Missing { .. } => "missing_field",
            Self::Attribute { .. } => "attribute",
            Self::NotEphemeral => "not_ephemeral",
            Self::Block => "block",
            Self::NotReadOnly => "not_read_only",
            Self::Driver { .. } => "csidriver",
            Self::Pod { .. } => "pod",
            Self::Tokens => "tokens",
            Self::TooMany { .. } => "too_many_volumes",
            Self::Target { .. } => "target",
            Self::Folder { .. } => "folder",
            Self::Foreign { .. } => "foreign",
            Self::Socket { .. } => "socket",
            Self::Kept(refusal) => refusal.reason(),
            Self::Pending => "pending",
            Self::Stopping => "stopping",
        }
    }

    fn code(&self) -> Code {
        match self {
            Self::UnknownAttribute { .. }
            | Self::Missing { .. }
            | Self::Attribute { .. }
            | Self::NotEphemeral
            | Self::Block
            | Self::NotReadOnly
            | Self::Pod { .. }
            | Self::Tokens
            | Self::TooMany { .. }
            | Self::Target { .. } => Code::InvalidArgument,
            Self::Driver { .. } | Self::Foreign { .. } => Code::FailedPrecondition,
            Self::Folder { .. } => Code::Internal,
            Self::Pending => Code::Aborted,
            Self::Socket { .. } | Self::Kept(_) | Self::Stopping => Code::Unavailable,
        }
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        Self::new(refusal.code(), refusal.to_string())
    }
}

/// Somebody else's text, short enough for an error and without what looks like a secret.
pub(super) fn quoted(text: &str) -> String {
    ensign_daemon::redact::random_words(text)
        .chars()
        .take(LONGEST_QUOTE)
        .collect()
}

const LONGEST_QUOTE: usize = 120;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::io;

    use super::*;

    /// One of each.
    fn all() -> Vec<Refusal> {
        let text = || "seen".to_owned();
        vec![
            Refusal::UnknownAttribute { name: text() },
            Refusal::Missing { field: "volume_id" },
            Refusal::Attribute {
                name: "signer",
                seen: text(),
                expected: text(),
            },
            Refusal::NotEphemeral,
            Refusal::Block,
            Refusal::NotReadOnly,
            Refusal::no_token("istio-ca"),
            Refusal::Pod {
                what: "uid",
                seen: text(),
                expected: text(),
            },
            Refusal::Tokens,
            Refusal::TooMany { most: 4 },
            Refusal::Target {
                path: text(),
                expected: text(),
            },
            Refusal::Folder {
                path: PathBuf::from("/x"),
                source: io::Error::from(io::ErrorKind::NotFound),
            },
            Refusal::Foreign {
                path: PathBuf::from("/x"),
                name: text(),
            },
            Refusal::Socket { reason: text() },
            Refusal::Pending,
            Refusal::Stopping,
        ]
    }

    #[test]
    fn each_says_what_is_wrong_and_then_what_to_do() {
        // `explain` shows both apart: the first `; ` ends the cause.
        for refusal in all() {
            let text = refusal.to_string();
            let (cause, fix) = text.split_once("; ").unwrap_or_else(|| panic!("no fix: {text}"));
            assert!(cause.len() > 20 && fix.len() > 15, "{text}");
        }
        let reasons: BTreeSet<_> = all().iter().map(Refusal::reason).collect();
        assert_eq!(reasons.len(), all().len(), "one of each");
    }
}
