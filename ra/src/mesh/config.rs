//! Istio's MeshConfig, as far as an RA needs it.
//!
//! Reads `trustDomain`, `trustDomainAliases`, `rootNamespace`, `caCertificates` and
//! `defaultConfig.proxyMetadata.ISTIO_META_CERT_SIGNER`, in either spelling that protobuf's JSON has; the rest of the
//! file is Istio's business and passed over. What is read is checked: a file that contradicts its form is an error, an
//! entry of `caCertificates` that cannot be used is a [`Notice`], and the other entries count.
//! Field by field: <https://istio.io/latest/docs/reference/config/istio.mesh.v1alpha1/#MeshConfig>.

use std::collections::BTreeSet;

use ensign_daemon::{logging, redact};
use ensign_pki::dns_name::is_label;
use ensign_pki::{Bundle, BundleError, TrustDomain};
use serde::Deserialize;
use serde_saphyr::Spanned;
use thiserror::Error;

use super::KubernetesSigner;
use super::anchors::{Anchor, Anchors};
use super::indentation::{Unindented, unindented};
use super::notice::{Notice, NoticeKind};
use crate::yaml;

/// What a mesh configuration says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MeshConfig {
    trust_domain: Option<TrustDomain>,
    aliases: Vec<String>,
    root_namespace: Option<String>,
    default_signer: Option<String>,
    anchors: Anchors,
    /// Every signer that an entry names, whatever else is wrong with that entry.
    named: BTreeSet<KubernetesSigner>,
    /// The signers of entries that could not be read; an empty list means all signers.
    broken: Vec<Vec<KubernetesSigner>>,
    notices: Vec<Notice>,
}

