//! From what a pod says to what its process gets: environment, volumes, arguments.
//!
//! Knows what `deploy/ra.yaml` uses and says of anything else that it does not, so that a test never runs less than the
//! manifest says.

use std::{collections::BTreeMap, path::Path, time::Duration};

use anyhow::{Context, bail, ensure};
use k8s_openapi::api::core::v1::{
    ConfigMap, Container, EnvVar, ObjectFieldSelector, Pod, ProjectedVolumeSource, Volume,
};
use kube::{Api, ResourceExt as _};

use crate::{
    cluster::{Access, TokenOf},
    folder::write_atomically,
};

/// The image of the RA in deploy/ra.yaml, whatever its tag.
const IMAGE: &str = "ensign-ra";

/// Whether this is a pod that we have a program for.
pub(super) fn is_ours(pod: &Pod) -> bool {
    let spec = pod.spec.as_ref();
    let mut images = spec
        .into_iter()
        .flat_map(|spec| &spec.containers)
        .filter_map(|one| one.image.as_deref());
    images.any(|image| image.split(['@', ':']).next().and_then(|name| name.rsplit('/').next()) == Some(IMAGE))
}

/// The one container.
pub(super) fn container(pod: &Pod) -> anyhow::Result<&Container> {
    let spec = pod.spec.as_ref().context("a pod without a spec")?;
    match &spec.containers[..] {
        [one] if one.command.is_none() && spec.init_containers.is_none() => Ok(one),
        _ => bail!(
            "{}: one container, with the command of its image, is known here",
            pod.name_any()
        ),
    }
}

/// Its environment. `Err` in `Ok`: it has to wait, for a ConfigMap that is not there.
pub(super) async fn environment(
    access: &Access,
    pod: &Pod,
    container: &Container,
) -> anyhow::Result<Result<BTreeMap<String, String>, String>> {
    let mut all = BTreeMap::new();
    for source in container.env_from.iter().flatten() {
        let from = source
            .config_map_ref
            .as_ref()
            .context("envFrom: only ConfigMaps are known here")?;
        match config_map(access, pod, &from.name).await? {
            Some(data) => all.extend(data),
            None if from.optional == Some(true) => {}
            None => return Ok(Err(format!("configmap {:?} not found", from.name))),
        }
    }
    for variable in container.env.iter().flatten() {
        all.insert(variable.name.clone(), value(pod, variable)?);
    }
    Ok(Ok(all))
}

fn value(pod: &Pod, variable: &EnvVar) -> anyhow::Result<String> {
    match (&variable.value, &variable.value_from) {
        (Some(value), None) => {
            ensure!(
                !value.contains("$("),
                "{}: references are not known here",
                variable.name
            );
            Ok(value.clone())
        }
        (None, Some(from)) => field(pod, from.field_ref.as_ref().context("only fields are known here")?),
        _ => bail!("{} has no value", variable.name),
    }
}

fn field(pod: &Pod, field: &ObjectFieldSelector) -> anyhow::Result<String> {
    match field.field_path.as_str() {
        "metadata.name" => Ok(pod.name_any()),
        "metadata.namespace" => pod.namespace().context("a pod has a namespace"),
        other => bail!("field {other} is not known here"),
    }
}

/// Writes a volume's files, their texts as `here` has them. `Err` in `Ok`: it has to wait.
pub(super) async fn fill(
    access: &Access,
    pod: &Pod,
    volume: &Volume,
    folder: &Path,
    here: impl Fn(&str) -> String,
) -> anyhow::Result<Result<(), String>> {
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    if let Some(map) = &volume.config_map {
        ensure!(map.items.is_none(), "items of a ConfigMap volume are not known here");
        return match config_map(access, pod, &map.name).await? {
            Some(data) => {
                let data = data.iter().map(|(name, text)| (name.clone(), here(text)));
                write_all(folder, &data.collect()).map(Ok)
            }
            None if map.optional == Some(true) => write_all(folder, &BTreeMap::new()).map(Ok),
            None => Ok(Err(format!("configmap {:?} not found", map.name))),
        };
    }
    let sources = volume
        .projected
        .as_ref()
        .with_context(|| format!("volume {} is of a kind that is not known here", volume.name))?;
    project(access, pod, sources, folder).await
}

