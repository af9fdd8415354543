//! The running signers of a policy.
//!
//! Owns the step from what the operator says ([`SignerSpec`]) to something that signs, and the tasks behind it.
//! Promises that a reload keeps each signer whose spec did not change, with its state, and the gate of one whose roots alone
//! did, with all who wait there; that all mistakes are named at once, each with its signer; that no workload's request reaches a signer but through its gate; and that a signer's
//! tasks end when nobody holds it any more.

use std::{collections::BTreeMap, fmt, sync::Arc};

use ensign_daemon::watched_file::WatchMetrics;
use ensign_pki::{SharedClock, SignerName};
use thiserror::Error;
use tokio::{sync::watch, time::timeout_at};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use super::{
    Gate, GateError, GateParts, Issuance, Issued, Outcome, Signer, SignerError, cert_manager, kubernetes_csr,
    local::{LocalError, LocalSigner, Surroundings},
    object::Backends,
};
use crate::{
    kubernetes::Cluster,
    policy::{Backend, RootsSpec, SignerSpec},
    trust::{self, Discovery, OpenRootsError, RootsSource, Trust, TrustMetrics},
};

/// What signers need of the process.
#[derive(Clone, Debug)]
pub struct Host {
    /// Tells the time.
    pub clock: SharedClock,
    /// Where the tasks of signers are counted; the drain waits for them.
    pub tasks: TaskTracker,
    /// Cancelled when the process stops.
    pub stop: CancellationToken,
    /// Counts files that could not be loaded.
    pub files: WatchMetrics,
    /// How many replicas live, this one included, so that they share a signer's rate; without it this one is alone.
    pub replicas: Option<watch::Receiver<usize>>,
    /// The API server, for signers behind it.
    pub cluster: Option<Cluster>,
    /// What signers behind it share.
    pub backends: Option<Backends>,
    /// For the roots of signers behind it.
    pub trust: TrustHost,
}

/// What the roots of signers need of the process.
#[derive(Clone, Debug, Default)]
pub struct TrustHost {
    /// Counts.
    pub metrics: TrustMetrics,
    /// Roots that the RA's own issuer names, if its certificate comes from one.
    pub discovery: Option<Discovery>,
}

/// The signers of one policy, by name. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Signers(BTreeMap<SignerName, Arc<Running>>);

/// One signer at work, what stands before it, and the roots that go with what it signs.
pub struct Running {
    spec: SignerSpec,
    gate: Arc<Gate>,
    signer: Arc<dyn Signer>,
    trust: Trust,
    _tasks: DropGuard,
}

/// Why a signer gave no certificate, be it that it was never asked.
#[derive(Debug, Error)]
pub enum NotSigned {
    /// It was not asked.
    #[error(transparent)]
    Gate(#[from] GateError),
    /// It said no, in one of its ways.
    #[error(transparent)]
    Signer(#[from] SignerError),
    /// It said nothing before the deadline.
    #[error("it did not answer before the deadline")]
    Deadline,
}

/// Why the signers of a policy do not all start; the ones in effect before stay.
#[derive(Debug, Error)]
#[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
pub struct OpenError(Vec<Mistake>);

/// One signer that does not start.
#[derive(Debug, Error)]
#[error(
    "signer {signer} in {place} does not start: {}",
    ensign_daemon::logging::chain(source)
)]
struct Mistake {
    signer: SignerName,
    place: String,
    source: StartError,
}