/// Why a text is no mesh configuration. Nothing of it counts.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum MeshConfigError {
    /// No text.
    #[error("it is empty; expected Istio's MeshConfig in YAML, `{{}}` at least")]
    Empty,
    /// A certificate that is not indented below its key.
    #[error(
        "line {line}: the certificate of `pem: |` (line {key_line}) must be indented deeper than `pem`: put at least {needed} spaces before each of its lines (a shell variable indents the first line only)"
    )]
    Unindented {
        /// The first line that is not indented.
        line: usize,
        /// The line of the key.
        key_line: usize,
        /// How many spaces it needs.
        needed: usize,
    },
    /// No YAML, or a field of another type.
    #[error("it cannot be read: {0}")]
    Form(#[from] yaml::YamlError),
    /// A trust domain that cannot be one.
    #[error("trustDomain: {0}")]
    TrustDomain(String),
    /// A namespace that cannot be one.
    #[error("rootNamespace: {0:?} is no namespace; expected a DNS label")]
    RootNamespace(String),
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Form {
    #[serde(default, alias = "trust_domain")]
    trust_domain: Option<String>,
    #[serde(default, alias = "trust_domain_aliases")]
    trust_domain_aliases: Option<Vec<String>>,
    #[serde(default, alias = "root_namespace")]
    root_namespace: Option<String>,
    #[serde(default, alias = "ca_certificates")]
    ca_certificates: Option<Vec<Spanned<Entry>>>,
    #[serde(default, alias = "default_config")]
    default_config: Option<ProxyDefaults>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    #[serde(default)]
    pem: Option<String>,
    #[serde(default, alias = "spiffe_bundle_url")]
    spiffe_bundle_url: Option<String>,
    #[serde(default, alias = "cert_signers")]
    cert_signers: Option<Vec<String>>,
    #[serde(default, alias = "trust_domains")]
    trust_domains: Option<Vec<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ProxyDefaults {
    #[serde(default, alias = "proxy_metadata")]
    proxy_metadata: Option<ProxyMetadata>,
}

#[derive(Debug, Deserialize)]
struct ProxyMetadata {
    #[serde(default, rename = "ISTIO_META_CERT_SIGNER")]
    cert_signer: Option<String>,
}

// === impl MeshConfig ===

impl MeshConfig {
    /// Reads the text of the key `mesh`.
    pub fn parse(text: &str) -> Result<Self, MeshConfigError> {
        let form = match yaml::lenient::<Option<Form>>(text) {
            Ok(Some(form)) => form,
            Ok(None) => return Err(MeshConfigError::Empty),
            Err(error) => {
                return Err(match unindented(text) {
                    Some(Unindented { line, needed, key_line }) => {
                        MeshConfigError::Unindented { line, key_line, needed }
                    }
                    None => error.into(),
                });
            }
        };
        let mut config = Self {
            trust_domain: form.trust_domain.as_deref().map_or(Ok(None), trust_domain)?,
            aliases: form.trust_domain_aliases.unwrap_or_default(),
            root_namespace: form.root_namespace.map_or(Ok(None), root_namespace)?,
            default_signer: form
                .default_config
                .and_then(|defaults| defaults.proxy_metadata)
                .and_then(|metadata| metadata.cert_signer),
            ..Self::default()
        };
        for (index, entry) in form.ca_certificates.unwrap_or_default().into_iter().enumerate() {
            config.add(index, &entry);
        }
        Ok(config)
    }

    /// This configuration in effect after `before`: the signers of an entry that cannot be read keep the roots that they
    /// had, until the entry is mended.
    pub fn after(mut self, before: &Self) -> Self {
        for scope in &self.broken {
            self.anchors.keep(&before.anchors, scope);
        }
        self
    }

    /// The trust domain, where the file says one.
    pub fn trust_domain(&self) -> Option<&TrustDomain> {
        self.trust_domain.as_ref()
    }

    /// Other names of the trust domain, as written. Nothing is issued under them.
    pub fn aliases(&self) -> &[String] {
        &self.aliases
    }

    /// The namespace whose ProxyConfig is for the whole mesh, where the file says one.
    pub fn root_namespace(&self) -> Option<&str> {
        self.root_namespace.as_deref()
    }

    /// `ISTIO_META_CERT_SIGNER` of the mesh's `proxyMetadata`; present and empty means: none.
    pub fn default_signer(&self) -> Option<&str> {
        self.default_signer.as_deref()
    }

    /// Every signer that an entry of `caCertificates` names, each once, in order.
    pub fn cert_signers(&self) -> impl Iterator<Item = &KubernetesSigner> {
        self.named.iter()
    }

    /// The roots of a signer's certificates in this trust domain; `None`: no entry counts for it.
    pub fn roots(&self, signer: &KubernetesSigner, trust_domain: &TrustDomain) -> Result<Option<Bundle>, BundleError> {
        self.anchors.of(signer, trust_domain, &self.aliases)
    }

    /// What does not count.
    pub fn notices(&self) -> &[Notice] {
        &self.notices
    }

    fn add(&mut self, index: usize, entry: &Spanned<Entry>) {
        let place = format!("caCertificates[{index}] (line {})", entry.referenced.line());
        let entry = &entry.value;
        let named = entry.cert_signers.as_deref().unwrap_or_default();
        let mut signers: Vec<KubernetesSigner> = Vec::new();
        for name in named {
            match name.parse() {
                Ok(signer) => signers.push(signer),
                Err(error) => self.note(NoticeKind::BadSignerName, &format!("{place}: certSigners: {error}")),
            }
        }
        self.named.extend(signers.iter().cloned());
        if entry.spiffe_bundle_url.is_some() {
            let text = format!(
                "{place}: spiffeBundleUrl is not supported and gives no roots; put the certificates themselves under `pem: |`"
            );
            self.note(NoticeKind::SpiffeBundleUrl, &text);
            if entry.pem.is_none() {
                return;
            }
        }
        // Names that are all wrong must not turn an entry for few into one for all.
        if signers.is_empty() && !named.is_empty() {
            return;
        }
        let bundle = match Bundle::parse_pem(entry.pem.as_deref().unwrap_or_default()) {
            Ok(bundle) => bundle,
            Err(error) => {
                let for_whom = match signers.as_slice() {
                    [] => "all signers".to_owned(),
                    some => some.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
                };
                let text = format!(
                    "{place}: pem: {}; {for_whom} keep the roots that they have from elsewhere or had before",
                    logging::chain(&error)
                );
                self.note(NoticeKind::BadCertificates, &text);
                self.broken.push(signers);
                return;
            }
        };
        let anchor = Anchor {
            signers,
            trust_domains: entry.trust_domains.clone().unwrap_or_default(),
            bundle,
        };
        if let Some(own) = self
            .trust_domain
            .as_ref()
            .filter(|own| !anchor.is_of(own, &self.aliases))
        {
            let text = format!(
                "{place}: trustDomains are {}, and not {own} or an alias of it: its roots are given to nobody",
                anchor.trust_domains.join(", ")
            );
            self.note(NoticeKind::OtherTrustDomain, &text);
        }
        self.anchors.push(anchor);
    }

    /// The text may quote what was pasted in the wrong place.
    fn note(&mut self, kind: NoticeKind, text: &str) {
        let text = redact::secrets(text).into_owned();
        self.notices.push(Notice { kind, text });
    }
}

/// Istio writes an e-mail address there for some platforms, and '.' for its '@' in every identity.
fn trust_domain(text: &str) -> Result<Option<TrustDomain>, MeshConfigError> {
    if text.is_empty() {
        return Ok(None);
    }
    match text.replace('@', ".").parse() {
        Ok(domain) => Ok(Some(domain)),
        Err(error) => Err(MeshConfigError::TrustDomain(error.to_string())),
    }
}

fn root_namespace(text: String) -> Result<Option<String>, MeshConfigError> {
    match text {
        none if none.is_empty() => Ok(None),
        label if is_label(&label) => Ok(Some(label)),
        other => Err(MeshConfigError::RootNamespace(other.chars().take(80).collect())),
    }
}
