//! istiod's certificate from a Kubernetes signer: the RA makes the key, has it signed, and writes the Secret.
//!
//! The key is in memory until it is in the Secret, and the same key is asked for again while its request can be resumed.
//! A new pair is made when there is none, at half of its life, when a name is missing, and when it no longer ends in a
//! root of the signer; roots that merely grew are written beside the pair that is there. A Secret that somebody else
//! made is left alone and named: istiod may be using it. A failure leaves what is there, and waits longer each time.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ensign_daemon::logging;
use ensign_pki::{PrivateKey, Validity, verify_server};
use kube::ResourceExt;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::keep::{Keeps, Place, keep};
use super::{IstiodParts, SECRET};
use crate::kubernetes::{ApiError, KeySecret, NamedSecret, ObjectKey, Values, is_later, tls_secret};
use crate::signer::{Errand, Running, ServerCsr, ServerIdentity, obtain};
use crate::trust::Roots;

/// One term of the leader.
pub(super) struct Keeper {
    parts: IstiodParts,
    secret: NamedSecret,
    creator: String,
    /// A key that was asked for and not answered yet, and for which names.
    asked: Option<(Arc<PrivateKey>, ServerCsr, ServerIdentity)>,
    /// Half of the life of the pair in the Secret, drawn once.
    renew_at: Option<(String, SystemTime)>,
    /// What we wrote and the watch has not shown yet, and since when.
    unseen: Option<(String, Instant)>,
    pause: Duration,
    complaint: String,
}

/// What to do about the Secret.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// It is as it should be until then.
    Wait(SystemTime),
    /// Only the roots beside the pair are others.
    Roots,
    /// A new pair, for this reason.
    Issue(String),
    /// It is not ours.
    Foreign,
}

// === impl Keeper ===

impl Keeper {
    pub(super) fn new(parts: IstiodParts) -> Self {
        let secret = NamedSecret::new(&parts.home.cluster, &parts.config.names.namespace, SECRET);
        Self {
            creator: parts.home.creator(),
            parts,
            secret,
            asked: None,
            renew_at: None,
            unseen: None,
            pause: FIRST_PAUSE,
            complaint: String::new(),
        }
    }

    pub(super) async fn run(self, term: CancellationToken) {
        let place = Place {
            watch: "istiod secret",
            api: self.secret.api(),
            key: ObjectKey::new(self.secret.namespace(), SECRET),
            metrics: self.parts.home.cluster.metrics().clone(),
        };
        keep(self, place, term).await;
    }
}

impl Keeps<KeySecret> for Keeper {
    async fn look(&mut self, seen: Option<&KeySecret>) -> Duration {
        if self.is_behind(seen) {
            return SETTLE;
        }
        let running = match (self.parts.signer)() {
            Ok(running) => running,
            Err(why) => return self.failed("no_signer", &why),
        };
        let roots = match running.trust().current() {
            Ok(roots) => roots,
            Err(none) => return self.failed(none.reason(), &none.to_string()),
        };
        let Some(trust_domain) = (self.parts.trust_domain)() else {
            return self.failed("no_policy", "there is no policy yet, so no trust domain");
        };
        let identity = match self.parts.config.names.identity(&trust_domain) {
            Ok(identity) => identity,
            Err(error) => return self.failed("no_identity", &logging::chain(&error)),
        };
        match self.step(seen, &identity, &roots) {
            Step::Wait(until) => {
                self.well();
                let left = until.duration_since(self.parts.clock.now()).unwrap_or_default();
                left.clamp(Duration::from_millis(100), LOOK)
            }
            Step::Foreign => {
                self.parts.metrics.good(false);
                let why = format!(
                    "{} was made by somebody else (cert-manager, or a person) and is left alone; delete it to have it made here",
                    self.secret
                );
                self.failed("foreign", &why)
            }
            Step::Roots => {
                let values: [(&str, &[u8]); 1] = [(tls_secret::ROOTS, roots.pem().as_bytes())];
                let written = self.put(seen, &values).await;
                self.written(written, "roots of istiod's certificate written")
            }
            Step::Issue(why) => {
                tracing::info!(secret = %self.secret, why, "istiod's certificate is to be issued");
                self.issue(&running, seen, identity).await
            }
        }
    }
}

