//! One signer at work.
//!
//! Promises that no workload's request reaches it but through its gate, that it is asked for nothing longer than the request's
//! deadline, and that its tasks end when nobody holds it any more.

use std::{fmt, sync::Arc};

use thiserror::Error;
use tokio::time::timeout_at;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{Gate, GateError, GateParts, Issuance, Issued, Outcome, Signer, SignerError};
use crate::{
    policy::{Backend, RootsSpec, SignerSpec},
    trust::Trust,
};

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

// === impl Running ===

impl Running {
    /// A signer that was built elsewhere, such as a scripted one of a test.
    pub fn new(spec: SignerSpec, signer: Arc<dyn Signer>, trust: Trust) -> Self {
        let gate = Arc::new(Gate::new(&spec.name, GateParts::default()));
        Self::started(spec, gate, signer, trust, CancellationToken::new())
    }

    /// One whose tasks end with `stop`.
    pub(super) fn started(
        spec: SignerSpec,
        gate: Arc<Gate>,
        signer: Arc<dyn Signer>,
        trust: Trust,
        stop: CancellationToken,
    ) -> Self {
        Self {
            spec,
            gate,
            signer,
            trust,
            _tasks: stop.drop_guard(),
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
    pub fn gate(&self) -> &Arc<Gate> {
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
