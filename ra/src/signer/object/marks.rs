//! What every object of ours says about itself: whose it is, for whom, and when it must be gone.
//!
//! The label selects our shared watch and holds the installation's name, a DNS label. Everything else is an annotation:
//! identities do not fit into a label's value. Policies and people may read the annotations; we ourselves believe of
//! an object only what the server stamped on it, and of these marks the end, for objects that the server says are ours.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use k8s_openapi::jiff::{Timestamp, fmt::strtime};
use kube::ResourceExt as _;

use super::ask::Ask;
use super::kind::RequestKind;
use crate::signer::Issuance;

/// When an object must be gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// At this time.
    At(SystemTime),
    /// Never: a person wants to look at it.
    Never,
}

/// A text that says no end.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct NoEnd;

/// The labels of an object.
pub(crate) fn labels(installation: &str) -> BTreeMap<String, String> {
    BTreeMap::from([(INSTALLATION.to_owned(), installation.to_owned())])
}

/// Selects the objects of an installation.
pub(crate) fn selector(installation: &str) -> String {
    format!("{INSTALLATION}={installation}")
}

/// The annotations of an object.
pub(crate) fn annotations(ask: &Ask, end: End) -> BTreeMap<String, String> {
    let mut annotations = ask.marks.clone();
    annotations.insert(EXPIRES_AT.to_owned(), end.to_string());
    annotations
}

/// What is said of a server.
pub(crate) fn of_server(record: &str, request_id: &str) -> BTreeMap<String, String> {
    let known = [(IDENTITY, record), (REQUEST_ID_ANNOTATION, request_id)];
    known
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

/// What is said of a workload, and of a node proxy that asks on its behalf: such a one knows no pod of the workload, and
/// its own is not passed off as that.
pub(crate) fn of_workload(issuance: &Issuance) -> BTreeMap<String, String> {
    let (id, asks) = (&issuance.id, &issuance.originator);
    let is_own = (id.namespace(), id.service_account()) == (&*asks.namespace, &*asks.service_account);
    let caller = (!is_own).then(|| format!("{}/{}", asks.namespace, asks.service_account));
    let (pod_name, pod_uid) = if is_own {
        (POD, POD_UID)
    } else {
        (CALLER_POD, CALLER_POD_UID)
    };
    let pod = asks.pod.as_ref();
    let known = [
        (IDENTITY, Some(id.as_str())),
        (NAMESPACE, Some(id.namespace())),
        (SERVICE_ACCOUNT, Some(id.service_account())),
        (CALLER, caller.as_deref()),
        (pod_name, pod.map(|pod| pod.name.as_str())),
        (pod_uid, pod.map(|pod| pod.uid.as_str())),
        // Of both: a node proxy asks for its own node.
        (NODE, asks.node.as_deref()),
        (CLUSTER, asks.cluster.as_deref()),
        (REQUEST_ID_ANNOTATION, Some(&*issuance.request_id)),
    ];
    known
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned())))
        .collect()
}

/// When an object of ours must be gone. One that does not say so, or says what cannot be read, ends some time after it
/// was made; one that has no such time either is as good as new.
pub(crate) fn end_of<K: RequestKind>(object: &K) -> End {
    let said = object.annotations().get(EXPIRES_AT).and_then(|text| text.parse().ok());
    let made = object.meta().creation_timestamp.as_ref();
    said.or_else(|| Some(End::At(SystemTime::from(made?.0) + UNMARKED_LIFE)))
        .unwrap_or(End::Never)
}

// === impl End ===

impl End {
    /// Whether an object with this end must be gone by now.
    pub(crate) fn is_past(self, now: SystemTime) -> bool {
        match self {
            Self::At(end) => end < now,
            Self::Never => false,
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::At(time) => Timestamp::try_from(*time)
                .and_then(|time| strtime::format("%Y-%m-%dT%H:%M:%SZ", time))
                .map_err(|_| fmt::Error)?,
            Self::Never => NEVER.to_owned(),
        };
        f.write_str(&text)
    }
}

impl FromStr for End {
    type Err = NoEnd;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == NEVER {
            return Ok(Self::Never);
        }
        let time: Timestamp = text.parse().map_err(|_| NoEnd)?;
        Ok(Self::At(SystemTime::from(time)))
    }
}

