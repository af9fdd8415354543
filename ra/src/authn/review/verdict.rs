//! What the API server's review of a token means.
//!
//! The answer is read by the fields that count and passes one check after the other, in istiod's order: an error, not
//! authenticated, no service account, a user name of another form; then what istiod leaves out: an audience that is ours.
//! Without that check a server that knows no audiences would have every token of the cluster pass.
//!
//! An error is either about the token or about the server: its etcd, a webhook or an identity provider that it asks did
//! not answer. Only the server's own sentences about tokens count as the former ([`ABOUT_TOKENS`]); whatever else it says
//! leaves open what the token is worth.

use ensign_pki::dns_name::{is_label, is_subdomain};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::authn::caller::{Bound, NodeRef};
use crate::authn::subject::Subject;
use crate::kubernetes::ApiError;

/// `authentication.k8s.io/v1` TokenReview as it is sent.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Question<'a> {
    api_version: &'static str,
    kind: &'static str,
    spec: Spec<'a>,
}

#[derive(Serialize)]
struct Spec<'a> {
    token: &'a str,
    audiences: &'a [String],
}

/// The same as it comes back. The server repeats the token in it, so it is parsed here and shown nowhere.
#[derive(Deserialize)]
pub(super) struct Answer {
    #[serde(default)]
    status: Status,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Status {
    authenticated: bool,
    error: Option<String>,
    audiences: Option<Vec<String>>,
    user: Option<User>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct User {
    username: Option<String>,
    uid: Option<String>,
    groups: Option<Vec<String>>,
    extra: Option<std::collections::BTreeMap<String, Vec<String>>>,
}

/// Why a reviewed token does not let its bearer in.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ReviewError {
    /// The server says why it is none.
    #[error("the API server's review of it says: {0}")]
    Said(String),
    /// The server says why it could not judge it: nothing is known of the token.
    #[error("the API server could not review it: {0}")]
    Failed(String),
    /// It is none.
    #[error("the API server does not authenticate it")]
    NotAuthenticated,
    /// A user, a node or a bootstrap token.
    #[error("it is of {0:?}, which is no service account")]
    NotServiceAccount(String),
    /// A user name of another form.
    #[error("its user name {0:?} is not system:serviceaccount:NAMESPACE:NAME")]
    Username(String),
    /// Meant for somebody else.
    #[error("its audiences are {0:?}, expected one of --token-audiences")]
    Audience(Vec<String>),
    /// The server could not be asked: nothing is known of the token.
    #[error("it could not be reviewed: {0}")]
    Api(ApiError),
}

// === impl Question ===

impl<'a> Question<'a> {
    pub(super) fn new(token: &'a str, audiences: &'a [String]) -> Self {
        Self {
            api_version: "authentication.k8s.io/v1",
            kind: "TokenReview",
            spec: Spec { token, audiences },
        }
    }
}

// === impl Answer ===

impl Answer {
    /// Whom the token speaks for, if it is meant for one of `audiences`.
    pub(super) fn verdict(self, audiences: &[String]) -> Result<Subject, ReviewError> {
        let Status {
            authenticated,
            error,
            audiences: granted,
            user,
        } = self.status;
        if let Some(error) = error.filter(|error| !error.is_empty()) {
            return Err(if is_about_the_token(&error) {
                ReviewError::Said(shown(&error))
            } else {
                ReviewError::Failed(shown(&error))
            });
        }
        if !authenticated {
            return Err(ReviewError::NotAuthenticated);
        }
        let user = user.unwrap_or_default();
        let username = user.username.as_deref().unwrap_or_default();
        if !user.groups.iter().flatten().any(|group| group == GROUP) {
            return Err(ReviewError::NotServiceAccount(shown(username)));
        }
        let parts: Vec<&str> = username.split(':').collect();
        let (namespace, account) = match parts[..] {
            ["system", "serviceaccount", namespace, account] if is_label(namespace) && is_subdomain(account) => {
                (namespace.to_owned(), account.to_owned())
            }
            _ => return Err(ReviewError::Username(shown(username))),
        };
        let granted = granted.unwrap_or_default();
        if !granted.iter().any(|one| audiences.contains(one)) {
            return Err(ReviewError::Audience(
                granted.iter().take(8).map(|one| shown(one)).collect(),
            ));
        }
        Ok(Subject {
            namespace,
            service_account: account,
            account_uid: user.uid.clone().filter(|uid| !uid.is_empty()),
            pod: user.extra(POD_NAME).zip(user.extra(POD_UID)).map(|(name, uid)| Bound {
                name: name.to_owned(),
                uid: uid.to_owned(),
            }),
            node: user.extra(NODE_NAME).map(|name| NodeRef {
                name: name.to_owned(),
                uid: user.extra(NODE_UID).map(str::to_owned),
            }),
            token_id: user
                .extra(CREDENTIAL_ID)
                .map(|id| shown(id.strip_prefix("JTI=").unwrap_or(id))),
        })
    }
}

// === impl User ===

impl User {
    /// The one value of an extra that is a name or a uid.
    fn extra(&self, name: &str) -> Option<&str> {
        match self.extra.as_ref()?.get(name)?.as_slice() {
            [one] if name == CREDENTIAL_ID || is_subdomain(one) => Some(one),
            _ => None,
        }
    }
}

// === impl ReviewError ===

impl ReviewError {
    /// The word for metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Said(_) => "token_review_error",
            Self::Failed(_) => "token_review_failed",
            Self::NotAuthenticated => "token_not_authenticated",
            Self::NotServiceAccount(_) => "token_not_service_account",
            Self::Username(_) => "token_username",
            Self::Audience(_) => "token_audience",
            Self::Api(error) => error.reason(),
        }
    }

    /// Whether it says something about the token, and not only about the server.
    pub(super) fn is_verdict(&self) -> bool {
        match self {
            Self::Said(_)
            | Self::NotAuthenticated
            | Self::NotServiceAccount(_)
            | Self::Username(_)
            | Self::Audience(_) => true,
            Self::Failed(_) | Self::Api(_) => false,
        }
    }
}

