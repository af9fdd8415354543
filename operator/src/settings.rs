//! The settings that a program of ours runs with in a pod, as far as the pod's spec says them.
//!
//! A flag wins over its variable, as in the programs themselves; a variable of `env` wins over `envFrom`, as in Kubernetes.
//! What comes from a Secret or from the pod's own fields is not looked at: none of our settings that count here does.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ConfigMap, Container, PodSpec};
use kube::Api;

use crate::access::{Access, Looked};

/// What one container is told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    flags: BTreeMap<String, String>,
    variables: BTreeMap<String, String>,
    /// What could not be read, and so may say anything.
    unread: Option<String>,
}

/// A file of a container that is a key of a ConfigMap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FromConfigMap {
    /// The ConfigMap.
    pub name: String,
    /// Its key.
    pub key: String,
}

// === impl Settings ===

impl Settings {
    /// Reads the first container, and the ConfigMaps that its environment comes from.
    pub async fn read(access: &Access, namespace: &str, spec: &PodSpec) -> Self {
        let Some(container) = spec.containers.first() else {
            return Self::default();
        };
        let (mut given, mut unread) = (Vec::new(), None);
        for source in container.env_from.iter().flatten() {
            let Some(map) = &source.config_map_ref else { continue };
            let api = Api::<ConfigMap>::namespaced(access.client(), namespace);
            match access.one(api, &map.name).await {
                Looked::There(map) => given.push(map.data.unwrap_or_default()),
                // An optional one.
                Looked::Missing => {}
                Looked::Unreadable(why) => {
                    unread = Some(format!("ConfigMap {namespace}/{} of its settings: {why}", map.name));
                }
            }
        }
        Self {
            unread,
            ..Self::of(container, given)
        }
    }

    fn of(container: &Container, given: Vec<BTreeMap<String, String>>) -> Self {
        let mut variables: BTreeMap<String, String> = given.into_iter().flatten().collect();
        for variable in container.env.iter().flatten() {
            if let Some(value) = &variable.value {
                variables.insert(variable.name.clone(), value.clone());
            }
        }
        let mut flags = BTreeMap::new();
        let mut words = container
            .command
            .iter()
            .flatten()
            .chain(container.args.iter().flatten())
            .peekable();
        while let Some(word) = words.next() {
            let Some(flag) = word.strip_prefix("--") else { continue };
            if let Some((flag, value)) = flag.split_once('=') {
                flags.insert(flag.to_owned(), value.to_owned());
            } else if let Some(value) = words.next_if(|next| !next.starts_with("--")) {
                flags.insert(flag.to_owned(), value.clone());
            }
        }
        Self {
            flags,
            variables,
            unread: None,
        }
    }

    /// Why a value may be another one than [`Self::value`] says, if it may.
    pub fn unread(&self) -> Option<&str> {
        self.unread.as_deref()
    }

    /// The value in effect.
    pub fn value<'a>(&'a self, flag: &str, variable: &str, default: &'a str) -> &'a str {
        let set = self.flags.get(flag).or_else(|| self.variables.get(variable));
        set.map(String::as_str)
            .filter(|value| !value.is_empty())
            .unwrap_or(default)
    }
}

/// Where the first container's file at this path comes from.
pub fn config_map_of(spec: &PodSpec, path: &str) -> Option<FromConfigMap> {
    let container = spec.containers.first()?;
    let (mount, rest) = container.volume_mounts.iter().flatten().find_map(|mount| {
        let rest = path
            .strip_prefix(mount.mount_path.trim_end_matches('/'))?
            .strip_prefix('/')?;
        Some((mount, rest))
    })?;
    let volume = spec.volumes.iter().flatten().find(|volume| volume.name == mount.name)?;
    let map = volume.config_map.as_ref()?;
    let key = match &map.items {
        None => rest.to_owned(),
        Some(items) => items.iter().find(|item| item.path == rest)?.key.clone(),
    };
    Some(FromConfigMap {
        name: map.name.clone(),
        key,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn spec() -> PodSpec {
        let spec = json!({
            "containers": [{
                "name": "agent",
                "args": ["--source=csi", "--ca-addr", "a:1", "--print-config", "--trust-domain=t"],
                "env": [
                    { "name": "TRUST_DOMAIN", "value": "not this" },
                    { "name": "SECRET_TTL", "value": "1h" },
                    { "name": "NODE_NAME", "valueFrom": { "fieldRef": { "fieldPath": "spec.nodeName" } } },
                ],
                "volumeMounts": [{ "name": "roots", "mountPath": "/var/run/secrets/istio/" }],
            }],
            "volumes": [{ "name": "roots", "configMap": { "name": "istio-ca-root-cert" } }],
        });
        serde_json::from_value(spec).unwrap()
    }

    #[test]
    fn a_flag_wins_over_its_variable_and_env_over_env_from() {
        let map = BTreeMap::from([
            ("SECRET_TTL".to_owned(), "2h".to_owned()),
            ("CA_ADDR".to_owned(), "not this".to_owned()),
            ("ISTIOD_SAN".to_owned(), String::new()),
        ]);
        let settings = Settings::of(&spec().containers[0], vec![map]);
        assert_eq!(settings.value("ca-addr", "CA_ADDR", ""), "a:1");
        assert_eq!(settings.value("trust-domain", "TRUST_DOMAIN", ""), "t");
        assert_eq!(settings.value("secret-ttl", "SECRET_TTL", "24h"), "1h");
        assert_eq!(settings.value("istiod-san", "ISTIOD_SAN", "host"), "host");
        assert_eq!(
            settings.value("print-config", "", "unset"),
            "unset",
            "a flag without a value takes none"
        );
    }

    #[test]
    fn a_mounted_file_leads_to_its_config_map() {
        let found = config_map_of(&spec(), "/var/run/secrets/istio/root-cert.pem");
        let expected = FromConfigMap {
            name: "istio-ca-root-cert".to_owned(),
            key: "root-cert.pem".to_owned(),
        };
        assert_eq!(found, Some(expected));
        assert_eq!(config_map_of(&spec(), "/var/run/secrets/istiod/x"), None);
    }
}
