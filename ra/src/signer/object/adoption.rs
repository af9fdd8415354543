//! Whether an object that has our name may be gone on with.
//!
//! An object may have our name because a request like this one made it: ours, before a retry, at this or another replica.
//! Or because somebody wants us to take his answer for ours. So it is adopted only if the server says that our own user
//! made it, and it asks the same signer for the same, for the same key and identity. Bytes of the CSR may differ: a
//! client that signs again for its retry makes others, and of a CSR only key and identity ever count (I6).

use std::time::{Duration, SystemTime};

use ensign_pki::Csr;
use thiserror::Error;

use super::kind::RequestKind;
use super::marks::{self, End};

/// Why an object is left alone and its name is not ours to use.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum Taken {
    /// Nobody stamped who made it.
    #[error("its spec.username is empty, so nothing says that it is ours; cert-manager's webhook stamps it")]
    Unstamped,
    /// Somebody else made it.
    #[error("it was made by {seen:?}, and we are {ours:?}")]
    Foreign {
        /// Who made it.
        seen: String,
        /// Who we are.
        ours: String,
    },
    /// It asks for something else.
    #[error("its {0} is another")]
    Other(&'static str),
    /// It has a finalizer of somebody's and waits for its end.
    #[error("it is being deleted")]
    BeingDeleted,
    /// It is kept for people to look at, and too old for its answer to be the one to this request.
    #[error("it is kept, and older than any retry of its own request")]
    Kept,
    /// The watch does not show it: it lacks our label, or the watch is behind.
    #[error("the watch of our objects does not show it: it has not the label of this installation")]
    Unseen,
}

/// What to do with an object that has our name.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Go on with it.
    Adopt,
    /// It is ours and past its end: delete it, then take its name.
    Replace,
    /// Leave it and take another name.
    Leave(Taken),
}

/// Who asks, and when.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asker<'a> {
    /// Our user.
    pub(crate) username: &'a str,
    /// The wall clock.
    pub(crate) now: SystemTime,
    /// How long a retry may come back for an answer.
    pub(crate) life: Duration,
}

/// Judges `found`, an object of the same name as `draft`. `other` names what the dialect finds different.
pub(crate) fn judge<K: RequestKind>(draft: &K, found: &K, asker: Asker<'_>, other: Option<&'static str>) -> Verdict {
    match found.requester().unwrap_or_default() {
        "" => return Verdict::Leave(Taken::Unstamped),
        seen if seen == asker.username => {}
        seen => {
            return Verdict::Leave(Taken::Foreign {
                seen: seen.to_owned(),
                ours: asker.username.to_owned(),
            });
        }
    }
    if found.meta().deletion_timestamp.is_some() {
        return Verdict::Leave(Taken::BeingDeleted);
    }
    let end = marks::end_of(found);
    if end.is_past(asker.now) {
        return Verdict::Replace;
    }
    if let Some(other) = other {
        return Verdict::Leave(Taken::Other(other));
    }
    if !same_request(draft.request(), found.request()) {
        return Verdict::Leave(Taken::Other("key or identity in spec.request"));
    }
    if end == End::Never && is_older(found, asker.life, asker.now) {
        return Verdict::Leave(Taken::Kept);
    }
    Verdict::Adopt
}

fn same_request(ours: &[u8], found: &[u8]) -> bool {
    if ours == found {
        return true;
    }
    let parse = |pem| Csr::parse_pem(std::str::from_utf8(pem).ok()?).ok();
    match (parse(ours), parse(found)) {
        (Some(ours), Some(found)) => ours.spki_der() == found.spki_der() && ours.spiffe_id() == found.spiffe_id(),
        _ => false,
    }
}

fn is_older<K: RequestKind>(object: &K, life: Duration, now: SystemTime) -> bool {
    let made = object.meta().creation_timestamp.as_ref();
    made.is_none_or(|made| now.duration_since(SystemTime::from(made.0)).is_ok_and(|age| age > life))
}
