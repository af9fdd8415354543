//! The manifests of `deploy/`, as a test installs them: whole or by mode, in their own namespaces or in a test's.
//!
//! [`Manifests`] holds what a file says. [`Places`] moves it, so that tests that share a cluster do not share an
//! installation. [`Right`]s are what rbac.yaml grants, one verb each, and each can be taken away for a while.

mod places;
mod rights;

pub use self::{
    places::{Places, RaAccount},
    rights::{Account, Right},
};

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, ensure};
use kube::{Client, ResourceExt as _, api::DynamicObject};

use super::{
    Access,
    apply::{apply_object, delete_object, documents},
};

/// By which an object says what it is needed for.
const MODE: &str = "ensign.mesh/mode";

/// Objects, in the order in which they are applied.
#[derive(Debug, Clone)]
pub struct Manifests(Vec<DynamicObject>);

/// A file of `deploy/`.
pub fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .with_file_name("deploy")
        .join(name)
}

// === impl Manifests ===

impl Manifests {
    /// What a file of `deploy/` holds.
    pub fn read(name: &str) -> anyhow::Result<Self> {
        let path = file(name);
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        Self::parse(&text).with_context(|| format!("{}", path.display()))
    }

    /// What a text holds.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        documents(text).map(Self)
    }

    /// The objects.
    pub fn objects(&self) -> &[DynamicObject] {
        &self.0
    }

    /// One of them.
    pub fn object(&self, kind: &str, name: &str) -> anyhow::Result<&DynamicObject> {
        let mut found = self
            .0
            .iter()
            .filter(|object| is(object, kind) && object.name_any() == name);
        found.next().with_context(|| format!("there is no {kind} {name}"))
    }

    /// The modes that there are.
    pub fn modes(&self) -> BTreeSet<String> {
        self.0.iter().filter_map(mode).map(str::to_owned).collect()
    }

    /// Those of some modes, as `kubectl apply -l 'ensign.mesh/mode in (…)'` picks them. Each mode must exist.
    pub fn of_modes(mut self, modes: &[&str]) -> anyhow::Result<Self> {
        let known = self.modes();
        for wanted in modes {
            ensure!(known.contains(*wanted), "there is no mode {wanted}, only {known:?}");
        }
        self.0
            .retain(|object| mode(object).is_some_and(|mode| modes.contains(&mode)));
        Ok(self)
    }

    /// The same in other places.
    pub fn moved(mut self, places: &Places) -> Self {
        for object in &mut self.0 {
            places.adapt(object);
        }
        self
    }

    /// Puts them into a cluster, as the administrator; unknown fields are errors.
    pub async fn apply(&self, access: &Access) -> anyhow::Result<Vec<DynamicObject>> {
        self.apply_as(&access.admin()).await
    }

    /// The same as anybody.
    pub async fn apply_as(&self, client: &Client) -> anyhow::Result<Vec<DynamicObject>> {
        let mut applied = Vec::new();
        for object in &self.0 {
            applied.push(apply_object(client, object).await?);
        }
        Ok(applied)
    }

    /// Takes them out again, the last first. Those that are not there are none.
    pub async fn delete(&self, access: &Access) -> anyhow::Result<()> {
        for object in self.0.iter().rev() {
            delete_object(&access.admin(), object).await?;
        }
        Ok(())
    }
}

fn mode(object: &DynamicObject) -> Option<&str> {
    object.labels().get(MODE).map(String::as_str)
}

fn kind(object: &DynamicObject) -> &str {
    object.types.as_ref().map_or("", |types| types.kind.as_str())
}

fn is(object: &DynamicObject, wanted: &str) -> bool {
    kind(object) == wanted
}
