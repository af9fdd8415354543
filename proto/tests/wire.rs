//! Our subsets against messages that others defined.
//!
//! Envoy's are checked field by field against the published crate `envoy-types`, in both directions.
//! No published crate carries `istio.v1.auth`, `csi.v1` or `pluginregistration` alone, so their bytes are written out by
//! hand here, from the field numbers of the public `.proto` files.

use std::collections::HashMap;

use ensign_proto::csi::v1 as csi;
use ensign_proto::envoy::config::core::v3 as core;
use ensign_proto::envoy::extensions::transport_sockets::tls::v3 as tls;
use ensign_proto::envoy::service::discovery::v3 as discovery;
use ensign_proto::google::rpc;
use ensign_proto::istio::v1::auth;
use ensign_proto::pluginregistration as registration;
use ensign_proto::{Any, node};
use envoy_types::pb::envoy::config::core::v3 as their_core;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3 as their_tls;
use envoy_types::pb::envoy::service::discovery::v3 as their_discovery;
use envoy_types::pb::google::protobuf as their_protobuf;
use envoy_types::pb::google::rpc as their_rpc;
use proptest::prelude::*;
use prost::Message;

/// Encodes one message and decodes it as the other side's type.
fn across<T: Message + Default>(message: &impl Message) -> T {
    T::decode(&*message.encode_to_vec()).unwrap()
}

