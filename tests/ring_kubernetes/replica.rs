//! The signers of an RA without its gRPC side: several of these on one cluster are replicas.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use ensign_pki::{Csr, KeyType, PrivateKey, SharedClock, SpiffeId, SystemClock, TrustDomain, crypto, csr};
use ensign_ra::kubernetes::{self, KubernetesMetrics};
use ensign_ra::policy::{Backend, CertManagerSpec, IssuerRef, KubernetesCsrSpec, RequestSpec, RootsSpec, SignerSpec};
use ensign_ra::reply::{self, Asked, Reply};
use ensign_ra::signer::object::{Backends, BackendsParts, ObjectMetrics};
use ensign_ra::signer::{Host, IdempotencyKey, Issuance, Issued, Originator, Pod, Running, SignerError, Signers};
use ensign_testbed::cluster::{Access, Places, RaAccount};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use kube::Api;
use kube::api::{ApiResource, DynamicObject, ListParams};
use kube::core::GroupVersionKind;
use prometheus_client::registry::Registry;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

/// Who an RA is in one test: an account with the rights that deploy/optional/rbac.yaml grants for its signers, and an installation.
#[derive(Clone)]
pub(crate) struct Installation {
    /// Its own namespace, too.
    pub(crate) name: String,
    pub(crate) account: RaAccount,
}

/// One replica.
pub(crate) struct Replica {
    pub(crate) host: Host,
    pub(crate) backends: Backends,
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

// === impl Installation ===

impl Installation {
    /// One that may use these signers of the CSR API, and cert-manager's kinds in this namespace.
    pub(crate) async fn new(access: &Access, signers: &[&str], issuers: Option<&str>) -> anyhow::Result<Self> {
        let name = access.namespace("ensign").await?;
        let istio = issuers.unwrap_or(&name);
        let of_namespace = format!("issuers.cert-manager.io/{istio}.");
        let places = Places {
            own: name.clone(),
            istio: istio.to_owned(),
            signers: signers.iter().copied().map(str::to_owned).collect(),
            issuers: signers
                .iter()
                .filter_map(|signer| signer.strip_prefix(&of_namespace))
                .map(|issuer| format!("Issuer.cert-manager.io/{istio}/{issuer}"))
                .collect(),
        };
        let mut modes = vec!["base", "kubernetes-csr", "cluster-issuers"];
        if issuers.is_some() {
            modes.extend(["cert-manager", "issuers", "issuer-reference", "runtime-issuer"]);
        }
        let account = places.grant(access, &modes).await?;
        Ok(Self { name, account })
    }

    /// The name of a request's object, with its number after it where that is not the first.
    pub(crate) fn object(issuance: &Issuance) -> String {
        format!("ensign-{}", &issuance.idempotency_key.as_str()[..40])
    }

    /// The CSRs that are there now.
    pub(crate) async fn csrs(&self, access: &Access) -> anyhow::Result<Vec<CertificateSigningRequest>> {
        let selector = format!("ensign.mesh/installation={}", self.name);
        let all = Api::<CertificateSigningRequest>::all(access.admin());
        Ok(all.list(&ListParams::default().labels(&selector)).await?.items)
    }

    /// The CertificateRequests of a namespace that are there now.
    pub(crate) async fn certificate_requests(
        &self,
        access: &Access,
        namespace: &str,
    ) -> anyhow::Result<Vec<DynamicObject>> {
        let selector = format!("ensign.mesh/installation={}", self.name);
        let kind = GroupVersionKind::gvk("cert-manager.io", "v1", "CertificateRequest");
        let all = Api::<DynamicObject>::namespaced_with(access.admin(), namespace, &ApiResource::from_gvk(&kind));
        Ok(all.list(&ListParams::default().labels(&selector)).await?.items)
    }
}

// === impl Replica ===

impl Replica {
    /// One of this installation.
    pub(crate) async fn start(access: &Access, installation: &Installation) -> anyhow::Result<Self> {
        Self::start_with_clock(access, installation, SystemClock::shared()).await
    }

    pub(crate) async fn start_with_clock(
        access: &Access,
        installation: &Installation,
        clock: SharedClock,
    ) -> anyhow::Result<Self> {
        crypto::install_default();
        let mut registry = Registry::default();
        let metrics = KubernetesMetrics::register(&mut registry);
        let path = access.folder().join(format!("{}.kubeconfig", fastrand::u64(..)));
        std::fs::write(&path, &installation.account.kubeconfig)?;
        let source = kubernetes::ClusterSource::Kubeconfig { path, context: None };
        let cluster = kubernetes::connect(&source, &metrics).await?;
        assert_eq!(cluster.username(), installation.account.username);
        let tasks = TaskTracker::new();
        let backends = Backends::new(BackendsParts {
            cluster: cluster.clone(),
            installation: installation.name.clone(),
            metrics: ObjectMetrics::register(&mut registry),
            clock: Arc::clone(&clock),
            tasks: tasks.clone(),
        });
        let host = Host {
            tasks,
            cluster: Some(cluster),
            backends: Some(backends.clone()),
            ..Host::alone(clock)
        };
        Ok(Self {
            host,
            backends,
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
    csr_signer_with(name, signer_name, roots, |_| {})
}

/// The same, changed.
pub(crate) fn csr_signer_with(
    name: &str,
    signer_name: &str,
    roots: &str,
    change: impl FnOnce(&mut KubernetesCsrSpec),
) -> SignerSpec {
    let mut csr = KubernetesCsrSpec {
        signer_name: signer_name.to_owned(),
        approve: true,
        roots: RootsSpec::Pem(roots.into()),
        request: request_spec(),
    };
    change(&mut csr);
    spec(name, Backend::KubernetesCsr(csr))
}

/// A signer behind CertificateRequests.
pub(crate) fn cert_manager_signer(name: &str, namespace: &str, issuer: Option<IssuerRef>, roots: &str) -> SignerSpec {
    cert_manager_signer_with(name, namespace, issuer, roots, |_| {})
}

/// The same, changed.
pub(crate) fn cert_manager_signer_with(
    name: &str,
    namespace: &str,
    issuer: Option<IssuerRef>,
    roots: &str,
    change: impl FnOnce(&mut CertManagerSpec),
) -> SignerSpec {
    let mut cert_manager = CertManagerSpec {
        namespace: namespace.to_owned(),
        issuer,
        runtime_issuer: None,
        annotations: BTreeMap::new(),
        preserve: false,
        roots: RootsSpec::Pem(roots.into()),
        request: request_spec(),
    };
    change(&mut cert_manager);
    spec(name, Backend::CertManager(cert_manager))
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