/// Why one signer does not start.
#[derive(Debug, Error)]
enum StartError {
    /// Its CA cannot be used.
    #[error(transparent)]
    Local(#[from] LocalError),
    /// It signs through an API server that this RA does not know.
    #[error("it signs through Kubernetes, which is off (--kubernetes); name an API server or use another backend")]
    NoKubernetes,
    /// Its roots cannot be followed.
    #[error(transparent)]
    Roots(#[from] OpenRootsError),
}

// === impl Host ===

impl Host {
    /// A process without Kubernetes and without metrics, which keeps time by this clock.
    pub fn alone(clock: SharedClock) -> Self {
        Self {
            clock,
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            files: WatchMetrics::default(),
            replicas: None,
            cluster: None,
            backends: None,
            trust: TrustHost::default(),
        }
    }
}

// === impl Signers ===

impl Signers {
    /// Starts what `specs` describe, taking over from `before` every signer whose spec is the same.
    pub async fn open<'a>(
        specs: impl IntoIterator<Item = &'a SignerSpec>,
        before: &Self,
        host: &Host,
    ) -> Result<Self, OpenError> {
        let mut running = BTreeMap::new();
        let mut mistakes = Vec::new();
        for spec in specs {
            let old = before.0.get(&spec.name).filter(|old| old.spec.asks_like(spec));
            if let Some(same) = old.filter(|old| old.spec == *spec) {
                running.insert(spec.name.clone(), Arc::clone(same));
                continue;
            }
            // Other roots do not make the backend faster: who waits, its rate and what was learnt of it stay.
            let gate = old.map_or_else(|| Arc::new(gate(spec, host)), |old| Arc::clone(&old.gate));
            match start(spec, gate, host).await {
                Ok(signer) => _ = running.insert(spec.name.clone(), Arc::new(signer)),
                Err(mistake) => mistakes.push(mistake),
            }
        }
        if mistakes.is_empty() {
            Ok(Self(running))
        } else {
            Err(OpenError(mistakes))
        }
    }

    /// The signer of that name.
    pub fn get(&self, name: &SignerName) -> Option<&Arc<Running>> {
        self.0.get(name)
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&SignerName, &Arc<Running>)> {
        self.0.iter()
    }
}

impl FromIterator<Running> for Signers {
    /// Signers that were built elsewhere, such as the scripted ones of a test.
    fn from_iter<I: IntoIterator<Item = Running>>(running: I) -> Self {
        Self(
            running
                .into_iter()
                .map(|one| (one.spec.name.clone(), Arc::new(one)))
                .collect(),
        )
    }
}

// === impl Running ===

impl Running {
    /// A signer that was built elsewhere, such as a scripted one of a test.
    pub fn new(spec: SignerSpec, signer: Arc<dyn Signer>, trust: Trust) -> Self {
        Self {
            gate: Arc::new(Gate::new(&spec.name, GateParts::default())),
            spec,
            signer,
            trust,
            _tasks: CancellationToken::new().drop_guard(),
        }
    }

    /// Has one request signed, once it is its turn, before its deadline. Dropping the future cancels it.
    pub async fn sign(&self, issuance: Issuance) -> Result<Issued, NotSigned> {
        let deadline = issuance.deadline;
        let pass = self.gate.enter(issuance.id.namespace(), deadline).await?;
        match timeout_at(deadline, self.signer.sign(issuance)).await {
            Ok(Ok(issued)) => {
                pass.finish(Outcome::Answered);
                Ok(issued)
            }
            Ok(Err(error)) => {
                if let Some(outcome) = error.outcome() {
                    pass.finish(outcome);
                }
                Err(NotSigned::Signer(error))
            }
            Err(_) => Err(NotSigned::Deadline),
        }
    }

    /// What stands before it.
    pub fn gate(&self) -> &Gate {
        &self.gate
    }

    /// The signer itself, for whoever asks it something else than to sign.
    pub fn signer(&self) -> &dyn Signer {
        &*self.signer
    }

    /// The roots that go with it.
    pub fn trust(&self) -> &Trust {
        &self.trust
    }

    /// Whether its roots are what its issuer says they are.
    pub fn discovers(&self) -> bool {
        match &self.spec.backend {
            Backend::CertManager(spec) => spec.roots == RootsSpec::Discover,
            Backend::KubernetesCsr(spec) => spec.roots == RootsSpec::Discover,
            Backend::Local(_) => false,
        }
    }

    /// What it was started from.
    pub fn spec(&self) -> &SignerSpec {
        &self.spec
    }
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Running")
            .field("spec", &self.spec)
            .finish_non_exhaustive()
    }
}

