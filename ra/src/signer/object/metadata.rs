//! The metadata of a request object without the record of who set which field.
//!
//! That record (`managedFields`) is the largest part of such an object, comes with each of its events, and means nothing to
//! us: it is passed over while an object is read. What is written back keeps all else, finalizers and owners of others
//! included; a server takes a missing record for "as it was".

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{OwnerReference, Time};
use kube::api::ObjectMeta;
use serde::{Deserialize, Deserializer};

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Lean {
    annotations: Option<BTreeMap<String, String>>,
    creation_timestamp: Option<Time>,
    deletion_grace_period_seconds: Option<i64>,
    deletion_timestamp: Option<Time>,
    finalizers: Option<Vec<String>>,
    generate_name: Option<String>,
    generation: Option<i64>,
    labels: Option<BTreeMap<String, String>>,
    name: Option<String>,
    namespace: Option<String>,
    owner_references: Option<Vec<OwnerReference>>,
    resource_version: Option<String>,
    self_link: Option<String>,
    uid: Option<String>,
}

/// For `#[serde(deserialize_with)]`.
pub(crate) fn lean<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ObjectMeta, D::Error> {
    let lean = Lean::deserialize(deserializer)?;
    Ok(ObjectMeta {
        annotations: lean.annotations,
        creation_timestamp: lean.creation_timestamp,
        deletion_grace_period_seconds: lean.deletion_grace_period_seconds,
        deletion_timestamp: lean.deletion_timestamp,
        finalizers: lean.finalizers,
        generate_name: lean.generate_name,
        generation: lean.generation,
        labels: lean.labels,
        managed_fields: None,
        name: lean.name,
        namespace: lean.namespace,
        owner_references: lean.owner_references,
        resource_version: lean.resource_version,
        self_link: lean.self_link,
        uid: lean.uid,
    })
}

#[cfg(test)]
mod tests {
    use k8s_openapi::serde_json::{Value, from_value, json, to_value};

    use super::*;

    #[test]
    fn all_but_the_record_is_kept() {
        let mut written: Value = json!({
            "annotations": { "a": "b" }, "creationTimestamp": "2026-01-02T03:04:05Z", "deletionGracePeriodSeconds": 3,
            "deletionTimestamp": "2026-01-02T03:04:06Z", "finalizers": ["f"], "generateName": "g-", "generation": 2,
            "labels": { "c": "d" }, "name": "n", "namespace": "ns",
            "ownerReferences": [{ "apiVersion": "v1", "kind": "K", "name": "o", "uid": "1" }],
            "resourceVersion": "7", "selfLink": "/s", "uid": "u",
        });
        let expected = written.clone();
        written["managedFields"] = json!([{ "manager": "x", "operation": "Update", "fieldsV1": { "f:metadata": {} } }]);
        assert_eq!(to_value(lean(written).unwrap()).unwrap(), expected);
        // Whatever a server of another version adds to it.
        let known: ObjectMeta = from_value(expected.clone()).unwrap();
        assert_eq!(
            to_value(known).unwrap(),
            expected,
            "a field of ObjectMeta is missing here"
        );
    }
}