async fn project(
    access: &Access,
    pod: &Pod,
    volume: &ProjectedVolumeSource,
    folder: &Path,
) -> anyhow::Result<Result<(), String>> {
    for source in volume.sources.iter().flatten() {
        if let Some(token) = &source.service_account_token {
            let (namespace, account) = account(pod)?;
            let audiences: Vec<&str> = token.audience.as_deref().into_iter().collect();
            let expiry = u64::try_from(token.expiration_seconds.unwrap_or(3600)).context("a negative lifetime")?;
            let of = TokenOf::new(&namespace, &account).audiences(&audiences).pod(pod);
            let token_text = access.token(&of.expiry(Duration::from_secs(expiry))).await?;
            write_atomically(&folder.join(&token.path), token_text.as_bytes())?;
        } else if let Some(map) = &source.config_map {
            let Some(data) = config_map(access, pod, &map.name).await? else {
                return Ok(Err(format!("configmap {:?} not found", map.name)));
            };
            for item in map.items.iter().flatten() {
                let text = data
                    .get(&item.key)
                    .with_context(|| format!("{} has no {}", map.name, item.key))?;
                write_atomically(&folder.join(&item.path), text.as_bytes())?;
            }
        } else {
            let fields = source.downward_api.as_ref().and_then(|fields| fields.items.as_ref());
            for item in fields.context("a source of a kind that is not known here")? {
                let text = field(pod, item.field_ref.as_ref().context("only fields are known here")?)?;
                write_atomically(&folder.join(&item.path), text.as_bytes())?;
            }
        }
    }
    Ok(Ok(()))
}

pub(super) fn account(pod: &Pod) -> anyhow::Result<(String, String)> {
    let account = pod.spec.as_ref().and_then(|spec| spec.service_account_name.clone());
    Ok((
        pod.namespace().context("a pod has a namespace")?,
        account.context("a pod has an account")?,
    ))
}

/// What changed is replaced, what is no longer there goes.
fn write_all(folder: &Path, data: &BTreeMap<String, String>) -> anyhow::Result<()> {
    for (name, text) in data {
        let path = folder.join(name);
        if std::fs::read_to_string(&path).ok().as_ref() != Some(text) {
            write_atomically(&path, text.as_bytes())?;
        }
    }
    for entry in std::fs::read_dir(folder).context("a volume's folder is gone")? {
        let entry = entry.context("cannot list a volume")?;
        if !data.contains_key(&*entry.file_name().to_string_lossy()) {
            std::fs::remove_file(entry.path()).context("cannot remove a file of a volume")?;
        }
    }
    Ok(())
}

async fn config_map(access: &Access, pod: &Pod, name: &str) -> anyhow::Result<Option<BTreeMap<String, String>>> {
    let maps = Api::<ConfigMap>::namespaced(access.admin(), &pod.namespace().unwrap_or_default());
    let found = maps
        .get_opt(name)
        .await
        .with_context(|| format!("cannot read {name}"))?;
    Ok(found.map(|map| map.data.unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(spec: &Value) -> Pod {
        serde_json::from_value(json!({ "metadata": { "name": "p", "namespace": "n" }, "spec": spec })).unwrap()
    }

    fn of_image(image: &str) -> Pod {
        pod(&json!({ "containers": [{ "name": "c", "image": image }] }))
    }

    #[test]
    fn the_ras_image_is_known_by_its_name_alone() {
        for image in [
            "ensign-ra",
            "ensign-ra:0.1.0",
            "registry.example/mesh/ensign-ra@sha256:0",
            "registry.example/ensign-ra:1",
        ] {
            assert!(is_ours(&of_image(image)), "{image}");
        }
        for image in ["ensign-agent:0.1.0", "ensign-ra/other:1", "none.invalid/workload"] {
            assert!(!is_ours(&of_image(image)), "{image}");
        }
    }

    #[test]
    fn what_is_not_known_is_an_error_and_not_left_out() {
        for container in [
            json!({ "name": "c", "command": ["sh"] }),
            json!({ "name": "c", "env": [{ "name": "A", "value": "$(B)" }] }),
            json!({ "name": "c", "env": [{ "name": "A", "valueFrom": { "secretKeyRef": { "name": "s", "key": "k" } } }] }),
            json!({ "name": "c", "env": [{ "name": "A", "valueFrom": { "fieldRef": { "fieldPath": "status.podIP" } } }] }),
        ] {
            let pod = pod(&json!({ "containers": [container] }));
            let all = super::container(&pod).and_then(|container| {
                let variables = container.env.iter().flatten();
                variables
                    .map(|variable| value(&pod, variable))
                    .collect::<anyhow::Result<Vec<_>>>()
            });
            assert!(all.is_err(), "{all:?}");
        }
        let two = pod(&json!({ "containers": [{ "name": "a" }, { "name": "b" }] }));
        assert!(container(&two).is_err());
    }

    #[test]
    fn a_volume_follows_its_config_map() {
        let folder = tempfile::tempdir().unwrap();
        let of = |pairs: &[(&str, &str)]| {
            pairs
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect()
        };
        write_all(folder.path(), &of(&[("a", "1"), ("b", "2")])).unwrap();
        write_all(folder.path(), &of(&[("b", "3")])).unwrap();
        let left: Vec<_> = std::fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(left, ["b"]);
        assert_eq!(std::fs::read_to_string(folder.path().join("b")).unwrap(), "3");
    }
}
