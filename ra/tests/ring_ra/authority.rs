//! One authority per test: real sockets on ports of the kernel's choice, a scripted signer, a client.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Write;
use std::net::SocketAddr;
use std::sync::{Arc, LazyLock, Mutex, Once};

use ensign_pki::csr::{self, Csr};
use ensign_pki::{KeyType, PrivateKey, SpiffeId, SystemClock, crypto};
use ensign_proto::istio::v1::auth::IstioCertificateRequest;
use ensign_proto::istio::v1::auth::istio_certificate_service_client::IstioCertificateServiceClient;
use ensign_ra::app::{self, Fittings};
use ensign_ra::config::{Command, Config};
use ensign_ra::desk::OpenSigners;
use ensign_ra::policy::Policy;
use ensign_ra::signer::{Issuance, Issued, IssuedChain, Running, Signer, SignerError, Signers};
use ensign_ra::trust::{NoRoots, Roots, RootsSource, Trust};
use ensign_testkit::tokens::{self, Claims, ISSUER, TokenMint};
use futures::future::BoxFuture;
use hyper_util::rt::TokioIo;
use rustls::client::ResolvesClientCert;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use serde_json::Value;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Request, Status};
use tower::service_fn;

use crate::ca::{Ca, Leaf};

type Answer = BoxFuture<'static, Result<IssuedChain, SignerError>>;

/// What the signer does with the next requests.
pub(crate) type Script = dyn Fn(Issuance) -> Answer + Send + Sync;

pub(crate) const POLICY: &str = r"
apiVersion: ensign.mesh/v1
trustDomain: cluster.local
keyTypes: [P-256, RSA-2048]
signers:
- name: foo
  local: {dir: /nowhere/foo}
- name: bar
  local: {dir: /nowhere/bar}
rules:
- namespace: foo
  serviceAccounts: [httpbin]
  signers: [foo]
  default: foo
";

/// A running authority.
pub(crate) struct Authority {
    pub(crate) folder: TempDir,
    pub(crate) addresses: BTreeMap<&'static str, SocketAddr>,
    pub(crate) tokens: TokenMint,
    pub(crate) stop: CancellationToken,
    pub(crate) running: JoinHandle<anyhow::Result<()>>,
    signer: Option<Arc<Scripted>>,
}

struct Scripted {
    script: Mutex<Arc<Script>>,
    roots: Mutex<Result<Arc<Roots>, NoRoots>>,
}

/// A request under construction: right until a test changes a field.
pub(crate) struct Ask {
    pub(crate) csr: String,
    pub(crate) ttl: i64,
    pub(crate) metadata: BTreeMap<String, prost_types::Value>,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) timeout: Option<std::time::Duration>,
}

impl Authority {
    /// One whose signer answers rightly, under a new root.
    pub(crate) async fn start(more: &[&str]) -> (Self, Arc<Ca>) {
        let tokens = TokenMint::es256("a");
        let keys = tokens::jwks(&[&tokens]);
        Self::start_answering(tokens, &keys, more).await
    }

    /// As [`Authority::start`], with this key set instead of one for its own tokens.
    pub(crate) async fn start_with_keys(jwks: &str) -> (Self, Arc<Ca>) {
        Self::start_answering(TokenMint::es256("a"), jwks, &[]).await
    }

    async fn start_answering(tokens: TokenMint, jwks: &str, more: &[&str]) -> (Self, Arc<Ca>) {
        let ca = Arc::new(Ca::root("root"));
        let authority = Self::start_whole(tokens, jwks, &ca.pem(), POLICY, more).await;
        let signs = Arc::clone(&ca);
        authority.script(move |issuance| {
            let chain = signs.sign(&Leaf::of(issuance.csr.spki_der(), issuance.id.as_str()));
            Box::pin(async move { Ok(chain) })
        });
        (authority, ca)
    }

    pub(crate) async fn start_under(roots: &str, more: &[&str]) -> Self {
        let tokens = TokenMint::es256("a");
        let keys = tokens::jwks(&[&tokens]);
        Self::start_whole(tokens, &keys, roots, POLICY, more).await
    }

    /// One whose signer answers as the script says, under another policy.
    pub(crate) async fn start_with_policy(policy: &str, more: &[&str]) -> (Self, Arc<Ca>) {
        let tokens = TokenMint::es256("a");
        let keys = tokens::jwks(&[&tokens]);
        let ca = Arc::new(Ca::root("root"));
        let authority = Self::start_whole(tokens, &keys, &ca.pem(), policy, more).await;
        (authority, ca)
    }

    /// One with the signers that the policy says. `FOLDER` in it is a folder for them.
    pub(crate) async fn start_real(policy: &str) -> Self {
        Self::start_real_with(policy, &[]).await
    }

