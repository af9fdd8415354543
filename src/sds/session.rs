//! One SDS stream: the body of an HTTP/2 response that reads its request, drives a stream machine and yields frames.
//!
//! Owns the I/O half of `StreamSecrets`, `DeltaSecrets` and `FetchSecrets`: requests are decoded and fed to the pure
//! machine, its effects carried out (subscriptions, counters, log), and the one response that is due is encoded. There is no
//! task and no queue of its own: the next response is made when the one before has left. Promises to end
//! with `UNAVAILABLE` when the socket closes or the workload goes, so that Envoy comes back and keeps what it has.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::str::FromStr as _;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use bytes::buf::{Buf as _, Chain};
use futures::future::BoxFuture;
use http_body::{Body, Frame};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_util::sync::WaitForCancellationFutureOwned;
use tonic::Status;

use super::connection::{Connection, StreamGuard};
use super::delta::Delta;
use super::fetch::Fetch;
use super::grpc::{self, Deframer};
use super::ledger::{Ledger, Next, Offers, Patience, Push};
use super::names::{Name, PerName};
use super::refused::Rejected;
use super::request::{DeltaRequest, Introduction, Refusal, Request};
use super::secret::{self, Pieces};
use super::stream::{Effect, Stream};
use crate::rotation::{BundleSecret, EntryEnded, EntryState, Feedback, Held, SignerName, Subscription};

/// After so many requests in a row, others get their turn.
const REQUESTS_IN_A_ROW: usize = 16;

/// One stream.
pub(crate) struct Session {
    connection: Arc<Connection>,
    guard: StreamGuard,
    /// `None` once the client has finished its half.
    incoming: Option<Incoming>,
    deframer: Deframer,
    machine: Machine,
    signer: Option<SignerName>,
    node_id: Box<str>,
    watches: PerName<Option<Watch>>,
    /// The bundle that was sent last, to be told to the connection once it is accepted.
    sent_bundle: Option<Arc<BundleSecret>>,
    timer: Option<Pin<Box<Sleep>>>,
    draining: Pin<Box<WaitForCancellationFutureOwned>>,
    outgoing: Outgoing,
}

/// Which method the stream is of.
#[derive(Debug)]
pub(crate) enum Machine {
    /// `StreamSecrets`.
    Stream(Stream),
    /// `DeltaSecrets`.
    Delta(Delta),
    /// `FetchSecrets`.
    Fetch(Fetch),
}

/// A subscription and what it offers.
struct Watch {
    state: EntryState,
    feedback: Feedback,
    next: BoxFuture<'static, (Subscription, Result<(), EntryEnded>)>,
}

#[derive(Debug)]
enum Outgoing {
    Open,
    /// These, in order, and on.
    Messages(std::vec::IntoIter<Pieces>),
    /// These, in order, then the end.
    Last(std::vec::IntoIter<Pieces>),
    End(Box<Status>),
    Done,
}

impl Session {
    pub(crate) fn new(connection: Arc<Connection>, guard: StreamGuard, machine: Machine, incoming: Incoming) -> Self {
        let socket = connection.socket();
        let deframer = Deframer::new(socket.config.max_message, socket.share.partial.clone());
        let draining = Box::pin(socket.draining.clone().cancelled_owned());
        let signer = socket.signer.clone();
        Self {
            connection,
            guard,
            incoming: Some(incoming),
            deframer,
            machine,
            signer,
            node_id: Box::default(),
            watches: PerName::default(),
            sent_bundle: None,
            timer: None,
            draining,
            outgoing: Outgoing::Open,
        }
    }

