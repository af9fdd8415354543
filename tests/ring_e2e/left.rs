//! What is left of us in the API: objects of any kind that the chart or the RA made.

use kube::api::{ApiResource, DynamicObject, ListParams};
use kube::discovery::{ApiGroup, Discovery, verbs};
use kube::{Api, Client, ResourceExt as _};

/// What the RA writes in the places of others.
const WRITTEN: [&str; 3] = ["istio-ca-root-cert", "istiod-dynamic", "istiod-tls"];

/// Kind and name of each that is there. Events are not looked at: they tell of the past.
pub(crate) async fn objects_of_ours(client: &Client) -> anyhow::Result<Vec<String>> {
    let known = Discovery::new(client.clone()).run().await?;
    let kinds = known.groups().flat_map(ApiGroup::recommended_resources);
    let mut found = Vec::new();
    for (resource, capabilities) in kinds {
        if resource.kind == "Event" || !capabilities.supports_operation(verbs::LIST) {
            continue;
        }
        let objects = Api::<DynamicObject>::all_with(client.clone(), &resource);
        let objects = objects.list(&ListParams::default()).await?;
        found.extend(
            objects
                .items
                .iter()
                .filter(|object| is_ours(object))
                .map(|object| tell(&resource, object)),
        );
    }
    Ok(found)
}

fn is_ours(object: &DynamicObject) -> bool {
    let name = object.name_any();
    let of_chart = object
        .labels()
        .get("app.kubernetes.io/part-of")
        .is_some_and(|part| part == "ensign");
    let of_ra = object
        .managed_fields()
        .iter()
        .any(|entry| entry.manager.as_deref() == Some("ensign-ra"));
    of_chart || of_ra || name.contains("ensign") || WRITTEN.contains(&name.as_str())
}

fn tell(resource: &ApiResource, object: &DynamicObject) -> String {
    let namespace = object.namespace().unwrap_or_default();
    format!("{} {namespace}/{}", resource.kind, object.name_any())
}
