//! What a client can and cannot speak with a listener that was told what to speak.

use rustls::{CipherSuite, NamedGroup, SupportedProtocolVersion, version};

use super::*;

/// What two ends agreed on.
#[derive(Debug, PartialEq, Eq)]
struct Spoken {
    suite: CipherSuite,
    group: NamedGroup,
}

/// Connects with this version alone.
async fn spoken(
    address: SocketAddr,
    root_pem: &[u8],
    version: &'static SupportedProtocolVersion,
) -> anyhow::Result<Spoken> {
    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(root_pem) {
        roots.add(root?)?;
    }
    let config = ClientConfig::builder_with_provider(crypto::provider())
        .with_protocol_versions(&[version])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from("localhost")?;
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    let connection = stream.get_ref().1;
    Ok(Spoken {
        suite: connection.negotiated_cipher_suite().expect("a suite").suite(),
        group: connection.negotiated_key_exchange_group().expect("a group").name(),
    })
}

/// Two listeners of one certificate: one that asks for client certificates, and one that does not.
async fn listen_both(serving: &Serving, host: &Host) -> [SocketAddr; 2] {
    let plain = listen(serving, TlsLimits::default(), host).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let asking = listener.local_addr().unwrap();
    let (acceptor, mut incoming) = Acceptor::new(listener, serving.server_config().unwrap(), TlsLimits::default());
    let acceptor = acceptor.ask_for_certificates(serving.clone());
    host.tasks.spawn(acceptor.run(host.stop.clone()));
    host.tasks.spawn(async move {
        while let Some(connection) = incoming.next().await {
            _ = connection.unwrap().read_to_end(&mut Vec::new()).await;
        }
    });
    [plain, asking]
}

#[tokio::test]
async fn a_choice_of_suite_and_curve_is_what_is_spoken() {
    let folder = tempfile::tempdir().unwrap();
    let host = host();
    let profile = TlsProfile::default()
        .with_cipher_suites(["TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"])
        .and_then(|profile| profile.with_curves(["P-384"]))
        .unwrap();
    let serving = open(own_ca(folder.path()), &host).await.speaking(profile);
    let root = std::fs::read(folder.path().join("ra-root.pem")).unwrap();
    for address in listen_both(&serving, &host).await {
        let older = spoken(address, &root, &version::TLS12).await.unwrap();
        let expected = Spoken {
            suite: CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
            group: NamedGroup::secp384r1,
        };
        assert_eq!(older, expected);
        let newer = spoken(address, &root, &version::TLS13).await.unwrap();
        assert_eq!(newer.group, NamedGroup::secp384r1);
    }
    finish(host).await;
}

#[tokio::test]
async fn a_least_version_keeps_older_clients_out() {
    let folder = tempfile::tempdir().unwrap();
    let host = host();
    let serving = open(own_ca(folder.path()), &host).await;
    let strict = serving
        .clone()
        .speaking(TlsProfile::default().from_version("VersionTLS13").unwrap());
    let root = std::fs::read(folder.path().join("ra-root.pem")).unwrap();
    for address in listen_both(&serving, &host).await {
        spoken(address, &root, &version::TLS12).await.unwrap();
    }
    for address in listen_both(&strict, &host).await {
        assert!(spoken(address, &root, &version::TLS12).await.is_err());
        spoken(address, &root, &version::TLS13).await.unwrap();
    }
    finish(host).await;
}