/// Label of every object: the installation that made it.
pub(crate) const INSTALLATION: &str = "ensign.mesh/installation";
/// When the object must be gone (RFC 3339, UTC), or `never`.
pub(crate) const EXPIRES_AT: &str = "ensign.mesh/expires-at";
/// What no annotation of the operator may begin with.
pub(crate) const PREFIX: &str = "ensign.mesh/";
const IDENTITY: &str = "ensign.mesh/identity";
const NAMESPACE: &str = "ensign.mesh/namespace";
const SERVICE_ACCOUNT: &str = "ensign.mesh/service-account";
const POD: &str = "ensign.mesh/pod";
const POD_UID: &str = "ensign.mesh/pod-uid";
const CALLER: &str = "ensign.mesh/caller";
const CALLER_POD: &str = "ensign.mesh/caller-pod";
const CALLER_POD_UID: &str = "ensign.mesh/caller-pod-uid";
const NODE: &str = "ensign.mesh/node";
const CLUSTER: &str = "ensign.mesh/cluster";
const REQUEST_ID_ANNOTATION: &str = "ensign.mesh/request-id";
const NEVER: &str = "never";
/// Longer than any request of ours waits.
const UNMARKED_LIFE: Duration = Duration::from_hours(1);

#[cfg(test)]
mod tests {
    use ensign_pki::{KeyType, PrivateKey, csr};
    use proptest::prelude::*;
    use test_case::test_case;
    use tokio::time::Instant;

    use super::*;
    use crate::signer::{IdempotencyKey, Originator, Pod};

    #[test_case("foo", "httpbin", &[
        ("pod", "p"), ("pod-uid", "1"),
    ]; "for itself")]
    #[test_case("istio-system", "ztunnel", &[
        ("caller", "istio-system/ztunnel"), ("caller-pod", "p"), ("caller-pod-uid", "1"),
    ]; "by a node proxy")]
    fn an_object_names_the_workload_and_who_else_asked(namespace: &str, account: &str, differs: &[(&str, &str)]) {
        let id = "spiffe://cluster.local/ns/foo/sa/httpbin".parse().unwrap();
        let key = PrivateKey::generate(KeyType::P256).unwrap();
        let ttl = Duration::from_hours(1);
        let issuance = Issuance {
            csr: std::sync::Arc::new(csr::build(&key, &id).unwrap()),
            idempotency_key: IdempotencyKey::derive(None, &id, &"foo".parse().unwrap(), b"key", ttl),
            id,
            ttl,
            originator: Originator {
                namespace: namespace.to_owned(),
                service_account: account.to_owned(),
                pod: Some(Pod {
                    name: "p".to_owned(),
                    uid: "1".to_owned(),
                }),
                node: Some("n".to_owned()),
                cluster: None,
            },
            request_id: "r".into(),
            deadline: Instant::now(),
        };
        let same = [
            ("identity", "spiffe://cluster.local/ns/foo/sa/httpbin"),
            ("namespace", "foo"),
            ("service-account", "httpbin"),
            ("node", "n"),
            ("request-id", "r"),
        ];
        let expected = same.iter().chain(differs);
        let expected = expected.map(|(name, value)| (format!("{PREFIX}{name}"), (*value).to_owned()));
        assert_eq!(of_workload(&issuance), expected.collect());
        let ask = Ask::from(&issuance);
        assert_eq!((&*ask.namespace, &*ask.service_account), ("foo", "httpbin"));
    }

    proptest! {
        #[test]
        fn an_end_reads_back_to_the_second(seconds in 0_u64..253_402_207_200) {
            let end = End::At(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
            prop_assert_eq!(end.to_string().parse(), Ok(end));
        }

        #[test]
        fn no_text_breaks_the_reading(text in ".*") {
            _ = text.parse::<End>();
        }
    }

    #[test]
    fn ends_in_words() {
        let end = End::At(SystemTime::UNIX_EPOCH + Duration::from_millis(1_767_268_800_999));
        assert_eq!(end.to_string(), "2026-01-01T12:00:00Z");
        assert_eq!(End::Never.to_string().parse(), Ok(End::Never));
        assert_eq!("soon".parse::<End>(), Err(NoEnd));
        assert!(!End::Never.is_past(SystemTime::UNIX_EPOCH + Duration::from_hours(1_000_000)));
    }
}
