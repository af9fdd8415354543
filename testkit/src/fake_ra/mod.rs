//! A certificate authority on a real TLS gRPC port, driven by a script.
//!
//! Owns its port, its serving certificate (from a CA of its own, apart from the one that issues) and
//! the record of every request. It checks nothing of a request: that is the real RA's part.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use ensign_proto::istio::v1::auth::istio_certificate_service_server::{
    IstioCertificateService, IstioCertificateServiceServer,
};
use ensign_proto::istio::v1::auth::{IstioCertificateRequest, IstioCertificateResponse};
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use prost_types::value::Kind;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tonic::{Code, Request, Response, Status};

use crate::ca::Identity;
use crate::{Fault, Gate, Script, TestCa};

/// What the fake does with a request.
#[derive(Clone, Debug)]
pub enum RaOutcome {
    /// Issues what was asked for.
    Issue,
    /// Issues with this lifetime, whatever was asked for.
    IssueFor(Duration),
    /// Answers wrongly.
    IssueWrong(Fault),
    /// Issues once the gate opens.
    IssueAfter(Gate),
    /// Refuses.
    Refuse(Code, String),
    /// Answers with these elements.
    Reply(Vec<String>),
    /// Never answers.
    Hang,
}

/// How the port treats a new connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// Speaks TLS.
    Open,
    /// Accepts TCP and never says a word.
    Silent,
    /// Accepts TCP and closes at once.
    Slammed,
}

/// One request, as received.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// PEM.
    pub csr: String,
    /// Seconds.
    pub validity_duration: i64,
    /// Metadata `CertSigner`; `None` if the key is absent.
    pub cert_signer: Option<String>,
    /// Metadata `ImpersonatedIdentity`.
    pub impersonated_identity: Option<String>,
    /// Header `authorization`, whole.
    pub authorization: Option<String>,
    /// Every value of header `clusterid`.
    pub cluster_ids: Vec<String>,
    /// The URI name that its CSR asks for; empty if there is none.
    pub id: String,
    /// When it came.
    pub received: SystemTime,
}

/// A running fake. Dropping it stops it.
#[derive(Debug)]
pub struct FakeRa {
    address: SocketAddr,
    serving_ca: TestCa,
    shared: Arc<Shared>,
    server: Option<JoinSet<()>>,
}

#[derive(Debug)]
struct Shared {
    script: Script<RaOutcome>,
    /// By id.
    own_scripts: Mutex<HashMap<String, Script<RaOutcome>>>,
    state: Mutex<State>,
}

struct State {
    ca: TestCa,
    door: Door,
    tls: Arc<rustls::ServerConfig>,
    requests: Vec<Recorded>,
    connections: usize,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State")
            .field("door", &self.door)
            .field("requests", &self.requests.len())
            .finish_non_exhaustive()
    }
}

impl FakeRa {
    /// What it calls every request that it refuses.
    pub const REFUSED_REQUEST: &'static str = "5eed5eed5eed5eed";

    /// Starts on a port that the kernel picks; issues from `ca` until told otherwise.
    pub async fn start(ca: TestCa) -> Self {
        let serving_ca = TestCa::root_only("fake RA serving");
        let identity = serving_ca.serving(&["localhost", "127.0.0.1"], next_year());
        let state = State {
            ca,
            door: Door::Open,
            tls: tls(&identity),
            requests: Vec::new(),
            connections: 0,
        };
        let shared = Arc::new(Shared {
            script: Script::new(RaOutcome::Issue),
            own_scripts: Mutex::default(),
            state: Mutex::new(state),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut fake = Self {
            address,
            serving_ca,
            shared,
            server: None,
        };
        fake.serve(listener);
        fake
    }

    /// Where it listens, also after a restart.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The root that its serving certificate (for `localhost` and `127.0.0.1`) ends in: content for `CA_ROOT_CA`.
    pub fn serving_root_pem(&self) -> String {
        self.serving_ca.root_pem()
    }

    /// What happens with the next requests.
    pub fn script(&self) -> &Script<RaOutcome> {
        &self.shared.script
    }

    /// What happens with the next requests for this id, from now on apart from all others.
    pub fn script_of(&self, id: &str) -> Script<RaOutcome> {
        let mut scripts = self.shared.own_scripts.lock().unwrap();
        let script = scripts.entry(id.to_owned());
        script.or_insert_with(|| Script::new(RaOutcome::Issue)).clone()
    }

    /// Every request so far for this id.
    pub fn requests_of(&self, id: &str) -> Vec<Recorded> {
        let mut requests = self.requests();
        requests.retain(|request| request.id == id);
        requests
    }

    /// Every request so far.
    pub fn requests(&self) -> Vec<Recorded> {
        self.state(|state| state.requests.clone())
    }

    /// How many requests so far.
    pub fn request_count(&self) -> usize {
        self.state(|state| state.requests.len())
    }

    /// How many TCP connections were accepted so far.
    pub fn connection_count(&self) -> usize {
        self.state(|state| state.connections)
    }

    /// Issues from another CA from now on.
    pub fn set_ca(&self, ca: TestCa) {
        self.state(|state| state.ca = ca);
    }

    /// Treats new connections so from now on.
    pub fn set_door(&self, door: Door) {
        self.state(|state| state.door = door);
    }

    /// Shows another serving certificate to new connections.
    pub fn set_serving(&self, identity: &Identity) {
        self.state(|state| state.tls = tls(identity));
    }

    /// Shows a certificate that has expired, from the right root.
    pub fn serve_expired(&self) {
        let hour_ago = SystemTime::now() - Duration::from_hours(1);
        self.set_serving(&self.serving_ca.serving(&["localhost", "127.0.0.1"], hour_ago));
    }

    /// Shows a certificate for another name, from the right root.
    pub fn serve_wrong_name(&self) {
        self.set_serving(&self.serving_ca.serving(&["elsewhere.example"], next_year()));
    }

    /// Shows a certificate from a root that nobody knows.
    pub fn serve_stranger(&self) {
        self.set_serving(&TestCa::root_only("stranger").serving(&["localhost", "127.0.0.1"], next_year()));
    }

    /// Shows the right certificate again.
    pub fn serve_right(&self) {
        self.set_serving(&self.serving_ca.serving(&["localhost", "127.0.0.1"], next_year()));
    }

    /// Closes the port and every connection. New ones are refused.
    pub async fn stop(&mut self) {
        if let Some(mut server) = self.server.take() {
            server.shutdown().await;
        }
    }

    /// Listens again, on the same port.
    pub async fn restart(&mut self) {
        self.stop().await;
        // The port may be in use for a moment as somebody's outgoing port.
        let address = self.address;
        let listener = crate::eventually("the fake RA's port to be free", async || {
            TcpListener::bind(address).await
        })
        .await;
        self.serve(listener);
    }

    fn serve(&mut self, listener: TcpListener) {
        let mut server = JoinSet::new();
        server.spawn(accept(listener, Arc::clone(&self.shared)));
        self.server = Some(server);
    }

    fn state<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.shared.state.lock().unwrap())
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    // Ends with this task, and with it every connection.
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            continue;
        };
        while connections.try_join_next().is_some() {}
        let (door, tls) = {
            let mut state = shared.state.lock().unwrap();
            state.connections += 1;
            (state.door, Arc::clone(&state.tls))
        };
        match door {
            Door::Open => {
                connections.spawn(converse(stream, tls, Service(Arc::clone(&shared))));
            }
            Door::Silent => {
                connections.spawn(async move {
                    std::future::pending::<()>().await;
                    drop(stream);
                });
            }
            Door::Slammed => {}
        }
    }
}

