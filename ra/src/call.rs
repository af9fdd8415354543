//! One call of `CreateCertificate`: what is known of it, growing step by step, for its one log line, and how long it may
//! take.
//!
//! The exact reason and all names go to that line, under the id that the caller gets too. The deadline counts from the
//! arrival: a wait in a queue leaves less for the signer.

use std::time::Duration;

use tokio::time::Instant;
use tonic::Request;
use tonic::metadata::{MetadataMap, MetadataValue};

use crate::authn::Caller;
use crate::policy::{Grant, TtlChange};
use crate::refusal::Refusal;
use crate::reply::Reply;
use crate::request;
use crate::serving::Peer;
use crate::unique::unique;

/// What is known of a call.
#[derive(Debug)]
pub(crate) struct Call {
    /// Names it in our log and in the answer.
    pub(crate) id: String,
    /// The client's own id, as it sent it.
    pub(crate) client_id: Option<String>,
    /// Who is at the other end of the connection.
    pub(crate) peer: Option<Peer>,
    /// How long it may take.
    pub(crate) patience: Patience,
    /// Who is calling, once that is known.
    pub(crate) caller: Option<Caller>,
    /// Whom the caller asks for.
    pub(crate) impersonated: Option<String>,
    /// What the policy granted.
    pub(crate) grant: Option<Grant>,
    /// The signer's object.
    pub(crate) object: Option<String>,
}

/// How long a call may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    began: Instant,
    client: Option<Duration>,
}

// === impl Patience ===

impl Patience {
    /// When a call ends that our side gives so long; a client that gives up earlier counts.
    pub(crate) fn deadline(self, own: Duration) -> Instant {
        self.began + self.client.map_or(own, |client| client.min(own))
    }

    /// A moment after the client's own deadline. A timeout of years is none.
    pub(crate) fn belt(self) -> Option<Instant> {
        self.began.checked_add(self.client?.saturating_add(BELT))
    }
}

// === impl Call ===

/// The line of a call: what every call has, then what its end adds.
macro_rules! tell {
    ($level:ident, $call:expr, $($end:tt)*) => {{
        let call: &Call = $call;
        let (caller, grant) = (call.caller.as_ref(), call.grant.as_ref());
        tracing::$level!(
            request_id = call.id,
            client_request_id = call.client_id,
            peer = call.peer.as_ref().map(|peer| tracing::field::display(peer.address)),
            namespace = caller.map(|caller| &caller.namespace),
            service_account = caller.map(|caller| &caller.service_account),
            pod = caller.and_then(|caller| caller.pod.as_ref()).map(|pod| &pod.name),
            node = caller.and_then(|caller| caller.node.as_ref()).map(|node| &node.name),
            cluster = caller.and_then(|caller| caller.cluster.as_ref()),
            proof = caller.map(|caller| caller.proof.as_str()),
            token_id = caller.and_then(|caller| caller.token_id.as_ref()),
            impersonated = call.impersonated.as_deref().map(bounded),
            signer = grant.map(|grant| tracing::field::display(&grant.signer)),
            chosen_by = grant.map(|grant| grant.chosen_by.as_str()),
            object = call.object,
            took_ms = call.took_ms(),
            $($end)*
        );
    }};
}

impl Call {
    pub(crate) fn of<T>(request: &Request<T>) -> Self {
        let metadata = request.metadata();
        let began = Instant::now();
        let client = request::client_timeout(metadata).map(answer_before);
        Self {
            id: unique(),
            client_id: request::client_request_id(metadata).map(str::to_owned),
            peer: request.extensions().get::<Peer>().cloned(),
            patience: Patience { began, client },
            caller: None,
            impersonated: None,
            grant: None,
            object: None,
        }
    }

    /// The id in the reply lets a person find the log line.
    pub(crate) fn stamp(&self, metadata: &mut MetadataMap) {
        if let Ok(id) = MetadataValue::try_from(self.id.as_str()) {
            metadata.insert(REQUEST_ID, id);
        }
    }

    pub(crate) fn log_issued(&self, reply: &Reply) {
        let grant = self.grant.as_ref();
        tell!(
            info,
            self,
            serial = reply.validity.serial,
            ttl_seconds = grant.map(|grant| grant.ttl.as_secs()),
            ttl_change = grant.map(|grant| grant.ttl_change).and_then(changed),
            lifetime_change = reply.lifetime.change(),
            "certificate issued"
        );
    }

    pub(crate) fn log_refused(&self, refusal: &Refusal) {
        tell!(
            warn,
            self,
            code = ?refusal.code(),
            reason = refusal.reason(),
            detail = ensign_daemon::logging::chain(refusal),
            "request refused"
        );
    }

    fn took_ms(&self) -> u64 {
        u64::try_from(self.patience.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// What a caller sent, for the log.
fn bounded(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(256).collect()
}

fn changed(change: TtlChange) -> Option<&'static str> {
    match change {
        TtlChange::Unchanged => None,
        TtlChange::Defaulted | TtlChange::Clamped | TtlChange::Raised => Some(change.as_str()),
    }
}

/// A little before the client gives up, so that it learns our reason instead of its own.
fn answer_before(timeout: Duration) -> Duration {
    timeout.saturating_sub((timeout / 10).min(Duration::from_millis(50)))
}

/// Long enough that timers of one deadline do not fire in the order of chance, far less than a client's patience.
const BELT: Duration = Duration::from_millis(20);
/// The metadata that carries the id, in both directions.
pub(crate) const REQUEST_ID: &str = "x-request-id";
