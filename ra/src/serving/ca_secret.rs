//! A serving certificate from a CA in one Secret that all replicas share.
//!
//! The CA is made once: of replicas that start together one creates the Secret and all use what it holds. Or the operator
//! brings it, laid out as Istio's `cacerts` (`ca-cert.pem`, `ca-key.pem`, `root-cert.pem`, perhaps `cert-chain.pem`) or
//! as `kubernetes.io/tls` with `ca.crt`. It is watched: another CA is taken over with an overlap ([`Handover`]), a
//! damaged one leaves the CA before it in use, and one that was deleted is made anew. Half a CA is never completed.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use ensign_daemon::logging;
use ensign_pki::{SharedClock, TrustDomain, crypto};
use thiserror::Error;
use tokio::{
    sync::watch,
    task::spawn_blocking,
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{Shown, handover::Handover, leaf::ServerNames};
use crate::{
    kubernetes::{ApiError, Home, KeySecret, NamedSecret, ObjectKey, Subscription, Watched, follow_one, tls_secret},
    signer::{
        Host,
        local::{
            folder::{Authority, CA_CERT, CA_KEY, CERT_CHAIN, FolderError, Parts, ROOT_CERT},
            root,
        },
    },
};

/// Follows the Secret, and issues from what it holds.
struct Keeper {
    secret: NamedSecret,
    /// Who creates it: nobody else has this name.
    creator: String,
    trust_domain: TrustDomain,
    names: ServerNames,
    clock: SharedClock,
    handover: Handover,
    authority: Option<Arc<Authority>>,
    /// What was judged last, so that a relist costs no signature.
    judged: Option<[u8; 32]>,
    renew_at: SystemTime,
    /// When to try again what failed.
    retry_at: Option<Instant>,
}

/// Why the Secret holds no CA that can be used.
#[derive(Debug, Error)]
enum SecretError {
    /// Some keys of a CA, but not all.
    #[error(
        "it holds {found} but lacks {missing}: half a CA is never completed or replaced; add what is missing, or delete the Secret to have a new CA made"
    )]
    Partial { found: String, missing: String },
    /// A value is no text.
    #[error("its key {0} is not text; expected PEM")]
    Text(&'static str),
    /// The set is wrong.
    #[error(transparent)]
    Parts(#[from] FolderError),
    /// The process is stopping.
    #[error("the work was interrupted")]
    Interrupted,
}

/// Follows the Secret and waits a little for the first certificate.
pub(super) async fn open(
    name: &str,
    names: ServerNames,
    overlap: Duration,
    trust_domain: &TrustDomain,
    host: &Host,
    home: &Home,
) -> watch::Receiver<Arc<Shown>> {
    let secret = NamedSecret::new(&home.cluster, &home.namespace, name);
    let why = format!("no serving certificate yet: {secret} has not been read; may the RA list and watch it by name?");
    let (handover, mut current) = Handover::new(why, overlap, Arc::clone(&host.clock));
    let key = ObjectKey::new(home.namespace.clone(), name);
    let metrics = home.cluster.metrics().clone();
    let stop = host.stop.child_token();
    let (states, watched, watching) = follow_one("serving ca secret", secret.api(), key, metrics, stop.clone());
    let keeper = Keeper {
        secret,
        creator: home.creator(),
        trust_domain: trust_domain.clone(),
        names,
        clock: Arc::clone(&host.clock),
        handover,
        authority: None,
        judged: None,
        renew_at: SystemTime::UNIX_EPOCH,
        retry_at: None,
    };
    host.tasks.spawn(watching);
    host.tasks.spawn(keeper.run(states, watched, stop));
    _ = timeout(FIRST, current.wait_for(|shown| shown.face.is_ok())).await;
    current
}

// === impl Keeper ===

impl Keeper {
    async fn run(mut self, mut states: Subscription<KeySecret>, mut watched: Watched, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = watched.synced() => {}
        }
        let mut seen = states.current();
        loop {
            let work = async {
                if self.retry_at.is_none_or(|at| at <= Instant::now()) {
                    self.retry_at = None;
                    self.look(seen.as_deref()).await;
                }
                self.renew_if_due();
                self.handover.turn();
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = work => {}
            }
            let until = [Some(Instant::now() + LOOK), self.retry_at, self.handover.due()];
            let until = until.into_iter().flatten().min().unwrap_or_else(Instant::now);
            tokio::select! {
                () = stop.cancelled() => return,
                next = states.next() => {
                    seen = next;
                    self.retry_at = None;
                }
                () = sleep_until(until) => {}
            }
        }
    }

    /// Takes over what the Secret holds, or makes it.
    async fn look(&mut self, seen: Option<&KeySecret>) {
        match seen {
            None => self.make(None).await,
            Some(secret) if KEYS.iter().all(|key| secret.get(key).is_none()) => self.make(Some(secret)).await,
            Some(secret) => self.take(secret).await,
        }
    }

    /// A new CA into a Secret that is not there, or holds none.
    async fn make(&mut self, seen: Option<&KeySecret>) {
        let (trust_domain, now) = (self.trust_domain.clone(), self.clock.now());
        let made = match spawn_blocking(move || root::make("serving", &trust_domain, now)).await {
            Ok(Ok(made)) => made,
            Ok(Err(error)) => return self.failed("no CA can be made", &error),
            Err(error) => return self.failed("no CA can be made", &error),
        };
        let certificate = made.certificate_pem.as_bytes();
        let values: [(&str, &[u8]); 4] = [
            (CA_CERT, certificate),
            (CA_KEY, made.key_pem.as_bytes()),
            (ROOT_CERT, certificate),
            (CERT_CHAIN, certificate),
        ];
        match self.secret.put(seen, &self.creator, "Opaque", &values).await {
            Ok(secret) => {
                tracing::info!(secret = %self.secret, "made a new serving CA for all replicas");
                self.take(&secret).await;
            }
            // Another replica was faster; the watch will show what it made.
            Err(ApiError::Conflict(_) | ApiError::AlreadyExists(_)) => {
                tracing::info!(secret = %self.secret, "another replica made the serving CA");
                self.retry_at = Some(Instant::now() + RETRY);
            }
            Err(error) => self.failed("the Secret cannot be written", &error),
        }
    }

    async fn take(&mut self, secret: &KeySecret) {
        let digest = digest(secret);
        if self.judged == Some(digest) {
            return;
        }
        let (place, trust_domain, now) = (self.secret.to_string(), self.trust_domain.clone(), self.clock.now());
        let judged = {
            let secret = secret.clone();
            spawn_blocking(move || judge(&place, &secret, &trust_domain, now)).await
        };
        match judged.unwrap_or(Err(SecretError::Interrupted)) {
            Ok(authority) => {
                self.judged = Some(digest);
                let replaced = self.authority.is_some();
                tracing::info!(secret = %self.secret, replaced, "serving CA loaded");
                self.authority = Some(Arc::new(authority));
                self.renew();
            }
            Err(error) => {
                // Not judged again until it changes.
                self.judged = Some(digest);
                self.failed("the serving CA cannot be used", &error);
                self.retry_at = None;
            }
        }
    }

    fn renew_if_due(&mut self) {
        if self.clock.now() >= self.renew_at {
            self.renew();
        }
    }

    fn renew(&mut self) {
        let Some(authority) = self.authority.clone() else {
            return;
        };
        match self.names.issue(&authority, &self.secret.to_string(), self.clock.now()) {
            Ok((face, renew_at)) => {
                self.renew_at = renew_at;
                self.handover.offer(face, Arc::clone(&authority.roots));
            }
            Err(error) => {
                let error = logging::chain(&error);
                tracing::warn!(error, "the serving certificate is not renewed, the old one stays");
                self.handover.absent(format!("no serving certificate: {error}"), false);
                self.renew_at = self.clock.now() + LOOK;
            }
        }
    }

    fn failed(&mut self, what: &str, error: &(dyn std::error::Error + 'static)) {
        let error = logging::chain(error);
        let kept = self.handover.shows();
        tracing::warn!(secret = %self.secret, error, kept, "{what}");
        self.handover
            .absent(format!("no serving certificate: {}: {error}", self.secret), false);
        self.retry_at = Some(Instant::now() + RETRY);
    }
}

/// Reads the CA in either layout. Blocking: signs once, for trial.
fn judge(
    place: &str,
    secret: &KeySecret,
    trust_domain: &TrustDomain,
    now: SystemTime,
) -> Result<Authority, SecretError> {
    let layout = if secret.get(CA_CERT).is_none() && secret.get(TLS.certificate).is_some() {
        TLS
    } else {
        CACERTS
    };
    let wanted = [layout.certificate, layout.key, layout.roots];
    let (found, missing): (Vec<_>, Vec<_>) = wanted.into_iter().partition(|key| secret.get(key).is_some());
    if !missing.is_empty() {
        return Err(SecretError::Partial {
            found: found.join(", "),
            missing: missing.join(", "),
        });
    }
    let part = |key: &'static str| match secret.text(key) {
        Some(Ok(text)) => Ok((format!("key {key} of {place}"), text)),
        Some(Err(_)) | None => Err(SecretError::Text(key)),
    };
    let chain = match layout.chain {
        Some(key) if secret.get(key).is_some() => Some(part(key)?),
        Some(_) | None => None,
    };
    let parts = Parts {
        place: place.to_owned(),
        certificate: part(layout.certificate)?,
        key: part(layout.key)?,
        roots: part(layout.roots)?,
        chain,
    };
    Ok(parts.judge(trust_domain, now)?)
}

