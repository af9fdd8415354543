//! The signers of an RA without its gRPC side: several of these on one cluster are replicas.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use ensign_daemon::watched_file::WatchMetrics;
use ensign_pki::{Csr, KeyType, PrivateKey, SharedClock, SpiffeId, SystemClock, TrustDomain, crypto, csr};
use ensign_ra::kubernetes::{self, KubernetesMetrics};
use ensign_ra::policy::{Backend, CertManagerSpec, IssuerRef, KubernetesCsrSpec, RequestSpec, RootsSpec, SignerSpec};
use ensign_ra::reply::{self, Asked, Reply};
use ensign_ra::signer::object::{Backends, BackendsParts, ObjectMetrics};
use ensign_ra::signer::{
    Host, IdempotencyKey, Issuance, Issued, Originator, Pod, Running, SignerError, Signers, TrustHost,
};
use ensign_testbed::cluster::Access;
use prometheus_client::registry::Registry;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// One replica.
pub(crate) struct Replica {
    pub(crate) host: Host,
    pub(crate) backends: Backends,
    pub(crate) username: String,
    registry: Registry,
}

/// A request that a client makes, and makes again.
#[derive(Clone)]
pub(crate) struct Wish {
    pub(crate) id: SpiffeId,
    pub(crate) csr: Arc<Csr>,
    pub(crate) key: Arc<PrivateKey>,
    pub(crate) ttl: Duration,
}

// === impl Replica ===

impl Replica {
    /// One that comes as this kubeconfig says.
    pub(crate) async fn start(access: &Access, kubeconfig: &str, installation: &str) -> anyhow::Result<Self> {
        Self::start_with_clock(access, kubeconfig, installation, SystemClock::shared()).await
    }

    pub(crate) async fn start_with_clock(
        access: &Access,
        kubeconfig: &str,
        installation: &str,
        clock: SharedClock,
    ) -> anyhow::Result<Self> {
        crypto::install_default();
        let mut registry = Registry::default();
        let metrics = KubernetesMetrics::register(&mut registry);
        let path = access.folder().join(format!("{}.kubeconfig", fastrand::u64(..)));
        std::fs::write(&path, kubeconfig)?;
        let source = kubernetes::ClusterSource::Kubeconfig { path, context: None };
        let cluster = kubernetes::connect(&source, &metrics).await?;
        let username = cluster.username().to_owned();
        let tasks = TaskTracker::new();
        let backends = Backends::new(BackendsParts {
            cluster: cluster.clone(),
            installation: installation.to_owned(),
            kubernetes: metrics,
            metrics: ObjectMetrics::register(&mut registry),
            clock: Arc::clone(&clock),
            tasks: tasks.clone(),
        });
        let host = Host {
            clock,
            tasks,
            stop: CancellationToken::new(),
            files: WatchMetrics::default(),
            cluster: Some(cluster),
            trust: TrustHost::default(),
            backends: Some(backends.clone()),
        };
        Ok(Self {
            host,
            backends,
            username,
            registry,
        })
    }

    /// The signer that a spec describes.
    pub(crate) async fn open(&self, spec: &SignerSpec) -> anyhow::Result<Arc<Running>> {
        let signers = Signers::open([spec], &Signers::default(), &self.host).await?;
        Ok(Arc::clone(signers.get(&spec.name).context("not opened")?))
    }

    /// Waits for the removals under way.
    pub(crate) async fn settled(&self) {
        self.host.tasks.close();
        self.host.tasks.wait().await;
        self.host.tasks.reopen();
    }

    /// All metrics, as a scrape sees them.
    pub(crate) fn metrics(&self) -> String {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).unwrap();
        text
    }

    /// The value of one series, 0 if there is none.
    pub(crate) fn metric(&self, series: &str) -> u64 {
        let text = self.metrics();
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.map_or(0, |value| value.parse().unwrap())
    }
}

// === impl Wish ===