fn their_node(id: String, cluster: String, signer: String) -> their_core::Node {
    let text = |text| their_protobuf::Value {
        kind: Some(their_protobuf::value::Kind::StringValue(text)),
    };
    their_core::Node {
        id,
        cluster,
        metadata: Some(their_protobuf::Struct {
            fields: [("CERT_SIGNER".to_owned(), text(signer))].into(),
        }),
        user_agent_name: "envoy".into(),
        extensions: vec![their_core::Extension {
            name: "envoy.filters.http.router".into(),
            category: "envoy.filters.http".into(),
            disabled: true,
            type_urls: vec!["envoy.x".into()],
            ..Default::default()
        }],
        locality: Some(their_core::Locality {
            region: "r".into(),
            ..Default::default()
        }),
        client_features: vec!["envoy.lb.does_not_support_overprovisioning".into()],
        user_agent_version_type: Some(their_core::node::UserAgentVersionType::UserAgentVersion(
            "1.40.0".into(),
        )),
        ..Default::default()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn discovery_request(
        version_info in ".*", id in "[ -~]{0,40}", signer in "[a-z]{1,20}", names in proptest::collection::vec(".*", 0..4),
        type_url in ".*", response_nonce in ".*", code in any::<i32>(), message in ".*",
    ) {
        let theirs = their_discovery::DiscoveryRequest {
            version_info: version_info.clone(),
            node: Some(their_node(id.clone(), "c".into(), signer.clone())),
            resource_names: names.clone(),
            type_url: type_url.clone(),
            response_nonce: response_nonce.clone(),
            error_detail: Some(their_rpc::Status { code, message: message.clone(), details: vec![their_protobuf::Any::default()] }),
            ..Default::default()
        };
        let ours: discovery::DiscoveryRequest = across(&theirs);
        prop_assert_eq!(node::read(&ours.node).unwrap(), node::NodeFacts { id, cert_signer: Some(signer) });
        prop_assert_eq!(&ours, &discovery::DiscoveryRequest {
            version_info, node: ours.node.clone(), resource_names: names, type_url, response_nonce,
            error_detail: Some(rpc::Status { code, message }),
        });
        // Back: all but what we do not declare.
        let mut expected = theirs;
        expected.error_detail.as_mut().unwrap().details.clear();
        prop_assert_eq!(across::<their_discovery::DiscoveryRequest>(&ours), expected);
    }

    #[test]
    fn discovery_response(
        version_info in ".*", type_url in ".*", nonce in ".*",
        resources in proptest::collection::vec((".*", proptest::collection::vec(any::<u8>(), 0..60)), 0..4),
    ) {
        let theirs = their_discovery::DiscoveryResponse {
            version_info: version_info.clone(),
            resources: resources.iter().map(|(type_url, value)| their_protobuf::Any {
                type_url: type_url.clone(), value: value.clone()
            }).collect(),
            type_url: type_url.clone(),
            nonce: nonce.clone(),
            ..Default::default()
        };
        let resources = resources.into_iter().map(|(type_url, value)| Any { type_url, value: value.into() }).collect();
        let ours = discovery::DiscoveryResponse { version_info, resources, type_url, nonce };
        prop_assert_eq!(&across::<discovery::DiscoveryResponse>(&theirs), &ours);
        prop_assert_eq!(across::<their_discovery::DiscoveryResponse>(&ours), theirs);
    }

    #[test]
    fn delta_request(
        type_url in ".*", subscribe in proptest::collection::vec(".*", 0..4), unsubscribe in proptest::collection::vec(".*", 0..4),
        versions in proptest::collection::hash_map(".*", ".*", 0..4), response_nonce in ".*", message in ".*",
    ) {
        let theirs = their_discovery::DeltaDiscoveryRequest {
            node: Some(their_node("id".into(), "c".into(), "foo".into())),
            type_url: type_url.clone(),
            resource_names_subscribe: subscribe.clone(),
            resource_names_unsubscribe: unsubscribe.clone(),
            initial_resource_versions: versions.clone(),
            response_nonce: response_nonce.clone(),
            error_detail: Some(their_rpc::Status { code: 13, message: message.clone(), ..Default::default() }),
            ..Default::default()
        };
        let ours: discovery::DeltaDiscoveryRequest = across(&theirs);
        prop_assert_eq!(node::read(&ours.node).unwrap().cert_signer, Some("foo".to_owned()));
        prop_assert_eq!(&ours, &discovery::DeltaDiscoveryRequest {
            node: ours.node.clone(), type_url, resource_names_subscribe: subscribe, resource_names_unsubscribe: unsubscribe,
            initial_resource_versions: versions, response_nonce, error_detail: Some(rpc::Status { code: 13, message }),
        });
        prop_assert_eq!(across::<their_discovery::DeltaDiscoveryRequest>(&ours), theirs);
    }

    #[test]
    fn delta_response(
        system_version_info in ".*", type_url in ".*", nonce in ".*", removed in proptest::collection::vec(".*", 0..4),
        name in ".*", version in ".*", value in proptest::collection::vec(any::<u8>(), 0..60),
    ) {
        let theirs = their_discovery::DeltaDiscoveryResponse {
            system_version_info: system_version_info.clone(),
            resources: vec![their_discovery::Resource {
                name: name.clone(),
                version: version.clone(),
                resource: Some(their_protobuf::Any { type_url: type_url.clone(), value: value.clone() }),
                ..Default::default()
            }],
            type_url: type_url.clone(),
            removed_resources: removed.clone(),
            nonce: nonce.clone(),
            ..Default::default()
        };
        let resource = Some(Any { type_url: type_url.clone(), value: value.into() });
        let ours = discovery::DeltaDiscoveryResponse {
            system_version_info, resources: vec![discovery::Resource { version, resource, name }], type_url, nonce,
            removed_resources: removed,
        };
        prop_assert_eq!(&across::<discovery::DeltaDiscoveryResponse>(&theirs), &ours);
        prop_assert_eq!(across::<their_discovery::DeltaDiscoveryResponse>(&ours), theirs);
    }

    #[test]
    fn secret(name in ".*", chain in proptest::collection::vec(any::<u8>(), 0..60), key in proptest::collection::vec(any::<u8>(), 0..60)) {
        use their_core::data_source::Specifier::InlineBytes as Theirs;
        let theirs = |bytes: &[u8]| Some(their_core::DataSource { specifier: Some(Theirs(bytes.to_vec())), ..Default::default() });
        let ours = |bytes: &[u8]| Some(core::DataSource { specifier: Some(core::data_source::Specifier::InlineBytes(bytes.to_vec().into())) });

        let their_certificate = their_tls::Secret {
            name: name.clone(),
            r#type: Some(their_tls::secret::Type::TlsCertificate(their_tls::TlsCertificate {
                certificate_chain: theirs(&chain), private_key: theirs(&key), ..Default::default()
            })),
        };
        let our_certificate = tls::Secret {
            name: name.clone(),
            r#type: Some(tls::secret::Type::TlsCertificate(tls::TlsCertificate {
                certificate_chain: ours(&chain), private_key: ours(&key),
            })),
        };
        prop_assert_eq!(&across::<tls::Secret>(&their_certificate), &our_certificate);
        prop_assert_eq!(across::<their_tls::Secret>(&our_certificate), their_certificate);

        let their_context = their_tls::Secret {
            name: name.clone(),
            r#type: Some(their_tls::secret::Type::ValidationContext(their_tls::CertificateValidationContext {
                trusted_ca: theirs(&chain), ..Default::default()
            })),
        };
        let our_context = tls::Secret {
            name,
            r#type: Some(tls::secret::Type::ValidationContext(tls::CertificateValidationContext { trusted_ca: ours(&chain) })),
        };
        prop_assert_eq!(&across::<tls::Secret>(&their_context), &our_context);
        prop_assert_eq!(across::<their_tls::Secret>(&our_context), their_context);
    }
}

