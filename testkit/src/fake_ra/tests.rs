//! The fake over its own wire.

use std::sync::Arc;

use ensign_pki::{KeyType, PrivateKey, csr};
use ensign_proto::istio::v1::auth::istio_certificate_service_client::IstioCertificateServiceClient;
use rustls_pki_types::ServerName;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};

use super::*;

async fn connect(fake: &FakeRa) -> anyhow::Result<IstioCertificateServiceClient<Channel>> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(fake.serving_root_pem().as_bytes())?)?;
    let mut config = rustls::ClientConfig::builder_with_provider(ensign_pki::crypto::provider())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let connector = TlsConnector::from(Arc::new(config));
    let address = fake.address();
    let channel = Endpoint::from_static("http://localhost")
        .connect_with_connector(tower::service_fn(move |_| {
            let connector = connector.clone();
            async move {
                let stream = TcpStream::connect(address).await?;
                let stream = connector
                    .connect(ServerName::try_from("localhost").unwrap(), stream)
                    .await?;
                Ok::<_, std::io::Error>(TokioIo::new(stream))
            }
        }))
        .await?;
    Ok(IstioCertificateServiceClient::new(channel))
}

fn request() -> Request<IstioCertificateRequest> {
    let id = "spiffe://cluster.local/ns/foo/sa/httpbin".parse().unwrap();
    let csr = csr::build(&PrivateKey::generate(KeyType::P256).unwrap(), &id)
        .unwrap()
        .to_pem();
    let signer = prost_types::Value {
        kind: Some(Kind::StringValue("foo".into())),
    };
    let metadata = Some(prost_types::Struct {
        fields: [("CertSigner".to_owned(), signer)].into(),
    });
    let mut request = Request::new(IstioCertificateRequest {
        csr,
        validity_duration: 3600,
        metadata,
    });
    request
        .metadata_mut()
        .insert("authorization", "Bearer t".parse().unwrap());
    request
        .metadata_mut()
        .insert("clusterid", "Kubernetes".parse().unwrap());
    request
}

#[tokio::test]
async fn follows_its_script_and_records_each_request() {
    let fake = FakeRa::start(TestCa::new("a")).await;
    let mut client = connect(&fake).await.unwrap();
    fake.script()
        .push(RaOutcome::Refuse(Code::PermissionDenied, "no".into()));
    fake.script().push(RaOutcome::IssueWrong(Fault::Empty));

    assert_eq!(
        client.create_certificate(request()).await.unwrap_err().code(),
        Code::PermissionDenied
    );
    assert!(
        client
            .create_certificate(request())
            .await
            .unwrap()
            .into_inner()
            .cert_chain
            .is_empty()
    );
    assert_eq!(
        client
            .create_certificate(request())
            .await
            .unwrap()
            .into_inner()
            .cert_chain
            .len(),
        3
    );

    let requests = fake.requests();
    assert_eq!(requests.len(), 3);
    assert_eq!(requests[0].cert_signer.as_deref(), Some("foo"));
    assert_eq!(requests[0].impersonated_identity, None);
    assert_eq!(requests[0].authorization.as_deref(), Some("Bearer t"));
    assert_eq!(requests[0].cluster_ids, ["Kubernetes"]);
    assert_eq!(requests[0].validity_duration, 3600);
}

#[tokio::test]
async fn a_gate_holds_the_answer_back() {
    let fake = FakeRa::start(TestCa::new("a")).await;
    let mut client = connect(&fake).await.unwrap();
    let gate = Gate::new();
    fake.script().push(RaOutcome::IssueAfter(gate.clone()));
    let call = client.create_certificate(request());
    let opener = async {
        crate::eventually("the request", async || {
            if fake.request_count() == 1 { Ok(()) } else { Err("none") }
        })
        .await;
        gate.open();
    };
    assert!(tokio::join!(call, opener).0.is_ok());
}

#[tokio::test]
async fn stops_and_comes_back_on_its_port() {
    let mut fake = FakeRa::start(TestCa::new("a")).await;
    let address = fake.address();
    connect(&fake).await.unwrap();
    fake.stop().await;
    assert!(connect(&fake).await.is_err());
    fake.restart().await;
    assert_eq!(fake.address(), address);
    let mut client = connect(&fake).await.unwrap();
    client.create_certificate(request()).await.unwrap();
}

#[tokio::test]
async fn bad_serving_certificates_are_refused_by_a_careful_client() {
    let fake = FakeRa::start(TestCa::new("a")).await;
    for spoil in [FakeRa::serve_expired, FakeRa::serve_wrong_name, FakeRa::serve_stranger] {
        spoil(&fake);
        assert!(connect(&fake).await.is_err());
    }
    fake.serve_right();
    connect(&fake).await.unwrap();
    fake.set_door(Door::Slammed);
    assert!(connect(&fake).await.is_err());
}
