//! One request from before its object exists until its answer: what is tried, in which order, until when.
//!
//! Ready, then an object under one of the request's names ([`super::hold`]), then its decision ([`super::decide`]). All of
//! it is one future without tasks of its own: dropped before the create it leaves nothing, dropped later it leaves the
//! object for a retry, and the janitor after that. The deadline leaves it too, since a slow signer's answer may still
//! come; a decision deletes it.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, SystemTime};

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};
use ensign_pki::SignerName;
use futures::future::BoxFuture;
use kube::ResourceExt as _;
use tokio::time::{Instant, sleep, timeout_at};

use super::adoption::Asker;
use super::answer::read_chain;
use super::ask::Ask;
use super::backends::Backends;
use super::dialect::{Dialect, Marks};
use super::kind::{Phase, RequestKind};
use super::marks::{self, End};
use super::metrics::Event;
use super::name::{self, Names};
use super::pushback;
use super::requests::Requests;
use super::stage::Stage;
use crate::kubernetes::{ApiError, Subscription, WatchTrouble};
use crate::policy::RequestSpec;
use crate::signer::{Issuance, Issued, Receipt, ServerIssuance, Signer, SignerError};

/// A signer whose requests are objects of an API server.
#[derive(Debug)]
pub(crate) struct ObjectSigner<D: Dialect> {
    pub(super) name: SignerName,
    pub(super) dialect: D,
    pub(super) requests: Arc<Requests<D::Object>>,
    pub(super) backends: Backends,
    pub(super) spec: RequestSpec,
    /// Somebody was told that our objects do not bear our name.
    pub(super) unstamped: AtomicBool,
}

/// One request under way.
pub(super) struct Conversation<'a, D: Dialect> {
    pub(super) signer: &'a ObjectSigner<D>,
    pub(super) ask: &'a Ask,
    pub(super) stage: &'a mut Stage,
    pauses: ExponentialBackoff,
}

/// Why an object will not be decided.
pub(super) enum Lost {
    /// Somebody deleted it.
    Vanished,
    /// It was decided against, or cannot be gone on with.
    Decided(SignerError),
}

/// An object under one of our names.
pub(super) struct Held<K> {
    pub(super) object: Arc<K>,
    /// Made by this conversation.
    pub(super) fresh: bool,
}

// === impl ObjectSigner ===

impl<D: Dialect> ObjectSigner<D> {
    pub(crate) fn new(
        name: SignerName,
        dialect: D,
        requests: Arc<Requests<D::Object>>,
        backends: Backends,
        spec: RequestSpec,
    ) -> Self {
        Self {
            name,
            dialect,
            requests,
            backends,
            spec,
            unstamped: AtomicBool::new(false),
        }
    }

    async fn within_deadline(&self, ask: Ask) -> Result<Issued, SignerError> {
        let now = Instant::now();
        // `timeout_at` begins whatever the time is, and the first step may be the object.
        if ask.deadline <= now {
            return Err(SignerError::TimedOut {
                signer: self.name.clone(),
                detail: "its time was over when its turn came, so nothing was asked".to_owned(),
            });
        }
        let mut stage = Stage::Watch;
        let conversation = Conversation {
            signer: self,
            ask: &ask,
            stage: &mut stage,
            pauses: pauses(),
        };
        let outcome = timeout_at(ask.deadline.min(now + self.spec.deadline), conversation.run()).await;
        outcome.unwrap_or_else(|_| Err(stage.overdue(&self.name, &self.dialect.hints(), self.requests.watched())))
    }

    pub(super) fn unavailable(&self, detail: String) -> SignerError {
        SignerError::Unavailable {
            signer: self.name.clone(),
            detail,
        }
    }
}

impl<D: Dialect> Signer for ObjectSigner<D> {
    fn sign(&self, issuance: Issuance) -> BoxFuture<'_, Result<Issued, SignerError>> {
        Box::pin(self.within_deadline(Ask::from(&issuance)))
    }

    fn sign_server(&self, issuance: ServerIssuance) -> BoxFuture<'_, Result<Issued, SignerError>> {
        Box::pin(self.within_deadline(Ask::from(&issuance)))
    }
}

// === impl Conversation ===

