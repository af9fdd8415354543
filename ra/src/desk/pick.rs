//! Which signer of the policy serves the control plane itself.

use std::fmt;
use std::sync::Arc;

use ensign_pki::SignerName;
use tokio::sync::watch;

use super::Desk;
use crate::policy::Backend;
use crate::signer::{Pick, Running};

/// How a signer is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    /// By its name in the policy.
    Named(SignerName),
    /// The only one behind cert-manager's CertificateRequests.
    OnlyCertManager,
    /// By the full name of the Kubernetes signer behind it, `domain/name`.
    Kubernetes(String),
}

/// Finds the signer in the policy of the moment.
pub fn pick(desk: watch::Receiver<Arc<Desk>>, which: Which) -> Pick {
    Arc::new(move || {
        let desk = Arc::clone(&desk.borrow());
        let open = desk.open().map_err(|closed| closed.to_string())?;
        if let Which::Named(name) = &which {
            let running = open.signer(name).map(Arc::clone);
            return running.ok_or_else(|| format!("the policy has no signer {name}"));
        }
        let mut fitting = open
            .signers
            .iter()
            .map(|(_, running)| running)
            .filter(|running| which.fits(running));
        match (fitting.next(), fitting.next()) {
            (Some(only), None) => Ok(Arc::clone(only)),
            (None, _) => Err(format!("the policy has no signer {which}")),
            (Some(_), Some(_)) => Err(format!("the policy has several signers {which}; name one")),
        }
    })
}

// === impl Which ===

impl Which {
    /// The one of that name, or the only one behind cert-manager.
    pub fn cert_manager(name: Option<SignerName>) -> Self {
        name.map_or(Self::OnlyCertManager, Self::Named)
    }

    fn fits(&self, running: &Running) -> bool {
        match (&running.spec().backend, self) {
            (_, Self::Named(name)) => running.spec().name == *name,
            (Backend::CertManager(_), Self::OnlyCertManager) => true,
            (Backend::KubernetesCsr(spec), Self::Kubernetes(full)) => spec.signer_name == *full,
            (Backend::CertManager(_) | Backend::KubernetesCsr(_) | Backend::Local(_), _) => false,
        }
    }
}

impl fmt::Display for Which {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Named(name) => write!(f, "{name}"),
            Self::OnlyCertManager => f.write_str("behind cert-manager"),
            Self::Kubernetes(full) => write!(f, "for {full}; one that workloads do not use can be in the policy file"),
        }
    }
}
