//! What a service account token says, and what must hold of it once its signature does.
//!
//! Times are judged by the clock that is handed in, with a leeway; issuer and audience are exact. The `sub` names the
//! account, and the Kubernetes claims must tell the same story: a token whose parts disagree is refused, not read in
//! the way that suits best. Tokens without Kubernetes claims (the ones of old) are refused, and so are those whose life
//! hangs on a Secret or a Node, which nobody here looks after.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ensign_pki::dns_name::{is_label, is_subdomain};
use serde::Deserialize;
use thiserror::Error;

use super::caller::{Bound, NodeRef};
use super::subject::Subject;

/// What the operator expects of each token, whoever issued it.
#[derive(Debug, Clone)]
pub struct Expectations {
    /// A token is for us if its audience holds one of these.
    pub audiences: Vec<String>,
    /// How far clocks may be apart.
    pub leeway: Duration,
}

/// Why the claims of a token with a good signature are refused.
#[derive(Debug, Error)]
pub enum ClaimsError {
    /// No JSON object of the expected form.
    #[error("its claims cannot be read ({0}); expected a Kubernetes service account token")]
    Form(String),
    /// Issued by somebody else.
    #[error("its issuer is {seen:?}, expected {expected:?}")]
    Issuer {
        /// Its `iss`.
        seen: String,
        /// The issuer of the cluster.
        expected: String,
    },
    /// Meant for somebody else.
    #[error("its audience is {0:?}, expected one of --token-audiences")]
    Audience(Vec<String>),
    /// Past its time.
    #[error("it expired {0} s ago; the client must read its token again")]
    Expired(u64),
    /// Before its time.
    #[error("it is valid only in {0} s; are the clocks apart?")]
    NotYetValid(u64),
    /// Of somebody who is no service account.
    #[error("its subject {0:?} is no service account, expected system:serviceaccount:NAMESPACE:NAME")]
    Subject(String),
    /// The parts tell different stories.
    #[error("its {claim} {seen:?} disagrees with its subject, which says {expected:?}")]
    Disagrees {
        /// The claim.
        claim: &'static str,
        /// What it says.
        seen: String,
        /// What the subject says.
        expected: String,
    },
    /// It lives as long as an object that nobody here looks after.
    #[error("it is bound to a {0} and to no pod, expected a pod's token or one that is bound to nothing")]
    Binding(&'static str),
    /// A name that Kubernetes would not have given.
    #[error("its {claim} {seen:?} is no Kubernetes name")]
    Name {
        /// The claim.
        claim: &'static str,
        /// What it says.
        seen: String,
    },
}

#[derive(Debug, Deserialize)]
struct Claims {
    iss: String,
    sub: String,
    aud: Audience,
    exp: i64,
    #[serde(default)]
    nbf: Option<i64>,
    #[serde(default)]
    jti: Option<String>,
    #[serde(rename = "kubernetes.io")]
    kubernetes: Kubernetes,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
}

#[derive(Debug, Deserialize)]
struct Kubernetes {
    namespace: String,
    serviceaccount: Reference,
    #[serde(default)]
    pod: Option<Reference>,
    #[serde(default)]
    node: Option<Reference>,
    #[serde(default)]
    secret: Option<serde::de::IgnoredAny>,
}

#[derive(Debug, Deserialize)]
struct Reference {
    name: String,
    #[serde(default)]
    uid: String,
}

/// Reads the claims of a token whose signature was verified with a key of `issuer`.
pub(super) fn check(
    payload: &[u8],
    issuer: &str,
    expected: &Expectations,
    now: SystemTime,
) -> Result<Subject, ClaimsError> {
    let claims: Claims =
        super::strict_json::parse(payload).map_err(|error| ClaimsError::Form(bounded(&error.to_string())))?;
    if claims.iss != issuer {
        return Err(ClaimsError::Issuer {
            seen: bounded(&claims.iss),
            expected: bounded(issuer),
        });
    }
    let audience = match claims.aud {
        Audience::One(one) => vec![one],
        Audience::Many(many) => many,
    };
    if !audience.iter().any(|one| expected.audiences.contains(one)) {
        let shown = audience.iter().take(8).map(|one| bounded(one)).collect();
        return Err(ClaimsError::Audience(shown));
    }
    check_times(claims.exp, claims.nbf, expected.leeway, now)?;
    subject(&claims.sub, claims.kubernetes, claims.jti)
}

fn check_times(exp: i64, nbf: Option<i64>, leeway: Duration, now: SystemTime) -> Result<(), ClaimsError> {
    // Seconds as i128: no sum of a hostile claim and the leeway can wrap.
    let now = i128::from(now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()));
    let leeway = i128::from(leeway.as_secs());
    let late = now - i128::from(exp);
    if late >= leeway {
        return Err(ClaimsError::Expired(u64::try_from(late).unwrap_or(u64::MAX)));
    }
    let early = i128::from(nbf.unwrap_or(i64::MIN)) - now;
    if early > leeway {
        return Err(ClaimsError::NotYetValid(u64::try_from(early).unwrap_or(u64::MAX)));
    }
    Ok(())
}

