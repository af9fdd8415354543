//! `kubectl apply --server-side` for YAML texts of several documents: manifests as users have them.

use anyhow::Context;
use kube::{
    Api, Client,
    api::{ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, ValidationDirective},
    core::{GroupVersionKind, TypeMeta},
    discovery::{self, Scope},
};
use serde_json::Value;

use super::Access;

/// Who owns the fields that are set here.
const MANAGER: &str = "ensign-testbed";

impl Access {
    /// Applies every document of the text, in order, as the administrator. Namespaced objects that name no namespace go
    /// into `default`.
    pub async fn apply_yaml(&self, text: &str) -> anyhow::Result<Vec<DynamicObject>> {
        apply(self.admin(), text).await
    }
}

/// The same as anybody.
pub async fn apply(client: Client, text: &str) -> anyhow::Result<Vec<DynamicObject>> {
    let mut applied = Vec::new();
    for object in documents(text)? {
        applied.push(apply_object(&client, &object).await?);
    }
    Ok(applied)
}

/// Applies one object. A field that the server does not know is an error.
pub(super) async fn apply_object(client: &Client, object: &DynamicObject) -> anyhow::Result<DynamicObject> {
    let (api, name, kind) = place(client, object).await?;
    let parameters = PatchParams::apply(MANAGER)
        .force()
        .validation(ValidationDirective::Strict);
    api.patch(&name, &parameters, &Patch::Apply(object))
        .await
        .with_context(|| format!("cannot apply {kind} {name}"))
}

/// Deletes one object, if it is there.
pub(super) async fn delete_object(client: &Client, object: &DynamicObject) -> anyhow::Result<()> {
    let (api, name, kind) = place(client, object).await?;
    match api.delete(&name, &DeleteParams::default()).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(error) => Err(error).with_context(|| format!("cannot delete {kind} {name}")),
    }
}

async fn place(client: &Client, object: &DynamicObject) -> anyhow::Result<(Api<DynamicObject>, String, String)> {
    let name = object.metadata.name.clone().context("an object without a name")?;
    let types = object.types.clone();
    let types = types.with_context(|| format!("{name} has no apiVersion and kind"))?;
    let api = api(client, &types, object.metadata.namespace.as_deref()).await?;
    Ok((api, name, types.kind))
}

/// The objects of a text.
pub fn documents(text: &str) -> anyhow::Result<Vec<DynamicObject>> {
    let values: Vec<Value> = serde_saphyr::from_multiple(text).context("not YAML")?;
    values
        .into_iter()
        .filter(|value| !value.is_null())
        .map(|value| serde_json::from_value(value).context("not a Kubernetes object"))
        .collect()
}

/// How to reach objects of a kind.
async fn api(client: &Client, types: &TypeMeta, namespace: Option<&str>) -> anyhow::Result<Api<DynamicObject>> {
    let kind = GroupVersionKind::try_from(types).context("no apiVersion")?;
    let (resource, capabilities): (ApiResource, _) = discovery::pinned_kind(client, &kind)
        .await
        .with_context(|| format!("the API server has no {} {}", types.api_version, types.kind))?;
    Ok(match capabilities.scope {
        Scope::Cluster => Api::all_with(client.clone(), &resource),
        Scope::Namespaced => Api::namespaced_with(client.clone(), namespace.unwrap_or("default"), &resource),
    })
}