#[test]
fn every_kind_of_data_source() {
    use core::data_source::Specifier as Ours;
    use their_core::data_source::Specifier as Theirs;
    let pairs = [
        (Ours::Filename("f".into()), Theirs::Filename("f".into())),
        (Ours::InlineBytes("b".into()), Theirs::InlineBytes("b".into())),
        (Ours::InlineString("s".into()), Theirs::InlineString("s".into())),
        (
            Ours::EnvironmentVariable("e".into()),
            Theirs::EnvironmentVariable("e".into()),
        ),
    ];
    for (ours, theirs) in pairs {
        let ours = core::DataSource { specifier: Some(ours) };
        let theirs = their_core::DataSource {
            specifier: Some(theirs),
            ..Default::default()
        };
        assert_eq!(across::<core::DataSource>(&theirs), ours);
        assert_eq!(across::<their_core::DataSource>(&ours), theirs);
    }
}

#[test]
fn node_for_test_clients() {
    let theirs = their_node("id".into(), "cluster".into(), "foo".into());
    let ours: core::Node = across(&theirs);
    let back: their_core::Node = across(&ours);
    let kept = their_core::Node {
        locality: None,
        client_features: vec![],
        user_agent_version_type: None,
        ..theirs
    };
    assert_eq!(back, kept);
}

#[test]
fn fields_that_we_do_not_declare_are_stepped_over() {
    let theirs = their_discovery::DeltaDiscoveryResponse {
        nonce: "n".into(),
        control_plane: Some(their_core::ControlPlane {
            identifier: "istiod".into(),
        }),
        resources: vec![their_discovery::Resource {
            aliases: vec!["a".into()],
            ttl: Some(their_protobuf::Duration { seconds: 1, nanos: 0 }),
            ..Default::default()
        }],
        ..Default::default()
    };
    let expected = discovery::DeltaDiscoveryResponse {
        nonce: "n".into(),
        resources: vec![discovery::Resource::default()],
        ..Default::default()
    };
    assert_eq!(across::<discovery::DeltaDiscoveryResponse>(&theirs), expected);

    let key_log = their_tls::Secret {
        name: "x".into(),
        r#type: Some(their_tls::secret::Type::GenericSecret(
            their_tls::GenericSecret::default(),
        )),
    };
    assert_eq!(
        across::<tls::Secret>(&key_log),
        tls::Secret {
            name: "x".into(),
            r#type: None
        }
    );
}

#[test]
fn paths_are_those_of_the_public_service() {
    // The generated client holds the path that comes from package, service and method names.
    for (path, method) in [
        (ensign_proto::sds_path::STREAM_SECRETS, "StreamSecrets"),
        (ensign_proto::sds_path::DELTA_SECRETS, "DeltaSecrets"),
        (ensign_proto::sds_path::FETCH_SECRETS, "FetchSecrets"),
    ] {
        assert_eq!(
            path,
            format!("/envoy.service.secret.v3.SecretDiscoveryService/{method}")
        );
    }
    assert_eq!(
        auth::istio_certificate_service_server::SERVICE_NAME,
        "istio.v1.auth.IstioCertificateService"
    );
}