fn subject(sub: &str, kubernetes: Kubernetes, token_id: Option<String>) -> Result<Subject, ClaimsError> {
    let parts: Vec<&str> = sub.split(':').collect();
    let ["system", "serviceaccount", namespace, account] = parts[..] else {
        return Err(ClaimsError::Subject(bounded(sub)));
    };
    agree("kubernetes.io.namespace", &kubernetes.namespace, namespace)?;
    agree(
        "kubernetes.io.serviceaccount.name",
        &kubernetes.serviceaccount.name,
        account,
    )?;
    name("subject", namespace, is_label)?;
    name("subject", account, is_subdomain)?;
    match (&kubernetes.pod, &kubernetes.node, &kubernetes.secret) {
        (_, _, Some(_)) => return Err(ClaimsError::Binding("Secret")),
        (None, Some(_), None) => return Err(ClaimsError::Binding("Node")),
        (None, None, None) | (Some(_), _, None) => {}
    }
    let pod = match kubernetes.pod {
        Some(pod) => {
            name("kubernetes.io.pod.name", &pod.name, is_subdomain)?;
            name("kubernetes.io.pod.uid", &pod.uid, is_subdomain)?;
            Some(Bound {
                name: pod.name,
                uid: pod.uid,
            })
        }
        None => None,
    };
    let node = match kubernetes.node {
        Some(node) => {
            name("kubernetes.io.node.name", &node.name, is_subdomain)?;
            let uid = Some(node.uid).filter(|uid| is_subdomain(uid));
            Some(NodeRef { name: node.name, uid })
        }
        None => None,
    };
    Ok(Subject {
        namespace: namespace.to_owned(),
        service_account: account.to_owned(),
        account_uid: Some(kubernetes.serviceaccount.uid).filter(|uid| !uid.is_empty()),
        pod,
        node,
        token_id: token_id.map(|id| bounded(&id)),
    })
}

fn agree(claim: &'static str, seen: &str, expected: &str) -> Result<(), ClaimsError> {
    if seen == expected {
        return Ok(());
    }
    Err(ClaimsError::Disagrees {
        claim,
        seen: bounded(seen),
        expected: bounded(expected),
    })
}

fn name(claim: &'static str, text: &str, valid: fn(&str) -> bool) -> Result<(), ClaimsError> {
    if valid(text) {
        Ok(())
    } else {
        Err(ClaimsError::Name {
            claim,
            seen: bounded(text),
        })
    }
}

/// Claims are signed by the cluster, yet partly chosen by whoever asked for the token: bounded before they are logged.
fn bounded(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(120).collect()
}

// === impl ClaimsError ===

