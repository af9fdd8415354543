//! One request from key to verified certificate: make key and CSR (or resume), have it signed, check every byte of the
//! answer.
//!
//! Knows nothing of entries and schedules. A key goes into one certificate at most; it is kept only while the very
//! request that it was made for may still succeed. Dropping the future drops the key, zeroized.

use std::sync::Arc;
use std::time::Duration;

use ensign_pki::{
    Bundle, Certificate, Chain, ChainError, Clock, CsrError, KeyError, KeyType, PrivateKey, SpiffeId, Svid, SvidError,
    csr, verify_issued,
};
use tokio::time::Instant;

use super::bundles;
use super::entry::EntryKey;
use super::slow_keys::{self, SlowKeys};
use crate::csr_client::{RequestId, Retry, Sign, SignError, SignRequest, TokenSource};

/// `Sign` keeps the deadline itself, and leaves the replica that let it pass; ours is later, for one that does not.
const BELT: Duration = Duration::from_secs(5);

/// How long a request is resumed with the same key and CSR; afterwards it begins anew. The authority keeps what it
/// started for a cancelled request about as long.
const RESUME_WINDOW: Duration = Duration::from_mins(5);

/// A request that may be sent, or sent again: its key, its CSR, its name.
#[derive(Debug)]
pub(super) struct Attempt {
    key: PrivateKey,
    csr_pem: String,
    pub(super) request_id: RequestId,
    begun: Instant,
}

impl Attempt {
    /// With a new CSR for this key.
    pub(super) fn new(key: PrivateKey, id: &SpiffeId, request_id: RequestId) -> Result<Self, CsrError> {
        let csr_pem = csr::build(&key, id)?.to_pem();
        Ok(Self {
            key,
            csr_pem,
            request_id,
            begun: Instant::now(),
        })
    }

    pub(super) fn may_be_sent(&self, now: Instant) -> bool {
        now < self.begun + RESUME_WINDOW
    }
}

/// How far a job goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Work {
    /// Key and CSR, no further: where making the key takes its time ([`super::slow_keys`]).
    Key,
    /// The whole request; with a key and a CSR that are there, if there are.
    Request,
}

/// What the worker shall do for one entry.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) ticket: u64,
    pub(super) entry: EntryKey,
    pub(super) id: SpiffeId,
    pub(super) token: Arc<dyn TokenSource>,
    pub(super) ttl: Duration,
    pub(super) pin: Option<Bundle>,
    pub(super) work: Work,
    pub(super) resume: Option<Attempt>,
    pub(super) request_id: RequestId,
    pub(super) deadline: Duration,
}

/// What came of it.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) ticket: u64,
    pub(super) entry: EntryKey,
    pub(super) request_id: RequestId,
    /// From the request's going out to its end; without making the key.
    pub(super) took: Duration,
    pub(super) result: Result<Done, IssueError>,
    /// To be resumed, if the error allows it.
    pub(super) attempt: Option<Attempt>,
}

/// What a job brought.
#[derive(Debug)]
pub(super) enum Done {
    /// To be sent.
    Key(Attempt),
    Certificate(Issued),
}

/// A verified certificate and the roots that came with it.
#[derive(Debug)]
pub(super) struct Issued {
    pub(super) svid: Svid,
    /// All that came with it and lie within the pin, if there is one.
    pub(super) roots: Bundle,
    /// Those in which its chain ends.
    pub(super) anchors: Bundle,
}

