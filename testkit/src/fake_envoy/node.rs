//! The node that a fake Envoy sends: as large as a real one's.

use bytes::Bytes;
use ensign_proto::envoy::config::core::v3::{Extension, Node};
use prost::Message as _;
use prost_types::value::Kind;

/// A node like a real Envoy 1.40's: 516 extensions, about 61 KB.
pub fn node(id: &str, cert_signer: Option<&str>) -> Bytes {
    let text = |text: &str| prost_types::Value {
        kind: Some(Kind::StringValue(text.to_owned())),
    };
    let mut fields = std::collections::BTreeMap::from([
        ("CLUSTER_ID".to_owned(), text("Kubernetes")),
        ("NAMESPACE".to_owned(), text("foo")),
        ("SERVICE_ACCOUNT".to_owned(), text("httpbin")),
        ("MESH_ID".to_owned(), text("cluster.local")),
    ]);
    if let Some(signer) = cert_signer {
        fields.insert("CERT_SIGNER".to_owned(), text(signer));
    }
    let extension = |number| Extension {
        name: format!("envoy.filters.network.some_filter_of_number_{number:03}"),
        category: "envoy.filters.network".to_owned(),
        type_urls: vec![format!("envoy.extensions.filters.{number:03}.v3.FilterRule")],
        ..Extension::default()
    };
    let node = Node {
        id: id.to_owned(),
        cluster: "httpbin.foo".to_owned(),
        metadata: Some(prost_types::Struct { fields }),
        user_agent_name: "envoy".to_owned(),
        extensions: (0..516).map(extension).collect(),
    };
    node.encode_to_vec().into()
}
