//! The listener over real connections: hot reload, bad peers, and a serving CA that keeps to itself.

mod handover;
mod health;
mod profile;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use ensign_pki::{SystemClock, crypto};
use futures::{StreamExt as _, future::join_all};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpSocket, TcpStream},
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::*;

const PATIENCE: Duration = Duration::from_secs(60);

fn host() -> Host {
    Host::alone(SystemClock::shared())
}

fn own_ca(folder: &Path) -> ServingSource {
    ServingSource::OwnCa {
        dir: folder.join("serving"),
        names: vec![
            "ensign-ra.ensign-system.svc".to_owned(),
            "localhost".to_owned(),
            "127.0.0.1".to_owned(),
        ],
        root_file: Some(folder.join("ra-root.pem")),
    }
}

async fn open(source: ServingSource, host: &Host) -> Serving {
    let of = ServingHost {
        trust_domain: &"cluster.local".parse().unwrap(),
        host,
        home: None,
        desk: None,
    };
    Serving::open(source, of).await.unwrap()
}

/// Connects as an agent does, and returns the leaf that it was shown.
async fn connect(address: SocketAddr, root_pem: &[u8], name: &'static str) -> anyhow::Result<Vec<u8>> {
    let mut stream = tls(address, root_pem, name).await?;
    anyhow::ensure!(stream.get_ref().1.alpn_protocol() == Some(&b"h2"[..]));
    let leaf = stream.get_ref().1.peer_certificates().unwrap_or_default()[0].to_vec();
    stream.write_all(b"x").await?;
    Ok(leaf)
}

async fn tls(address: SocketAddr, root_pem: &[u8], name: &'static str) -> anyhow::Result<TlsStream<TcpStream>> {
    tls_of(address, root_pem, name, rustls::ALL_VERSIONS).await
}

async fn tls_of(
    address: SocketAddr,
    root_pem: &[u8],
    name: &'static str,
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> anyhow::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(root_pem) {
        roots.add(root?)?;
    }
    let mut config = ClientConfig::builder_with_provider(crypto::provider())
        .with_protocol_versions(versions)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let stream = TcpStream::connect(address).await?;
    let stream = TlsConnector::from(Arc::new(config))
        .connect(ServerName::try_from(name)?, stream)
        .await?;
    Ok(stream)
}

/// A listener whose connections are each read to their end, one after the other.
async fn listen(serving: &Serving, limits: TlsLimits, host: &Host) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (acceptor, mut incoming) = Acceptor::new(listener, serving.server_config().unwrap(), limits);
    host.tasks.spawn(acceptor.run(host.stop.clone()));
    host.tasks.spawn(async move {
        while let Some(connection) = incoming.next().await {
            _ = connection.unwrap().read_to_end(&mut Vec::new()).await;
        }
    });
    address
}

async fn finish(host: Host) {
    host.stop.cancel();
    host.tasks.close();
    timeout(PATIENCE, host.tasks.wait()).await.unwrap();
}

#[tokio::test]
async fn an_agent_that_reads_the_root_file_trusts_each_name() {
    let folder = tempfile::tempdir().unwrap();
    let host = host();
    let serving = open(own_ca(folder.path()), &host).await;
    let address = listen(&serving, TlsLimits::default(), &host).await;
    let root = std::fs::read(folder.path().join("ra-root.pem")).unwrap();
    for name in ["ensign-ra.ensign-system.svc", "localhost", "127.0.0.1"] {
        connect(address, &root, name).await.unwrap();
    }
    assert!(connect(address, &root, "elsewhere").await.is_err());
    finish(host).await;
}

/// With the provider of this build, whichever it is.
#[tokio::test]
async fn clients_of_one_version_of_tls_alone_are_served() {
    let folder = tempfile::tempdir().unwrap();
    let host = host();
    let serving = open(own_ca(folder.path()), &host).await;
    let address = listen(&serving, TlsLimits::default(), &host).await;
    let root = std::fs::read(folder.path().join("ra-root.pem")).unwrap();
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let stream = tls_of(address, &root, "localhost", &[version]).await.unwrap();
        assert_eq!(stream.get_ref().1.protocol_version(), Some(version.version));
    }
    finish(host).await;
}

#[tokio::test]
async fn a_mounted_pair_is_replaced_between_two_handshakes_and_half_a_pair_is_not_used() {
    let folder = tempfile::tempdir().unwrap();
    let host = host();
    let (certificate, key) = (folder.path().join("tls.crt"), folder.path().join("tls.key"));
    let pair = || {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        (made.cert.pem(), made.signing_key.serialize_pem())
    };
    let (first, second) = (pair(), pair());
    std::fs::write(&certificate, &first.0).unwrap();
    std::fs::write(&key, &first.1).unwrap();
    let source = ServingSource::Files {
        certificate: certificate.clone(),
        key: key.clone(),
        roots: None,
    };
    let mut serving = open(source, &host).await;
    let address = listen(&serving, TlsLimits::default(), &host).await;
    let roots = [first.0.as_bytes(), second.0.as_bytes()].concat();
    let before = connect(address, &roots, "localhost").await.unwrap();
    std::fs::write(&certificate, &second.0).unwrap();
    assert_eq!(connect(address, &roots, "localhost").await.unwrap(), before);
    std::fs::write(&key, &second.1).unwrap();
    assert!(timeout(PATIENCE, serving.changed()).await.unwrap());
    assert_ne!(connect(address, &roots, "localhost").await.unwrap(), before);
    finish(host).await;
}

