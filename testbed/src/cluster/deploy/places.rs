//! From the names that the manifests have to those of a test, and the RA's account there.

use kube::{ResourceExt as _, api::DynamicObject};
use serde_json::{Value, json};

use super::{Manifests, kind};
use crate::cluster::Access;

/// Names in the manifests.
const OWN: &str = "ensign-system";
const ISTIO: &str = "istio-system";
/// What is in no namespace, and so is named after the test's own.
const CLUSTER_WIDE: [&str; 4] = [
    "ClusterRole",
    "ClusterRoleBinding",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionPolicyBinding",
];

/// The RA's service account.
const ACCOUNT: &str = "ensign-ra";

/// Where an installation is, and which signers are its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// Instead of `ensign-system`. Objects without a namespace get it as the end of their names.
    pub own: String,
    /// Instead of `istio-system`.
    pub istio: String,
    /// Full names of Kubernetes signers that the RA may approve for.
    pub signers: Vec<String>,
    /// The mesh's issuers, as admission.yaml writes them: `ClusterIssuer.cert-manager.io/<name>`,
    /// `Issuer.cert-manager.io/<namespace>/<name>`.
    pub issuers: Vec<String>,
}

/// The RA's account somewhere.
#[derive(Clone)]
pub struct RaAccount {
    /// What the API server and its audit log call it.
    pub username: String,
    /// How it comes.
    pub kubeconfig: String,
}

// === impl Places ===

impl Places {
    /// All in one namespace, without a signer.
    pub fn in_one(namespace: &str) -> Self {
        Self {
            own: namespace.to_owned(),
            istio: namespace.to_owned(),
            signers: Vec::new(),
            issuers: Vec::new(),
        }
    }

