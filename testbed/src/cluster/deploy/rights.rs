//! What rbac.yaml grants, one verb of one resource each, and how it is without one of them.
//!
//! The API server's authorizer follows roles by a watch, so a change counts a moment later: [`Right::without`] waits until
//! the server itself says so. If it never does, another rule grants the same, and one of the two is too much.

use std::fmt;

use anyhow::{Context, ensure};
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec, SubjectAccessReviewStatus,
};
use kube::{
    Api, ResourceExt as _,
    api::{DynamicObject, PostParams},
};
use serde_json::{Value, json};

use super::{Manifests, is, kind, mode};
use crate::{
    cluster::{Access, apply::apply_object},
    wait::{self, PATIENCE},
};

/// A service account.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Account {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// One verb of one resource that a role grants an account.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Right {
    /// What the role is needed for.
    pub mode: String,
    /// `Role` or `ClusterRole`.
    pub kind: String,
    /// The role.
    pub role: String,
    /// Where it counts; everywhere without it.
    pub namespace: Option<String>,
    /// Which of its rules.
    pub rule: usize,
    /// API group; empty for Kubernetes' core.
    pub group: String,
    /// Resource, perhaps with a subresource.
    pub resource: String,
    /// Verb.
    pub verb: String,
    /// For these objects alone, if there are any.
    pub names: Vec<String>,
    /// Who has it.
    pub account: Account,
}

// === impl Manifests ===

impl Manifests {
    /// Every right that they grant, in order.
    pub fn rights(&self) -> anyhow::Result<Vec<Right>> {
        let mut rights = Vec::new();
        for role in self.objects().iter().filter(|object| is_role(object)) {
            let account = self.account_of(role)?;
            for (number, rule) in rules(role).iter().enumerate() {
                ensure!(
                    rule.get("nonResourceURLs").is_none(),
                    "{}: paths are not looked at",
                    role.name_any()
                );
                for group in texts(&rule["apiGroups"]) {
                    for resource in texts(&rule["resources"]) {
                        for verb in texts(&rule["verbs"]) {
                            rights.push(Right {
                                mode: mode(role).unwrap_or_default().to_owned(),
                                kind: kind(role).to_owned(),
                                role: role.name_any(),
                                namespace: role.namespace(),
                                rule: number,
                                group: group.clone(),
                                resource: resource.clone(),
                                verb,
                                names: texts(&rule["resourceNames"]),
                                account: account.clone(),
                            });
                        }
                    }
                }
            }
        }
        Ok(rights)
    }

    /// Whom a role is bound to: one service account, by a binding of the role's own name.
    fn account_of(&self, role: &DynamicObject) -> anyhow::Result<Account> {
        let name = role.name_any();
        let binding = format!("{}Binding", kind(role));
        let bound = self.objects().iter().find(|object| {
            is(object, &binding)
                && object.namespace() == role.namespace()
                && object.data["roleRef"]["name"] == json!(name)
        });
        let subjects = &bound.with_context(|| format!("{name} is bound to nobody"))?.data["subjects"];
        let subject = match subjects.as_array().map(Vec::as_slice) {
            Some([subject]) if subject["kind"] == "ServiceAccount" => subject,
            _ => anyhow::bail!("{name} is bound to {subjects}, not to one service account"),
        };
        let text = |field: &str| subject[field].as_str().map(str::to_owned);
        Ok(Account {
            namespace: text("namespace").context("a subject without a namespace")?,
            name: text("name").context("a subject without a name")?,
        })
    }
}

// === impl Right ===

impl Right {
    /// Runs `probe` while the account does not have it; the manifests must have been applied. What `probe` says comes
    /// back once the account has the right again.
    pub async fn without<T>(
        &self,
        manifests: &Manifests,
        access: &Access,
        probe: impl AsyncFnOnce() -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let whole = manifests.object(&self.kind, &self.role)?;
        apply_object(&access.admin(), &self.taken_from(whole)).await?;
        let gone = self.wait_until(access, false).await;
        let answer = match gone {
            Ok(()) => probe().await,
            Err(error) => Err(error).with_context(|| format!("{self} is granted by another rule as well")),
        };
        apply_object(&access.admin(), whole).await?;
        self.wait_until(access, true).await?;
        answer
    }

    /// Waits until the API server grants it, to all of its names, or to none.
    pub async fn wait_until(&self, access: &Access, granted: bool) -> anyhow::Result<()> {
        let what = format!("{self} to be {}", if granted { "granted" } else { "gone" });
        wait::until(&what, PATIENCE, async || {
            for name in self.each_name() {
                let answer = self.review(access, name).await?;
                ensure!(answer.allowed == granted, "of {name:?} the server says {answer:?}");
            }
            Ok(())
        })
        .await
    }