    pub(crate) async fn start_real_with(policy: &str, more: &[&str]) -> Self {
        let tokens = TokenMint::es256("a");
        let keys = tokens::jwks(&[&tokens]);
        Self::start_in(tokens, &keys, None, policy, more).await
    }

    async fn start_whole(tokens: TokenMint, jwks: &str, roots: &str, policy: &str, more: &[&str]) -> Self {
        Self::start_in(tokens, jwks, Some(roots), policy, more).await
    }

    /// With a scripted signer under these roots, or with real ones.
    async fn start_in(tokens: TokenMint, jwks: &str, roots: Option<&str>, policy: &str, more: &[&str]) -> Self {
        logs();
        crypto::install_default();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("jwks.json"), jwks).unwrap();
        let signer = roots.map(|roots| {
            Arc::new(Scripted {
                script: Mutex::new(Arc::new(|_| panic!("no script"))),
                roots: Mutex::new(Ok(Arc::new(Roots::parse(roots).unwrap()))),
            })
        });
        let fittings = Fittings {
            clock: SystemClock::shared(),
            signers: signer.clone().map(|signer| Arc::new(Opens(signer)) as _),
        };
        write_policy(&folder, policy);
        let bound = app::bind_with(config(&folder, more), fittings).await.unwrap();
        let (addresses, stop) = (bound.addresses.clone(), bound.stop_token());
        let running = tokio::spawn(bound.run(None));
        Self {
            folder,
            addresses,
            tokens,
            stop,
            running,
            signer,
        }
    }

    pub(crate) fn script(&self, script: impl Fn(Issuance) -> Answer + Send + Sync + 'static) {
        let signer = self.signer.as_ref().expect("a scripted signer");
        *signer.script.lock().unwrap() = Arc::new(script);
    }

    /// The scripted signer has these roots from now on.
    pub(crate) fn set_roots(&self, roots: Result<Roots, NoRoots>) {
        let signer = self.signer.as_ref().expect("a scripted signer");
        *signer.roots.lock().unwrap() = roots.map(Arc::new);
    }

    /// As for [`Authority::start_real`].
    pub(crate) fn write_policy(&self, policy: &str) {
        write_policy(&self.folder, policy);
    }

    /// A request of httpbin for its own identity, which is granted.
    pub(crate) fn ask(&self) -> Ask {
        self.ask_for("spiffe://cluster.local/ns/foo/sa/httpbin")
    }

    pub(crate) fn ask_for(&self, id: &str) -> Ask {
        let id: SpiffeId = id.parse().unwrap();
        let key = PrivateKey::generate(KeyType::P256).unwrap();
        let csr: Csr = csr::build(&key, &id).unwrap();
        Ask {
            csr: csr.to_pem(),
            ttl: 3600,
            metadata: BTreeMap::new(),
            headers: vec![("authorization", format!("Bearer {}", self.token()))],
            timeout: None,
        }
    }

    /// As [`Authority::ask`], with another token.
    pub(crate) fn ask_with(&self, token: &str) -> Ask {
        let mut ask = self.ask();
        ask.headers = vec![("authorization", format!("Bearer {token}"))];
        ask
    }

    pub(crate) fn token(&self) -> String {
        self.token_with(|claims| claims)
    }

    pub(crate) fn token_with(&self, change: impl FnOnce(Claims) -> Claims) -> String {
        self.tokens.mint(&change(Claims::service_account("foo", "httpbin")))
    }

    pub(crate) async fn send(&self, ask: Ask) -> Result<Vec<String>, Status> {
        Self::send_over(self.channel().await, ask).await
    }

    pub(crate) async fn send_over(channel: Channel, ask: Ask) -> Result<Vec<String>, Status> {
        let mut client = IstioCertificateServiceClient::new(channel);
        let response = client.create_certificate(ask.into_request()).await?;
        assert!(response.metadata().contains_key("x-request-id"));
        Ok(response.into_inner().cert_chain)
    }

    pub(crate) async fn channel(&self) -> Channel {
        self.channel_with(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .await
    }

    pub(crate) async fn channel_with(&self, versions: &[&'static rustls::SupportedProtocolVersion]) -> Channel {
        self.channel_as(versions, Arc::new(Nothing)).await
    }

    /// A connection that shows a client certificate, if it is asked for one.
    pub(crate) async fn channel_as(
        &self,
        versions: &[&'static rustls::SupportedProtocolVersion],
        presents: Arc<dyn ResolvesClientCert>,
    ) -> Channel {
        let root = CertificateDer::from_pem_file(self.folder.path().join("serving-root.pem")).unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(root).unwrap();
        let mut tls = rustls::ClientConfig::builder_with_provider(crypto::provider())
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots)
            .with_client_cert_resolver(presents);
        tls.alpn_protocols = vec![b"h2".to_vec()];
        let connector = tokio_rustls::TlsConnector::from(Arc::new(tls));
        let address = self.addresses["grpc"];
        let connect = service_fn(move |_: Uri| {
            let connector = connector.clone();
            async move {
                let stream = tokio::net::TcpStream::connect(address).await?;
                let name = ServerName::try_from("localhost").unwrap();
                Ok::<_, std::io::Error>(TokioIo::new(connector.connect(name, stream).await?))
            }
        });
        Endpoint::from_static("http://localhost")
            .connect_with_connector(connect)
            .await
            .unwrap()
    }

    /// The answer of one of the HTTP servers.
    pub(crate) async fn http(&self, server: &str, path: &str) -> String {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut stream = tokio::net::TcpStream::connect(self.addresses[server]).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.running.await.unwrap().unwrap();
    }
}

impl Ask {
    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        let kind = Some(prost_types::value::Kind::StringValue(value.to_owned()));
        self.metadata.insert(name.to_owned(), prost_types::Value { kind });
        self
    }

    pub(crate) fn into_request(self) -> Request<IstioCertificateRequest> {
        let metadata = Some(prost_types::Struct { fields: self.metadata });
        let mut request = Request::new(IstioCertificateRequest {
            csr: self.csr,
            validity_duration: self.ttl,
            metadata,
        });
        for (name, value) in self.headers {
            request.metadata_mut().append(name, value.parse().unwrap());
        }
        if let Some(timeout) = self.timeout {
            request.set_timeout(timeout);
        }
        request
    }
}

