//! istiod's certificate as a `Certificate` of cert-manager: key, Secret and renewal are cert-manager's.
//!
//! Owns the object's content: istio-csr's, field by field, with the issuer that is in effect for workloads now. Written
//! by server-side apply whenever it is not what it should be; what others add to it stays. While no issuer is
//! configured nothing is written, and what is there stays.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use ensign_daemon::{GoDuration, logging};
use ensign_pki::KeyType;
use k8s_openapi::NamespaceResourceScope;
use kube::Resource;
use kube::api::{Api, ObjectMeta, Patch, PatchParams};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::keep::{Keeps, Place, keep};
use super::{IstiodParts, SECRET};
use crate::kubernetes::{ApiError, ObjectKey};
use crate::policy::{Backend, IssuerRef};
use crate::signer::issuer_in_effect;

/// What is particular to the object.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    pub(super) name: String,
    pub(super) renew_before: Duration,
    pub(super) annotations: BTreeMap<String, String>,
}

/// One term of the leader.
pub(super) struct Keeper {
    parts: IstiodParts,
    api: Api<Certificate>,
    wanted: Wanted,
    pause: Duration,
    complaint: String,
}

/// `Certificate` of cert-manager.io/v1: what is ours is compared, the rest is not looked at.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Certificate {
    metadata: ObjectMeta,
    #[serde(default)]
    spec: Value,
    #[serde(default)]
    status: Option<Status>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    #[serde(default)]
    not_after: Option<k8s_openapi::apimachinery::pkg::apis::meta::v1::Time>,
    #[serde(default)]
    conditions: Vec<Condition>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Condition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
}

// === impl Keeper ===

impl Keeper {
    pub(super) fn new(parts: IstiodParts, wanted: Wanted) -> Self {
        let namespace = &parts.config.names.namespace;
        Self {
            api: Api::namespaced(parts.home.cluster.client(), namespace),
            parts,
            wanted,
            pause: FIRST_PAUSE,
            complaint: String::new(),
        }
    }

    pub(super) async fn run(self, term: CancellationToken) {
        let place = Place {
            watch: "istiod certificate",
            api: self.api.clone(),
            key: ObjectKey::new(self.parts.config.names.namespace.clone(), self.wanted.name.clone()),
            metrics: self.parts.home.cluster.metrics().clone(),
        };
        keep(self, place, term).await;
    }
}

impl Keeps<Certificate> for Keeper {
    async fn look(&mut self, seen: Option<&Certificate>) -> Duration {
        self.tell(seen);
        let issuer = match self.issuer().await {
            Ok(Some(issuer)) => issuer,
            Ok(None) => return self.failed("no_issuer", "no issuer is configured yet"),
            Err(why) => return self.failed("no_signer", &why),
        };
        let object = match self.object(&issuer) {
            Ok(object) => object,
            Err(why) => return self.failed("no_policy", &why),
        };
        let fits = seen.is_some_and(|seen| {
            let annotations = seen.metadata.annotations.clone().unwrap_or_default();
            covers(&seen.spec, object.get("spec").unwrap_or(&Value::Null))
                && self
                    .wanted
                    .annotations
                    .iter()
                    .all(|(key, value)| annotations.get(key) == Some(value))
        });
        if fits {
            self.well();
            return LOOK;
        }
        let manager = self.parts.home.manager();
        let params = PatchParams::apply(&manager).force();
        match self
            .api
            .patch(&self.wanted.name, &params, &Patch::Apply(&object))
            .await
            .map_err(ApiError::from)
        {
            Ok(_) => {
                tracing::info!(
                    certificate = self.wanted.name,
                    issuer = issuer.name,
                    kind = issuer.kind,
                    "istiod's Certificate written"
                );
                self.well();
                // The watch shows it in a moment; somebody who changes it at once is not fought faster than this.
                SETTLE
            }
            Err(error) => {
                let text = logging::chain(&error);
                self.failed(error.reason(), &text)
            }
        }
    }
}

impl Keeper {
    /// The issuer that signs for workloads now.
    async fn issuer(&self) -> Result<Option<IssuerRef>, String> {
        let running = (self.parts.signer)()?;
        match &running.spec().backend {
            Backend::CertManager(spec) => Ok(issuer_in_effect(spec, &self.parts.backends).await),
            Backend::KubernetesCsr(_) | Backend::Local(_) => {
                Err(format!("signer {} is not behind cert-manager", running.spec().name))
            }
        }
    }