    /// Does all that can be done now. `Ready` if something is to be sent.
    fn advance(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Status>> {
        if self.draining.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(Status::unavailable("the agent closes this socket, come back")));
        }
        self.read(cx)?;
        self.poll_watches(cx)?;
        loop {
            match self.next(cx) {
                Todo::Send(outgoing) => {
                    self.timer = None;
                    self.outgoing = outgoing;
                    return Poll::Ready(Ok(()));
                }
                Todo::Hold => {
                    self.timer = None;
                    break;
                }
                Todo::HoldUntil(until) => ready!(self.poll_timer(until, cx)),
            }
        }
        if self.incoming.is_none() && !matches!(self.machine, Machine::Fetch(_)) {
            return Poll::Ready(Err(Status::ok("")));
        }
        Poll::Pending
    }

    /// Reads requests until there are none.
    fn read(&mut self, cx: &mut Context<'_>) -> Result<(), Status> {
        let mut requests = 0;
        while self.incoming.is_some() || self.machine_waits_for_a_message() {
            if let Some(message) = self.deframer.message()? {
                self.on_message(message)?;
                requests += 1;
                if requests == REQUESTS_IN_A_ROW {
                    cx.waker().wake_by_ref();
                    return Ok(());
                }
                continue;
            }
            let Some(incoming) = &mut self.incoming else {
                return Err(Status::invalid_argument(
                    "the request ended before its message was complete",
                ));
            };
            match Pin::new(incoming).poll_frame(cx) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Some(Ok(frame))) => {
                    if let Ok(data) = frame.into_data() {
                        self.deframer.feed(data);
                    }
                }
                Poll::Ready(Some(Err(error))) => {
                    return Err(Status::cancelled(format!("the request could not be read: {error}")));
                }
                Poll::Ready(None) => self.incoming = None,
            }
        }
        Ok(())
    }

    /// A fetch whose client has finished sending is still to be read.
    fn machine_waits_for_a_message(&self) -> bool {
        matches!(&self.machine, Machine::Fetch(fetch) if fetch.expects_request())
    }

    fn on_message(&mut self, message: Bytes) -> Result<(), Status> {
        self.guard.asked();
        let max_names = self.connection.socket().config.max_names;
        let effects = match &mut self.machine {
            Machine::Stream(stream) => {
                let request = Request::decode(message, stream.expects_first(), max_names)?;
                stream.on_request(request)
            }
            Machine::Delta(delta) => {
                let request = DeltaRequest::decode(message, delta.expects_first(), max_names)?;
                delta.on_request(request)
            }
            Machine::Fetch(fetch) => fetch.on_request(Request::decode(message, true, max_names)?)?,
        };
        effects.into_iter().try_for_each(|effect| self.carry_out(effect))
    }

    fn carry_out(&mut self, effect: Effect) -> Result<(), Status> {
        let socket = self.connection.socket();
        match effect {
            Effect::Introduced(introduction) => return self.introduced(introduction),
            Effect::Subscribe { name, claim } => return self.subscribe(name, claim),
            Effect::Unsubscribe(name) => self.unsubscribe(name),
            Effect::Accepted { name, version } => {
                tracing::debug!(workload = %socket.workload, name = name.as_str(), version, "secret accepted");
                let accepted = self
                    .sent_bundle
                    .take_if(|bundle| name == Name::Bundle && bundle.version == version);
                if let Some(bundle) = accepted {
                    self.connection.roots.accepted(self.guard.id(), &bundle);
                }
            }
            Effect::Refused {
                name,
                rejected,
                refusal,
            } => self.refused(name, rejected.as_ref(), &refusal),
            Effect::Stale => socket.metrics.stale(),
            Effect::Unknown(count) => {
                tracing::debug!(workload = %socket.workload, count, "names that are not served here were asked for");
            }
        }
        Ok(())
    }

    fn introduced(&mut self, introduction: Introduction) -> Result<(), Status> {
        self.node_id = introduction.node_id.into();
        // Whatever the client wishes, where the operator said which one.
        if self.signer.is_some() {
            return Ok(());
        }
        let wish = introduction.signer.as_deref().map(SignerName::from_str).transpose();
        let wish = wish.map_err(|error| Status::invalid_argument(format!("metadata CERT_SIGNER: {error}")))?;
        self.signer = wish;
        Ok(())
    }

    fn subscribe(&mut self, name: Name, claim: Option<String>) -> Result<(), Status> {
        let socket = self.connection.socket();
        let held = match (name, claim) {
            (_, None) => Held::Nothing,
            (Name::Bundle, Some(version)) => Held::Bundle(version),
            (Name::Certificate, Some(version)) => Held::Certificate(version),
        };
        let claim = match &held {
            Held::Nothing => None,
            Held::Bundle(version) | Held::Certificate(version) => Some(version.clone()),
        };
        let subscription = socket
            .rotation
            .subscribe(&socket.workload, self.signer.clone(), held)
            .map_err(|error| Status::unavailable(error.to_string()))?;
        let watch = Watch::of(subscription);
        let roots = &self.connection.roots;
        match name {
            Name::Bundle => {
                roots.join(self.guard.id(), self.signer.clone(), claim.is_some());
                // What it holds already need not be accepted again.
                if let Some(bundle) = watch
                    .state
                    .bundle
                    .as_ref()
                    .filter(|bundle| claim.as_ref() == Some(&bundle.version))
                {
                    roots.accepted(self.guard.id(), bundle);
                }
            }
            Name::Certificate if claim.is_some() => roots.leaf_in_use(self.signer.as_ref()),
            Name::Certificate => {}
        }
        if let Some(ledger) = self.machine.ledger().filter(|ledger| ledger.holds(name)) {
            ledger.withhold(name, socket.refused.of(name));
        }
        *self.watches.of_mut(name) = Some(watch);
        Ok(())
    }

    fn unsubscribe(&mut self, name: Name) {
        *self.watches.of_mut(name) = None;
        if name == Name::Bundle {
            self.sent_bundle = None;
            self.connection.roots.leave(self.guard.id());
        }
    }

    fn refused(&mut self, name: Option<Name>, rejected: Option<&Rejected>, refusal: &Refusal) {
        let socket = self.connection.socket();
        socket.metrics.refused(name);
        if socket.paced.allows() {
            tracing::warn!(
                workload = %socket.workload,
                signer = self.signer.as_ref().map(SignerName::as_str),
                node = &*super::request::quote(&self.node_id),
                name = name.map_or("unknown", Name::as_str),
                reason = refusal.reason,
                "secret refused by the client, it keeps the one before"
            );
        }
        if let (Some(name), Some(rejected)) = (name, rejected) {
            socket.refused.remember(name, rejected.digest);
            if name == Name::Bundle
                && self
                    .sent_bundle
                    .as_ref()
                    .is_some_and(|sent| sent.version == rejected.version)
            {
                self.connection.roots.sent(self.guard.id(), None);
            }
            if let (Name::Certificate, Some(watch)) = (name, &self.watches.certificate) {
                watch.feedback.refused(&rejected.version, &refusal.reason);
            }
        }
    }

    fn poll_watches(&mut self, cx: &mut Context<'_>) -> Result<(), Status> {
        for name in Name::ALL {
            if let Some(watch) = self.watches.of_mut(name) {
                watch
                    .poll(cx)
                    .map_err(|EntryEnded| Status::unavailable(EntryEnded.to_string()))?;
            }
        }
        Ok(())
    }

    fn next(&mut self, cx: &Context<'_>) -> Todo {
        let offers = self.offers();
        let (ledger, encode): (&mut Ledger, fn(&Push) -> Pieces) = match &mut self.machine {
            Machine::Fetch(fetch) => {
                return fetch
                    .answer(&offers)
                    .map_or(Todo::Hold, |pieces| Todo::Send(Outgoing::Last(pieces.into_iter())));
            }
            Machine::Stream(stream) => (&mut stream.ledger, secret::response),
            Machine::Delta(delta) => (&mut delta.ledger, secret::delta_response),
        };
        let socket = self.connection.socket();
        let leaf = self
            .watches
            .certificate
            .as_ref()
            .and_then(|watch| watch.state.certificate.as_ref());
        let roots = leaf.is_none_or(|leaf| {
            self.connection
                .roots
                .suffice(self.guard.id(), self.signer.as_ref(), leaf, cx)
        });
        let patience = Patience {
            roots: socket.config.root_wait,
            answer: socket.config.answer_wait,
        };
        match ledger.next(Instant::now(), &offers, roots, patience) {
            Next::Hold => Todo::Hold,
            Next::HoldUntil(until) => Todo::HoldUntil(until),
            Next::Push(push) => {
                if push.name == Name::Bundle {
                    self.sent_bundle = self
                        .watches
                        .bundle
                        .as_ref()
                        .and_then(|watch| watch.state.bundle.clone());
                    self.connection.roots.sent(self.guard.id(), self.sent_bundle.as_ref());
                } else {
                    self.connection.roots.leaf_in_use(self.signer.as_ref());
                    if !roots && socket.paced.allows() {
                        tracing::warn!(workload = %socket.workload, "certificate sent before its root was accepted");
                    }
                }
                socket.metrics.pushed(push.name);
                tracing::debug!(workload = %socket.workload, ?push, "secret sent");
                Todo::Send(Outgoing::Messages(vec![encode(&push)].into_iter()))
            }
        }
    }

    fn offers(&self) -> Offers {
        let state = |watch: &Option<Watch>| {
            watch
                .as_ref()
                .map(|watch| secret::offers(&watch.state))
                .unwrap_or_default()
        };
        Offers {
            bundle: state(&self.watches.bundle).bundle,
            certificate: state(&self.watches.certificate).certificate,
        }
    }

    fn poll_timer(&mut self, until: Instant, cx: &mut Context<'_>) -> Poll<()> {
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(until)));
        if timer.deadline() != until {
            timer.as_mut().reset(until);
        }
        timer.as_mut().poll(cx)
    }

    fn end(&mut self, status: Status) {
        // Interest ends now, not when the peer has taken the trailers.
        self.watches = PerName::default();
        self.incoming = None;
        self.connection.roots.leave(self.guard.id());
        self.outgoing = Outgoing::End(Box::new(status));
    }
}