impl Keeper {
    /// Judges what is there.
    fn step(&mut self, seen: Option<&KeySecret>, identity: &ServerIdentity, roots: &Roots) -> Step {
        let Some(secret) = seen else {
            self.parts.metrics.good(false);
            return Step::Issue("there is none".to_owned());
        };
        if !secret.is_ours() || secret.kind() != tls_secret::KIND {
            return Step::Foreign;
        }
        let now = self.parts.clock.now();
        let validity = match judge(secret, identity, roots, now) {
            Ok(validity) => validity,
            Err(why) => {
                self.parts.metrics.good(false);
                return Step::Issue(why);
            }
        };
        self.parts.metrics.expires(validity.not_after);
        self.parts.metrics.good(true);
        let renew_at = match &self.renew_at {
            Some((serial, at)) if *serial == validity.serial => *at,
            _ => {
                let life = validity
                    .not_after
                    .duration_since(validity.not_before)
                    .unwrap_or_default();
                let at = validity.not_before + life.mul_f64(0.48 + 0.04 * fastrand::f64());
                self.renew_at = Some((validity.serial.clone(), at));
                at
            }
        };
        if renew_at <= now {
            return Step::Issue("half of its life is over".to_owned());
        }
        if secret.get(tls_secret::ROOTS) != Some(roots.pem().as_bytes()) {
            return Step::Roots;
        }
        Step::Wait(renew_at)
    }

    async fn issue(&mut self, running: &Running, seen: Option<&KeySecret>, identity: ServerIdentity) -> Duration {
        let asked = self.asked.take().filter(|(_, _, asked)| *asked == identity);
        let (key, csr) = match asked {
            Some((key, csr, _)) => (key, csr),
            None => match ServerCsr::fresh(self.parts.config.key_type, &identity).await {
                Ok(fresh) => fresh,
                Err(error) => return self.failed("key", &logging::chain(&error)),
            },
        };
        let errand = Errand {
            identity: &identity,
            record: SECRET,
            ttl: self.parts.config.ttl,
            clock: &self.parts.clock,
            discovery: None,
        };
        let obtained = match obtain(running, &csr, errand).await {
            Ok(obtained) => obtained,
            Err(error) => {
                if error.is_resumable() {
                    self.asked = Some((key, csr, identity));
                }
                return self.failed(error.reason(), &logging::chain(&error));
            }
        };
        let (chain, key_pem) = (obtained.chain.to_pem(), key.to_pkcs8_pem());
        let values: [(&str, &[u8]); 3] = [
            (tls_secret::CERTIFICATE, chain.as_bytes()),
            (tls_secret::KEY, key_pem.as_bytes()),
            (tls_secret::ROOTS, obtained.roots.pem().as_bytes()),
        ];
        let written = self.put(seen, &values).await;
        self.written(written, "istiod's certificate written")
    }

    async fn put(&self, seen: Option<&KeySecret>, values: &Values<'_>) -> Result<KeySecret, ApiError> {
        self.secret.put(seen, &self.creator, tls_secret::KIND, values).await
    }

    /// Whether the watch has still to show our last write. A watch that is behind for long is believed again: somebody
    /// may have deleted what we wrote before it was shown.
    fn is_behind(&mut self, seen: Option<&KeySecret>) -> bool {
        let Some((version, since)) = &self.unseen else {
            return false;
        };
        let shown = seen.and_then(ResourceExt::resource_version);
        let shown = shown.is_some_and(|shown| shown == *version || is_later(&shown, version));
        if shown || since.elapsed() > BEHIND {
            self.unseen = None;
        }
        self.unseen.is_some()
    }

    /// The watch shows what was written in a moment; until then nothing is decided anew.
    fn written(&mut self, written: Result<KeySecret, ApiError>, what: &'static str) -> Duration {
        match written {
            Ok(written) => {
                tracing::info!(secret = %self.secret, "{what}");
                self.unseen = written.resource_version().map(|version| (version, Instant::now()));
                self.well();
                SETTLE
            }
            Err(error) => self.failed(error.reason(), &format!("{}: {}", self.secret, logging::chain(&error))),
        }
    }

    fn well(&mut self) {
        self.pause = FIRST_PAUSE;
        self.complaint.clear();
    }

    fn failed(&mut self, reason: &'static str, why: &str) -> Duration {
        self.parts.metrics.failed(reason);
        if self.complaint != why {
            tracing::warn!(
                reason,
                why,
                "istiod's certificate is not renewed, what is there stays; trying on"
            );
            why.clone_into(&mut self.complaint);
        }
        let pause = self.pause.mul_f64(0.8 + 0.4 * fastrand::f64());
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        pause
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.parts.metrics.idle();
    }
}

/// Whether the pair in the Secret is one for these names under these roots now; if not, why.
fn judge(secret: &KeySecret, identity: &ServerIdentity, roots: &Roots, now: SystemTime) -> Result<Validity, String> {
    let (key, chain) = tls_secret::read(secret).map_err(|error| logging::chain(&error))?;
    verify_server(&chain, roots.bundle(), identity.names(), &key.spki_der(), now)
        .map_err(|error| logging::chain(&error))
}

/// The policy and its roots are looked at this often.
const LOOK: Duration = Duration::from_secs(3);
const SETTLE: Duration = Duration::from_secs(1);
const BEHIND: Duration = Duration::from_secs(30);
const FIRST_PAUSE: Duration = Duration::from_secs(2);
const LONGEST_PAUSE: Duration = Duration::from_mins(5);