    fn object(&self, issuer: &IssuerRef) -> Result<Value, String> {
        let config = &self.parts.config;
        let trust_domain = (self.parts.trust_domain)().ok_or("there is no policy yet, so no trust domain")?;
        let id = config.names.id(&trust_domain).map_err(|error| logging::chain(&error))?;
        let (algorithm, size) = match config.key_type {
            KeyType::P256 => ("ECDSA", 256),
            KeyType::P384 => ("ECDSA", 384),
            KeyType::Rsa2048 => ("RSA", 2048),
            KeyType::Rsa3072 => ("RSA", 3072),
            KeyType::Rsa4096 => ("RSA", 4096),
        };
        Ok(json!({
            "apiVersion": "cert-manager.io/v1",
            "kind": "Certificate",
            "metadata": {"name": self.wanted.name, "annotations": self.wanted.annotations},
            "spec": {
                "commonName": config.names.common_name(),
                "dnsNames": config.names.dns(),
                "uris": [id.as_str()],
                "secretName": SECRET,
                "duration": GoDuration::from(config.ttl).to_string(),
                "renewBefore": GoDuration::from(self.wanted.renew_before).to_string(),
                "privateKey": {"rotationPolicy": "Always", "algorithm": algorithm, "size": size},
                "revisionHistoryLimit": 1,
                "issuerRef": {"name": issuer.name, "kind": issuer.kind, "group": issuer.group},
            },
        }))
    }

    fn tell(&self, seen: Option<&Certificate>) {
        let status = seen.and_then(|seen| seen.status.as_ref());
        let ready = status.is_some_and(|status| {
            status
                .conditions
                .iter()
                .any(|one| one.kind == "Ready" && one.status == "True")
        });
        self.parts.metrics.good(ready);
        if let Some(end) = status.and_then(|status| status.not_after.as_ref()) {
            self.parts.metrics.expires(end.0.into());
        }
    }

    fn well(&mut self) {
        self.pause = FIRST_PAUSE;
        self.complaint.clear();
    }

    fn failed(&mut self, reason: &'static str, why: &str) -> Duration {
        self.parts.metrics.failed(reason);
        if self.complaint != why {
            tracing::warn!(
                certificate = self.wanted.name,
                reason,
                why,
                "istiod's Certificate is not written, trying on"
            );
            why.clone_into(&mut self.complaint);
        }
        let pause = self.pause;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        pause
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.parts.metrics.idle();
    }
}

impl Resource for Certificate {
    type DynamicType = ();
    type Scope = NamespaceResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        "Certificate".into()
    }

    fn group((): &()) -> Cow<'_, str> {
        "cert-manager.io".into()
    }

    fn version((): &()) -> Cow<'_, str> {
        "v1".into()
    }

    fn plural((): &()) -> Cow<'_, str> {
        "certificates".into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// Whether `found` says all that `wanted` says. Lists must be the same, durations may be written in other words.
fn covers(found: &Value, wanted: &Value) -> bool {
    match (found, wanted) {
        (Value::Object(found), Value::Object(wanted)) => wanted
            .iter()
            .all(|(key, wanted)| found.get(key).is_some_and(|found| covers(found, wanted))),
        (Value::String(found), Value::String(wanted)) => {
            found == wanted
                || matches!((found.parse::<GoDuration>(), wanted.parse::<GoDuration>()), (Ok(found), Ok(wanted)) if found == wanted)
        }
        (found, wanted) => found == wanted,
    }
}

/// The issuer in effect is looked at this often.
const LOOK: Duration = Duration::from_secs(3);
const SETTLE: Duration = Duration::from_secs(5);
const FIRST_PAUSE: Duration = Duration::from_secs(2);
const LONGEST_PAUSE: Duration = Duration::from_mins(1);

#[cfg(test)]
mod tests {
    use test_case::test_case;

    use super::*;

    #[test_case(json!({"a": 1, "b": 2}), true; "more than wanted")]
    #[test_case(json!({"a": 2}), false; "another value")]
    #[test_case(json!({}), false; "nothing")]
    #[test_case(Value::Null, false; "no spec")]
    fn what_others_add_is_no_difference(found: Value, expected: bool) {
        assert_eq!(covers(&found, &json!({"a": 1})), expected);
    }

    #[test]
    fn lists_are_whole_and_durations_may_be_written_otherwise() {
        assert!(!covers(&json!({"dnsNames": ["a", "b"]}), &json!({"dnsNames": ["a"]})));
        assert!(covers(&json!({"duration": "60m"}), &json!({"duration": "1h0m0s"})));
        assert!(!covers(&json!({"duration": "61m"}), &json!({"duration": "1h0m0s"})));
    }
}
