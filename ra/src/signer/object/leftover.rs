//! Which of the objects that the watch shows should not be there any more.
//!
//! Only what the server says is ours, and only past the end that it says itself (or some time after it was made, if it
//! says none). What a person has marked to be kept stays.

use std::fmt::Debug;
use std::time::SystemTime;

use futures::future::BoxFuture;
use kube::ResourceExt as _;

use super::kind::{self, RequestKind};
use super::marks;
use super::metrics::Removal;

/// An object of ours that is past its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Leftover {
    /// Its name.
    pub(crate) name: String,
    /// Tells it from a later one of that name.
    pub(crate) uid: String,
}

/// What a janitor needs of one kind in one place.
pub(crate) trait Leftovers: Debug + Send + Sync {
    /// Where they are, for the log.
    fn place(&self) -> String;

    /// Those of our objects that are past their end.
    fn past_end(&self, now: SystemTime) -> Vec<Leftover>;

    /// Deletes one, with a few attempts.
    fn sweep<'a>(&'a self, leftover: &'a Leftover) -> BoxFuture<'a, Removal>;
}

/// The object, if it should be gone.
pub(super) fn judge<K: RequestKind>(object: &K, username: &str, now: SystemTime) -> Option<Leftover> {
    let ours = !username.is_empty() && object.requester() == Some(username);
    let going = object.meta().deletion_timestamp.is_some();
    (ours && !going && marks::end_of(object).is_past(now)).then(|| Leftover {
        name: object.name_any(),
        uid: kind::uid(object).to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use k8s_openapi::api::certificates::v1::CertificateSigningRequestSpec;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use k8s_openapi::jiff::Timestamp;
    use kube::api::ObjectMeta;
    use test_case::test_case;

    use super::*;
    use crate::signer::kubernetes_csr::CertificateSigningRequest;

    const OURS: &str = "system:serviceaccount:istio-system:ensign-ra";

    fn object(username: &str, expires_at: Option<&str>, made: Option<&str>) -> CertificateSigningRequest {
        let end = |end: &str| BTreeMap::from([(marks::EXPIRES_AT.to_owned(), end.to_owned())]);
        let metadata = ObjectMeta {
            name: Some("x".to_owned()),
            uid: Some("u".to_owned()),
            annotations: expires_at.map(end),
            creation_timestamp: made.map(|made| Time(made.parse().unwrap())),
            ..ObjectMeta::default()
        };
        let spec = CertificateSigningRequestSpec {
            username: Some(username.to_owned()),
            ..CertificateSigningRequestSpec::default()
        };
        CertificateSigningRequest::new(metadata, spec)
    }

    #[test_case(OURS, Some("2026-01-01T11:59:59Z"), None, true; "past its end")]
    #[test_case(OURS, Some("2026-01-01T12:00:01Z"), None, false; "before its end")]
    #[test_case(OURS, Some("never"), Some("2020-01-01T00:00:00Z"), false; "kept")]
    #[test_case(OURS, None, Some("2026-01-01T10:59:59Z"), true; "no end, made long ago")]
    #[test_case(OURS, None, Some("2026-01-01T11:30:00Z"), false; "no end, made a while ago")]
    #[test_case(OURS, Some("tomorrow"), Some("2026-01-01T10:00:00Z"), true; "an end that is none, made long ago")]
    #[test_case(OURS, None, None, false; "neither end nor begin")]
    #[test_case("somebody", Some("2026-01-01T11:59:59Z"), None, false; "somebody else's")]
    #[test_case("", Some("2026-01-01T11:59:59Z"), None, false; "nobody's")]
    fn what_should_be_gone(username: &str, expires_at: Option<&str>, made: Option<&str>, gone: bool) {
        let now: Timestamp = "2026-01-01T12:00:00Z".parse().unwrap();
        let seen = judge(&object(username, expires_at, made), OURS, now.into());
        assert_eq!(seen.is_some(), gone);
    }

    #[test]
    fn nothing_is_ours_while_we_do_not_know_who_we_are() {
        let now: Timestamp = "2026-01-01T12:00:00Z".parse().unwrap();
        assert_eq!(
            judge(&object("", Some("2026-01-01T11:59:59Z"), None), "", now.into()),
            None
        );
    }

    #[test]
    fn what_is_being_deleted_already_is_left_to_that() {
        let now: Timestamp = "2026-01-01T12:00:00Z".parse().unwrap();
        let mut going = object(OURS, Some("2026-01-01T11:00:00Z"), None);
        going.metadata.deletion_timestamp = Some(Time(now - Duration::from_secs(1)));
        assert_eq!(judge(&going, OURS, now.into()), None);
    }
}
