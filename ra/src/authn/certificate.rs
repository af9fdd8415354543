//! A certificate of ours as a credential, for workloads that have no token (istio-csr's client certificate
//! authenticator; off by default).
//!
//! The handshake accepts any certificate and proves only that the peer has its key; here it is judged. It must end in
//! the roots of one of our signers, be good for clients and valid now, and hold one id in our trust domain. Which
//! signers those are stays with the caller: it renews with them alone, and only where the policy lets that signer vouch
//! for that identity, so that who holds foo's CA cannot become bar. No certificate names a pod, so none can ask for
//! others.

use std::sync::Arc;

use ensign_pki::{Chain, ChainError, SharedClock, SvidError, verify_presented};
use rustls_pki_types::CertificateDer;
use thiserror::Error;
use tokio::sync::watch;

use super::caller::{Caller, CertificateProof, Proof};
use super::clusters::Clusters;
use crate::desk::{Closed, Desk};

/// Why a client certificate is refused.
#[derive(Debug, Error)]
pub enum CertificateError {
    /// The chain cannot be read.
    #[error("its chain cannot be read: {0}")]
    Chain(#[source] ChainError),
    /// It is no certificate of ours.
    #[error("it does not end in the roots of any signer, or is not good for clients now: {0}")]
    Refused(SvidError),
    /// There is no policy that could say whose it is.
    #[error(transparent)]
    Closed(#[from] Closed),
    /// There is nothing that it could end in.
    #[error("there are no signers")]
    NoSigners,
    /// Somebody else's trust domain.
    #[error("it is for {seen}, our trust domain is {ours}")]
    TrustDomain {
        /// Its id.
        seen: String,
        /// Ours.
        ours: String,
    },
    /// Its account is in none of the clusters.
    #[error("its service account {0:?} is in no cluster that we know")]
    AccountGone(String),
}

/// Judges client certificates.
#[derive(Debug, Clone)]
pub(super) struct Certificates {
    desk: watch::Receiver<Arc<Desk>>,
    clock: SharedClock,
}

// === impl Certificates ===

impl Certificates {
    pub(super) fn new(desk: watch::Receiver<Arc<Desk>>, clock: SharedClock) -> Self {
        Self { desk, clock }
    }

    /// Whom a chain speaks for, whose leaf's key the peer has.
    pub(super) fn judge(
        &self,
        presented: &[CertificateDer<'_>],
        clusters: &Clusters,
    ) -> Result<Caller, CertificateError> {
        let chain = Chain::from_ders(presented).map_err(CertificateError::Chain)?;
        let desk = Arc::clone(&self.desk.borrow());
        let now = self.clock.now();
        let (mut id, mut signers, mut refused) = (None, Vec::new(), None);
        for (name, running) in desk.signers().iter() {
            // A signer whose roots are not known vouches for nobody.
            let Ok(roots) = running.trust().current() else { continue };
            match verify_presented(&chain, roots.bundle(), now) {
                Ok(seen) => {
                    id = Some(seen);
                    signers.push(name.clone());
                }
                Err(error) => refused = refused.or(Some(error)),
            }
        }
        let Some(id) = id else {
            return Err(refused.map_or(CertificateError::NoSigners, CertificateError::Refused));
        };
        let ours = desk.open()?.policy.trust_domain();
        if id.trust_domain() != ours {
            return Err(CertificateError::TrustDomain {
                seen: id.to_string(),
                ours: ours.to_string(),
            });
        }
        if clusters.has_account(id.namespace(), id.service_account()) == Some(false) {
            let account = format!("{}/{}", id.namespace(), id.service_account());
            return Err(CertificateError::AccountGone(account));
        }
        Ok(Caller {
            namespace: id.namespace().to_owned(),
            service_account: id.service_account().to_owned(),
            pod: None,
            node: None,
            cluster: None,
            token_id: None,
            proof: Proof::Certificate(CertificateProof {
                signers,
                serial: chain.leaf().serial().to_owned(),
            }),
        })
    }
}

// === impl CertificateError ===

impl CertificateError {
    /// The word for metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Chain(_) => "certificate_damaged",
            Self::Refused(_) => "certificate_refused",
            Self::Closed(_) => "no_policy",
            Self::NoSigners => "certificate_no_signers",
            Self::TrustDomain { .. } => "certificate_trust_domain",
            Self::AccountGone(_) => "certificate_account_gone",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use ensign_daemon::watched_file::WatchMetrics;
    use ensign_daemon::{Readiness, Supervisor};
    use ensign_pki::{KeyType, PrivateKey, SystemClock};
    use ensign_testkit::TestCa;
    use ensign_testkit::ca::Leaf;
    use prometheus_client::registry::Registry;
    use rustls_pki_types::pem::PemObject as _;

    use super::*;
    use crate::authn::testing::{clusters, live};
    use crate::desk::{self, DeskParts, PolicySources};
    use crate::kubernetes::WatchState;
    use crate::mesh::MeshMetrics;
    use crate::metrics::Metrics;
    use crate::signer::Host;

    /// A desk with one signer, whose CA this is.
    async fn desk_of(ca: &TestCa, supervisor: &mut Supervisor) -> watch::Receiver<Arc<Desk>> {
        let folder = tempfile::tempdir().unwrap();
        ca.write_to(folder.path()).unwrap();
        let text = format!(
            "apiVersion: ensign.mesh/v1\ntrustDomain: cluster.local\nsigners:\n- name: foo\n  local: {{dir: {}}}\nrules: []\n",
            folder.path().display()
        );
        let mut registry = Registry::default();
        let parts = DeskParts {
            signers: Arc::new(Host::alone(SystemClock::shared())),
            metrics: Metrics::register(&mut registry),
            mesh_metrics: MeshMetrics::register(&mut registry),
            files: WatchMetrics::register(&mut registry),
            clock: SystemClock::shared(),
            serving_ca: None,
        };
        let sources = PolicySources {
            text: Some(text.into()),
            ..PolicySources::default()
        };
        let gate = Readiness::new().gate("policy", "not started");
        desk::start(sources, parts, gate, supervisor).await.unwrap()
    }

    fn chain(ca: &TestCa) -> Vec<CertificateDer<'static>> {
        let key = PrivateKey::generate(KeyType::P256).unwrap();
        let id = "spiffe://cluster.local/ns/foo/sa/a";
        let leaf = Leaf::right(id, Duration::from_hours(1), SystemTime::now());
        let pem = ca.issue(&key.spki_der(), &leaf) + &ca.intermediate_pems().concat();
        let ders = CertificateDer::pem_slice_iter(pem.as_bytes());
        ders.map(|der| der.unwrap()).collect()
    }

    #[tokio::test]
    async fn a_certificate_counts_while_its_account_is_there_or_nobody_can_tell() {
        let ca = TestCa::new("foo");
        let mut supervisor = Supervisor::new();
        let certificates = Certificates::new(desk_of(&ca, &mut supervisor).await, SystemClock::shared());
        let ((primary, in_primary), (remote, in_remote)) = (live("primary"), live("remote"));
        let (clusters, remove_remotes) = clusters(primary, &[remote]);
        let chain = chain(&ca);
        let judge = || match certificates.judge(&chain, &clusters) {
            Ok(caller) => Ok((caller.namespace, caller.service_account)),
            Err(error) => Err(error.reason()),
        };
        let (good, gone) = (Ok(("foo".to_owned(), "a".to_owned())), Err("certificate_account_gone"));
        assert_eq!(judge(), gone);
        in_remote.account("foo", "a", "1");
        assert_eq!(judge(), good);
        remove_remotes();
        assert_eq!(judge(), gone);
        in_primary.account("foo", "a", "2");
        assert_eq!(judge(), good);
        in_primary.account_gone("foo", "a", "2");
        assert_eq!(judge(), gone);
        in_primary.watch_is(WatchState::Starting);
        assert_eq!(judge(), good);
    }
}