/// The log line of the request that was answered so.
pub(crate) fn log_of(status: &Status) -> Value {
    let id = status
        .metadata()
        .get("x-request-id")
        .expect("a request id")
        .to_str()
        .unwrap();
    let lines = String::from_utf8(LOGS.lock().unwrap().clone()).unwrap();
    let line = lines.lines().find(|line| line.contains(id)).expect("a log line");
    serde_json::from_str(line).unwrap()
}

pub(crate) fn all_logs() -> String {
    String::from_utf8(LOGS.lock().unwrap().clone()).unwrap()
}

static LOGS: LazyLock<Mutex<Vec<u8>>> = LazyLock::new(Mutex::default);

struct LogWriter;

impl Write for LogWriter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        LOGS.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn logs() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        tracing_subscriber::fmt()
            .json()
            .flatten_event(true)
            .with_max_level(tracing::Level::INFO)
            .with_writer(|| LogWriter)
            .init();
    });
}

fn config(folder: &TempDir, more: &[&str]) -> Config {
    let path = |name: &str| folder.path().join(name).display().to_string();
    let mut line = vec![
        "ensign-ra".to_owned(),
        format!("--policy-file={}", path("policy.yaml")),
        format!("--jwks-file={}", path("jwks.json")),
        format!("--token-issuer={ISSUER}"),
        format!("--serving-ca-dir={}", path("serving")),
        format!("--serving-root-file={}", path("serving-root.pem")),
        "--grpc-addr=127.0.0.1:0".to_owned(),
        "--readyz-addr=127.0.0.1:0".to_owned(),
        "--metrics-addr=127.0.0.1:0".to_owned(),
    ];
    line.extend(more.iter().map(|&one| one.to_owned()));
    match Command::read(line).unwrap() {
        Command::Run(config) => *config,
        other => panic!("{other:?}"),
    }
}

fn write_policy(folder: &TempDir, policy: &str) {
    let text = policy.replace("FOLDER", &folder.path().display().to_string());
    std::fs::write(folder.path().join("policy.yaml"), text).unwrap();
}

/// Shows no certificate.
#[derive(Debug)]
struct Nothing;

impl ResolvesClientCert for Nothing {
    fn resolve(&self, _: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<rustls::sign::CertifiedKey>> {
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}

/// Opens the scripted signer under every name of the policy.
#[derive(Debug)]
struct Opens(Arc<Scripted>);

impl OpenSigners for Opens {
    fn open<'a>(&'a self, policy: &'a Policy, _: &'a Signers) -> BoxFuture<'a, anyhow::Result<Signers>> {
        let running = |spec: &_| {
            let signer: Arc<dyn Signer> = Arc::clone(&self.0) as _;
            Running::new(Clone::clone(spec), signer, Trust::new(Arc::clone(&self.0) as _))
        };
        Box::pin(async move { Ok(policy.signers().map(running).collect()) })
    }
}

impl Signer for Scripted {
    fn sign(&self, issuance: Issuance) -> BoxFuture<'_, Result<Issued, SignerError>> {
        let script = Arc::clone(&self.script.lock().unwrap());
        Box::pin(async move { script(issuance).await.map(Issued::from) })
    }
}

impl RootsSource for Scripted {
    fn roots(&self) -> Result<Arc<Roots>, NoRoots> {
        self.roots.lock().unwrap().clone()
    }
}

impl fmt::Debug for Scripted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Scripted")
    }
}
