//! Secrets and responses in the form in which they go over the wire.
//!
//! Owns the encoding of a certificate or a bundle into one `Any`, done once per version and shared by every
//! stream that gets it, and of the few bytes of a response around it. Promises that the buffer with the
//! private key is written once, in its final size, and wiped when the last stream lets go. Protobuf
//! leaves the order of fields to the writer, so the shared part always comes last and is never copied.
//! The encoding is by hand because a generated message would leave copies of the key behind.

use bytes::Bytes;
use ensign_proto::SECRET_TYPE_URL;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};
use zeroize::Zeroizing;

use super::grpc;
use super::ledger::{Offer, Offers, Push};
use super::names::Name;
use crate::rotation::{BundleSecret, CertificateSecret, EntryState};

/// One gRPC message in the pieces in which it is sent: bytes of this stream, then bytes shared by all.
pub(crate) type Pieces = [Bytes; 2];

/// What an entry has to offer.
pub(crate) fn offers(state: &EntryState) -> Offers {
    Offers {
        bundle: state.bundle.as_deref().map(bundle_offer),
        certificate: state.certificate.as_deref().map(certificate_offer),
    }
}

fn certificate_offer(secret: &CertificateSecret) -> Offer {
    let encoded = secret.encoded.get_or_init(|| {
        let (chain, key) = (secret.svid.chain_pem(), secret.svid.key_pem());
        certificate_any(chain.as_bytes(), key.as_bytes())
    });
    Offer {
        version: secret.version.clone(),
        secret: encoded.clone(),
    }
}

fn bundle_offer(secret: &BundleSecret) -> Offer {
    let encoded = secret
        .encoded
        .get_or_init(|| bundle_any(secret.bundle.to_pem().as_bytes()));
    Offer {
        version: secret.version.clone(),
        secret: encoded.clone(),
    }
}

/// `Any` of `Secret { name: "default", tls_certificate { certificate_chain, private_key } }`.
pub(crate) fn certificate_any(chain: &[u8], key: &[u8]) -> Bytes {
    any(
        Name::Certificate,
        field::TLS_CERTIFICATE,
        &[(field::CERTIFICATE_CHAIN, chain), (field::PRIVATE_KEY, key)],
    )
}

/// `Any` of `Secret { name: "ROOTCA", validation_context { trusted_ca } }`.
pub(crate) fn bundle_any(anchors: &[u8]) -> Bytes {
    any(Name::Bundle, field::VALIDATION_CONTEXT, &[(field::TRUSTED_CA, anchors)])
}

/// A `DiscoveryResponse` with one secret.
pub(crate) fn response(push: &Push) -> Pieces {
    let secret = &push.offer.secret;
    let mut head = Vec::with_capacity(head_len(push));
    bytes_field(&mut head, field::VERSION_INFO, push.offer.version.as_bytes());
    bytes_field(&mut head, field::RESPONSE_TYPE_URL, SECRET_TYPE_URL.as_bytes());
    bytes_field(&mut head, field::NONCE, push.nonce.as_bytes());
    length_delimited(&mut head, field::RESOURCES, secret.len());
    [grpc::prefixed(&head, secret.len()), secret.clone()]
}

/// A `DiscoveryResponse` with all of `secrets`, in pieces of one message.
pub(crate) fn fetch_response(version: &str, secrets: &[Bytes]) -> Vec<Pieces> {
    let mut head = Vec::new();
    bytes_field(&mut head, field::VERSION_INFO, version.as_bytes());
    bytes_field(&mut head, field::RESPONSE_TYPE_URL, SECRET_TYPE_URL.as_bytes());
    let total: usize = secrets
        .iter()
        .map(|secret| field_len(field::RESOURCES, secret.len()))
        .sum();
    let mut pieces = vec![[grpc::prefixed(&head, total), Bytes::new()]];
    pieces.extend(secrets.iter().map(|secret| {
        let mut head = Vec::new();
        length_delimited(&mut head, field::RESOURCES, secret.len());
        [Bytes::from(head), secret.clone()]
    }));
    pieces
}

