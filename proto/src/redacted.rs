//! `Debug` for each message that can carry a private key, a token or a node: lengths and names, never content.
//!
//! The messages around them (`Secret`, `TlsCertificate`, `DiscoveryResponse`, `Resource`, …) derive
//! `Debug` and print these, so none of them can print a key. The tests hold each of them to that.

use std::collections::{BTreeSet, HashMap};
use std::fmt;

use crate::Any;
use crate::csi::v1::NodePublishVolumeRequest;
use crate::envoy::config::core::v3::{DataSource, data_source::Specifier};
use crate::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest};

impl fmt::Debug for Any {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Any")
            .field("type_url", &self.type_url)
            .field("value", &Length(self.value.len()))
            .finish()
    }
}

impl fmt::Debug for DataSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("DataSource").field(&self.specifier).finish()
    }
}

impl fmt::Debug for Specifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Filename(path) => f.debug_tuple("Filename").field(path).finish(),
            Self::InlineBytes(bytes) => f.debug_tuple("InlineBytes").field(&Length(bytes.len())).finish(),
            Self::InlineString(text) => f.debug_tuple("InlineString").field(&Length(text.len())).finish(),
            Self::EnvironmentVariable(name) => f.debug_tuple("EnvironmentVariable").field(name).finish(),
        }
    }
}

impl fmt::Debug for DiscoveryRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DiscoveryRequest")
            .field("version_info", &self.version_info)
            .field("node", &Length(self.node.len()))
            .field("resource_names", &self.resource_names)
            .field("type_url", &self.type_url)
            .field("response_nonce", &self.response_nonce)
            .field("error_detail", &self.error_detail)
            .finish()
    }
}

impl fmt::Debug for DeltaDiscoveryRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeltaDiscoveryRequest")
            .field("node", &Length(self.node.len()))
            .field("type_url", &self.type_url)
            .field("resource_names_subscribe", &self.resource_names_subscribe)
            .field("resource_names_unsubscribe", &self.resource_names_unsubscribe)
            .field("initial_resource_versions", &self.initial_resource_versions)
            .field("response_nonce", &self.response_nonce)
            .field("error_detail", &self.error_detail)
            .finish()
    }
}

/// Both maps can hold tokens; which keys they have is worth knowing.
impl fmt::Debug for NodePublishVolumeRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodePublishVolumeRequest")
            .field("volume_id", &self.volume_id)
            .field("target_path", &self.target_path)
            .field("volume_capability", &self.volume_capability)
            .field("readonly", &self.readonly)
            .field("secrets", &keys(&self.secrets))
            .field("volume_context", &keys(&self.volume_context))
            .finish()
    }
}

fn keys(map: &HashMap<String, String>) -> BTreeSet<&str> {
    map.keys().map(String::as_str).collect()
}

/// Stands for content that is not printed.
struct Length(usize);

impl fmt::Debug for Length {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{} bytes>", self.0)
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Debug;

    use prost::Message as _;

    use crate::csi::v1::NodePublishVolumeRequest;
    use crate::envoy::config::core::v3::{DataSource, data_source::Specifier};
    use crate::envoy::extensions::transport_sockets::tls::v3::{
        CertificateValidationContext, Secret, TlsCertificate, secret,
    };
    use crate::envoy::service::discovery::v3::{
        DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, Resource,
    };
    use crate::{Any, SECRET_TYPE_URL};

    const PLANTED: &str = "planted-private-key";

    /// The planted text must not appear as text, as a list of byte values, nor escaped.
    fn silent(message: &impl Debug) {
        for printed in [format!("{message:?}"), format!("{message:#?}")] {
            assert!(!printed.contains("planted"), "{printed}");
            assert!(
                !printed.replace(char::is_whitespace, "").contains("112,108,97,110"),
                "{printed}"
            );
        }
    }

    #[test]
    fn no_message_around_a_key_prints_it() {
        let inline = |specifier| DataSource {
            specifier: Some(specifier),
        };
        for key in [
            inline(Specifier::InlineBytes(PLANTED.into())),
            inline(Specifier::InlineString(PLANTED.into())),
        ] {
            let certificate = TlsCertificate {
                certificate_chain: Some(key.clone()),
                private_key: Some(key.clone()),
            };
            let context = CertificateValidationContext {
                trusted_ca: Some(key.clone()),
            };
            let secret = Secret {
                name: "default".into(),
                r#type: Some(secret::Type::TlsCertificate(certificate.clone())),
            };
            let any = Any {
                type_url: SECRET_TYPE_URL.into(),
                value: secret.encode_to_vec().into(),
            };
            let resource = Resource {
                resource: Some(any.clone()),
                ..Resource::default()
            };
            silent(&key);
            silent(&key.specifier);
            silent(&certificate);
            silent(&context);
            silent(&secret);
            silent(&secret.r#type);
            silent(&DiscoveryResponse {
                resources: vec![any.clone()],
                ..DiscoveryResponse::default()
            });
            silent(&DeltaDiscoveryResponse {
                resources: vec![resource.clone()],
                ..DeltaDiscoveryResponse::default()
            });
            silent(&any);
            silent(&resource);
        }
    }

    #[test]
    fn a_request_prints_its_names_but_not_its_node() {
        let request = DiscoveryRequest {
            node: PLANTED.into(),
            resource_names: vec!["ROOTCA".into()],
            ..Default::default()
        };
        silent(&request);
        assert!(format!("{request:?}").contains("node: <19 bytes>, resource_names: [\"ROOTCA\"]"));
        silent(&DeltaDiscoveryRequest {
            node: PLANTED.into(),
            ..Default::default()
        });
    }
    #[test]
    fn a_publish_prints_the_keys_of_its_maps_and_no_value() {
        let map = |key: &str| [(key.to_owned(), PLANTED.to_owned())].into();
        let request = NodePublishVolumeRequest {
            volume_id: "csi-1".into(),
            secrets: map("csi.storage.k8s.io/serviceAccount.tokens"),
            volume_context: map("signer"),
            ..Default::default()
        };
        silent(&request);
        let printed = format!("{request:?}");
        assert!(
            printed.contains("serviceAccount.tokens") && printed.contains("\"signer\""),
            "{printed}"
        );
    }
}