enum Todo {
    Hold,
    HoldUntil(Instant),
    Send(Outgoing),
}

impl Machine {
    fn ledger(&mut self) -> Option<&mut Ledger> {
        match self {
            Self::Stream(stream) => Some(&mut stream.ledger),
            Self::Delta(delta) => Some(&mut delta.ledger),
            Self::Fetch(_) => None,
        }
    }
}

impl Watch {
    fn of(mut subscription: Subscription) -> Self {
        let (state, feedback) = (subscription.state(), subscription.feedback());
        let next = Box::pin(async move {
            let changed = subscription.changed().await;
            (subscription, changed)
        });
        Self { state, feedback, next }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Result<(), EntryEnded> {
        while let Poll::Ready((subscription, changed)) = self.next.as_mut().poll(cx) {
            changed?;
            *self = Self::of(subscription);
        }
        Ok(())
    }
}

impl Body for Session {
    /// The part of this stream and the shared part, in one HTTP/2 frame.
    type Data = Chain<Bytes, Bytes>;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let this = self.get_mut();
        loop {
            match &mut this.outgoing {
                Outgoing::Open => match ready!(this.advance(cx)) {
                    Ok(()) => {}
                    Err(status) => this.end(status),
                },
                Outgoing::Messages(pieces) => match pieces.next() {
                    Some(pieces) => return Poll::Ready(Some(Ok(data(pieces)))),
                    None => this.outgoing = Outgoing::Open,
                },
                Outgoing::Last(pieces) => match pieces.next() {
                    Some(pieces) => return Poll::Ready(Some(Ok(data(pieces)))),
                    None => this.end(Status::ok("")),
                },
                Outgoing::End(status) => {
                    let trailers = grpc::trailers(status);
                    let socket = this.connection.socket();
                    let (workload, code, text) = (&socket.workload, status.code(), status.message());
                    // The client comes back with the same, and nobody but it is told.
                    if code == tonic::Code::InvalidArgument && socket.paced.allows() {
                        tracing::warn!(%workload, node = &*super::request::quote(&this.node_id), text, "stream ends: its request is wrong");
                    } else {
                        tracing::debug!(%workload, ?code, text, "stream ends");
                    }
                    this.outgoing = Outgoing::Done;
                    return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
                }
                Outgoing::Done => return Poll::Ready(None),
            }
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.connection.roots.leave(self.guard.id());
    }
}

fn data([own, shared]: Pieces) -> Frame<Chain<Bytes, Bytes>> {
    Frame::data(own.chain(shared))
}