impl<D: Dialect> Conversation<'_, D> {
    async fn run(mut self) -> Result<Issued, SignerError> {
        self.watching().await?;
        *self.stage = Stage::Readiness;
        let terms = self.signer.dialect.terms().await;
        let terms = terms.map_err(|detail| SignerError::NotReady {
            signer: self.signer.name.clone(),
            detail,
        })?;
        for name in Names::of(&self.ask.idempotency_key).all() {
            // Before anything is created, so that no event can be missed.
            let mut place = self.signer.requests.subscribe(&name);
            let marks = self.marks(name);
            let draft = self.signer.dialect.draft(&terms, self.ask, marks);
            if let Some(issued) = self.under_one_name(&draft, &mut place).await? {
                return Ok(issued);
            }
        }
        let names = Names::of(&self.ask.idempotency_key);
        Err(SignerError::NamesTaken {
            signer: self.signer.name.clone(),
            detail: format!(
                "{names} and its {} numbered names are all taken by objects that are not ours or not the same; see who makes them",
                name::MOST - 1
            ),
        })
    }

    /// Nothing is created while its answer could not be seen.
    async fn watching(&self) -> Result<(), SignerError> {
        let mut watched = self.signer.requests.watched().clone();
        loop {
            let (group, resource) = <D::Object as RequestKind>::RBAC;
            let refused = match watched.trouble() {
                _ if watched.is_complete() => return Ok(()),
                Some(WatchTrouble::NoSuchKind) => format!("the server knows no {resource}.{group}; install their CRD"),
                Some(WatchTrouble::Forbidden) => {
                    format!("we may not list and watch {resource}.{group}; grant both verbs")
                }
                Some(WatchTrouble::Gone | WatchTrouble::Away) | None => {
                    if watched.changed().await {
                        continue;
                    }
                    "the watch of its requests ended".to_owned()
                }
            };
            return Err(self.signer.unavailable(refused));
        }
    }

    fn marks(&self, name: String) -> Marks {
        let end = if self.signer.dialect.preserves() {
            End::Never
        } else {
            End::At(self.now() + self.life())
        };
        Marks {
            name,
            labels: marks::labels(self.signer.backends.installation()),
            annotations: marks::annotations(self.ask, end),
        }
    }

    /// `None`: the name is taken by an object that is not ours to use.
    async fn under_one_name(
        &mut self,
        draft: &D::Object,
        place: &mut Subscription<D::Object>,
    ) -> Result<Option<Issued>, SignerError> {
        while let Some(held) = self.hold(draft, place).await? {
            let fresh = held.fresh;
            match self.decision(held.object, place).await {
                Ok(object) => return self.issued(&object).map(Some),
                Err(Lost::Decided(error)) => return Err(error),
                Err(Lost::Vanished) if fresh => {
                    return Err(SignerError::Gone {
                        signer: self.signer.name.clone(),
                        detail: format!("somebody deleted {} before it was answered", draft.name_any()),
                    });
                }
                // It was of an earlier try, which may have come to its end; ours has time left.
                Err(Lost::Vanished) => self.count(Event::CreatedAgain),
            }
        }
        Ok(None)
    }

    fn issued(&self, object: &D::Object) -> Result<Issued, SignerError> {
        let Phase::Issued(pem) = object.phase() else {
            return Err(self.signer.unavailable("a decision was lost".to_owned()));
        };
        let name = object.name_any();
        match read_chain(pem, &self.ask.spki_der) {
            Ok(chain) => Ok(Issued {
                chain,
                ca: object.ca().map(<[u8]>::to_vec),
                receipt: self.receipt(object, name),
            }),
            Err(why) => {
                self.remove(object);
                Err(SignerError::Unreadable {
                    signer: self.signer.name.clone(),
                    detail: format!("status.certificate of {name}: {why}"),
                })
            }
        }
    }

    fn receipt(&self, object: &D::Object, name: String) -> Receipt {
        let preserves = self.signer.dialect.preserves();
        let (requests, object) = (Arc::clone(&self.signer.requests), object.clone());
        Receipt::new(name, move || {
            if !preserves {
                requests.remove(&object);
            }
        })
    }

    /// Deletes an object that is decided and of no use to a retry.
    pub(super) fn remove(&self, object: &D::Object) {
        if !self.signer.dialect.preserves() {
            self.signer.requests.remove(object);
        }
    }

    /// Waits before a request is repeated: as long as the server asks for, or a little longer each time.
    pub(super) async fn pause(&mut self, error: &ApiError) {
        let mut pause = self.pauses.next().unwrap_or(LONGEST_PAUSE);
        if let ApiError::Throttled { retry_after, .. } = error {
            pause += (*retry_after).min(pushback::LONGEST);
        }
        sleep(pause).await;
    }

    pub(super) fn no_more_pauses(&mut self) {
        self.pauses = pauses();
    }

    pub(super) fn asker(&self) -> Asker<'_> {
        Asker {
            username: self.signer.requests.username(),
            now: self.now(),
            life: self.life(),
        }
    }

    pub(super) fn now(&self) -> SystemTime {
        self.signer.backends.clock().now()
    }

    /// How long an object of this signer may be of use.
    fn life(&self) -> Duration {
        self.signer.spec.deadline + self.signer.spec.resume_window
    }

    pub(super) fn count(&self, event: Event) {
        self.signer.backends.metrics().event(&self.signer.name, event);
    }
}

fn pauses() -> ExponentialBackoff {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(50))
        .with_max_delay(LONGEST_PAUSE)
        .with_jitter()
        .without_max_times()
        .build()
}

/// A server that comes back is noticed before a client gives up.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