    /// The names of the objects that it is for, or once none.
    pub fn each_name(&self) -> Vec<Option<&str>> {
        if self.names.is_empty() {
            return vec![None];
        }
        self.names.iter().map(|name| Some(name.as_str())).collect()
    }

    async fn review(&self, access: &Access, name: Option<&str>) -> anyhow::Result<SubjectAccessReviewStatus> {
        let (resource, subresource) = self.resource.split_once('/').unwrap_or((&self.resource, ""));
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: Some(self.account.username()),
                groups: Some(self.account.groups()),
                resource_attributes: Some(ResourceAttributes {
                    group: Some(self.group.clone()),
                    resource: Some(resource.to_owned()),
                    subresource: Some(subresource.to_owned()),
                    verb: Some(self.verb.clone()),
                    namespace: self.namespace.clone(),
                    name: name.map(str::to_owned),
                    ..ResourceAttributes::default()
                }),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        let answer = Api::all(access.admin())
            .create(&PostParams::default(), &review)
            .await
            .context("no SubjectAccessReview")?;
        answer.status.context("a SubjectAccessReview without a status")
    }

    /// The role without it. A rule of several resources is split, so that only one of them loses the verb.
    fn taken_from(&self, role: &DynamicObject) -> DynamicObject {
        let mut role = role.clone();
        let mut left = Vec::new();
        for (number, rule) in rules(&role).iter().enumerate() {
            if number != self.rule {
                left.push(rule.clone());
                continue;
            }
            for group in texts(&rule["apiGroups"]) {
                for resource in texts(&rule["resources"]) {
                    let mut part = rule.clone();
                    let mut verbs = texts(&rule["verbs"]);
                    verbs.retain(|verb| (&group, &resource, verb) != (&self.group, &self.resource, &self.verb));
                    if verbs.is_empty() {
                        continue;
                    }
                    part["apiGroups"] = json!([group]);
                    part["resources"] = json!([resource]);
                    part["verbs"] = json!(verbs);
                    left.push(part);
                }
            }
        }
        role.data["rules"] = json!(left);
        role
    }
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.verb, self.resource)?;
        if !self.group.is_empty() {
            write!(f, ".{}", self.group)?;
        }
        if !self.names.is_empty() {
            write!(f, " {:?}", self.names)?;
        }
        write!(f, " ({} {}, mode {})", self.kind, self.role, self.mode)
    }
}

// === impl Account ===

impl Account {
    /// What the API server calls it.
    pub fn username(&self) -> String {
        format!("system:serviceaccount:{}:{}", self.namespace, self.name)
    }

    fn groups(&self) -> Vec<String> {
        vec![
            "system:serviceaccounts".to_owned(),
            format!("system:serviceaccounts:{}", self.namespace),
            "system:authenticated".to_owned(),
        ]
    }
}

fn is_role(object: &DynamicObject) -> bool {
    is(object, "Role") || is(object, "ClusterRole")
}

fn rules(role: &DynamicObject) -> &[Value] {
    role.data["rules"].as_array().map_or(&[], Vec::as_slice)
}

fn texts(value: &Value) -> Vec<String> {
    let values = value.as_array().into_iter().flatten();
    values.filter_map(Value::as_str).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: r, namespace: ns, labels: {ensign.mesh/mode: base}}
rules:
- {apiGroups: [""], resources: [pods, secrets], verbs: [list, watch]}
- {apiGroups: [x], resources: [signers], resourceNames: [s], verbs: [approve]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: r, namespace: ns, labels: {ensign.mesh/mode: base}}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: r}
subjects: [{kind: ServiceAccount, name: a, namespace: b}]
"#;

    #[test]
    fn each_verb_of_each_resource_is_one_right() {
        let manifests = Manifests::parse(TEXT).unwrap();
        let rights = manifests.rights().unwrap();
        let said: Vec<_> = rights.iter().map(ToString::to_string).collect();
        assert_eq!(
            said,
            [
                "list pods (Role r, mode base)",
                "watch pods (Role r, mode base)",
                "list secrets (Role r, mode base)",
                "watch secrets (Role r, mode base)",
                "approve signers.x [\"s\"] (Role r, mode base)",
            ]
        );
        assert_eq!(rights[0].account.username(), "system:serviceaccount:b:a");
    }

    #[test]
    fn a_right_that_is_taken_leaves_all_others() {
        let manifests = Manifests::parse(TEXT).unwrap();
        let rights = manifests.rights().unwrap();
        for taken in &rights {
            let role = taken.taken_from(manifests.object("Role", "r").unwrap());
            let mut left = manifests.clone();
            left.0[0] = role;
            let named = |right: &Right| (right.resource.clone(), right.verb.clone());
            let expected: Vec<_> = rights.iter().filter(|right| *right != taken).map(named).collect();
            let found: Vec<_> = left.rights().unwrap().iter().map(named).collect();
            assert_eq!(found, expected);
        }
    }
}
