//! What a simulated Envoy says and reads: first requests with a node of 61 kB, ACKs, secrets.

use anyhow::{Context, ensure};
use bytes::Bytes;
use ensign_proto::SECRET_TYPE_URL;
use ensign_proto::envoy::extensions::transport_sockets::tls::v3::Secret;
use ensign_proto::envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse};
use ensign_testkit::fake_envoy::{certificate, node, trusted_ca};
use prost::Message as _;

use crate::wire;

/// The two names, in the order of an Envoy's streams.
pub(crate) const NAMES: [&str; 2] = ["default", "ROOTCA"];

/// A response, read.
#[derive(Debug)]
pub(crate) struct Received {
    version: String,
    nonce: String,
    /// How many roots, for `ROOTCA`.
    pub(crate) roots: usize,
}

/// The header block of a stream.
pub(crate) fn headers() -> Vec<u8> {
    wire::header_block("http", ensign_proto::sds_path::STREAM_SECRETS, &[])
}

/// The first request of a stream, with a node like a real Envoy's.
pub(crate) fn first(name: &str) -> Vec<u8> {
    let node = node("sidecar~10.0.0.1~httpbin.foo~foo.svc.cluster.local", None);
    request(name, node, String::new(), String::new())
}

/// Accepts.
pub(crate) fn ack(name: &str, received: Received) -> Vec<u8> {
    request(name, Bytes::new(), received.version, received.nonce)
}

/// Reads a response, which must hold the secret of this name and nothing else.
pub(crate) fn read(name: &str, message: Vec<u8>) -> anyhow::Result<Received> {
    let response = DiscoveryResponse::decode(Bytes::from(message))?;
    ensure!(
        response.resources.len() == 1,
        "{} secrets for {name}",
        response.resources.len()
    );
    let any = response.resources.into_iter().next().context("no secret")?;
    let secret = Secret::decode(any.value)?;
    ensure!(
        secret.name == name,
        "the secret {:?} on the stream of {name}",
        secret.name
    );
    let roots = if name == "ROOTCA" {
        let roots = trusted_ca(&secret).context("ROOTCA holds no roots")?;
        roots.matches("BEGIN CERTIFICATE").count()
    } else {
        let (chain, key) = certificate(&secret).context("default holds no certificate")?;
        ensure!(
            chain.contains("BEGIN CERTIFICATE") && key.contains("PRIVATE KEY"),
            "default is not complete"
        );
        0
    };
    Ok(Received {
        version: response.version_info,
        nonce: response.nonce,
        roots,
    })
}

fn request(name: &str, node: Bytes, version_info: String, response_nonce: String) -> Vec<u8> {
    let request = DiscoveryRequest {
        version_info,
        node,
        resource_names: vec![name.to_owned()],
        type_url: SECRET_TYPE_URL.to_owned(),
        response_nonce,
        ..DiscoveryRequest::default()
    };
    request.encode_to_vec()
}
