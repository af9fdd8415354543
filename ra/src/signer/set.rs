//! The running signers of a policy.
//!
//! Owns the step from what the operator says ([`SignerSpec`]) to something that signs, and the tasks behind it.
//! Promises that a reload keeps each signer whose spec did not change, with its state, and the gate of one whose roots alone
//! did, with all who wait there, and that all mistakes are named at once, each with its signer.

use std::{collections::BTreeMap, sync::Arc};

use ensign_pki::SignerName;
use thiserror::Error;

use super::{
    Gate, GateParts, Host, Running, cert_manager, kubernetes_csr,
    local::{LocalError, LocalSigner, Surroundings},
};
use crate::{
    policy::{Backend, SignerSpec},
    trust::{self, OpenRootsError, RootsSource, Trust},
};

/// The signers of one policy, by name. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Signers(BTreeMap<SignerName, Arc<Running>>);

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
            let old = before.0.get(&spec.name).filter(|old| old.spec().asks_like(spec));
            if let Some(same) = old.filter(|old| old.spec() == spec) {
                running.insert(spec.name.clone(), Arc::clone(same));
                continue;
            }
            // Other roots do not make the backend faster: who waits, its rate and what was learnt of it stay.
            let gate = old.map_or_else(|| Arc::new(gate(spec, host)), |old| Arc::clone(old.gate()));
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
                .map(|one| (one.spec().name.clone(), Arc::new(one)))
                .collect(),
        )
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
            let (signer, watched) = opened
                .await
                .map_err(|error| mistake(spec, &local.dir.display().to_string(), error.into()))?;
            // It ends only by its token, and has no error of its own: a bad file is a warning.
            host.tasks.spawn(watched.run(stop.clone()));
            let signer = Arc::new(signer);
            let trust = Trust::new(Arc::clone(&signer) as Arc<dyn RootsSource>);
            Ok(Running::started(spec.clone(), gate, signer, trust, stop))
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
            Ok(Running::started(spec.clone(), gate, signer, trust, stop))
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
            Ok(Running::started(spec.clone(), gate, signer, trust, stop))
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
        assert!(Arc::ptr_eq(foo(&first).gate(), foo(&other_roots).gate()));
        let other_signer = open(folder, "root-cert.pem", "20s", &first).await;
        assert!(!Arc::ptr_eq(foo(&first).gate(), foo(&other_signer).gate()));
    }
}