async fn converse(stream: TcpStream, tls: Arc<rustls::ServerConfig>, service: Service) {
    let Ok(stream) = TlsAcceptor::from(tls).accept(stream).await else {
        return;
    };
    let service = TowerToHyperService::new(IstioCertificateServiceServer::new(service));
    let _ = http2::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

#[derive(Clone, Debug)]
struct Service(Arc<Shared>);

#[tonic::async_trait]
impl IstioCertificateService for Service {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        let recorded = record(&request);
        let csr = recorded.csr.clone();
        let asked = Duration::from_secs(u64::try_from(recorded.validity_duration).unwrap_or(0).max(1));
        let own = self.0.own_scripts.lock().unwrap().get(&recorded.id).cloned();
        let script = own.unwrap_or_else(|| self.0.script.clone());
        let ca = {
            let mut state = self.0.state.lock().unwrap();
            state.requests.push(recorded);
            state.ca.clone()
        };
        let cert_chain = match script.next() {
            RaOutcome::Issue => ca.reply(&csr, asked, None),
            RaOutcome::IssueFor(ttl) => ca.reply(&csr, ttl, None),
            RaOutcome::IssueWrong(fault) => ca.reply(&csr, asked, Some(fault)),
            RaOutcome::IssueAfter(gate) => {
                gate.wait().await;
                ca.reply(&csr, asked, None)
            }
            RaOutcome::Refuse(code, text) => return Err(refusal(code, text)),
            RaOutcome::Reply(elements) => elements,
            RaOutcome::Hang => match std::future::pending::<Infallible>().await {},
        };
        Ok(Response::new(IstioCertificateResponse { cert_chain }))
    }
}

/// With its name in the log, as our RA gives it.
fn refusal(code: Code, text: String) -> Status {
    let mut status = Status::new(code, text);
    let id = tonic::metadata::MetadataValue::from_static(FakeRa::REFUSED_REQUEST);
    status.metadata_mut().insert("x-request-id", id);
    status
}

fn record(request: &Request<IstioCertificateRequest>) -> Recorded {
    let header = |name| {
        request
            .metadata()
            .get_all(name)
            .iter()
            .filter_map(|value| value.to_str().ok())
    };
    let message = request.get_ref();
    let metadata = |key: &str| match message.metadata.as_ref()?.fields.get(key)?.kind.as_ref()? {
        Kind::StringValue(text) => Some(text.clone()),
        _ => None,
    };
    Recorded {
        csr: message.csr.clone(),
        validity_duration: message.validity_duration,
        cert_signer: metadata("CertSigner"),
        impersonated_identity: metadata("ImpersonatedIdentity"),
        authorization: header("authorization").next().map(str::to_owned),
        cluster_ids: header("clusterid").map(str::to_owned).collect(),
        id: crate::ca::requested_id(&message.csr),
        received: SystemTime::now(),
    }
}

fn tls(identity: &Identity) -> Arc<rustls::ServerConfig> {
    let chain = CertificateDer::pem_slice_iter(identity.chain_pem.as_bytes())
        .collect::<Result<_, _>>()
        .unwrap();
    let key = PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes()).unwrap();
    let mut config = rustls::ServerConfig::builder_with_provider(ensign_pki::crypto::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Arc::new(config)
}

fn next_year() -> SystemTime {
    SystemTime::now() + Duration::from_hours(365 * 24)
}

#[cfg(test)]
mod tests;
