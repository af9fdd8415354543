//! A serving certificate from an issuer of cert-manager, as istio-csr has its own: opt-in, since an RA that depends on the
//! signer that it fronts goes down with it.
//!
//! So the last good pair is kept in a Secret, which all replicas share: a replica that starts while cert-manager is down
//! serves what is there, and what one replica renews the others take from the watch. Renewed at two thirds of its life,
//! with a jitter so that one replica is first; also when the issuer in effect is another, and when a workload's
//! chain ends in a root that was not discovered yet. A failure withdraws nothing.

use std::{
    error::Error,
    sync::Arc,
    time::{Duration, SystemTime},
};

use ensign_daemon::logging;
use ensign_pki::{Bundle, KeyType, PrivateKey, SharedClock, verify_server};
use kube::ResourceExt as _;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{Face, Shown, handover::Handover};
use crate::{
    kubernetes::{
        ApiError, Home, KeySecret, NamedSecret, ObjectKey, Subscription, Values, Watched, follow_one, tls_secret,
    },
    policy::{Backend, IssuerRef},
    signer::{Errand, Host, ObtainError, Obtained, Pick, Running, ServerCsr, ServerIdentity, issuer_in_effect, obtain},
    trust::{Discovery, Roots},
};

/// What is asked for, and where it is kept.
#[derive(Clone)]
pub(super) struct IssuedSource {
    /// The Secret of our own namespace that keeps the last good pair.
    pub(super) secret: String,
    /// The names.
    pub(super) identity: ServerIdentity,
    /// The type of its key.
    pub(super) key_type: KeyType,
    /// How long it should live.
    pub(super) ttl: Duration,
    /// How long a new root is out before a certificate under it is shown.
    pub(super) overlap: Duration,
    /// Finds the signer.
    pub(super) signer: Pick,
}

/// Keeps the pair fresh.
struct Keeper {
    source: IssuedSource,
    secret: NamedSecret,
    creator: String,
    host: Host,
    clock: SharedClock,
    handover: Handover,
    discovery: Option<Discovery>,
    /// The state of the Secret that was looked at last.
    version: Option<String>,
    in_use: Option<InUse>,
    /// A key that was asked for and not answered yet.
    asked: Option<(Arc<PrivateKey>, ServerCsr)>,
    retry_at: Option<Instant>,
    pause: Duration,
    /// What was complained about last, so that it is said once.
    complaint: String,
    unusable: String,
    renewed: Instant,
}

/// The pair in use.
struct InUse {
    not_after: SystemTime,
    renew_at: SystemTime,
    issuer: Option<IssuerRef>,
}

/// Follows the Secret and waits a little for the first certificate.
pub(super) async fn open(source: IssuedSource, host: &Host, home: &Home) -> watch::Receiver<Arc<Shown>> {
    let secret = NamedSecret::new(&home.cluster, &home.namespace, &source.secret);
    let why = format!("no serving certificate yet: {secret} has not been read; may the RA list and watch it by name?");
    let (handover, mut current) = Handover::new(why, source.overlap, Arc::clone(&host.clock));
    let key = ObjectKey::new(home.namespace.clone(), source.secret.clone());
    let metrics = home.cluster.metrics().clone();
    let stop = host.stop.child_token();
    let (states, watched, watching) = follow_one("serving secret", secret.api(), key, metrics, stop.clone());
    let keeper = Keeper {
        creator: home.creator(),
        clock: Arc::clone(&host.clock),
        discovery: host.trust.discovery.clone(),
        host: host.clone(),
        source,
        secret,
        handover,
        version: None,
        in_use: None,
        asked: None,
        retry_at: None,
        pause: FIRST_PAUSE,
        complaint: String::new(),
        unusable: String::new(),
        renewed: Instant::now(),
    };
    host.tasks.spawn(watching);
    host.tasks.spawn(keeper.run(states, watched, stop));
    _ = timeout(FIRST, current.wait_for(|shown| shown.face.is_ok())).await;
    current
}

// === impl Keeper ===

