//! Requests as kubelet sends them, and each way in which one can be wrong.

use std::path::PathBuf;

use ensign_proto::csi::v1::VolumeCapability;
use ensign_proto::csi::v1::volume_capability::{BlockVolume, MountVolume};
use test_case::test_case;

use super::*;

const UID: &str = "0d5a7e1c-6f0a-4f0c-9d52-3c1b8a1f7e11";
const JSON: &str = r#"{"istio-ca":{"token":"planted.tok.en","expirationTimestamp":"2099-01-01T00:00:00Z"}}"#;

pub(in crate::source::csi) fn config() -> Config {
    Config {
        kubelet_dir: PathBuf::from("/var/lib/kubelet"),
        node_name: "node1".to_owned(),
        state_dir: PathBuf::from("/run/ensign"),
        trust_domain: "cluster.local".parse().unwrap(),
        key_type: KeyType::P256,
        key_types: vec![KeyType::P256, KeyType::P384],
        audience: "istio-ca".to_owned(),
    }
}

/// What kubelet 1.34 sends for a pod `httpbin` of `foo` with these attributes.
pub(in crate::source::csi) fn request(uid: &str, attributes: &[(&str, &str)]) -> NodePublishVolumeRequest {
    let kubelets = [
        ("csi.storage.k8s.io/ephemeral", "true"),
        ("csi.storage.k8s.io/pod.name", "httpbin"),
        ("csi.storage.k8s.io/pod.namespace", "foo"),
        ("csi.storage.k8s.io/pod.uid", uid),
        ("csi.storage.k8s.io/serviceAccount.name", "default"),
        (TOKENS, JSON),
    ];
    NodePublishVolumeRequest {
        volume_id: "csi-1".to_owned(),
        volume_capability: Some(VolumeCapability {
            access_type: Some(AccessType::Mount(MountVolume::default())),
        }),
        readonly: true,
        volume_context: kubelets
            .iter()
            .chain(attributes)
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect(),
        ..Default::default()
    }
}

fn read(request: NodePublishVolumeRequest) -> Result<Publish, Refusal> {
    Publish::read(request, &Target::new(UID, "identity").unwrap(), &config())
}

fn with(attributes: &[(&str, &str)]) -> Result<Publish, Refusal> {
    read(request(UID, attributes))
}

#[test]
fn a_plain_volume_gets_the_defaults() {
    let Publish { volume, token } = with(&[]).unwrap();
    assert_eq!(volume.spiffe_id.to_string(), "spiffe://cluster.local/ns/foo/sa/default");
    assert_eq!((volume.signer, volume.key_type), (None, KeyType::P256));
    assert_eq!(volume.socket_name, DEFAULT_SOCKET_NAME);
    assert!(!format!("{token:?}").contains("planted"));
}

#[test]
fn each_attribute_is_read() {
    let volume = with(&[("signer", "foo"), ("keyType", "P-384"), ("socketName", "a_B-1.sock")]);
    let volume = volume.unwrap().volume;
    assert_eq!(volume.signer.unwrap().as_str(), "foo");
    assert_eq!(
        (volume.key_type, volume.socket_name.as_str()),
        (KeyType::P384, "a_B-1.sock")
    );
}

/// As the RA accepts it: both programs share the type.
#[test]
fn an_issuer_of_a_namespace_is_a_signer() {
    let publish = with(&[("signer", "istio-system.istio-ca")]).unwrap();
    assert_eq!(publish.volume.signer.unwrap().as_str(), "istio-system.istio-ca");
}

#[test_case("signer", "A.B/c", "attribute"; "signer")]
#[test_case("keyType", "RSA-4096", "attribute"; "a kind of key that the operator did not list")]
#[test_case("keyType", "p-256", "attribute"; "an unknown kind of key")]
#[test_case("socketName", "../a", "attribute"; "climbing")]
#[test_case("socketName", ".hidden", "attribute"; "leading dot")]
#[test_case("socketName", "", "attribute"; "no name")]
#[test_case("socketName", "a\0", "attribute"; "a zero byte")]
#[test_case("socketName", "ä", "attribute"; "not ascii")]
#[test_case("sokcetName", "a", "unknown_attribute"; "a typo")]
#[test_case("", "a", "unknown_attribute"; "an empty key")]
#[test_case("csi.storage.k8s.io/ephemeral", "false", "not_ephemeral"; "persistent")]
#[test_case("csi.storage.k8s.io/pod.uid", "another", "pod"; "another pod's target")]
#[test_case("csi.storage.k8s.io/pod.namespace", "foo/sa/admin", "pod"; "a namespace that would forge an id")]
#[test_case("csi.storage.k8s.io/serviceAccount.name", "a/b", "pod"; "an account that would forge an id")]
#[test_case("csi.storage.k8s.io/pod.name", "a b", "pod"; "a pod's name")]
#[test_case("csi.storage.k8s.io/pod.name", "", "csidriver"; "no pod information")]
#[test_case(TOKENS, "planted.tok.en", "tokens"; "no JSON")]
#[test_case(TOKENS, "{}", "csidriver"; "no token")]
fn each_wrong_part_is_refused(key: &str, value: &str, reason: &str) {
    let refusal = with(&[(key, value)]).unwrap_err();
    assert_eq!(refusal.reason(), reason, "{refusal}");
    assert!(!refusal.to_string().contains("planted"), "{refusal}");
}

