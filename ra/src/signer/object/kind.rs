//! What the engine must be able to read from a request object, whichever API it belongs to.

use std::fmt::Debug;

use kube::Resource;
use serde::{Serialize, de::DeserializeOwned};

/// A kind of object that asks for a certificate. It is read with lean metadata ([`super::metadata`]).
pub(crate) trait RequestKind:
    Resource<DynamicType = ()> + Clone + Debug + Serialize + DeserializeOwned + Send + Sync + 'static
{
    /// Group and plural, as RBAC rules name them.
    const RBAC: (&'static str, &'static str);

    /// The user who created it, where somebody whom the server trusts stamped it.
    fn requester(&self) -> Option<&str>;

    /// `spec.request`: the CSR in PEM.
    fn request(&self) -> &[u8];

    /// How far it came.
    fn phase(&self) -> Phase<'_>;

    /// What the issuer says its CA is, in PEM, where the API has a place for that.
    fn ca(&self) -> Option<&[u8]> {
        None
    }
}

/// How far a request came. What was decided stays decided: each later phase is the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase<'a> {
    /// Nobody decided anything.
    Pending,
    /// It may be signed.
    Approved {
        /// What the signer says meanwhile.
        said: Option<Said<'a>>,
    },
    /// The certificate and what goes with it, in PEM.
    Issued(&'a [u8]),
    /// An approver said no.
    Denied(Said<'a>),
    /// The signer will not sign it.
    Refused(Said<'a>),
    /// The signer could not sign it.
    Failed(Said<'a>),
}

/// Reason and message of a condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Said<'a> {
    pub(crate) reason: &'a str,
    pub(crate) message: &'a str,
}

/// Tells one object from another of the same name.
pub(crate) fn uid<K: RequestKind>(object: &K) -> &str {
    object.meta().uid.as_deref().unwrap_or_default()
}

/// Which state of the object this is.
pub(crate) fn version<K: RequestKind>(object: &K) -> &str {
    object.meta().resource_version.as_deref().unwrap_or_default()
}

impl std::fmt::Display for Said<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.reason, self.message) {
            ("", "") => f.write_str("without a reason"),
            (reason, "") => f.write_str(reason),
            ("", message) => f.write_str(message),
            (reason, message) => write!(f, "{reason}: {message}"),
        }
    }
}

/// For tables: the phase as a word, and what was said.
#[cfg(test)]
impl std::fmt::Display for Phase<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Pending => f.write_str("pending"),
            Self::Approved { said: None } => f.write_str("approved"),
            Self::Approved { said: Some(said) } => write!(f, "approved {said}"),
            Self::Issued(pem) => write!(f, "issued {}", String::from_utf8_lossy(pem)),
            Self::Denied(said) => write!(f, "denied {said}"),
            Self::Refused(said) => write!(f, "refused {said}"),
            Self::Failed(said) => write!(f, "failed {said}"),
        }
    }
}
