//! A client of the RA, in a process of its own: asks for certificates over TLS, so many at once.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use ensign_proto::istio::v1::auth::{IstioCertificateRequest, IstioCertificateResponse};
use prost::Message as _;
use prost_types::value::Kind;
use prost_types::{Struct, Value};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::Request;
use crate::peer;
use crate::wire::{Event, Wire, header_block};

/// What the client is asked to do.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) enum Question {
    /// Remember these.
    Prepare {
        /// The RA.
        address: SocketAddr,
        /// Of its serving certificate.
        root: PathBuf,
        /// One after the other.
        requests: Vec<Request>,
    },
    /// Ask for certificates, with the same requests again and again.
    Run {
        /// Requests in flight.
        in_flight: usize,
        /// For how long new requests are begun.
        millis: u64,
    },
    /// Ask for certificates, with each request once.
    Once {
        /// Requests in flight.
        in_flight: usize,
    },
}

/// What it measured.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Outcome {
    /// From the first request to the last answer.
    pub(crate) seconds: f64,
    /// Of each certificate, from request to answer.
    pub(crate) micros: Vec<u64>,
}

struct Prepared {
    address: SocketAddr,
    tls: TlsConnector,
    /// Header block and message.
    requests: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Serves the questions of the parent.
pub(crate) async fn run() -> anyhow::Result<()> {
    let mut prepared = None;
    peer::answer(async |question: Question| match question {
        Question::Prepare {
            address,
            root,
            requests,
        } => {
            prepared = Some(Arc::new(Prepared::new(address, &root, &requests)?));
            Ok(None)
        }
        Question::Run { in_flight, millis } => {
            let prepared = prepared.as_ref().context("not prepared")?;
            let length = prepared.requests.len().max(1);
            let time = Duration::from_millis(millis);
            let outcome = measure(prepared, in_flight, |first, began| {
                let mut next = first;
                move || {
                    next += 1;
                    (began.elapsed() < time).then_some((next - 1) % length)
                }
            });
            outcome.await.map(Some)
        }
        Question::Once { in_flight } => {
            let prepared = prepared.as_ref().context("not prepared")?;
            let length = prepared.requests.len();
            let next = Arc::new(AtomicUsize::new(0));
            let outcome = measure(prepared, in_flight, |_, _| {
                let next = Arc::clone(&next);
                move || Some(next.fetch_add(1, Ordering::Relaxed)).filter(|next| *next < length)
            });
            outcome.await.map(Some)
        }
    })
    .await
}

impl Prepared {
    fn new(address: SocketAddr, root: &std::path::Path, requests: &[Request]) -> anyhow::Result<Self> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(root)?)?;
        let mut config = ClientConfig::builder_with_provider(ensign_pki::crypto::provider())
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Self {
            address,
            tls: TlsConnector::from(Arc::new(config)),
            requests: requests.iter().map(encode).collect(),
        })
    }

    async fn connect(&self) -> anyhow::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        Ok(self.tls.connect(ServerName::try_from("localhost")?, stream).await?)
    }
}

fn encode(request: &Request) -> (Vec<u8>, Vec<u8>) {
    let authorization = format!("Bearer {}", request.token);
    let headers = header_block("https", PATH, &[("authorization", &authorization)]);
    let signer = Value {
        kind: Some(Kind::StringValue(request.signer.clone())),
    };
    let message = IstioCertificateRequest {
        csr: request.csr_pem.clone(),
        validity_duration: 3600,
        metadata: Some(Struct {
            fields: BTreeMap::from([("CertSigner".to_owned(), signer)]),
        }),
    };
    (headers, message.encode_to_vec())
}

/// `supply` says for each connection which request is next, if any; it is told with which one the connection should begin.
async fn measure<N: FnMut() -> Option<usize> + Send + 'static>(
    prepared: &Arc<Prepared>,
    in_flight: usize,
    supply: impl Fn(usize, Instant) -> N,
) -> anyhow::Result<Outcome> {
    let count = in_flight.min(CONNECTIONS);
    let mut connections = Vec::with_capacity(count);
    for _ in 0..count {
        connections.push(prepared.connect().await?);
    }
    let began = Instant::now();
    let mut running = JoinSet::new();
    for (number, io) in connections.into_iter().enumerate() {
        let slots = in_flight / count + usize::from(number < in_flight % count);
        let next = supply(number * prepared.requests.len() / count, began);
        running.spawn(ask(Arc::clone(prepared), io, slots, next));
    }
    let mut micros = Vec::new();
    while let Some(done) = running.join_next().await {
        micros.append(&mut done??);
    }
    Ok(Outcome {
        seconds: began.elapsed().as_secs_f64(),
        micros,
    })
}

/// One connection with so many requests in flight, for as long as there is a next one.
async fn ask(
    prepared: Arc<Prepared>,
    io: TlsStream<TcpStream>,
    slots: usize,
    mut next: impl FnMut() -> Option<usize>,
) -> anyhow::Result<Vec<u64>> {
    let mut wire = Wire::new(io, 32 * 1024);
    let mut open: BTreeMap<u32, (Instant, bool)> = BTreeMap::new();
    let mut micros = Vec::new();
    let mut stream = 1;
    let mut begin = |wire: &mut Wire<_>, open: &mut BTreeMap<_, _>| {
        if let Some((headers, message)) = next().and_then(|next| prepared.requests.get(next)) {
            wire.request(stream, headers, message, true);
            open.insert(stream, (Instant::now(), false));
            stream += 2;
        }
    };
    (0..slots).for_each(|_| begin(&mut wire, &mut open));
    while !open.is_empty() {
        match wire.next().await? {
            Event::Message { stream, bytes } => {
                let (sent, answered) = open.get_mut(&stream).context("an answer to nothing")?;
                micros.push(u64::try_from(sent.elapsed().as_micros())?);
                *answered = true;
                let response = IstioCertificateResponse::decode(bytes.as_slice())?;
                ensure!(response.cert_chain.len() >= 2, "an answer without a certificate");
            }
            Event::Ended { stream } => {
                match open.remove(&stream) {
                    Some((_, true)) => {}
                    _ => bail!("the RA refused a request, its log says why"),
                }
                begin(&mut wire, &mut open);
            }
        }
    }
    Ok(micros)
}

/// At most so many connections; requests beyond share them, as an agent's do.
const CONNECTIONS: usize = 16;
const PATH: &str = "/istio.v1.auth.IstioCertificateService/CreateCertificate";