#[test]
fn a_key_of_a_kubelet_that_knows_more_means_nothing() {
    assert!(with(&[("csi.storage.k8s.io/foo", "a")]).is_ok());
}

#[test]
fn a_call_without_what_csi_requires_is_refused_and_names_the_field() {
    let read = |change: fn(&mut NodePublishVolumeRequest)| {
        let mut request = request(UID, &[]);
        change(&mut request);
        read(request).unwrap_err()
    };
    let id = read(|request| request.volume_id.clear());
    let capability = read(|request| request.volume_capability = None);
    let access = read(|request| request.volume_capability = Some(VolumeCapability::default()));
    for (refusal, field) in [
        (id, "volume_id"),
        (capability, "volume_capability"),
        (access, "access type"),
    ] {
        assert!(refusal.to_string().contains(field), "{refusal}");
        assert_eq!(tonic::Status::from(refusal).code(), tonic::Code::InvalidArgument);
    }
}

#[test]
fn a_long_name_ends_at_64() {
    assert!(with(&[("socketName", &"a".repeat(64))]).is_ok());
    assert!(with(&[("socketName", &"a".repeat(65))]).is_err());
}

#[test]
fn a_writable_or_a_block_volume_is_refused() {
    let mut writable = request(UID, &[]);
    writable.readonly = false;
    assert_eq!(read(writable).unwrap_err().reason(), "not_read_only");
    let mut block = request(UID, &[]);
    block.volume_capability = Some(VolumeCapability {
        access_type: Some(AccessType::Block(BlockVolume {})),
    });
    assert_eq!(read(block).unwrap_err().reason(), "block");
}

#[test]
fn a_driver_without_pod_information_is_told_apart() {
    for key in [
        "pod.name",
        "pod.namespace",
        "pod.uid",
        "serviceAccount.name",
        "ephemeral",
    ] {
        let mut request = request(UID, &[]);
        request
            .volume_context
            .remove(&format!("csi.storage.k8s.io/{key}"))
            .unwrap();
        let refusal = read(request).unwrap_err();
        assert!(refusal.to_string().contains("podInfoOnMount: true"), "{key}: {refusal}");
    }
    let mut request = request(UID, &[]);
    request.volume_context.remove(TOKENS).unwrap();
    let refusal = read(request).unwrap_err().to_string();
    assert!(refusal.contains("tokenRequests: [{audience: istio-ca}]"), "{refusal}");
}

#[test]
fn a_token_among_the_secrets_counts_too() {
    let mut request = request(UID, &[]);
    let json = request.volume_context.remove(TOKENS).unwrap();
    request.secrets.insert(TOKENS.to_owned(), json);
    assert!(read(request).is_ok());
}

#[test]
fn beside_tokens_among_the_secrets_those_in_the_context_are_the_pods_own() {
    let mut request = request(UID, &[]);
    let text =
        |token: &str| format!(r#"{{"istio-ca":{{"token":"{token}","expirationTimestamp":"2100-01-01T00:00:00Z"}}}}"#);
    request.volume_context.insert(TOKENS.to_owned(), text("planted.by.pod"));
    request.secrets.insert(TOKENS.to_owned(), text("from.kube.let"));
    let brought = token(&mut request, "istio-ca").unwrap().unwrap();
    assert_eq!(brought.text(), "from.kube.let");
}

#[test]
fn both_maps_are_wiped() {
    let mut request = request(UID, &[]);
    request.secrets.insert("other".to_owned(), "planted".to_owned());
    assert!(token(&mut request, "istio-ca").unwrap().is_some());
    assert!(!request.volume_context.contains_key(TOKENS));
    assert_eq!(request.secrets["other"], "");
}
