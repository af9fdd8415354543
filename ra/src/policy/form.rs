//! The form of the policy file: which fields there are, and nothing of what they mean.
//!
//! Unknown fields are mistakes. Values stay texts with their place, so that a mistake in one names its line.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_saphyr::Spanned;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct File {
    pub(super) api_version: Spanned<String>,
    #[serde(default)]
    pub(super) trust_domain: Option<Spanned<String>>,
    #[serde(default)]
    pub(super) ttl: Ttl,
    #[serde(default)]
    pub(super) backdate: Option<Spanned<String>>,
    #[serde(default)]
    pub(super) key_types: Option<Vec<Spanned<String>>>,
    #[serde(default)]
    pub(super) limits: Limits,
    #[serde(default)]
    pub(super) signers: Vec<Signer>,
    pub(super) rules: Vec<RuleForm>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Ttl {
    #[serde(default)]
    pub(super) default: Option<Spanned<String>>,
    #[serde(default)]
    pub(super) min: Option<Spanned<String>>,
    #[serde(default)]
    pub(super) max: Option<Spanned<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Limits {
    #[serde(default)]
    pub(super) concurrency: Option<Spanned<usize>>,
    #[serde(default)]
    pub(super) queue: Option<Spanned<usize>>,
    #[serde(default)]
    pub(super) rate: Option<Spanned<f64>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Signer {
    pub(super) name: Spanned<String>,
    #[serde(default)]
    pub(super) local: Option<Local>,
    #[serde(default)]
    pub(super) kubernetes_csr: Option<KubernetesCsr>,
    #[serde(default)]
    pub(super) cert_manager: Option<CertManager>,
    #[serde(default)]
    pub(super) roots: Option<Spanned<Roots>>,
    #[serde(default)]
    pub(super) ttl: Ttl,
    #[serde(default)]
    pub(super) limits: Limits,
    #[serde(default)]
    pub(super) lifetime: Option<Spanned<String>>,
    #[serde(default)]
    pub(super) deadline: Option<Spanned<String>>,
    #[serde(default)]
    pub(super) resume_window: Option<Spanned<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Local {
    pub(super) dir: PathBuf,
    #[serde(default)]
    pub(super) self_signed: bool,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct KubernetesCsr {
    pub(super) signer_name: Spanned<String>,
    #[serde(default = "yes")]
    pub(super) approve: bool,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct CertManager {
    pub(super) namespace: Spanned<String>,
    #[serde(default)]
    pub(super) issuer: Option<Issuer>,
    #[serde(default)]
    pub(super) runtime_issuer: Option<RuntimeIssuer>,
    #[serde(default)]
    pub(super) annotations: BTreeMap<String, String>,
    #[serde(default)]
    pub(super) preserve: bool,
}

/// The ConfigMap that names the issuer at run time.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RuntimeIssuer {
    pub(super) namespace: Spanned<String>,
    pub(super) name: Spanned<String>,
}

/// cert-manager's `issuerRef`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Issuer {
    pub(super) name: Spanned<String>,
    #[serde(default)]
    pub(super) kind: Option<Spanned<String>>,
    #[serde(default)]
    pub(super) group: Option<Spanned<String>>,
}

/// Where roots come from: a path, or a mapping with one key.
#[derive(Debug, Default)]
pub(super) struct Roots {
    pub(super) file: Option<PathBuf>,
    pub(super) config_map: Option<ConfigMapKey>,
    pub(super) cluster_trust_bundle: Option<String>,
    pub(super) mesh: Option<bool>,
    pub(super) discover: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, remote = "Roots")]
struct RootsMapping {
    #[serde(default)]
    file: Option<PathBuf>,
    #[serde(default)]
    config_map: Option<ConfigMapKey>,
    #[serde(default)]
    cluster_trust_bundle: Option<String>,
    #[serde(default)]
    mesh: Option<bool>,
    #[serde(default)]
    discover: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct ConfigMapKey {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) key: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RuleForm {
    pub(super) namespace: Spanned<String>,
    pub(super) service_accounts: Vec<Spanned<String>>,
    pub(super) signers: Vec<Spanned<String>>,
    #[serde(default)]
    pub(super) default: Option<Spanned<String>>,
    #[serde(default)]
    pub(super) ignore_cert_signer: bool,
}

/// As istiod, which approves what it requests.
fn yes() -> bool {
    true
}

// === impl Roots ===

/// By hand, since an untagged enum would say of an unknown field only that nothing fits.
impl<'de> Deserialize<'de> for Roots {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PathOrMapping)
    }
}

struct PathOrMapping;

impl<'de> Visitor<'de> for PathOrMapping {
    type Value = Roots;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a path, or a mapping with one of file, configMap, clusterTrustBundle, mesh and discover")
    }

    fn visit_str<E: Error>(self, path: &str) -> Result<Roots, E> {
        Ok(Roots {
            file: Some(PathBuf::from(path)),
            ..Roots::default()
        })
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Roots, A::Error> {
        RootsMapping::deserialize(MapAccessDeserializer::new(map))
    }
}
