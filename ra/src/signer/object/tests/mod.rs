//! The engine between a caller and an API server that a test holds in its hand. Time is the test's, too.

mod adopting;
mod deciding;
mod server;

use std::sync::Arc;
use std::time::Duration;

use ensign_pki::{KeyType, PrivateKey, SpiffeId, SystemClock, csr};
use serde_json::Value;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use self::server::{Reaction, Server};
use super::name::Names;
use super::{Backends, BackendsParts, ObjectMetrics};
use crate::policy::{KubernetesCsrSpec, RequestSpec, RootsSpec};
use crate::signer::kubernetes_csr::{self, KubernetesCsrSigner};
use crate::signer::{IdempotencyKey, Issuance, Issued, Originator, Signer as _, SignerError};

/// One replica on a server.
struct Replica {
    signer: Arc<KubernetesCsrSigner>,
    backends: Backends,
    tasks: TaskTracker,
}

/// What a client asks for, again and again.
#[derive(Clone)]
struct Wish {
    key: Arc<PrivateKey>,
    id: SpiffeId,
}

impl Replica {
    fn new(server: &Server) -> Self {
        Self::with(server, true)
    }

    fn with(server: &Server, approve: bool) -> Self {
        let tasks = TaskTracker::new();
        let backends = Backends::new(BackendsParts {
            cluster: server.cluster(),
            installation: "ensign".to_owned(),
            metrics: ObjectMetrics::default(),
            clock: SystemClock::shared(),
            tasks: tasks.clone(),
        });
        let spec = KubernetesCsrSpec {
            signer_name: "example.com/foo".to_owned(),
            approve,
            roots: RootsSpec::Discover,
            request: RequestSpec {
                deadline: DEADLINE,
                resume_window: Duration::from_mins(5),
                exact_lifetime: false,
            },
        };
        let signer = Arc::new(kubernetes_csr::open(&"foo".parse().unwrap(), &spec, &backends));
        Self {
            signer,
            backends,
            tasks,
        }
    }

    /// Asks, in the background.
    fn ask(&self, wish: &Wish) -> tokio::task::JoinHandle<Result<Issued, SignerError>> {
        let (signer, issuance) = (Arc::clone(&self.signer), wish.issuance());
        tokio::spawn(async move { signer.sign(issuance).await })
    }

    async fn settled(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }
}

impl Wish {
    fn new() -> Self {
        Self {
            key: Arc::new(PrivateKey::generate(KeyType::P256).unwrap()),
            id: "spiffe://cluster.local/ns/foo/sa/httpbin".parse().unwrap(),
        }
    }

    fn issuance(&self) -> Issuance {
        let csr = Arc::new(csr::build(&self.key, &self.id).unwrap());
        let ttl = Duration::from_hours(1);
        Issuance {
            id: self.id.clone(),
            ttl,
            originator: Originator {
                namespace: "foo".to_owned(),
                service_account: "httpbin".to_owned(),
                pod: None,
                node: None,
                cluster: None,
            },
            idempotency_key: IdempotencyKey::derive(None, &self.id, &"foo".parse().unwrap(), csr.spki_der(), ttl),
            csr,
            request_id: "r".into(),
            deadline: Instant::now() + Duration::from_mins(10),
        }
    }

    /// The name of its first object.
    fn name(&self) -> String {
        Names::of(&self.issuance().idempotency_key).to_string()
    }

    /// A certificate for its key, good for nothing else.
    fn certificate(&self) -> String {
        let params = rcgen::CertificateParams::default();
        params.self_signed(&*self.key).unwrap().pem()
    }
}

/// Whether somebody has approved it.
fn is_approved(server: &Server, name: &str) -> bool {
    server.names().iter().any(|there| there == name)
        && conditions(&server.get(name)).iter().any(|kind| kind == "Approved")
}

fn conditions(object: &Value) -> Vec<String> {
    let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    conditions
        .iter()
        .map(|one| one["type"].as_str().unwrap().to_owned())
        .collect()
}

fn reason(answer: Result<Issued, SignerError>) -> &'static str {
    answer.map_or_else(|error| error.reason(), |_| "issued")
}

const DEADLINE: Duration = Duration::from_secs(60);