    /// Gives the RA's account what optional/rbac.yaml grants for some modes, in addition to what it has; makes it if it is not there.
    /// Comes back once the API server agrees.
    pub async fn grant(&self, access: &Access, modes: &[&str]) -> anyhow::Result<RaAccount> {
        let object = json!({
            "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": ACCOUNT, "namespace": self.own },
        });
        access.apply_yaml(&object.to_string()).await?;
        let rbac = Manifests::read("optional/rbac.yaml")?.of_modes(modes)?.moved(self);
        rbac.apply(access).await?;
        for right in rbac.rights()? {
            right.wait_until(access, true).await?;
        }
        Ok(RaAccount {
            username: format!("system:serviceaccount:{}:{ACCOUNT}", self.own),
            kubeconfig: access.kubeconfig_of_service_account(&self.own, ACCOUNT).await?,
        })
    }

    /// The name of an object that has no namespace, here.
    pub fn cluster_wide(&self, name: &str) -> String {
        format!("{name}.{}", self.own)
    }

    pub(super) fn adapt(&self, object: &mut DynamicObject) {
        let kind = kind(object).to_owned();
        if let Some(namespace) = &mut object.metadata.namespace {
            *namespace = self.namespace(namespace);
        }
        if kind == "Namespace" {
            object.metadata.name = object.metadata.name.as_deref().map(|name| self.namespace(name));
        }
        if CLUSTER_WIDE.contains(&kind.as_str()) {
            object.metadata.name = Some(self.cluster_wide(&object.name_any()));
        }
        let data = &mut object.data;
        for subject in items(data, "subjects") {
            if let Some(namespace) = subject["namespace"].as_str() {
                subject["namespace"] = json!(self.namespace(namespace));
            }
        }
        if data["roleRef"]["kind"] == "ClusterRole" {
            self.rename(&mut data["roleRef"]["name"]);
        }
        if kind == "ValidatingAdmissionPolicyBinding" {
            self.rename(&mut data["spec"]["policyName"]);
        }
        for rule in items(data, "rules") {
            self.adapt_rule(rule);
        }
        // A rule that names nothing is one for everything.
        if let Some(rules) = data.get_mut("rules").and_then(Value::as_array_mut) {
            rules.retain(|rule| rule["resourceNames"] != json!([]));
        }
        if kind == "ValidatingAdmissionPolicy" {
            for variable in items(&mut data["spec"], "variables") {
                if variable["name"] == "meshIssuers" {
                    // A list of texts is written in CEL as in JSON.
                    variable["expression"] = json!(json!(self.issuers).to_string());
                }
            }
            self.adapt_accounts(data);
        }
    }

    fn adapt_rule(&self, rule: &mut Value) {
        if rule["resources"] != json!(["signers"]) {
            return;
        }
        if rule["verbs"] == json!(["approve"]) {
            rule["resourceNames"] = json!(self.signers);
        }
        if rule["verbs"] == json!(["reference"]) {
            let prefix = format!("Issuer.cert-manager.io/{}/", self.istio);
            let of_namespace = self.issuers.iter().filter_map(|issuer| issuer.strip_prefix(&prefix));
            rule["resourceNames"] = of_namespace.collect();
        }
    }

    /// Names of accounts in expressions.
    fn adapt_accounts(&self, value: &mut Value) {
        match value {
            Value::String(text) => {
                let (here, there) = (format!("account:{OWN}:"), format!("account:{}:", self.own));
                *text = text.replace(&here, &there);
            }
            Value::Array(values) => values.iter_mut().for_each(|value| self.adapt_accounts(value)),
            Value::Object(fields) => fields.values_mut().for_each(|value| self.adapt_accounts(value)),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    fn namespace(&self, name: &str) -> String {
        match name {
            OWN => self.own.clone(),
            ISTIO => self.istio.clone(),
            other => other.to_owned(),
        }
    }

    fn rename(&self, name: &mut Value) {
        if let Some(old) = name.as_str() {
            *name = json!(self.cluster_wide(old));
        }
    }
}

fn items<'a>(value: &'a mut Value, field: &str) -> impl Iterator<Item = &'a mut Value> {
    let items = value.get_mut(field).and_then(Value::as_array_mut);
    items.into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::Manifests;

    fn places() -> Places {
        Places {
            own: "own-1".to_owned(),
            istio: "istio-1".to_owned(),
            signers: vec!["clusterissuers.cert-manager.io/one".to_owned()],
            issuers: vec![
                "ClusterIssuer.cert-manager.io/one".to_owned(),
                "Issuer.cert-manager.io/istio-1/two".to_owned(),
            ],
        }
    }

    #[test]
    fn nothing_of_the_original_place_is_left() {
        for file in ["ra.yaml", "optional/rbac.yaml", "optional/admission.yaml"] {
            for object in Manifests::read(file).unwrap().moved(&places()).objects() {
                let text = serde_json::to_string(object).unwrap();
                assert!(!text.contains(OWN) && !text.contains(ISTIO), "{text}");
                assert!(text.contains("own-1") || text.contains("istio-1"), "{text}");
            }
        }
    }

    #[test]
    fn no_signer_is_not_every_signer() {
        let rbac = Manifests::read("optional/rbac.yaml")
            .unwrap()
            .moved(&Places::in_one("own-1"));
        let rights = rbac.rights().unwrap();
        let of_signers = rights.iter().filter(|right| right.resource == "signers");
        let verbs: Vec<_> = of_signers.map(|right| &*right.verb).collect();
        assert_eq!(verbs, ["attest"]);
    }

    #[test]
    fn the_test_says_which_signers_and_issuers() {
        let rbac = Manifests::read("optional/rbac.yaml").unwrap().moved(&places());
        let csr = rbac.object("ClusterRole", "ensign-ra-kubernetes-csr.own-1").unwrap();
        assert!(csr.data["rules"].to_string().contains("io/one\"]"), "{}", csr.data);
        let reference = rbac.object("Role", "ensign-ra-issuer-reference").unwrap();
        assert_eq!(reference.data["rules"][0]["resourceNames"], json!(["two"]));
    }
}