/// A `DeltaDiscoveryResponse` with one secret.
pub(crate) fn delta_response(push: &Push) -> Pieces {
    let (secret, name, version) = (
        &push.offer.secret,
        push.name.as_str().as_bytes(),
        push.offer.version.as_bytes(),
    );
    let mut resource = Vec::with_capacity(head_len(push));
    bytes_field(&mut resource, field::RESOURCE_NAME, name);
    bytes_field(&mut resource, field::RESOURCE_VERSION, version);
    length_delimited(&mut resource, field::RESOURCE_ANY, secret.len());

    let mut head = Vec::with_capacity(2 * head_len(push));
    bytes_field(&mut head, field::VERSION_INFO, version);
    bytes_field(&mut head, field::RESPONSE_TYPE_URL, SECRET_TYPE_URL.as_bytes());
    bytes_field(&mut head, field::NONCE, push.nonce.as_bytes());
    length_delimited(&mut head, field::RESOURCES, resource.len() + secret.len());
    head.extend_from_slice(&resource);
    [grpc::prefixed(&head, secret.len()), secret.clone()]
}

/// Field numbers of the messages written here (`proto/envoy/`; a test reads them back with the generated types).
mod field {
    pub(super) const ANY_TYPE_URL: u32 = 1;
    pub(super) const ANY_VALUE: u32 = 2;
    pub(super) const SECRET_NAME: u32 = 1;
    pub(super) const TLS_CERTIFICATE: u32 = 2;
    pub(super) const VALIDATION_CONTEXT: u32 = 4;
    pub(super) const CERTIFICATE_CHAIN: u32 = 1;
    pub(super) const PRIVATE_KEY: u32 = 2;
    pub(super) const TRUSTED_CA: u32 = 1;
    pub(super) const INLINE_BYTES: u32 = 2;
    pub(super) const VERSION_INFO: u32 = 1;
    pub(super) const RESOURCES: u32 = 2;
    pub(super) const RESPONSE_TYPE_URL: u32 = 4;
    pub(super) const NONCE: u32 = 5;
    pub(super) const RESOURCE_VERSION: u32 = 1;
    pub(super) const RESOURCE_ANY: u32 = 2;
    pub(super) const RESOURCE_NAME: u32 = 3;
}

/// Each source is `(field of the message, content)` and becomes `DataSource { inline_bytes }`.
fn any(name: Name, kind: u32, sources: &[(u32, &[u8])]) -> Bytes {
    let source_len = |content: &[u8]| field_len(field::INLINE_BYTES, content.len());
    let message_len: usize = sources
        .iter()
        .map(|(number, content)| field_len(*number, source_len(content)))
        .sum();
    let secret_len = field_len(field::SECRET_NAME, name.as_str().len()) + field_len(kind, message_len);
    let any_len = field_len(field::ANY_TYPE_URL, SECRET_TYPE_URL.len()) + field_len(field::ANY_VALUE, secret_len);

    // Its final size at once: a buffer that grows leaves a copy of the key in the freed one.
    let mut buffer = Zeroizing::new(Vec::with_capacity(any_len));
    bytes_field(&mut buffer, field::ANY_TYPE_URL, SECRET_TYPE_URL.as_bytes());
    length_delimited(&mut buffer, field::ANY_VALUE, secret_len);
    bytes_field(&mut buffer, field::SECRET_NAME, name.as_str().as_bytes());
    length_delimited(&mut buffer, kind, message_len);
    for (number, content) in sources {
        length_delimited(&mut buffer, *number, source_len(content));
        bytes_field(&mut buffer, field::INLINE_BYTES, content);
    }
    debug_assert_eq!(buffer.len(), any_len, "the buffer's size was computed");
    Bytes::from_owner(buffer)
}

fn length_delimited(buffer: &mut Vec<u8>, number: u32, len: usize) {
    encode_key(number, WireType::LengthDelimited, buffer);
    encode_varint(len as u64, buffer);
}

fn bytes_field(buffer: &mut Vec<u8>, number: u32, content: &[u8]) {
    length_delimited(buffer, number, content.len());
    buffer.extend_from_slice(content);
}

fn field_len(number: u32, len: usize) -> usize {
    key_len(number) + encoded_len_varint(len as u64) + len
}

/// Room for the fields around a secret.
fn head_len(push: &Push) -> usize {
    SECRET_TYPE_URL.len() + push.offer.version.len() + push.nonce.len() + push.name.as_str().len() + 32
}

