//! Tables: what a CertificateSigningRequest says, and what we ask of it.

use k8s_openapi::serde_json::{Value, from_value, json};
use proptest::prelude::*;
use test_case::test_case;

use super::*;

fn csr(status: Value) -> CertificateSigningRequest {
    from_value(json!({
        "apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest",
        "metadata": { "name": "x" },
        "spec": { "request": "", "signerName": "example.com/foo", "usages": [] },
        "status": status,
    }))
    .unwrap()
}

fn condition(kind: &str, status: &str) -> Value {
    json!({ "type": kind, "status": status, "reason": "Why", "message": format!("{kind} it is") })
}

#[test_case(json!({}), "pending"; "nothing")]
#[test_case(json!({ "conditions": [] }), "pending"; "no condition")]
#[test_case(json!({ "conditions": [condition("Approved", "True")] }), "approved"; "approved")]
#[test_case(json!({ "conditions": [condition("Approved", "False")] }), "pending"; "not approved, which the API does not allow")]
#[test_case(json!({ "conditions": [condition("Denied", "True")] }), "denied Why: Denied it is"; "denied")]
#[test_case(json!({ "conditions": [condition("Approved", "True"), condition("Failed", "True")] }), "failed Why: Failed it is"; "failed")]
#[test_case(json!({ "conditions": [condition("Failed", "True"), condition("Approved", "True")], "certificate": "cGVt" }), "failed Why: Failed it is"; "failed, with a certificate")]
#[test_case(json!({ "conditions": [condition("Approved", "True")], "certificate": "cGVt" }), "issued pem"; "issued")]
#[test_case(json!({ "conditions": [condition("Approved", "True")], "certificate": "" }), "approved"; "an empty certificate")]
#[test_case(json!({ "conditions": [condition("Approved", "True"), condition("Other", "True")] }), "approved"; "something else")]
#[test_case(json!({ "conditions": [{ "type": "Denied", "status": "True" }] }), "denied without a reason"; "denied without a word")]
fn what_it_says(status: Value, expected: &str) {
    assert_eq!(csr(status).phase().to_string(), expected);
}

// Upstream does not limit it at all; the API takes 600 seconds and more, in 32 bits.
#[test_case(0, 600; "nothing")]
#[test_case(1, 600; "one second")]
#[test_case(599, 600; "just below the least")]
#[test_case(600, 600; "the least")]
#[test_case(86_400, 86_400; "a day")]
#[test_case(2_147_483_647, i32::MAX; "the most")]
#[test_case(2_147_483_648, i32::MAX; "just above the most")]
#[test_case(u64::MAX, i32::MAX; "for ever")]
fn lifetimes(seconds: u64, expected: i32) {
    assert_eq!(expiration_seconds(Duration::from_secs(seconds)), expected);
}

proptest! {
    #[test]
    fn every_lifetime_is_one_that_the_api_takes(nanos in any::<u64>()) {
        prop_assert!(expiration_seconds(Duration::from_nanos(nanos)) >= 600);
    }

    /// Whatever else is said: what was decided against is never served, and nothing is served that is not there.
    #[test]
    fn no_order_of_conditions_hides_a_no(
        mut kinds in proptest::collection::vec("Approved|Denied|Failed|Other", 0..5),
        certificate in proptest::option::of("[a-z]{0,4}"),
        at in any::<proptest::sample::Index>(),
        no in proptest::option::of("Denied|Failed"),
    ) {
        if let Some(no) = &no {
            kinds.insert(at.index(kinds.len() + 1), no.clone());
        }
        let conditions: Vec<_> = kinds.iter().map(|kind| condition(kind, "True")).collect();
        let certificate = certificate.map(|text| ByteString(text.into_bytes()));
        let mut object = csr(json!({ "conditions": conditions }));
        object.status.as_mut().unwrap().certificate.clone_from(&certificate);
        let refused = kinds.iter().any(|kind| kind == "Denied" || kind == "Failed");
        let issued = certificate.is_some_and(|bytes| !bytes.0.is_empty());
        match object.phase() {
            Phase::Denied(_) | Phase::Failed(_) => prop_assert!(refused),
            Phase::Issued(_) => prop_assert!(issued && !refused),
            Phase::Approved { .. } => prop_assert!(!issued && !refused && kinds.iter().any(|kind| kind == "Approved")),
            Phase::Pending => prop_assert!(!issued && !refused && kinds.iter().all(|kind| kind == "Other")),
            Phase::Refused(_) => prop_assert!(false, "a CSR has no such condition"),
        }
    }
}
