//! What a response holds, decoded, and the PEM texts inside a secret.

use ensign_proto::envoy::config::core::v3::{DataSource, data_source::Specifier};
use ensign_proto::envoy::extensions::transport_sockets::tls::v3::{Secret, secret};
use ensign_proto::envoy::service::discovery::v3::{DeltaDiscoveryResponse, DiscoveryResponse};
use prost::Message as _;

/// What a response holds, decoded.
#[derive(Clone, Debug)]
pub struct Received {
    /// Of the response.
    pub version: String,
    /// Of the response.
    pub nonce: String,
    /// Of the response.
    pub type_url: String,
    /// Its secrets, in order.
    pub secrets: Vec<Secret>,
    /// Version per secret (incremental streams only).
    pub versions: Vec<(String, String)>,
    /// Names that are gone (incremental streams only).
    pub removed: Vec<String>,
}

impl Received {
    /// The secret of this name.
    pub fn secret(&self, name: &str) -> Option<&Secret> {
        self.secrets.iter().find(|secret| secret.name == name)
    }

    /// The only secret. Panics if there are more or none.
    pub fn only(&self) -> &Secret {
        assert_eq!(self.secrets.len(), 1, "expected one secret in {self:?}");
        &self.secrets[0]
    }
}

impl From<DiscoveryResponse> for Received {
    fn from(response: DiscoveryResponse) -> Self {
        let secrets = response
            .resources
            .iter()
            .map(|any| Secret::decode(any.value.clone()).expect("a Secret"))
            .collect();
        Self {
            version: response.version_info,
            nonce: response.nonce,
            type_url: response.type_url,
            secrets,
            versions: Vec::new(),
            removed: Vec::new(),
        }
    }
}

impl From<DeltaDiscoveryResponse> for Received {
    fn from(response: DeltaDiscoveryResponse) -> Self {
        let secret = |any: &ensign_proto::Any| Secret::decode(any.value.clone()).expect("a Secret");
        Self {
            version: response.system_version_info,
            nonce: response.nonce,
            type_url: response.type_url,
            secrets: response
                .resources
                .iter()
                .filter_map(|one| one.resource.as_ref())
                .map(secret)
                .collect(),
            versions: response
                .resources
                .into_iter()
                .map(|one| (one.name, one.version))
                .collect(),
            removed: response.removed_resources,
        }
    }
}

/// PEM of the chain and of the key, from a certificate secret.
pub fn certificate(secret: &Secret) -> Option<(String, String)> {
    match secret.r#type.as_ref()? {
        secret::Type::TlsCertificate(certificate) => Some((
            inline(certificate.certificate_chain.as_ref()?)?,
            inline(certificate.private_key.as_ref()?)?,
        )),
        secret::Type::ValidationContext(_) => None,
    }
}

/// PEM of the trust anchors, from a validation context.
pub fn trusted_ca(secret: &Secret) -> Option<String> {
    match secret.r#type.as_ref()? {
        secret::Type::ValidationContext(context) => inline(context.trusted_ca.as_ref()?),
        secret::Type::TlsCertificate(_) => None,
    }
}

fn inline(source: &DataSource) -> Option<String> {
    match source.specifier.as_ref()? {
        Specifier::InlineBytes(bytes) => String::from_utf8(bytes.to_vec()).ok(),
        Specifier::InlineString(text) => Some(text.clone()),
        Specifier::Filename(_) | Specifier::EnvironmentVariable(_) => None,
    }
}
