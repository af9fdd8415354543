//! A kubelet that does one thing: it forwards ports of pods, as the API server asks for it (`/portForward/NAMESPACE/POD`,
//! a WebSocket of subprotocol `v4.channel.k8s.io`: two channels per port, the first message of each names the port).
//!
//! Each port leads to a program of this machine, so that commands which go through the API server meet real ones.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use ensign_pki::crypto;
use ensign_testkit::TestCa;
use futures::{SinkExt as _, StreamExt as _};
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};

/// Where a port of a pod really is.
type Targets = Arc<Mutex<HashMap<(String, u16), SocketAddr>>>;

/// A running one. Dropped, it ends.
pub(crate) struct Kubelet {
    pub(crate) address: SocketAddr,
    targets: Targets,
    _server: JoinSet<()>,
}

impl Kubelet {
    pub(crate) async fn start() -> anyhow::Result<Self> {
        let tomorrow = SystemTime::now() + Duration::from_hours(24);
        let identity = TestCa::root_only("kubelet").serving(&["kubelet"], tomorrow);
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(identity.chain_pem.as_bytes()).collect();
        let config = ServerConfig::builder_with_provider(crypto::provider())
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain?, PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes())?)?;
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let targets = Targets::default();
        let known = Arc::clone(&targets);
        let mut server = JoinSet::new();
        server.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, known) = (acceptor.clone(), Arc::clone(&known));
                connections.spawn(async move {
                    // What breaks here is seen by who asked.
                    let _ = forward(acceptor, stream, known).await;
                });
            }
        });
        Ok(Self {
            address,
            targets,
            _server: server,
        })
    }

    /// From now on this port of this pod is there.
    pub(crate) fn lead(&self, pod: &str, port: u16, to: SocketAddr) {
        self.targets.lock().unwrap().insert((pod.to_owned(), port), to);
    }
}

#[expect(clippy::result_large_err, reason = "the library's callback has this form")]
async fn forward(acceptor: TlsAcceptor, stream: TcpStream, targets: Targets) -> anyhow::Result<()> {
    let stream = acceptor.accept(stream).await?;
    let mut asked = None;
    let answer = |request: &Request, mut response: Response| -> Result<Response, ErrorResponse> {
        let pod = request.uri().path().split('/').nth(3).unwrap_or_default().to_owned();
        let mut query = request.uri().query().unwrap_or_default().split('&');
        let port = query.find_map(|part| part.strip_prefix("port=")?.parse::<u16>().ok());
        asked = port.map(|port| (pod, port));
        let protocol = "v4.channel.k8s.io".parse().unwrap();
        response.headers_mut().insert("sec-websocket-protocol", protocol);
        Ok(response)
    };
    let mut socket = tokio_tungstenite::accept_hdr_async(stream, answer).await?;
    let asked = asked.context("no port is named")?;
    let [low, high] = asked.1.to_le_bytes();
    for channel in [DATA, ERROR] {
        socket.send(Message::binary(vec![channel, low, high])).await?;
    }
    let target = targets.lock().unwrap().get(&asked).copied();
    let connected = match target {
        Some(target) => TcpStream::connect(target).await.map_err(|error| error.to_string()),
        None => Err(format!("nothing listens on port {} of pod {}", asked.1, asked.0)),
    };
    let mut pod = match connected {
        Ok(pod) => pod,
        Err(why) => {
            socket
                .send(Message::binary([&[ERROR], why.as_bytes()].concat()))
                .await?;
            socket.close(None).await?;
            return Ok(());
        }
    };
    let mut buffer = vec![0; 16 * 1024];
    loop {
        tokio::select! {
            message = socket.next() => match message {
                Some(Ok(Message::Binary(bytes))) => if let Some((&DATA, bytes)) = bytes.split_first() {
                    pod.write_all(bytes).await?;
                },
                Some(Ok(Message::Close(_)) | Err(_)) | None => return Ok(()),
                Some(Ok(_)) => {}
            },
            read = pod.read(&mut buffer) => {
                let read = read?;
                if read == 0 {
                    socket.close(None).await?;
                    return Ok(());
                }
                socket.send(Message::binary([&[DATA], &buffer[..read]].concat())).await?;
            }
        }
    }
}

const DATA: u8 = 0;
const ERROR: u8 = 1;
