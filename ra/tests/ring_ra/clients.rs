//! Requests as the clients of others send them: Istio's agent, ztunnel, old TLS.

use std::collections::BTreeMap;
use std::sync::mpsc;

use ensign_proto::istio::v1::auth::istio_certificate_service_client::IstioCertificateServiceClient;

use crate::authority::{Authority, log_of};
use crate::ca::Leaf;

/// Written by Go: subject `O=""`, a critical name, a line feed at the end.
const ISTIO_AGENT_P256: &str = include_str!("../../../pki/testdata/go-p256-empty-organization.csr.pem");
const ISTIO_AGENT_RSA: &str = include_str!("../../../pki/testdata/go-rsa-2048.csr.pem");
/// As ztunnel's: no subject at all.
const ZTUNNEL: &str = include_str!("../../../pki/testdata/go-p256-empty-subject.csr.pem");

#[tokio::test]
async fn istios_agent_is_served() {
    let (authority, _ca) = Authority::start(&[]).await;
    for csr in [ISTIO_AGENT_P256, ISTIO_AGENT_RSA] {
        assert!(csr.ends_with("-----\n"));
        for signer in ["", "foo"] {
            let mut ask = authority
                .ask()
                .with("CertSigner", signer)
                .with("ClusterID", "Kubernetes");
            ask.csr = csr.to_owned();
            ask.ttl = 86_400;
            ask.headers.push(("clusterid", "Kubernetes".to_owned()));
            assert_eq!(authority.send(ask).await.unwrap().len(), 2);
        }
    }
    authority.stop().await;
}

#[tokio::test]
async fn line_feeds_around_a_csr_are_no_part_of_it_and_all_else_is() {
    let (authority, _ca) = Authority::start(&[]).await;
    let with = |csr: String| {
        let mut ask = authority.ask();
        ask.csr = csr;
        authority.send(ask)
    };
    with(ISTIO_AGENT_P256.trim_end().to_owned()).await.unwrap();
    with(format!("{ISTIO_AGENT_P256}\n")).await.unwrap();
    with(ISTIO_AGENT_P256.replace('\n', "\r\n")).await.unwrap();
    let twice = with(format!("{ISTIO_AGENT_P256}{ISTIO_AGENT_P256}")).await.unwrap_err();
    assert_eq!(log_of(&twice)["reason"], "armour");
    let after = with(format!("{ISTIO_AGENT_P256}x")).await.unwrap_err();
    assert_eq!(log_of(&after)["reason"], "armour");
    authority.stop().await;
}

#[tokio::test]
async fn ztunnels_own_request_is_served_and_without_metadata_too() {
    let (authority, _ca) = Authority::start(&[]).await;
    let mut ask = authority.ask();
    ask.csr = ZTUNNEL.to_owned();
    ask.headers.push(("clusterid", "Kubernetes".to_owned()));
    assert_eq!(ask.metadata, BTreeMap::new());
    authority.send(ask).await.unwrap();

    let mut request = authority.ask().into_request();
    request.get_mut().metadata = None;
    request.get_mut().validity_duration = 0;
    let mut client = IstioCertificateServiceClient::new(authority.channel().await);
    client.create_certificate(request).await.unwrap();
    authority.stop().await;
}

#[tokio::test]
async fn a_retry_is_the_same_request_and_another_key_is_not() {
    let (authority, ca) = Authority::start(&[]).await;
    let (seen, was_seen) = mpsc::channel();
    authority.script(move |issuance| {
        let chain = ca.sign(&Leaf::of(issuance.csr.spki_der(), issuance.id.as_str()));
        seen.send(issuance.idempotency_key.to_string()).unwrap();
        Box::pin(async move { Ok(chain) })
    });
    let mut leaves = Vec::new();
    for _ in 0..2 {
        let mut ask = authority.ask();
        ask.csr = ZTUNNEL.to_owned();
        leaves.push(authority.send(ask).await.unwrap().remove(0));
    }
    authority.send(authority.ask()).await.unwrap();
    let keys: Vec<_> = was_seen.try_iter().collect();
    assert_eq!(keys[0], keys[1]);
    assert_ne!(keys[0], keys[2]);
    assert_ne!(leaves[0], leaves[1]);
    authority.stop().await;
}

#[tokio::test]
async fn a_client_of_tls_1_2_is_served() {
    let (authority, _ca) = Authority::start(&[]).await;
    let channel = authority.channel_with(&[&rustls::version::TLS12]).await;
    let mut client = IstioCertificateServiceClient::new(channel);
    client.create_certificate(authority.ask().into_request()).await.unwrap();
    authority.stop().await;
}