impl Keeper {
    async fn run(mut self, mut states: Subscription<KeySecret>, mut watched: Watched, stop: CancellationToken) {
        // Without the Secret a pair that is still good could be overlooked, and another be asked for in vain.
        tokio::select! {
            () = stop.cancelled() => return,
            _ = watched.synced() => {}
        }
        let mut doubts = self.discovery.as_ref().map(Discovery::doubts);
        let mut seen = states.current();
        loop {
            let work = async {
                self.adopt(seen.as_deref());
                self.handover.turn();
                if self.due().await && self.retry_at.is_none_or(|at| at <= Instant::now()) {
                    self.renew(seen.as_deref()).await;
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = work => {}
            }
            let until = [Some(Instant::now() + LOOK), self.retry_at, self.handover.due()];
            let until = until.into_iter().flatten().min().unwrap_or_else(Instant::now);
            let doubted = async {
                match &mut doubts {
                    Some(doubts) => _ = doubts.changed().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                next = states.next() => {
                    if next.is_none() && seen.is_some() {
                        self.lost();
                    }
                    seen = next;
                }
                () = doubted => self.doubt(),
                () = sleep_until(until) => {}
            }
        }
    }

    /// Somebody deleted the Secret: what is in use is not kept anywhere any more, so the next pair is asked for.
    fn lost(&mut self) {
        if let Some(in_use) = &mut self.in_use {
            tracing::warn!(secret = %self.secret, "the Secret is gone; the serving certificate is renewed to be kept again");
            in_use.renew_at = self.clock.now();
        }
    }

    /// A chain of a workload ended in a root that we do not know: perhaps the issuer's CA is another by now. Our own next
    /// certificate tells; not asked for more often than that can be of use.
    fn doubt(&mut self) {
        if self.renewed.elapsed() >= DOUBT
            && let Some(in_use) = &mut self.in_use
        {
            tracing::info!("a workload's chain ends in an unknown root: asking the issuer for its CA");
            self.renewed = Instant::now();
            in_use.renew_at = self.clock.now();
        }
    }

    /// Whether another certificate should be asked for.
    async fn due(&self) -> bool {
        let Some(in_use) = &self.in_use else { return true };
        if self.clock.now() >= in_use.renew_at {
            return true;
        }
        let Ok(running) = (self.source.signer)() else {
            return false;
        };
        let issuer = self.issuer(&running).await;
        in_use.issuer.is_some() && issuer.is_some() && in_use.issuer != issuer
    }

    async fn issuer(&self, running: &Running) -> Option<IssuerRef> {
        match (&running.spec().backend, &self.host.backends) {
            (Backend::CertManager(spec), Some(backends)) => issuer_in_effect(spec, backends).await,
            (Backend::CertManager(_) | Backend::KubernetesCsr(_) | Backend::Local(_), _) => None,
        }
    }

    /// Takes over a pair that another replica, or an earlier run, left in the Secret.
    fn adopt(&mut self, seen: Option<&KeySecret>) {
        let Some(secret) = seen else { return };
        let version = secret.resource_version();
        if version == self.version {
            return;
        }
        match self.read(secret) {
            Ok((face, roots, renew_at)) => {
                self.version = version;
                self.unusable.clear();
                let better = self
                    .in_use
                    .as_ref()
                    .is_none_or(|in_use| face.not_after > in_use.not_after);
                if better {
                    tracing::info!(secret = %self.secret, "serving certificate taken from the Secret");
                    self.take(face, roots, renew_at, None);
                }
            }
            // Looked at again: its roots may only be late.
            Err(why) if why == self.unusable => {}
            Err(why) => {
                tracing::info!(secret = %self.secret, why, "the pair in the Secret is of no use");
                self.unusable = why;
            }
        }
    }

    fn read(&self, secret: &KeySecret) -> Result<(Face, Arc<Roots>, SystemTime), String> {
        let fault = |error: &(dyn Error + 'static)| logging::chain(error);
        let (key, chain) = tls_secret::read(secret).map_err(|error| fault(&error))?;
        let named = tls_secret::certificates(secret, tls_secret::ROOTS).map_err(|error| fault(&error))?;
        let now = self.clock.now();
        // Pinned roots decide; roots that were discovered are told to those who discover. While there is no policy the
        // pair is taken as it was left: clients judge it by their own roots.
        let roots = match ((self.source.signer)(), &self.discovery) {
            (Ok(running), Some(discovery)) if running.discovers() => {
                discovery.found(&named, now).map_err(|error| fault(&error))?
            }
            (Ok(running), _) => running.trust().current().map_err(|error| fault(&error))?,
            (Err(_), _) => Arc::new(Roots::new(
                Bundle::from_certificates(named).map_err(|error| fault(&error))?,
            )),
        };
        let names = self.source.identity.names();
        let validity = verify_server(&chain, roots.bundle(), names, &key.spki_der(), now);
        let validity = validity.map_err(|error| fault(&error))?;
        let face = Face::of_chain(&chain, &key, now).map_err(|error| fault(&error))?;
        Ok((face, roots, renewal(validity.not_before, validity.not_after)))
    }

    /// Asks for the next certificate and keeps it.
    async fn renew(&mut self, seen: Option<&KeySecret>) {
        let running = match (self.source.signer)() {
            Ok(running) => running,
            Err(why) => return self.failed(&why, false),
        };
        let issuer = self.issuer(&running).await;
        if issuer.is_none()
            && matches!(&running.spec().backend, Backend::CertManager(spec) if spec.runtime_issuer.is_some())
        {
            // As ready as it can be: no workload could get a certificate either.
            return self.failed(
                "no issuer is configured yet, neither by the ConfigMap nor by the policy",
                true,
            );
        }
        let (key, csr) = match self.asked.take() {
            Some(asked) => asked,
            None => match ServerCsr::fresh(self.source.key_type, &self.source.identity).await {
                Ok(fresh) => fresh,
                Err(error) => return self.failed(&logging::chain(&error), false),
            },
        };
        let errand = Errand {
            identity: &self.source.identity,
            record: RECORD,
            ttl: self.source.ttl,
            clock: &self.clock,
            discovery: self.discovery.as_ref(),
        };
        match obtain(&running, &csr, errand).await {
            Ok(obtained) => self.keep(&obtained, &key, issuer, seen).await,
            Err(error) => {
                if error.is_resumable() {
                    self.asked = Some((key, csr));
                }
                self.refused(&error);
            }
        }
    }

    async fn keep(
        &mut self,
        obtained: &Obtained,
        key: &PrivateKey,
        issuer: Option<IssuerRef>,
        seen: Option<&KeySecret>,
    ) {
        let face = match Face::of_chain(&obtained.chain, key, self.clock.now()) {
            Ok(face) => face,
            Err(error) => return self.failed(&logging::chain(&error), false),
        };
        let (pem, key_pem) = (obtained.chain.to_pem(), key.to_pkcs8_pem());
        let values: [(&str, &[u8]); 3] = [
            (tls_secret::CERTIFICATE, pem.as_bytes()),
            (tls_secret::KEY, key_pem.as_bytes()),
            (tls_secret::ROOTS, obtained.roots.pem().as_bytes()),
        ];
        if let Err(why) = self.store(seen, &values).await {
            tracing::warn!(secret = %self.secret, error = why, "the serving certificate is not kept: a restart without cert-manager would find none");
        }
        let validity = &obtained.validity;
        let renew_at = renewal(validity.not_before.max(self.clock.now()), validity.not_after);
        tracing::info!(serial = validity.serial, "serving certificate issued");
        self.take(face, Arc::clone(&obtained.roots), renew_at, issuer);
    }

    /// Into the Secret, unless it is somebody else's.
    async fn store(&mut self, seen: Option<&KeySecret>, values: &Values<'_>) -> Result<(), String> {
        if seen.is_some_and(|secret| !secret.is_ours()) {
            return Err(
                "it was made by somebody else (cert-manager, or a person) and is left alone; delete it, or name another with --serving-secret"
                    .to_owned(),
            );
        }
        match self.secret.put(seen, &self.creator, tls_secret::KIND, values).await {
            Ok(secret) => self.version = secret.resource_version(),
            // Another replica renewed at the same time: both pairs are good, and the watch shows the other.
            Err(ApiError::Conflict(_)) => {}
            Err(error) => return Err(logging::chain(&error)),
        }
        Ok(())
    }

    fn take(&mut self, face: Face, roots: Arc<Roots>, renew_at: SystemTime, issuer: Option<IssuerRef>) {
        self.in_use = Some(InUse {
            not_after: face.not_after,
            renew_at,
            issuer,
        });
        self.renewed = Instant::now();
        self.retry_at = None;
        self.pause = FIRST_PAUSE;
        self.complaint.clear();
        self.handover.offer(face, roots);
    }

    fn refused(&mut self, error: &ObtainError) {
        let text = format!("{} ({})", logging::chain(error), error.reason());
        self.failed(&text, false);
    }

    fn failed(&mut self, why: &str, ready: bool) {
        if self.complaint != why {
            let kept = self.handover.shows();
            tracing::warn!(why, kept, "no new serving certificate, trying on");
            why.clone_into(&mut self.complaint);
        }
        self.handover.absent(format!("no serving certificate: {why}"), ready);
        self.retry_at = Some(Instant::now() + self.pause.mul_f64(0.8 + 0.4 * fastrand::f64()));
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
    }
}

/// Two thirds of its life, a little earlier or later at each replica.
fn renewal(from: SystemTime, to: SystemTime) -> SystemTime {
    let life = to.duration_since(from).unwrap_or_default();
    from + life.mul_f64(0.62 + 0.05 * fastrand::f64())
}

/// What istio-csr writes on its own request.
const RECORD: &str = "istio-csr-serving";
/// For the start: a list, and perhaps a certificate from an issuer that is there.
const FIRST: Duration = Duration::from_secs(10);
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// How often the time and the issuer are looked at.
const LOOK: Duration = Duration::from_secs(5);
/// Between two renewals that a doubt asks for.
const DOUBT: Duration = Duration::from_secs(20);

#[cfg(test)]
mod tests {
    use ensign_pki::SystemClock;
    use futures::FutureExt as _;
    use serde_json::json;

    use super::*;
    use crate::kubernetes::testing::{self, Answer};

    fn seen(managed_by: &str) -> KeySecret {
        let labels = json!({"app.kubernetes.io/managed-by": managed_by});
        serde_json::from_value(json!({"metadata": {"resourceVersion": "7", "labels": labels}})).unwrap()
    }

    #[tokio::test]
    async fn a_secret_of_somebody_else_is_left_alone_and_named() {
        let (cluster, asked) = testing::cluster(|_, _| {
            std::future::ready(Some(Answer::ok(json!({"metadata": {"resourceVersion": "8"}})))).boxed()
        });
        let clock = SystemClock::shared();
        let mut keeper = Keeper {
            source: IssuedSource {
                secret: "pair".to_owned(),
                identity: ServerIdentity::default(),
                key_type: KeyType::P256,
                ttl: Duration::from_hours(1),
                overlap: Duration::ZERO,
                signer: Arc::new(|| Err("none".to_owned())),
            },
            secret: NamedSecret::new(&cluster, "foo", "pair"),
            creator: "ensign-ra-me".to_owned(),
            host: Host::alone(Arc::clone(&clock)),
            handover: Handover::new(String::new(), Duration::ZERO, Arc::clone(&clock)).0,
            clock,
            discovery: None,
            version: None,
            in_use: None,
            asked: None,
            retry_at: None,
            pause: FIRST_PAUSE,
            complaint: String::new(),
            unusable: String::new(),
            renewed: Instant::now(),
        };
        let refused = keeper.store(Some(&seen("Helm")), &[]).await.unwrap_err();
        assert!(refused.contains("made by somebody else"), "{refused}");
        assert!(asked.lock().is_empty(), "{asked:?}");
        assert_eq!(keeper.version, None, "what is there is looked at as before");
        keeper.store(Some(&seen("ensign-ra")), &[]).await.unwrap();
        assert_eq!(asked.lock().len(), 1);
        assert_eq!(keeper.version.as_deref(), Some("8"));
    }
}
