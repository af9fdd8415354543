//! istiod's own certificate: the Secret `istiod-tls`, which istiod's charts mount where it is.
//!
//! Owns the two ways to it. With cert-manager a `Certificate` object, as istio-csr's: cert-manager makes key and Secret, and
//! the issuer follows the one that signs for workloads ([`certificate`]). With a Kubernetes signer the RA makes the
//! key, has it signed like a workload's and checked like one, and writes the Secret itself ([`secret`]). Promises that
//! only the leader writes, that nothing that istiod may still use is ever deleted, and that a Secret which
//! somebody else made is left alone and named. A Certificate of that name is taken over, because istio-csr's has it: the
//! one that this replaces. Its roots are distributed by [`crate::distribution`].

mod certificate;
mod keep;
mod metrics;
mod names;
mod secret;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use ensign_pki::{KeyType, SharedClock, TrustDomain};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub use self::metrics::IstiodMetrics;
pub use self::names::IstiodNames;
use crate::kubernetes::Home;
use crate::leader::while_leading;
use crate::signer::Pick;
use crate::signer::object::Backends;

/// What istiod's certificate should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IstiodConfig {
    /// Who makes it.
    pub provider: Provider,
    /// istiod's namespace, revisions and other names.
    pub names: IstiodNames,
    /// The type of its key.
    pub key_type: KeyType,
    /// How long it should live.
    pub ttl: Duration,
}

/// Who makes istiod's certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Provider {
    /// cert-manager, from a Certificate object that we keep.
    Certificate {
        /// Name of the object.
        name: String,
        /// How long before its end it is renewed.
        renew_before: Duration,
        /// Annotations for it.
        annotations: BTreeMap<String, String>,
    },
    /// We, through the signer.
    Secret,
}

/// What the work needs.
#[derive(Clone)]
pub struct IstiodParts {
    /// What is wanted.
    pub config: IstiodConfig,
    /// The cluster, and who we are there.
    pub home: Home,
    /// Finds the signer.
    pub signer: Pick,
    /// What signers behind the API server share.
    pub backends: Backends,
    /// The trust domain of the policy, once there is one.
    pub trust_domain: Arc<dyn Fn() -> Option<TrustDomain> + Send + Sync>,
    /// Whether this replica leads.
    pub leading: watch::Receiver<bool>,
    /// Tells the time.
    pub clock: SharedClock,
    /// Counts.
    pub metrics: IstiodMetrics,
}

/// Keeps istiod's certificate while this replica leads, until `stop`.
pub async fn run(parts: IstiodParts, stop: CancellationToken) -> anyhow::Result<()> {
    let leading = parts.leading.clone();
    match parts.config.provider.clone() {
        Provider::Certificate {
            name,
            renew_before,
            annotations,
        } => {
            let object = certificate::Wanted {
                name,
                renew_before,
                annotations,
            };
            while_leading(leading, stop, |term| {
                certificate::Keeper::new(parts.clone(), object.clone()).run(term)
            })
            .await
        }
        Provider::Secret => while_leading(leading, stop, |term| secret::Keeper::new(parts.clone()).run(term)).await,
    }
}

impl fmt::Debug for IstiodParts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IstiodParts")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

/// The Secret that istiod's charts mount.
pub(crate) const SECRET: &str = "istiod-tls";