#[cfg(test)]
mod tests {
    use ensign_proto::envoy::config::core::v3::data_source::Specifier;
    use ensign_proto::envoy::extensions::transport_sockets::tls::v3::{Secret, secret};
    use ensign_proto::envoy::service::discovery::v3::{DeltaDiscoveryResponse, DiscoveryResponse};
    use prost::Message as _;

    use super::*;

    fn push(name: Name, secret: Bytes) -> Push {
        Push {
            name,
            nonce: "7-1".into(),
            offer: Offer {
                version: "v1".into(),
                secret,
            },
        }
    }

    /// Takes the prefix off and checks it.
    fn message(pieces: Pieces) -> Bytes {
        let whole = pieces.concat();
        let (prefix, message) = whole.split_at(grpc::PREFIX);
        assert_eq!(prefix[0], 0, "not compressed");
        assert_eq!(prefix[1..], u32::try_from(message.len()).unwrap().to_be_bytes());
        Bytes::copy_from_slice(message)
    }

    #[test]
    fn certificate_reads_back() {
        let (chain, key) = ("chain".repeat(400), "key".repeat(99));
        let pieces = response(&push(
            Name::Certificate,
            certificate_any(chain.as_bytes(), key.as_bytes()),
        ));
        let response = DiscoveryResponse::decode(message(pieces)).unwrap();
        assert_eq!((response.version_info.as_str(), response.nonce.as_str()), ("v1", "7-1"));
        assert_eq!(response.type_url, SECRET_TYPE_URL);
        assert_eq!(response.resources.len(), 1);
        assert_eq!(response.resources[0].type_url, SECRET_TYPE_URL);
        let secret = Secret::decode(response.resources[0].value.clone()).unwrap();
        assert_eq!(secret.name, "default");
        let Some(secret::Type::TlsCertificate(tls)) = secret.r#type else {
            panic!("not a certificate")
        };
        let inline = |bytes: String| Some(Specifier::InlineBytes(bytes.into()));
        assert_eq!(tls.certificate_chain.unwrap().specifier, inline(chain));
        assert_eq!(tls.private_key.unwrap().specifier, inline(key));
    }

    #[test]
    fn bundle_reads_back_from_delta() {
        let response = delta_response(&push(Name::Bundle, bundle_any(b"anchors")));
        let response = DeltaDiscoveryResponse::decode(message(response)).unwrap();
        assert_eq!(
            (response.system_version_info.as_str(), response.nonce.as_str()),
            ("v1", "7-1")
        );
        assert_eq!(response.type_url, SECRET_TYPE_URL);
        assert!(response.removed_resources.is_empty());
        let resource = &response.resources[0];
        assert_eq!((resource.name.as_str(), resource.version.as_str()), ("ROOTCA", "v1"));
        let secret = Secret::decode(resource.resource.clone().unwrap().value).unwrap();
        let Some(secret::Type::ValidationContext(context)) = secret.r#type else {
            panic!("not a bundle")
        };
        assert_eq!(
            context.trusted_ca.unwrap().specifier,
            Some(Specifier::InlineBytes(Bytes::from_static(b"anchors")))
        );
    }

    #[test]
    fn fetch_reads_back() {
        let secrets = [bundle_any(b"anchors"), certificate_any(b"chain", b"key")];
        let whole = fetch_response("v2", &secrets).concat().concat();
        let response = DiscoveryResponse::decode(&whole[grpc::PREFIX..]).unwrap();
        assert_eq!(
            whole[1..grpc::PREFIX],
            u32::try_from(whole.len() - grpc::PREFIX).unwrap().to_be_bytes()
        );
        assert_eq!((response.version_info.as_str(), response.resources.len()), ("v2", 2));
    }

    #[test]
    fn secret_is_shared_not_copied() {
        let secret = certificate_any(b"chain", b"key");
        let [_, first] = response(&push(Name::Certificate, secret.clone()));
        let [_, second] = delta_response(&push(Name::Certificate, secret.clone()));
        assert_eq!(first.as_ptr(), secret.as_ptr());
        assert_eq!(second.as_ptr(), secret.as_ptr());
    }
}
