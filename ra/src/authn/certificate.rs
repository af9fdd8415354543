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
use crate::trust::NoRoots;

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
    /// It ends in no root that is known, and those of a signer are still to come.
    #[error("it ends in no root that is known so far: {0}")]
    Unread(NoRoots),
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
        let open = desk.open()?;
        let now = self.clock.now();
        let (mut id, mut signers, mut refused, mut unread) = (None, Vec::new(), None, None);
        for (name, running) in desk.signers().iter() {
            // A signer whose roots are not known vouches for nobody.
            let roots = match running.trust().current() {
                Ok(roots) => roots,
                Err(error) => {
                    unread = unread.or(error.is_passing().then_some(error));
                    continue;
                }
            };
            match verify_presented(&chain, roots.bundle(), now) {
                Ok(seen) => {
                    id = Some(seen);
                    signers.push(name.clone());
                }
                Err(error) => refused = refused.or(Some(error)),
            }
        }
        let Some(id) = id else {
            return Err(match (refused, unread) {
                // It may be of the signer whose roots are still to come.
                (None | Some(SvidError::ForeignRoot | SvidError::IncompleteChain(_)), Some(unread)) => {
                    CertificateError::Unread(unread)
                }
                (Some(error), _) => CertificateError::Refused(error),
                (None, None) => CertificateError::NoSigners,
            });
        };
        let ours = open.policy.trust_domain();
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
            Self::Unread(error) => error.reason(),
            Self::NoSigners => "certificate_no_signers",
            Self::TrustDomain { .. } => "certificate_trust_domain",
            Self::AccountGone(_) => "certificate_account_gone",
        }
    }

    /// Whether nobody can tell now whether the certificate is good.
    pub(super) fn is_passing(&self) -> bool {
        match self {
            Self::Closed(_) | Self::Unread(_) => true,
            Self::Chain(_) | Self::Refused(_) | Self::NoSigners | Self::TrustDomain { .. } | Self::AccountGone(_) => {
                false
            }
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
    use futures::future::BoxFuture;
    use parking_lot::Mutex;
    use prometheus_client::registry::Registry;
    use rustls_pki_types::pem::PemObject as _;
    use test_case::test_case;

    use super::*;
    use crate::authn::clusters::Remotes;
    use crate::authn::error::AuthnError;
    use crate::authn::testing::{clusters, clusters_with, live};
    use crate::desk::{self, DeskParts, OpenSigners, PolicySources};
    use crate::kubernetes::WatchState;
    use crate::mesh::MeshMetrics;
    use crate::metrics::Metrics;
    use crate::policy::Policy;
    use crate::signer::{Host, Issuance, Issued, Running, Signer, SignerError, Signers};
    use crate::trust::{Roots, RootsSource, Trust};

    /// A signer whose roots are what a test says.
    #[derive(Debug)]
    struct Told(Mutex<Result<Arc<Roots>, NoRoots>>);

    #[derive(Debug)]
    struct Opener(Arc<Told>);

    impl RootsSource for Told {
        fn roots(&self) -> Result<Arc<Roots>, NoRoots> {
            self.0.lock().clone()
        }
    }

    impl Signer for Told {
        fn sign(&self, _: Issuance) -> BoxFuture<'_, Result<Issued, SignerError>> {
            Box::pin(std::future::pending())
        }
    }

    impl OpenSigners for Opener {
        fn open<'a>(&'a self, policy: &'a Policy, _: &'a Signers) -> BoxFuture<'a, anyhow::Result<Signers>> {
            let signer: Arc<dyn Signer> = Arc::<Told>::clone(&self.0);
            let trust = Trust::new(Arc::<Told>::clone(&self.0));
            let running = policy
                .signers()
                .map(|spec| Running::new(spec.clone(), Arc::clone(&signer), trust.clone()));
            let running = running.collect();
            Box::pin(async move { Ok(running) })
        }
    }

    /// A desk with one signer, whose CA this is.
    async fn desk_of(ca: &TestCa, supervisor: &mut Supervisor) -> watch::Receiver<Arc<Desk>> {
        desk_with(ca, Arc::new(Host::alone(SystemClock::shared())), supervisor).await
    }

    async fn desk_with(
        ca: &TestCa,
        signers: Arc<dyn OpenSigners>,
        supervisor: &mut Supervisor,
    ) -> watch::Receiver<Arc<Desk>> {
        let folder = tempfile::tempdir().unwrap();
        ca.write_to(folder.path()).unwrap();
        let text = format!(
            "apiVersion: ensign.mesh/v1\ntrustDomain: cluster.local\nsigners:\n- name: foo\n  local: {{dir: {}}}\nrules: []\n",
            folder.path().display()
        );
        let mut registry = Registry::default();
        let parts = DeskParts {
            signers,
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

    #[tokio::test]
    async fn an_account_is_not_gone_while_a_cluster_is_on_its_way() {
        let ca = TestCa::new("foo");
        let mut supervisor = Supervisor::new();
        let certificates = Certificates::new(desk_of(&ca, &mut supervisor).await, SystemClock::shared());
        let chain = chain(&ca);
        let judge = |remotes: Remotes| {
            let (primary, _in_primary) = live("primary");
            let clusters = clusters_with(primary, remotes);
            certificates
                .judge(&chain, &clusters)
                .map_err(|error| error.reason())
                .map(|_| ())
        };
        assert_eq!(judge(Remotes::none()), Err("certificate_account_gone"));
        assert_eq!(judge(Remotes::none().and_connecting("far", "no route")), Ok(()));
        assert_eq!(judge(Remotes::none().not_listed()), Ok(()));
        assert_eq!(
            judge(Remotes::none().and_refused("far", "no kubeconfig")),
            Err("certificate_account_gone")
        );
    }

    #[test_case(Err(NoRoots::NotYet { place: "x".to_owned() }), "roots_not_yet", true; "they are still to come")]
    #[test_case(Err(NoRoots::Undiscovered), "roots_undiscovered", true; "nobody has named them yet")]
    #[test_case(Err(NoRoots::Gone { place: "x".to_owned() }), "certificate_no_signers", false; "they were taken away")]
    #[test_case(Ok("other"), "certificate_refused", false; "they are another's")]
    #[tokio::test]
    async fn a_certificate_is_not_refused_for_roots_that_are_still_to_come(
        roots: Result<&str, NoRoots>,
        reason: &str,
        passes: bool,
    ) {
        let ca = TestCa::new("foo");
        let roots = roots.map(|name| Arc::new(Roots::parse(&TestCa::new(name).root_pem()).unwrap()));
        let mut supervisor = Supervisor::new();
        let opener = Opener(Arc::new(Told(Mutex::new(roots))));
        let desk = desk_with(&ca, Arc::new(opener), &mut supervisor).await;
        let (clusters, _) = clusters(live("primary").0, &[]);
        let certificates = Certificates::new(desk, SystemClock::shared());
        let certificate = certificates.judge(&chain(&ca), &clusters).unwrap_err();
        for token in [AuthnError::NoToken, AuthnError::NotBearer] {
            let token = Box::new(token);
            let error = AuthnError::Certificate {
                token,
                certificate: certificates.judge(&chain(&ca), &clusters).unwrap_err(),
            };
            assert_eq!(error.is_passing(), passes);
        }
        let error = AuthnError::Certificate {
            token: Box::new(AuthnError::NoToken),
            certificate,
        };
        assert_eq!(error.reason(), reason);
    }

    #[tokio::test]
    async fn without_a_policy_nobody_can_tell() {
        let desk = watch::channel(Arc::new(Desk::closed("it is still to come"))).1;
        let (clusters, _) = clusters(live("primary").0, &[]);
        let certificates = Certificates::new(desk, SystemClock::shared());
        let certificate = certificates.judge(&chain(&TestCa::new("foo")), &clusters).unwrap_err();
        let error = AuthnError::Certificate {
            token: Box::new(AuthnError::NotBearer),
            certificate,
        };
        assert_eq!((error.reason(), error.is_passing()), ("no_policy", true));
    }
}
