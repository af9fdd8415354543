//! Roots that were distributed before, kept until they expire.
//!
//! They are in a ConfigMap of the RA's own namespace, one root per key, which the leader alone writes: what stands in a
//! namespace's `istio-ca-root-cert` is never read back, so a root that somebody puts there does not survive. Who may
//! write ConfigMaps in the RA's namespace could add a root here; who may do that could as well run a pod as the RA.
//! A person retires a root early by deleting its key; it comes back only if it is still in use.

use std::collections::BTreeMap;
use std::time::SystemTime;

use ensign_pki::{Certificate, crypto, hex};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;

use crate::kubernetes::{ApiError, Home};

/// The object as the watch shows it.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct History {
    /// Roots by key.
    pub(super) roots: BTreeMap<String, Certificate>,
    /// Keys that hold something else.
    pub(super) strange: Vec<String>,
    version: Option<String>,
}

/// The object's place.
pub(super) struct Shelf {
    api: Api<ConfigMap>,
    name: String,
    manager: String,
}

// === impl History ===

impl History {
    pub(super) fn of(object: ConfigMap) -> Self {
        let mut history = Self {
            version: object.metadata.resource_version,
            ..Self::default()
        };
        for (key, pem) in object.data.unwrap_or_default() {
            match Certificate::parse_pem(&pem) {
                Ok(root) if key_of(&root) == key && root.is_ca() => _ = history.roots.insert(key, root),
                Ok(_) | Err(_) => history.strange.push(key),
            }
        }
        history
    }

    /// What it should hold, if that is something else: the roots in use join it, the expired leave, and so do those that
    /// expire first if they are more than any mesh could have.
    pub(super) fn next<'a>(
        &self,
        in_use: impl Iterator<Item = &'a Certificate>,
        now: SystemTime,
    ) -> Option<BTreeMap<String, Certificate>> {
        let in_use: BTreeMap<String, Certificate> = in_use.map(|root| (key_of(root), root.clone())).collect();
        let mut next = self.roots.clone();
        next.extend(in_use.clone());
        next.retain(|_, root| now <= root.not_after());
        while next.len() > MOST {
            let unused = next.iter().filter(|(key, _)| !in_use.contains_key(*key));
            let Some(first) = unused
                .min_by_key(|(_, root)| root.not_after())
                .map(|(key, _)| key.clone())
            else {
                break;
            };
            next.remove(&first);
        }
        (next != self.roots).then_some(next)
    }

    /// Whether the object is there at all.
    pub(super) fn exists(&self) -> bool {
        self.version.is_some()
    }
}

// === impl Shelf ===

impl Shelf {
    pub(super) fn new(home: &Home, manager: &str) -> Self {
        let name = name(home);
        Self {
            api: Api::namespaced(home.cluster.client(), &home.namespace),
            manager: manager.to_owned(),
            name,
        }
    }

    /// Makes the object without roots; what it holds if somebody was faster.
    pub(super) async fn make(&self) -> Result<History, ApiError> {
        let empty = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": self.name}});
        let made = self
            .api
            .patch(&self.name, &PatchParams::apply(&self.manager), &Patch::Apply(empty))
            .await?;
        Ok(History::of(made))
    }

    /// Puts `next` in the place of `history`, if nobody wrote since.
    pub(super) async fn write(
        &self,
        history: &History,
        next: &BTreeMap<String, Certificate>,
    ) -> Result<History, ApiError> {
        let gone = history
            .roots
            .keys()
            .filter(|key| !next.contains_key(*key))
            .map(|key| (key, None));
        let there = next.iter().map(|(key, root)| (key, Some(root.to_pem())));
        let data: BTreeMap<&String, Option<String>> = gone.chain(there).collect();
        let patch = json!({"metadata": {"resourceVersion": history.version}, "data": data});
        let params = PatchParams {
            field_manager: Some(self.manager.clone()),
            ..PatchParams::default()
        };
        let written = self.api.patch(&self.name, &params, &Patch::Merge(patch)).await?;
        Ok(History::of(written))
    }
}

/// The ConfigMap of this installation.
pub(super) fn name(home: &Home) -> String {
    format!("{}-ra-roots", home.installation)
}

fn key_of(root: &Certificate) -> String {
    let digest = crypto::sha256(root.der());
    format!("{}.pem", hex::encode(digest.get(..16).unwrap_or(&digest)))
}

/// A rotation a month for as long as most roots live.
const MOST: usize = 128;
