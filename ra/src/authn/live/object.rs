//! The few fields of pods and service accounts that count here, as objects of the API.
//!
//! Everything else of an object (a pod has some 8 kB) is passed over while it is read, so that a full list of ten
//! thousand pods costs its pages and little more. Whatever an object lacks reads as absent: a list never fails for one
//! odd object.

use std::borrow::Cow;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::Resource;
use kube::api::ObjectMeta;
use serde::{Deserialize, Deserializer};

/// `v1` Pod.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct PodObject {
    #[serde(deserialize_with = "few")]
    pub(super) metadata: ObjectMeta,
    #[serde(default)]
    pub(super) spec: PodSpec,
    #[serde(default)]
    pub(super) status: PodStatus,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct PodSpec {
    pub(super) node_name: Option<String>,
    pub(super) service_account_name: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct PodStatus {
    pub(super) phase: Option<String>,
}

/// `v1` ServiceAccount.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct AccountObject {
    #[serde(deserialize_with = "few")]
    pub(super) metadata: ObjectMeta,
}

/// The few fields of the metadata.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Few {
    name: Option<String>,
    namespace: Option<String>,
    uid: Option<String>,
    resource_version: Option<String>,
    deletion_timestamp: Option<Time>,
}

pub(in crate::authn) fn few<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ObjectMeta, D::Error> {
    let few = Few::deserialize(deserializer)?;
    Ok(ObjectMeta {
        name: few.name,
        namespace: few.namespace,
        uid: few.uid,
        resource_version: few.resource_version,
        deletion_timestamp: few.deletion_timestamp,
        ..ObjectMeta::default()
    })
}

macro_rules! core_v1 {
    ($object:ty, $kind:literal, $plural:literal) => {
        impl Resource for $object {
            type DynamicType = ();
            type Scope = NamespaceResourceScope;

            fn kind((): &()) -> Cow<'_, str> {
                $kind.into()
            }

            fn group((): &()) -> Cow<'_, str> {
                "".into()
            }

            fn version((): &()) -> Cow<'_, str> {
                "v1".into()
            }

            fn plural((): &()) -> Cow<'_, str> {
                $plural.into()
            }

            fn meta(&self) -> &ObjectMeta {
                &self.metadata
            }

            fn meta_mut(&mut self) -> &mut ObjectMeta {
                &mut self.metadata
            }
        }
    };
}

core_v1!(PodObject, "Pod", "pods");
core_v1!(AccountObject, "ServiceAccount", "serviceaccounts");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_pod_is_read_by_its_few_fields() {
        let pod: PodObject = serde_json::from_value(serde_json::json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": "a", "namespace": "foo", "uid": "1", "resourceVersion": "7",
                "deletionTimestamp": "2026-01-02T03:04:05Z",
                "labels": {"app": "a"}, "managedFields": [{"manager": "x", "fieldsV1": {"f:a": {}}}],
            },
            "spec": {"nodeName": "n", "serviceAccountName": "sa", "containers": [{"name": "c", "image": "i"}]},
            "status": {"phase": "Running", "podIP": "10.0.0.1"},
        }))
        .unwrap();
        assert_eq!(pod.metadata.uid.as_deref(), Some("1"));
        assert!(pod.metadata.deletion_timestamp.is_some() && pod.metadata.labels.is_none());
        assert_eq!(pod.spec.node_name.as_deref(), Some("n"));
        assert_eq!(pod.status.phase.as_deref(), Some("Running"));
        assert_eq!(PodObject::url_path(&(), None), "/api/v1/pods");
    }
}