/// Why a request brought nothing that may be offered.
#[derive(Debug, thiserror::Error)]
pub(super) enum IssueError {
    #[error("cannot make a {key_type} key")]
    Key {
        key_type: KeyType,
        #[source]
        source: KeyError,
    },
    #[error("making a {0} key was interrupted")]
    KeyInterrupted(KeyType),
    #[error("cannot build the CSR")]
    Csr(#[source] CsrError),
    #[error("the request failed")]
    Sign(#[source] SignError),
    #[error("the reply's chain is rejected")]
    Chain(#[source] ChainError),
    #[error("the reply is rejected: it carries no root certificate, and the signer's bundle is not pinned")]
    NoRoots,
    #[error("the reply is rejected: it carries {seen} root certificates, expected at most {most}")]
    TooManyRoots { seen: usize, most: usize },
    #[error("the reply is rejected as foreign: none of its root certificates is in the signer's pinned bundle")]
    OutsidePin,
    #[error("the certificate is rejected")]
    Svid(#[source] Box<SvidError>),
}

impl IssueError {
    /// When another try makes sense.
    pub(super) fn retry(&self) -> Retry {
        match self {
            Self::Sign(error) => error.retry(),
            Self::Key { .. } => Retry::SlowCap,
            Self::KeyInterrupted(_)
            | Self::Csr(_)
            | Self::Chain(_)
            | Self::NoRoots
            | Self::TooManyRoots { .. }
            | Self::OutsidePin
            | Self::Svid(_) => Retry::Later,
        }
    }

    /// What the authority calls the request that it refused.
    pub(super) fn request_id(&self) -> Option<&RequestId> {
        match self {
            Self::Sign(error) => error.request_id(),
            Self::Key { .. }
            | Self::KeyInterrupted(_)
            | Self::Csr(_)
            | Self::Chain(_)
            | Self::NoRoots
            | Self::TooManyRoots { .. }
            | Self::OutsidePin
            | Self::Svid(_) => None,
        }
    }

    /// A short name, one of few.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::Sign(error) => error.reason(),
            Self::Key { .. } | Self::KeyInterrupted(_) => "key",
            Self::Csr(_) => "csr",
            Self::Chain(error) => error.reason(),
            Self::NoRoots => "no_roots",
            Self::TooManyRoots { .. } => "too_many_roots",
            Self::OutsidePin => "outside_pin",
            Self::Svid(error) => error.reason(),
        }
    }
}

/// Carries requests out.
#[derive(Debug)]
pub(super) struct Issuer {
    pub(super) sign: Arc<dyn Sign>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) slow_keys: SlowKeys,
}

impl Issuer {
    /// Carries one request out. May be dropped at any await: nothing outlives it but a key that is still being made.
    pub(super) async fn run(&self, mut job: Job) -> Outcome {
        let resume = job.resume.take();
        let attempt = match resume {
            Some(attempt) => Ok(attempt),
            None => self.prepare(&job).await,
        };
        let sent = Instant::now();
        let (result, attempt) = match (attempt, job.work) {
            (Ok(attempt), Work::Key) => (Ok(Done::Key(attempt)), None),
            (Ok(attempt), Work::Request) => {
                let (issued, attempt) = self.send(&job, attempt).await;
                (issued.map(Done::Certificate), attempt)
            }
            (Err(error), _) => (Err(error), None),
        };
        let request_id = attempt
            .as_ref()
            .map_or(job.request_id, |attempt| attempt.request_id.clone());
        Outcome {
            ticket: job.ticket,
            entry: job.entry,
            request_id,
            took: sent.elapsed(),
            result,
            attempt,
        }
    }

    async fn prepare(&self, job: &Job) -> Result<Attempt, IssueError> {
        let key = self.make_key(job.entry.key_type).await?;
        Attempt::new(key, &job.id, job.request_id.clone()).map_err(IssueError::Csr)
    }

    async fn make_key(&self, key_type: KeyType) -> Result<PrivateKey, IssueError> {
        let failed = |source| IssueError::Key { key_type, source };
        if slow_keys::are_slow(key_type) {
            let made = self.slow_keys.make(move || PrivateKey::generate(key_type)).await;
            return made.ok_or(IssueError::KeyInterrupted(key_type))?.map_err(failed);
        }
        // Tens of microseconds: cheaper here than the way to another thread and back.
        PrivateKey::generate(key_type).map_err(failed)
    }

    async fn send(&self, job: &Job, attempt: Attempt) -> (Result<Issued, IssueError>, Option<Attempt>) {
        let request = SignRequest {
            csr_pem: attempt.csr_pem.clone(),
            id: job.id.clone(),
            signer: job.entry.signer.clone(),
            ttl: job.ttl,
            token: Arc::clone(&job.token),
            request_id: attempt.request_id.clone(),
        };
        let answer = match tokio::time::timeout(job.deadline + BELT, self.sign.sign(request)).await {
            Ok(answer) => answer,
            Err(_) => Err(SignError::Deadline {
                address: "in use".to_owned(),
                deadline: job.deadline,
            }),
        };
        match answer {
            Ok(answer) => {
                let issued = self.check(job, attempt.key, &answer.elements);
                if issued.is_err() {
                    self.sign.leave(answer.by).await;
                }
                (issued, None)
            }
            Err(error) => {
                let kept = error.resumable().then_some(attempt);
                (Err(IssueError::Sign(error)), kept)
            }
        }
    }

    /// I3: what passes here may be offered.
    fn check(&self, job: &Job, key: PrivateKey, elements: &[String]) -> Result<Issued, IssueError> {
        let chain = Chain::from_reply_elements(elements).map_err(IssueError::Chain)?;
        let roots = bundles::anchors(&chain, job.pin.as_ref())?;
        let (now, spki_der) = (self.clock.now(), key.spki_der());
        let svid = Svid::assemble(key, chain.clone(), &roots, &job.id, now)
            .map_err(|error| IssueError::Svid(Box::new(error)))?;
        let anchors = ends_in(&roots, |root| {
            verify_issued(&chain, root, &job.id, &spki_der, now).is_ok()
        });
        Ok(Issued { svid, roots, anchors })
    }
}

/// Those roots that each suffice alone.
fn ends_in(roots: &Bundle, suffices: impl Fn(&Bundle) -> bool) -> Bundle {
    if roots.len() == 1 {
        return roots.clone();
    }
    let alone =
        |root: &&Certificate| Bundle::from_certificates(vec![(*root).clone()]).is_ok_and(|root| suffices(&root));
    let anchors = roots.iter().filter(alone).cloned().collect();
    // One suffices at least: the chain was verified to all of them together.
    Bundle::from_certificates(anchors).unwrap_or_else(|_| roots.clone())
}