impl ClaimsError {
    /// The word for metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Form(_) => "token_claims",
            Self::Issuer { .. } => "token_issuer",
            Self::Audience(_) => "token_audience",
            Self::Expired(_) => "token_expired",
            Self::NotYetValid(_) => "token_not_yet_valid",
            Self::Subject(_) => "token_subject",
            Self::Disagrees { .. } => "token_disagrees",
            Self::Binding(_) => "token_binding",
            Self::Name { .. } => "token_name",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};
    use test_case::test_case;

    const NOW: u64 = 1_800_000_000;

    fn claims() -> Value {
        json!({
            "iss": "https://kubernetes.default.svc",
            "sub": "system:serviceaccount:foo:httpbin",
            "aud": ["istio-ca"],
            "exp": NOW + 3600, "nbf": NOW, "iat": NOW, "jti": "6a8f",
            "kubernetes.io": {
                "namespace": "foo",
                "serviceaccount": {"name": "httpbin", "uid": "1"},
                "pod": {"name": "httpbin-1", "uid": "2-3"},
                "node": {"name": "node-1.example", "uid": "4"},
            },
        })
    }

    fn verdict(claims: &Value) -> Result<Subject, &'static str> {
        let expected = Expectations {
            audiences: vec!["other".to_owned(), "istio-ca".to_owned()],
            leeway: Duration::from_secs(10),
        };
        let now = UNIX_EPOCH + Duration::from_secs(NOW);
        check(
            claims.to_string().as_bytes(),
            "https://kubernetes.default.svc",
            &expected,
            now,
        )
        .map_err(|error| error.reason())
    }

    #[test]
    fn a_token_of_a_pod_names_account_pod_and_node() {
        let subject = verdict(&claims()).unwrap();
        assert_eq!((&*subject.namespace, &*subject.service_account), ("foo", "httpbin"));
        let pod = subject.pod.unwrap();
        assert_eq!((&*pod.name, &*pod.uid), ("httpbin-1", "2-3"));
        let node = subject.node.unwrap();
        assert_eq!((&*node.name, node.uid.as_deref()), ("node-1.example", Some("4")));
        assert_eq!(subject.account_uid.as_deref(), Some("1"));
        assert_eq!(subject.token_id.as_deref(), Some("6a8f"));
    }

    #[test_case("/iss", json!("https://elsewhere"), "token_issuer"; "another issuer")]
    #[test_case("/iss", json!("https://kubernetes.default.svc/"), "token_issuer"; "nearly the issuer")]
    #[test_case("/aud", json!(["vault"]), "token_audience"; "another audience")]
    #[test_case("/aud", json!([]), "token_audience"; "no audience")]
    #[test_case("/aud", json!("istio-ca-2"), "token_audience"; "a longer audience")]
    #[test_case("/exp", json!(NOW - 10), "token_expired"; "expired at the end of the leeway")]
    #[test_case("/exp", json!(i64::MIN), "token_expired"; "expired for ever")]
    #[test_case("/nbf", json!(NOW + 11), "token_not_yet_valid"; "not yet valid")]
    #[test_case("/nbf", json!(i64::MAX), "token_not_yet_valid"; "never valid")]
    #[test_case("/exp", json!("tomorrow"), "token_claims"; "an expiry that is no number")]
    #[test_case("/exp", json!(1.5e9), "token_claims"; "an expiry that is no integer")]
    #[test_case("/sub", json!("system:node:node-1"), "token_subject"; "a node")]
    #[test_case("/sub", json!("system:serviceaccount:foo"), "token_subject"; "three parts")]
    #[test_case("/sub", json!("system:serviceaccount:foo:httpbin:x"), "token_subject"; "five parts")]
    #[test_case("/sub", json!("system:serviceaccounts:foo:httpbin"), "token_subject"; "another prefix")]
    #[test_case("/sub", json!("system:serviceaccount:bar:httpbin"), "token_disagrees"; "a subject of another namespace")]
    #[test_case("/kubernetes.io/namespace", json!("bar"), "token_disagrees"; "another namespace")]
    #[test_case("/kubernetes.io/serviceaccount/name", json!("sleep"), "token_disagrees"; "another account")]
    #[test_case("/kubernetes.io/pod/name", json!(""), "token_name"; "a pod without name")]
    #[test_case("/kubernetes.io/pod/uid", json!(""), "token_name"; "a pod without uid")]
    #[test_case("/kubernetes.io/node/name", json!("a b"), "token_name"; "a node that is no name")]
    #[test_case("/kubernetes.io/pod", json!(null), "token_binding"; "a token that is bound to a node")]
    #[test_case("/kubernetes.io/secret", json!({"name": "x", "uid": "5"}), "token_binding"; "a token that is bound to a Secret")]
    #[test_case("/kubernetes.io", json!(null), "token_claims"; "no Kubernetes claims")]
    fn what_does_not_hold_is_refused(pointer: &str, value: Value, reason: &str) {
        let mut claims = claims();
        let (parent, member) = pointer.rsplit_once('/').unwrap();
        claims.pointer_mut(parent).unwrap()[member] = value;
        assert_eq!(verdict(&claims).unwrap_err(), reason);
    }

    #[test]
    fn a_token_that_is_bound_to_nothing_is_its_accounts() {
        let mut claims = claims();
        let kubernetes = claims["kubernetes.io"].as_object_mut().unwrap();
        kubernetes.remove("pod");
        kubernetes.remove("node");
        let subject = verdict(&claims).unwrap();
        assert_eq!((subject.pod, subject.node), (None, None));
    }

    #[test_case("/aud", json!("istio-ca"); "one audience as text")]
    #[test_case("/aud", json!(["vault", "istio-ca"]); "ours among others")]
    #[test_case("/exp", json!(NOW - 9); "expired within the leeway")]
    #[test_case("/nbf", json!(NOW + 10); "early within the leeway")]
    #[test_case("/kubernetes.io/node", json!(null); "a token of an older API server, which names no node")]
    fn what_holds_is_accepted(pointer: &str, value: Value) {
        let mut claims = claims();
        *claims.pointer_mut(pointer).unwrap() = value;
        verdict(&claims).unwrap();
    }

    #[test_case("sub"; "subject")]
    #[test_case("exp"; "expiry")]
    #[test_case("iss"; "issuer")]
    #[test_case("aud"; "audience")]
    #[test_case("kubernetes.io"; "Kubernetes claims")]
    fn what_is_needed_cannot_be_left_out(member: &str) {
        let mut claims = claims();
        claims.as_object_mut().unwrap().remove(member);
        assert_eq!(verdict(&claims).unwrap_err(), "token_claims");
    }
}
