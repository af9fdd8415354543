//! The connection of one agent: through a Service to one of its replicas, remade as gRPC remakes it.
//!
//! A Service lets each new connection go to one of its endpoints and leaves open ones where they are. A connection that
//! cannot be made keeps the next calls waiting for nothing: by gRPC's `doc/connection-backoff.md` it is tried again after 1 s, then
//! 1.6 times as long each time (a fifth more or less, 120 s at most), and a call in between fails at once.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;

/// The replicas behind a Service that take new connections. Clones are one.
#[derive(Clone, Debug, Default)]
pub struct Endpoints(Arc<Turns>);

#[derive(Debug, Default)]
struct Turns {
    addresses: Mutex<Vec<SocketAddr>>,
    next: AtomicUsize,
}

/// Where a CA is and how it is recognised. Cheap to clone; connections are made from it.
#[derive(Clone)]
pub struct Ca {
    endpoints: Endpoints,
    tls: TlsConnector,
    name: ServerName<'static>,
}

/// Why no connection is tried just now.
#[derive(Debug, Default)]
struct Backoff {
    failures: i32,
    pause: Option<(Instant, String)>,
}

// === impl Endpoints ===

impl Endpoints {
    /// These replicas, one after the other.
    pub fn new(addresses: &[SocketAddr]) -> Self {
        let endpoints = Self::default();
        endpoints.set(addresses);
        endpoints
    }

    /// These from now on.
    pub fn set(&self, addresses: &[SocketAddr]) {
        *self.0.addresses.lock().unwrap() = addresses.to_vec();
    }

    /// Where the next connection goes; nowhere while there is nobody, as a Service then refuses it.
    fn next(&self) -> Option<SocketAddr> {
        let addresses = self.0.addresses.lock().unwrap();
        let turn = self.0.next.fetch_add(1, Ordering::Relaxed);
        let at = turn.checked_rem(addresses.len())?;
        addresses.get(at).copied()
    }
}

// === impl Ca ===

impl Ca {
    /// A CA behind these endpoints whose certificates bear this name and end in these roots.
    pub fn new(endpoints: &Endpoints, name: &str, roots_pem: &str) -> anyhow::Result<Self> {
        let mut roots = RootCertStore::empty();
        for root in CertificateDer::pem_slice_iter(roots_pem.as_bytes()) {
            roots.add(root?)?;
        }
        let mut tls = ClientConfig::builder_with_provider(ensign_pki::crypto::provider())
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        tls.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Self {
            endpoints: endpoints.clone(),
            tls: TlsConnector::from(Arc::new(tls)),
            name: ServerName::try_from(name.to_owned())?,
        })
    }

    /// A connection that begins with its first call, without a memory of earlier ones.
    pub(super) fn channel(&self) -> Channel {
        let backoff = Arc::<Mutex<Backoff>>::default();
        let ca = self.clone();
        let connect = service_fn(move |_: Uri| {
            let (ca, backoff) = (ca.clone(), Arc::clone(&backoff));
            async move {
                backoff.lock().unwrap().check()?;
                let connected = ca.connect().await;
                backoff.lock().unwrap().learn(connected.as_ref().err());
                connected.map(TokioIo::new)
            }
        });
        Endpoint::from_static("http://ca")
            .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .connect_with_connector_lazy(connect)
    }

    async fn connect(&self) -> io::Result<TlsStream<TcpStream>> {
        let address = self.endpoints.next().ok_or(io::ErrorKind::ConnectionRefused)?;
        let connected = async {
            let stream = TcpStream::connect(address).await?;
            self.tls.connect(self.name.clone(), stream).await
        };
        let within = timeout(CONNECT_PATIENCE, connected).await;
        within
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            .map_err(|error| io::Error::new(error.kind(), format!("{address}: {error}")))
    }
}

impl fmt::Debug for Ca {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ca")
            .field("endpoints", &self.endpoints)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

// === impl Backoff ===

impl Backoff {
    fn check(&self) -> io::Result<()> {
        match &self.pause {
            Some((end, why)) if Instant::now() < *end => Err(io::Error::other(format!("not tried again yet: {why}"))),
            _ => Ok(()),
        }
    }

    fn learn(&mut self, error: Option<&io::Error>) {
        let Some(error) = error else {
            *self = Self::default();
            return;
        };
        let pause = FIRST_PAUSE.mul_f64(1.6_f64.powi(self.failures)).min(LONGEST_PAUSE);
        let pause = pause.mul_f64(0.8 + 0.4 * fastrand::f64());
        self.failures += 1;
        self.pause = Some((Instant::now() + pause, error.to_string()));
    }
}

/// Istio's agent sets both.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// gRPC's `MIN_CONNECT_TIMEOUT`.
const CONNECT_PATIENCE: Duration = Duration::from_secs(20);
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_mins(2);