fn digest(secret: &KeySecret) -> [u8; 32] {
    let mut input = zeroize::Zeroizing::new(Vec::new());
    for key in KEYS {
        let value = secret.get(key).unwrap_or_default();
        input.extend_from_slice(&value.len().to_be_bytes());
        input.extend_from_slice(&crypto::sha256(value));
    }
    crypto::sha256(&input)
}

/// Which key of a Secret holds what.
struct Layout {
    certificate: &'static str,
    key: &'static str,
    roots: &'static str,
    chain: Option<&'static str>,
}

/// Istio's plug-in CA.
const CACERTS: Layout = Layout {
    certificate: CA_CERT,
    key: CA_KEY,
    roots: ROOT_CERT,
    chain: Some(CERT_CHAIN),
};
/// What cert-manager writes, and istiod reads too.
const TLS: Layout = Layout {
    certificate: tls_secret::CERTIFICATE,
    key: tls_secret::KEY,
    roots: tls_secret::ROOTS,
    chain: None,
};
/// All keys of both.
const KEYS: [&str; 7] = [
    CA_CERT,
    CA_KEY,
    ROOT_CERT,
    CERT_CHAIN,
    TLS.certificate,
    TLS.key,
    TLS.roots,
];
/// For the start: a list and perhaps a create, from an API server that is there.
const FIRST: Duration = Duration::from_secs(10);
/// Between two tries to write or read.
const RETRY: Duration = Duration::from_secs(5);
/// How often the time is looked at. Far below half of a lifetime.
const LOOK: Duration = Duration::from_secs(30);