impl Wish {
    pub(crate) fn new(namespace: &str, account: &str) -> Self {
        let domain: TrustDomain = "cluster.local".parse().unwrap();
        let id = SpiffeId::new(&domain, namespace, account).unwrap();
        let key = PrivateKey::generate(KeyType::P256).unwrap();
        Self {
            csr: Arc::new(csr::build(&key, &id).unwrap()),
            id,
            key: Arc::new(key),
            ttl: Duration::from_hours(1),
        }
    }

    /// The same, signed again: other bytes, the same key and id.
    pub(crate) fn signed_again(&self) -> Self {
        let csr = Arc::new(csr::build(&self.key, &self.id).unwrap());
        assert_ne!(csr.der(), self.csr.der(), "ECDSA signatures differ");
        Self { csr, ..self.clone() }
    }

    pub(crate) fn issuance(&self, running: &Running, patience: Duration) -> Issuance {
        let mut parts = self.id.as_str().rsplit('/');
        let (account, namespace) = (parts.next().unwrap(), parts.nth(1).unwrap());
        let name = &running.spec().name;
        let ttl = self.ttl;
        Issuance {
            csr: Arc::clone(&self.csr),
            id: self.id.clone(),
            ttl,
            originator: Originator {
                namespace: namespace.to_owned(),
                service_account: account.to_owned(),
                pod: Some(Pod {
                    name: format!("{account}-0"),
                    uid: "5e8a4b5c".to_owned(),
                }),
                node: Some("node-1".to_owned()),
                cluster: Some("Kubernetes".to_owned()),
            },
            idempotency_key: IdempotencyKey::derive(Some("Kubernetes"), &self.id, name, self.csr.spki_der(), ttl),
            request_id: format!("{:016x}", fastrand::u64(..)).into(),
            deadline: Instant::now() + patience,
        }
    }

    /// Asks, and leaves what it gets unsettled.
    pub(crate) async fn ask(&self, running: &Running) -> Result<Issued, SignerError> {
        running.signer().sign(self.issuance(running, FOR_EVER)).await
    }

    /// Asks, checks the answer as the service does, and settles.
    pub(crate) async fn certificate(&self, running: &Running) -> anyhow::Result<Reply> {
        let issued = self.ask(running).await?;
        let reply = self.judge(running, &issued);
        issued.receipt.settle();
        reply
    }

    pub(crate) fn judge(&self, running: &Running, issued: &Issued) -> anyhow::Result<Reply> {
        let asked = Asked {
            csr: &self.csr,
            id: &self.id,
            ttl: self.ttl,
            exact: false,
        };
        let chain = reply::read(&issued.chain)?;
        let now = SystemClock::shared().now();
        Ok(reply::compose(&chain, &*running.trust().current()?, asked, now)?)
    }
}

/// A signer behind the CSR API.
pub(crate) fn csr_signer(name: &str, signer_name: &str, roots: &str) -> SignerSpec {
    spec(
        name,
        Backend::KubernetesCsr(KubernetesCsrSpec {
            signer_name: signer_name.to_owned(),
            approve: true,
            roots: RootsSpec::Pem(roots.into()),
            request: request_spec(),
        }),
    )
}

/// A signer behind CertificateRequests.
pub(crate) fn cert_manager_signer(name: &str, namespace: &str, issuer: Option<IssuerRef>, roots: &str) -> SignerSpec {
    spec(
        name,
        Backend::CertManager(CertManagerSpec {
            namespace: namespace.to_owned(),
            issuer,
            runtime_issuer: None,
            annotations: BTreeMap::new(),
            preserve: false,
            roots: RootsSpec::Pem(roots.into()),
            request: request_spec(),
        }),
    )
}

fn spec(name: &str, backend: Backend) -> SignerSpec {
    SignerSpec {
        name: name.parse().unwrap(),
        trust_domain: "cluster.local".parse().unwrap(),
        backend,
        roots: None,
        backdate: Duration::ZERO,
    }
}

fn request_spec() -> RequestSpec {
    RequestSpec {
        deadline: Duration::from_secs(60),
        resume_window: Duration::from_mins(5),
        exact_lifetime: false,
    }
}

/// Longer than any deadline of a signer here.
pub(crate) const FOR_EVER: Duration = Duration::from_mins(10);
