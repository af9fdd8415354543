//! Which signers an RA has, by what it is told: those of its policy file, and those of Istio's mesh configuration where it follows
//! that. Only names are read; what is wrong in either is the RA's to say.
//!
//! A ProxyConfig chooses among signers and defines none, so none is read.

use k8s_openapi::api::core::v1::{ConfigMap, PodSpec};
use kube::Api;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_saphyr::options::DuplicateKeyPolicy;

use super::facts::Signers;
use crate::access::{Access, Looked};
use crate::settings::{FromConfigMap, Settings, config_map_of};

/// Reads both.
pub(super) async fn look(access: &Access, namespace: &str, spec: &PodSpec, settings: &Settings) -> Signers {
    let mut signers = Signers::default();
    let path = settings.value("policy-file", "ENSIGN_RA_POLICY_FILE", "");
    if !path.is_empty() {
        let read = match config_map_of(spec, path) {
            Some(from) => text(access, namespace, &from).await.and_then(|text| of_policy(&text)),
            None => Err("it comes from no ConfigMap".to_owned()),
        };
        signers.add(&format!("the policy file {path}"), read);
    }
    if let Some(name) = mesh(settings) {
        let istio = settings.value("istio-namespace", "ENSIGN_RA_ISTIO_NAMESPACE", "istio-system");
        let domain = settings.value("cert-signer-domain", "CERT_SIGNER_DOMAIN", "");
        let from = FromConfigMap {
            name: name.to_owned(),
            key: "mesh".to_owned(),
        };
        let read = text(access, istio, &from).await.and_then(|text| of_mesh(&text, domain));
        signers.add(&format!("the mesh configuration {istio}/{name}"), read);
    }
    signers
}

impl Signers {
    /// What was read at this place.
    fn add(&mut self, place: &str, read: Result<Vec<String>, String>) {
        match read {
            Err(why) => self.unread.push(format!("{place} cannot be read: {why}")),
            Ok(names) => {
                let new = |name: &String| !self.names.contains(name);
                let names: Vec<_> = names.into_iter().filter(new).collect();
                self.names.extend(names);
            }
        }
    }
}

/// The ConfigMap that the RA follows, if it does (docs/ra-configuration.md).
fn mesh(settings: &Settings) -> Option<&str> {
    let followed = !settings.value("external-ca", "EXTERNAL_CA", "").is_empty();
    let default = if followed { "istio" } else { "" };
    let name = settings.value("mesh-config-map", "ENSIGN_RA_MESH_CONFIG_MAP", default);
    (!name.is_empty()).then_some(name)
}

async fn text(access: &Access, namespace: &str, from: &FromConfigMap) -> Result<String, String> {
    let api = Api::<ConfigMap>::namespaced(access.client(), namespace);
    let FromConfigMap { name, key } = from;
    match access.one(api, name).await {
        Looked::There(map) => {
            let text = map.data.unwrap_or_default().remove(key);
            text.ok_or_else(|| format!("the ConfigMap {namespace}/{name} has no key {key}"))
        }
        Looked::Missing => Err(format!("there is no ConfigMap {namespace}/{name}")),
        Looked::Unreadable(why) => Err(why),
    }
}

fn of_policy(text: &str) -> Result<Vec<String>, String> {
    #[derive(Deserialize)]
    struct Policy {
        #[serde(default)]
        signers: Vec<Named>,
    }
    #[derive(Deserialize)]
    struct Named {
        name: String,
    }
    let policy: Policy = parsed(text)?;
    Ok(policy.signers.into_iter().map(|signer| signer.name).collect())
}

/// Each signer of the domain by its rest, as the RA names them (docs/policy.md), and the mesh's default. Protobuf's JSON has
/// two spellings.
fn of_mesh(text: &str, domain: &str) -> Result<Vec<String>, String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Mesh {
        #[serde(default, alias = "ca_certificates")]
        ca_certificates: Option<Vec<Entry>>,
        #[serde(default, alias = "default_config")]
        default_config: Option<Defaults>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Entry {
        #[serde(default, alias = "cert_signers")]
        cert_signers: Option<Vec<String>>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Defaults {
        #[serde(default, alias = "proxy_metadata")]
        proxy_metadata: Option<Metadata>,
    }
    #[derive(Deserialize)]
    struct Metadata {
        #[serde(default, rename = "ISTIO_META_CERT_SIGNER")]
        cert_signer: Option<String>,
    }
    let mesh: Mesh = parsed(text)?;
    let listed = mesh.ca_certificates.into_iter().flatten();
    let listed = listed.flat_map(|entry| entry.cert_signers.unwrap_or_default());
    let of_domain = |signer: String| Some(signer.strip_prefix(domain)?.strip_prefix('/')?.to_owned());
    let metadata = mesh.default_config.and_then(|defaults| defaults.proxy_metadata);
    let default = metadata.and_then(|metadata| metadata.cert_signer);
    let default = default.filter(|name| !name.is_empty() && !domain.is_empty());
    Ok(listed.filter_map(of_domain).chain(default).collect())
}

/// One document, as the RA and istiod read it: of a key that occurs twice the last one counts.
fn parsed<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    let options = serde_saphyr::options! {
        duplicate_keys: DuplicateKeyPolicy::LastWins,
    };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| error.without_snippet().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policys_signers_are_read_by_name_alone() {
        let policy = "apiVersion: ensign.mesh/v1\nsigners:\n- name: foo\n  local: { dir: /x }\n- name: bar\n";
        assert_eq!(of_policy(policy).unwrap(), ["foo", "bar"]);
        assert!(of_policy("apiVersion: ensign.mesh/v1\n").unwrap().is_empty());
        assert!(of_policy("signers: 7\n").is_err());
    }

    #[test]
    fn the_meshs_signers_are_those_of_the_domain_and_its_default() {
        let mesh = "trustDomain: x\ncaCertificates:\n- pem: |\n    none\n  certSigners:\n  - issuers.example/foo\n  - other.example/no\n\
                    - cert_signers: [issuers.example/bar]\n- pem: none\n\
                    defaultConfig:\n  proxyMetadata:\n    OTHER: x\n    ISTIO_META_CERT_SIGNER: istio-system\n";
        assert_eq!(
            of_mesh(mesh, "issuers.example").unwrap(),
            ["foo", "bar", "istio-system"]
        );
        assert!(of_mesh(mesh, "").unwrap().is_empty(), "without a domain there are none");
        assert!(of_mesh("{}", "issuers.example").unwrap().is_empty());
        assert!(of_mesh("caCertificates: 7", "issuers.example").is_err());
    }

    #[test]
    fn a_signer_of_both_is_one_and_what_cannot_be_read_is_kept() {
        let mut signers = Signers::default();
        signers.add("the file", Ok(vec!["foo".to_owned()]));
        signers.add("the mesh", Ok(vec!["bar".to_owned(), "foo".to_owned()]));
        signers.add("the rest", Err("403".to_owned()));
        assert_eq!(signers.names, ["foo", "bar"]);
        assert_eq!(signers.unread, ["the rest cannot be read: 403"]);
    }
}