#[tokio::test]
async fn silent_and_bad_peers_hold_up_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let host = host();
    let serving = open(own_ca(folder.path()), &host).await;
    let limits = TlsLimits {
        connections: 8,
        handshakes: 2,
        handshakes_per_peer: 2,
        waiting_per_peer: 8,
        handshake_timeout: Duration::from_millis(200),
    };
    let address = listen(&serving, limits, &host).await;
    let mut silent = Vec::new();
    for _ in 0..4 {
        silent.push(TcpStream::connect(address).await.unwrap());
        TcpStream::connect(address)
            .await
            .unwrap()
            .write_all(b"GET / HTTP/1.1\r\n\r\n")
            .await
            .unwrap();
    }
    let root = std::fs::read(folder.path().join("ra-root.pem")).unwrap();
    timeout(PATIENCE, connect(address, &root, "localhost"))
        .await
        .unwrap()
        .unwrap();
    finish(host).await;
}

#[tokio::test]
async fn one_address_that_is_slow_keeps_no_other_out() {
    let folder = tempfile::tempdir().unwrap();
    let host = host();
    let serving = open(own_ca(folder.path()), &host).await;
    let limits = TlsLimits {
        connections: 8,
        handshakes: 4,
        handshakes_per_peer: 3,
        waiting_per_peer: 2,
        handshake_timeout: PATIENCE,
    };
    let address = listen(&serving, limits, &host).await;
    let mut silent = Vec::new();
    for _ in 0..5 {
        silent.push(from([127, 0, 0, 2], address).await);
    }
    // Beyond its share of handshakes and of waiting for one: closed at once.
    for _ in 0..8 {
        let mut more = from([127, 0, 0, 2], address).await;
        let end = timeout(PATIENCE, more.read_to_end(&mut Vec::new())).await.unwrap();
        assert!(end.is_err() || end.is_ok_and(|read| read == 0));
    }
    let root = std::fs::read(folder.path().join("ra-root.pem")).unwrap();
    timeout(PATIENCE, connect(address, &root, "localhost"))
        .await
        .unwrap()
        .unwrap();
    drop(silent);
    finish(host).await;
}

#[tokio::test]
async fn many_of_one_address_at_once_wait_for_their_turn() {
    let folder = tempfile::tempdir().unwrap();
    let host = host();
    let serving = open(own_ca(folder.path()), &host).await;
    let limits = TlsLimits {
        handshakes: 4,
        handshakes_per_peer: 2,
        ..TlsLimits::default()
    };
    let address = listen(&serving, limits, &host).await;
    let root = std::fs::read(folder.path().join("ra-root.pem")).unwrap();
    let all = (0..100).map(|_| connect(address, &root, "localhost"));
    for outcome in timeout(PATIENCE, join_all(all)).await.unwrap() {
        outcome.unwrap();
    }
    finish(host).await;
}

async fn from(source: [u8; 4], address: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((source, 0).into()).unwrap();
    socket.connect(address).await.unwrap()
}

#[tokio::test]
async fn a_peer_that_says_too_little_after_its_handshake_gives_its_place_back() {
    let folder = tempfile::tempdir().unwrap();
    let host = host();
    let serving = open(own_ca(folder.path()), &host).await;
    let limits = TlsLimits {
        connections: 1,
        handshakes: 1,
        handshakes_per_peer: 1,
        waiting_per_peer: 0,
        handshake_timeout: Duration::from_secs(2),
    };
    let address = listen(&serving, limits, &host).await;
    let root = std::fs::read(folder.path().join("ra-root.pem")).unwrap();
    let mut silent = tls(address, &root, "localhost").await.unwrap();
    silent.write_all(b"PRI * HTTP/2.0").await.unwrap();
    timeout(PATIENCE, connect(address, &root, "localhost"))
        .await
        .unwrap()
        .unwrap();
    drop(silent);
    finish(host).await;
}

#[tokio::test]
async fn a_signers_folder_is_refused_also_through_a_link() {
    let folder = tempfile::tempdir().unwrap();
    let signer = folder.path().join("foo");
    std::fs::create_dir(&signer).unwrap();
    std::os::unix::fs::symlink(&signer, folder.path().join("link")).unwrap();
    let dirs = [("foo".to_owned(), signer.clone())];
    for dir in [
        signer.clone(),
        signer.join("below"),
        folder.path().to_owned(),
        folder.path().join("link/x"),
    ] {
        let error = refuse_overlap(&dir, &dirs).unwrap_err();
        assert!(matches!(error, ServingError::Overlap { .. }), "{error}");
    }
    refuse_overlap(&folder.path().join("foobar"), &dirs).unwrap();
}
