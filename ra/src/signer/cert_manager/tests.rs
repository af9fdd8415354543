//! Tables: what a CertificateRequest says, what is the same, and what the ConfigMap of the issuer means.

use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::serde_json::{Value, from_value, json, to_value};
use test_case::test_case;

use super::runtime::Named;
use super::*;
use crate::kubernetes::Follower;
use crate::policy::ConfigMapRef;

fn request(status: Value) -> CertificateRequest {
    from_value(json!({
        "apiVersion": "cert-manager.io/v1", "kind": "CertificateRequest",
        "metadata": { "name": "x", "namespace": "foo" },
        "spec": { "request": "", "issuerRef": { "name": "ca" } },
        "status": status,
    }))
    .unwrap()
}

fn condition(kind: &str, status: &str, reason: &str) -> Value {
    json!({ "type": kind, "status": status, "reason": reason, "message": "so it is" })
}

#[test_case(json!({}), "pending"; "nothing")]
#[test_case(json!({ "conditions": [condition("Approved", "True", "cert-manager.io")] }), "approved"; "approved")]
#[test_case(json!({ "conditions": [condition("Approved", "True", "x"), condition("Ready", "False", "Pending")] }), "approved Pending: so it is"; "waiting")]
#[test_case(json!({ "conditions": [condition("Ready", "False", "Pending")] }), "pending"; "not even approved")]
#[test_case(json!({ "conditions": [condition("Denied", "True", "policy"), condition("Ready", "False", "Denied")] }), "denied policy: so it is"; "denied")]
#[test_case(json!({ "conditions": [condition("Denied", "False", "policy")] }), "pending"; "not denied")]
#[test_case(json!({ "conditions": [condition("Ready", "False", "Failed")] }), "failed Failed: so it is"; "failed")]
#[test_case(json!({ "conditions": [condition("InvalidRequest", "True", "usages"), condition("Ready", "False", "Failed")] }), "refused usages: so it is"; "invalid")]
#[test_case(json!({ "conditions": [condition("InvalidRequest", "False", "x")] }), "pending"; "not invalid")]
#[test_case(json!({ "conditions": [condition("Ready", "True", "Issued")], "certificate": "cGVt" }), "issued pem"; "issued")]
#[test_case(json!({ "certificate": "cGVt", "ca": "Y2E=" }), "issued pem"; "issued, and nobody says Ready")]
#[test_case(json!({ "conditions": [condition("Ready", "True", "Issued")], "certificate": "" }), "pending"; "an empty certificate")]
#[test_case(json!({ "conditions": [condition("Ready", "False", "Failed")], "certificate": "cGVt" }), "failed Failed: so it is"; "failed, with a certificate")]
#[test_case(json!({ "conditions": [condition("Denied", "True", "no")], "certificate": "cGVt" }), "denied no: so it is"; "denied, with a certificate")]
fn what_it_says(status: Value, expected: &str) {
    assert_eq!(request(status).phase().to_string(), expected);
}

#[test]
fn it_is_written_as_cert_manager_reads_it() {
    let issuer_ref = IssuerReference {
        name: "ca".to_owned(),
        kind: "Issuer".to_owned(),
        group: "cert-manager.io".to_owned(),
    };
    let spec = Spec {
        request: ByteString(b"pem".to_vec()),
        duration: Some("1h0m0s".to_owned()),
        usages: Some(vec!["client auth".to_owned()]),
        is_ca: None,
        issuer_ref,
        username: None,
    };
    let written = to_value(CertificateRequest::new(ObjectMeta::default(), spec)).unwrap();
    let expected = json!({
        "apiVersion": "cert-manager.io/v1", "kind": "CertificateRequest", "metadata": {},
        "spec": {
            "request": "cGVt", "duration": "1h0m0s", "usages": ["client auth"],
            "issuerRef": { "name": "ca", "kind": "Issuer", "group": "cert-manager.io" },
        },
    });
    assert_eq!(written, expected);
}

#[test_case("3600s", "1h0m0s", true; "in other words")]
#[test_case("1h", "1h0m1s", false; "a second more")]
fn durations(one: &str, other: &str, same: bool) {
    let spec = |duration: &str| Spec {
        duration: Some(duration.to_owned()),
        ..request(json!({})).spec
    };
    assert_eq!(duration(&spec(one)) == duration(&spec(other)), same);
}

fn map(data: &[(&str, &str)]) -> ConfigMap {
    let pair = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
    ConfigMap {
        data: Some(data.iter().map(pair).collect()),
        ..ConfigMap::default()
    }
}

const GOOD: [(&str, &str); 3] = [
    ("issuer-name", "ca"),
    ("issuer-kind", "ClusterIssuer"),
    ("issuer-group", "cert-manager.io"),
];

/// What is known, and who learns of it.
fn named() -> (Arc<Named>, impl Follower<ConfigMap>) {
    let named = Arc::new(Named::new(ConfigMapRef {
        namespace: "foo".to_owned(),
        name: "issuer".to_owned(),
    }));
    let follower = named.follower();
    (named, follower)
}

fn seen(named: &Named) -> Option<String> {
    named.issuer().map(|issuer| issuer.name)
}

#[test]
fn the_issuer_comes_changes_and_goes() {
    let (named, watch) = named();
    watch.begin();
    watch.complete();
    assert_eq!(seen(&named), None, "there is no such ConfigMap");
    watch.apply(map(&GOOD));
    assert_eq!(seen(&named).as_deref(), Some("ca"));
    let mut other = GOOD;
    other[0].1 = "other";
    watch.apply(map(&other));
    assert_eq!(seen(&named).as_deref(), Some("other"));
    watch.delete(map(&other));
    assert_eq!(seen(&named), None);
}

#[test_case(&[]; "empty")]
#[test_case(&GOOD[..2]; "no group")]
#[test_case(&GOOD[1..]; "no name")]
#[test_case(&[("issuer-name", ""), GOOD[1], GOOD[2]]; "an empty name")]
#[test_case(&[("issuer-nam", "ca"), GOOD[1], GOOD[2]]; "a slip of the pen")]
fn what_names_none_keeps_the_one_before(data: &[(&str, &str)]) {
    let (named, watch) = named();
    watch.apply(map(data));
    assert_eq!(seen(&named), None);
    watch.apply(map(&GOOD));
    watch.apply(map(data));
    assert_eq!(seen(&named).as_deref(), Some("ca"));
}

#[test]
fn a_deletion_in_a_gap_of_the_watch_is_noticed() {
    let (named, watch) = named();
    watch.apply(map(&GOOD));
    watch.begin();
    assert_eq!(seen(&named).as_deref(), Some("ca"), "until the list is over");
    watch.complete();
    assert_eq!(seen(&named), None);
    watch.begin();
    watch.apply(map(&GOOD));
    watch.complete();
    assert_eq!(seen(&named).as_deref(), Some("ca"));
}