/// Whether an error of a review, or each of several in brackets, says something about the token.
fn is_about_the_token(error: &str) -> bool {
    let errors = error.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    errors.unwrap_or(error).split(", ").all(|error| {
        let error = error.to_lowercase();
        let is_missing = error.starts_with("serviceaccount") && error.ends_with("not found");
        is_missing || ABOUT_TOKENS.iter().any(|known| error.contains(known))
    })
}

/// What another program says is bounded before it is logged, and it does not get to repeat a token.
fn shown(text: &str) -> String {
    let text: String = text.chars().filter(|c| !c.is_control()).take(200).collect();
    ensign_daemon::redact::secrets(&text).into_owned()
}

/// What an API server says of a token, in lower case; several at once come as `[one, other]` (apimachinery's
/// `errors.NewAggregate`). From Kubernetes 1.14 to 1.35, in the order of the list: apiserver's
/// `authentication/request/bearertoken` and `request/websocket`; `pkg/serviceaccount/jwt.go` with go-jose; and
/// `pkg/serviceaccount/claims.go`, of which older ones say "Token" where newer ones say "service account token".
const ABOUT_TOKENS: [&str; 14] = [
    "invalid bearer token",
    "invalid signature",
    "no keys found",
    "go-jose",
    "is invalid for the target audiences",
    "token issuer",
    "token has expired",
    "token is not valid yet",
    "token has been invalidated",
    "token claims could not be validated",
    "token could not be validated",
    "has been deleted",
    "does not match claim",
    "does not match service account",
];
/// In which every service account is (Kubernetes, `serviceaccount.AllServiceAccountsGroup`).
const GROUP: &str = "system:serviceaccounts";
const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";
const NODE_NAME: &str = "authentication.kubernetes.io/node-name";
const NODE_UID: &str = "authentication.kubernetes.io/node-uid";
/// `JTI=` and the token's own name.
const CREDENTIAL_ID: &str = "authentication.kubernetes.io/credential-id";

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};
    use test_case::test_case;

    fn answer() -> Value {
        json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
            "spec": {"token": "secret", "audiences": ["istio-ca"]},
            "status": {
                "authenticated": true,
                "audiences": ["istio-ca"],
                "user": {
                    "username": "system:serviceaccount:default:example-pod-sa",
                    "uid": "ff578a9e",
                    "groups": ["system:serviceaccounts", "system:serviceaccounts:default", "system:authenticated"],
                    "extra": {
                        "authentication.kubernetes.io/pod-name": ["example-pod"],
                        "authentication.kubernetes.io/pod-uid": ["19adfa37-5b8a-4f15-afe1-bc1e16d3d6b1"],
                        "authentication.kubernetes.io/node-name": ["node-1"],
                        "authentication.kubernetes.io/node-uid": ["0d5a"],
                        "authentication.kubernetes.io/credential-id": ["JTI=7ee52be0-9045-4653-aa5e-0da57b8dccdc"],
                    },
                },
            },
        })
    }

    fn verdict(answer: &Value) -> Result<Subject, ReviewError> {
        let answer: Answer = serde_json::from_str(&answer.to_string()).unwrap();
        answer.verdict(&["vault".to_owned(), "istio-ca".to_owned()])
    }

    /// tokenreview/k8sauthn_test.go: success with pod extras.
    #[test]
    fn an_authenticated_token_names_account_pod_and_node() {
        let subject = verdict(&answer()).unwrap();
        assert_eq!(
            (&*subject.namespace, &*subject.service_account),
            ("default", "example-pod-sa")
        );
        let (pod, node) = (subject.pod.unwrap(), subject.node.unwrap());
        assert_eq!(
            (&*pod.name, &*pod.uid),
            ("example-pod", "19adfa37-5b8a-4f15-afe1-bc1e16d3d6b1")
        );
        assert_eq!((&*node.name, node.uid.as_deref()), ("node-1", Some("0d5a")));
        assert_eq!(
            subject.token_id.as_deref(),
            Some("7ee52be0-9045-4653-aa5e-0da57b8dccdc")
        );
    }

    /// tokenreview/k8sauthn_test.go: success without extras.
    #[test]
    fn a_token_without_extras_is_bound_to_nothing() {
        let mut answer = answer();
        answer["status"]["user"].as_object_mut().unwrap().remove("extra");
        let subject = verdict(&answer).unwrap();
        assert_eq!((subject.pod, subject.node, subject.token_id), (None, None, None));
    }

    #[test_case("/error", json!("something went wrong"), "token_review_failed"; "k8sauthn_test: status error")]
    #[test_case("/error", json!("invalid bearer token"), "token_review_error"; "nobody knows the token")]
    #[test_case("/error", json!("[invalid bearer token, service account token has expired]"), "token_review_error"; "several authenticators")]
    #[test_case("/error", json!("[invalid bearer token, Token has been invalidated]"), "token_review_error"; "of old")]
    #[test_case("/error", json!("invalid signature, no keys found"), "token_review_error"; "a comma of its own")]
    #[test_case("/error", json!("[invalid bearer token, square/go-jose: error in cryptographic primitive]"), "token_review_error"; "a wrong signature")]
    #[test_case("/error", json!("token audiences [\"a\" \"b\"] is invalid for the target audiences [\"istio-ca\"]"), "token_review_error"; "another audience")]
    #[test_case("/error", json!("serviceaccounts \"a\" not found"), "token_review_error"; "the account is gone")]
    #[test_case("/error", json!("service account foo/a has been deleted"), "token_review_error"; "the account is going")]
    #[test_case("/error", json!("pod UID (1) does not match service account pod ref claim (2)"), "token_review_error"; "another pod of that name")]
    #[test_case("/error", json!("[invalid bearer token, etcdserver: request timed out]"), "token_review_failed"; "its etcd does not answer")]
    #[test_case("/error", json!("Post \"https://idp/authenticate\": context deadline exceeded"), "token_review_failed"; "its webhook does not answer")]
    #[test_case("/error", json!("[invalid bearer token, the server was unable to return a response in the time allotted]"), "token_review_failed"; "it has no time")]
    #[test_case("/authenticated", json!(false), "token_not_authenticated"; "k8sauthn_test: not authenticated")]
    #[test_case("/user/groups", json!(["system:serviceaccounts:default"]), "token_not_service_account"; "k8sauthn_test: groups of one namespace only")]
    #[test_case("/user/groups", json!(null), "token_not_service_account"; "no groups")]
    #[test_case("/user/username", json!("system:serviceaccount:example-pod-sa"), "token_username"; "k8sauthn_test: three parts")]
    #[test_case("/user/username", json!("system:serviceaccount:a:b:c"), "token_username"; "five parts")]
    #[test_case("/user/username", json!("system:node:a:b"), "token_username"; "four parts that begin otherwise")]
    #[test_case("/user/username", json!("system:serviceaccount::b"), "token_username"; "kube_jwt: namespace required")]
    #[test_case("/user/username", json!("system:serviceaccount:a:"), "token_username"; "kube_jwt: service account required")]
    #[test_case("/user", json!(null), "token_not_service_account"; "no user")]
    #[test_case("/audiences", json!(["kubernetes"]), "token_audience"; "8.7: audiences that are not ours")]
    #[test_case("/audiences", json!([]), "token_audience"; "no audiences: a server that knows none")]
    #[test_case("/audiences", json!(null), "token_audience"; "audiences left out")]
    fn what_does_not_let_in(pointer: &str, value: Value, reason: &str) {
        let mut answer = answer();
        let (parent, member) = pointer.rsplit_once('/').unwrap();
        answer["status"].pointer_mut(parent).unwrap()[member] = value;
        assert_eq!(verdict(&answer).unwrap_err().reason(), reason);
    }

    #[test_case("pod-name", json!([]); "no name")]
    #[test_case("pod-uid", json!(["a", "b"]); "two uids")]
    #[test_case("pod-uid", json!(["A b"]); "a uid that is none")]
    fn a_pod_is_name_and_uid_or_none(extra: &str, value: Value) {
        let mut answer = answer();
        answer["status"]["user"]["extra"][format!("authentication.kubernetes.io/{extra}")] = value;
        assert_eq!(verdict(&answer).unwrap().pod, None);
    }

    #[test]
    fn what_the_server_says_is_bounded_and_holds_no_token() {
        let token = "eyJhbGciOiJSUzI1NiIsImtpZCI6ImEifQ.eyJzdWIiOiJ4In0.c2lnbmF0dXJl";
        let mut answer = answer();
        answer["status"]["error"] = json!(format!("cannot parse {token}\n {}", "x ".repeat(1000)));
        let error = verdict(&answer).unwrap_err().to_string();
        assert!(!error.contains(token) && error.len() < 400, "{error}");
    }
}