async fn start(spec: &SignerSpec, gate: Arc<Gate>, host: &Host) -> Result<Running, Mistake> {
    let stop = host.stop.child_token();
    match &spec.backend {
        Backend::Local(local) => {
            let surroundings = Surroundings {
                clock: Arc::clone(&host.clock),
                metrics: host.files.clone(),
            };
            let opened = LocalSigner::open(
                &spec.name,
                local,
                spec.roots.as_deref(),
                &spec.trust_domain,
                spec.backdate,
                &surroundings,
            );
            let (signer, watched) = opened.await.map_err(|source| Mistake {
                signer: spec.name.clone(),
                place: local.dir.display().to_string(),
                source: source.into(),
            })?;
            // It ends only by its token, and has no error of its own: a bad file is a warning.
            host.tasks.spawn(watched.run(stop.clone()));
            let signer = Arc::new(signer);
            let trust = Trust::new(Arc::clone(&signer) as Arc<dyn RootsSource>);
            Ok(running(spec, gate, signer, trust, stop))
        }
        Backend::KubernetesCsr(csr) => {
            let mistake = |source| mistake(spec, &csr.signer_name, source);
            let backends = host
                .backends
                .as_ref()
                .ok_or_else(|| mistake(StartError::NoKubernetes))?;
            let trust = trust::open(&spec.name, &csr.roots, host, &stop).await;
            let trust = trust.map_err(|error| mistake(error.into()))?;
            let signer = Arc::new(kubernetes_csr::open(&spec.name, csr, backends));
            Ok(running(spec, gate, signer, trust, stop))
        }
        Backend::CertManager(cert_manager) => {
            let mistake = |source| mistake(spec, &cert_manager.namespace, source);
            let backends = host
                .backends
                .as_ref()
                .ok_or_else(|| mistake(StartError::NoKubernetes))?;
            let trust = trust::open(&spec.name, &cert_manager.roots, host, &stop).await;
            let trust = trust.map_err(|error| mistake(error.into()))?;
            let signer = Arc::new(cert_manager::open(&spec.name, cert_manager, backends));
            Ok(running(spec, gate, signer, trust, stop))
        }
    }
}

/// A gate that knows what all signers share, and what those behind the API server do.
fn gate(spec: &SignerSpec, host: &Host) -> Gate {
    let backends = host.backends.as_ref().filter(|_| spec.backend.request().is_some());
    Gate::new(
        &spec.name,
        GateParts {
            replicas: host.replicas.clone(),
            pushback: backends.map(|backends| backends.pushback().follow()),
        },
    )
}

fn running(
    spec: &SignerSpec,
    gate: Arc<Gate>,
    signer: Arc<dyn Signer>,
    trust: Trust,
    stop: CancellationToken,
) -> Running {
    Running {
        spec: spec.clone(),
        gate,
        signer,
        trust,
        _tasks: stop.drop_guard(),
    }
}

fn mistake(spec: &SignerSpec, place: &str, source: StartError) -> Mistake {
    Mistake {
        signer: spec.name.clone(),
        place: place.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use ensign_pki::SystemClock;
    use ensign_testkit::TestCa;

    use super::*;
    use crate::policy::Policy;

    async fn open(folder: &Path, roots: &str, backdate: &str, before: &Signers) -> Signers {
        let folder = folder.display();
        let text = format!(
            "apiVersion: ensign.mesh/v1\ntrustDomain: cluster.local\nbackdate: {backdate}\nsigners:\n- name: foo\n  \
             local: {{dir: {folder}}}\n  roots: {folder}/{roots}\nrules: []\n"
        );
        let policy = Policy::parse(&text).unwrap();
        let host = Host::alone(SystemClock::shared());
        Signers::open(policy.signers(), before, &host).await.unwrap()
    }

    fn foo(signers: &Signers) -> &Arc<Running> {
        signers.get(&"foo".parse().unwrap()).unwrap()
    }

    #[tokio::test]
    async fn a_change_of_roots_keeps_the_gate_and_one_of_the_signer_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        TestCa::new("foo").write_to(folder).unwrap();
        std::fs::copy(folder.join("root-cert.pem"), folder.join("other.pem")).unwrap();
        let first = open(folder, "root-cert.pem", "10s", &Signers::default()).await;
        let same = open(folder, "root-cert.pem", "10s", &first).await;
        assert!(Arc::ptr_eq(foo(&first), foo(&same)));
        let other_roots = open(folder, "other.pem", "10s", &first).await;
        assert!(!Arc::ptr_eq(foo(&first), foo(&other_roots)));
        assert!(Arc::ptr_eq(&foo(&first).gate, &foo(&other_roots).gate));
        let other_signer = open(folder, "root-cert.pem", "20s", &first).await;
        assert!(!Arc::ptr_eq(&foo(&first).gate, &foo(&other_signer).gate));
    }
}