/// `istio.v1.auth` written out: tag = field number × 8 + wire type.
#[test]
fn istio_certificate_request_bytes() {
    let text = |text: &str| prost_types::Value {
        kind: Some(prost_types::value::Kind::StringValue(text.into())),
    };
    let request = auth::IstioCertificateRequest {
        csr: "PEM".into(),
        validity_duration: 86_400,
        metadata: Some(prost_types::Struct {
            fields: [("CertSigner".to_owned(), text("foo"))].into(),
        }),
    };
    let mut bytes = vec![0x0a, 3];
    bytes.extend(b"PEM");
    bytes.extend([0x18, 0x80, 0xa3, 0x05]);
    bytes.extend([0x22, 21, 0x0a, 19, 0x0a, 10]);
    bytes.extend(b"CertSigner");
    bytes.extend([0x12, 5, 0x1a, 3]);
    bytes.extend(b"foo");
    assert_eq!(request.encode_to_vec(), bytes);
    assert_eq!(auth::IstioCertificateRequest::decode(&*bytes).unwrap(), request);

    let negative = auth::IstioCertificateRequest {
        validity_duration: -1,
        ..Default::default()
    };
    let minus_one = [0x18, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
    assert_eq!(negative.encode_to_vec(), minus_one);
}

#[test]
fn istio_certificate_response_bytes() {
    let response = auth::IstioCertificateResponse {
        cert_chain: vec!["leaf".into(), "root".into()],
    };
    let bytes = b"\x0a\x04leaf\x0a\x04root";
    assert_eq!(response.encode_to_vec(), bytes);
    assert_eq!(auth::IstioCertificateResponse::decode(&bytes[..]).unwrap(), response);
}

#[test]
fn an_absent_node_is_no_bytes() {
    let request = discovery::DeltaDiscoveryRequest {
        initial_resource_versions: HashMap::from([("default".into(), "v".into())]),
        ..Default::default()
    };
    let theirs: their_discovery::DeltaDiscoveryRequest = across(&request);
    assert_eq!(theirs.node, None);
}

/// One field with a length: tag, length, content.
fn field(number: u8, content: &[u8]) -> Vec<u8> {
    let length = u8::try_from(content.len()).unwrap();
    assert!(length < 0x80, "one byte of length");
    [&[number * 8 + 2, length], content].concat()
}

/// A map is a list of messages with key and value.
fn entry(number: u8, key: &str, value: &str) -> Vec<u8> {
    field(number, &[field(1, key.as_bytes()), field(2, value.as_bytes())].concat())
}

#[test]
fn csi_publish_bytes() {
    let map = |key: &str, value: &str| HashMap::from([(key.to_owned(), value.to_owned())]);
    let request = csi::NodePublishVolumeRequest {
        volume_id: "csi-1".into(),
        target_path: "/t/mount".into(),
        volume_capability: Some(csi::VolumeCapability {
            access_type: Some(csi::volume_capability::AccessType::Mount(
                csi::volume_capability::MountVolume {
                    fs_type: "tmpfs".into(),
                    mount_flags: vec!["ro".into()],
                },
            )),
        }),
        readonly: true,
        secrets: map("s", "1"),
        volume_context: map("signer", "foo"),
    };
    // What we do not declare is stepped over: publish_context (2), staging_target_path (3), access_mode (3 of 5).
    let mount = field(2, &[field(1, b"tmpfs"), field(2, b"ro")].concat());
    let capability = [mount, field(3, &[0x08, 1])].concat();
    let sent = [
        field(1, b"csi-1"),
        entry(2, "attached", "yes"),
        field(3, b"/staging"),
        field(4, b"/t/mount"),
        field(5, &capability),
        vec![0x30, 1],
        entry(7, "s", "1"),
        entry(8, "signer", "foo"),
    ]
    .concat();
    assert_eq!(csi::NodePublishVolumeRequest::decode(&*sent).unwrap(), request);
    let block = csi::VolumeCapability {
        access_type: Some(csi::volume_capability::AccessType::Block(
            csi::volume_capability::BlockVolume {},
        )),
    };
    assert_eq!(block.encode_to_vec(), [0x0a, 0]);

    let unpublish = csi::NodeUnpublishVolumeRequest {
        volume_id: "csi-1".into(),
        target_path: "/t/mount".into(),
    };
    assert_eq!(
        unpublish.encode_to_vec(),
        [field(1, b"csi-1"), field(2, b"/t/mount")].concat()
    );
}

#[test]
fn csi_answers_bytes() {
    let info = csi::NodeGetInfoResponse {
        node_id: "node1".into(),
        max_volumes_per_node: 5,
    };
    assert_eq!(info.encode_to_vec(), [field(1, b"node1"), vec![0x10, 5]].concat());
    let plugin = csi::GetPluginInfoResponse {
        name: "csi.ensign.mesh".into(),
        vendor_version: "0.1.0".into(),
    };
    assert_eq!(
        plugin.encode_to_vec(),
        [field(1, b"csi.ensign.mesh"), field(2, b"0.1.0")].concat()
    );
    // A BoolValue is a message whose one field is 1.
    let probe = csi::ProbeResponse { ready: Some(true) };
    assert_eq!(probe.encode_to_vec(), field(1, &[0x08, 1]));
    assert!(csi::NodeGetCapabilitiesResponse {}.encode_to_vec().is_empty());
}

#[test]
fn plugin_registration_bytes() {
    let info = registration::PluginInfo {
        r#type: "CSIPlugin".into(),
        name: "csi.ensign.mesh".into(),
        endpoint: "/p/csi.sock".into(),
        supported_versions: vec!["1.0.0".into()],
    };
    let bytes = [
        field(1, b"CSIPlugin"),
        field(2, b"csi.ensign.mesh"),
        field(3, b"/p/csi.sock"),
        field(4, b"1.0.0"),
    ];
    assert_eq!(info.encode_to_vec(), bytes.concat());
    let status = registration::RegistrationStatus {
        plugin_registered: true,
        error: "no".into(),
    };
    assert_eq!(status.encode_to_vec(), [vec![0x08, 1], field(2, b"no")].concat());
}

#[test]
fn services_of_kubelet_have_their_public_names() {
    assert_eq!(csi::identity_server::SERVICE_NAME, "csi.v1.Identity");
    assert_eq!(csi::node_server::SERVICE_NAME, "csi.v1.Node");
    assert_eq!(
        registration::registration_server::SERVICE_NAME,
        "pluginregistration.Registration"
    );
}
