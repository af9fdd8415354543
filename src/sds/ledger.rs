//! What one stream wants, was sent, accepted and refused; and what it is to be sent next. Pure: no I/O, no clock.
//!
//! Owns the rules that both protocols share. Each resource goes in a response of its own with a nonce of its own, so a
//! refusal can always be pinned to one secret, and a newer version of a name goes out only when the one before was answered.
//! `ROOTCA` goes before `default`, and `default` waits, for a bounded time, until the connection's other `ROOTCA` streams
//! accepted the anchors that it needs. Where both names share one stream, its order says enough: a client, Envoy or any
//! other, handles a stream's responses one after the other, so `default` follows at once, and each answer counts for the
//! response whose nonce it carries, whatever was sent since. A secret that was refused is never sent again on this stream, under whatever version.
//! [`stream`](super::stream) and [`delta`](super::delta) own what a request means.

use std::time::Duration;

use bytes::Bytes;
use ensign_pki::crypto;
use tokio::time::Instant;

use super::names::{Name, PerName};
use super::refused::{Digest, Rejected};

/// A secret that could be sent now.
#[derive(Clone)]
pub(crate) struct Offer {
    /// `version_info`.
    pub(crate) version: String,
    /// The encoded resource, shared by all streams.
    pub(crate) secret: Bytes,
}

/// What can be sent now; `None` while there is nothing to serve yet.
pub(crate) type Offers = PerName<Option<Offer>>;

/// How long to wait for a client before going on without it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// For `default`: until `ROOTCA` is accepted.
    pub(crate) roots: Duration,
    /// For the answer to a response, before a newer secret is sent regardless.
    pub(crate) answer: Duration,
}

/// A response to send.
#[derive(Clone)]
pub(crate) struct Push {
    pub(crate) name: Name,
    pub(crate) nonce: String,
    pub(crate) offer: Offer,
}

/// What to do next.
#[derive(Clone, Debug)]
pub(crate) enum Next {
    /// Nothing until an event.
    Hold,
    /// Nothing until then, if no event comes before.
    HoldUntil(Instant),
    /// Send this.
    Push(Push),
}

/// Which response a nonce belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Nonce {
    /// No nonce.
    Empty,
    /// The newest response of this stream.
    Newest,
    /// An older response, or one of another stream.
    Other,
}

/// The bookkeeping of one stream.
#[derive(Debug)]
pub(crate) struct Ledger {
    stream: u64,
    pushes: u64,
    slots: PerName<Slot>,
    /// The nonce of the newest response.
    newest: Option<String>,
    leaf_waits_since: Option<Instant>,
}

#[derive(Debug, Default)]
struct Slot {
    wanted: bool,
    /// An answer is due even if the client was sent this version already.
    owed: bool,
    sent_version: Option<String>,
    /// The newest response.
    newest: Option<Sent>,
    /// The response before it, kept only if the client had not answered it.
    unanswered: Option<Sent>,
    /// The client came with a version of it.
    held: bool,
    /// Digests of secrets that were refused: 32 bytes for each secret ever refused here, and only an issued one can be, and
    /// the few that were refused before.
    refused: Vec<Digest>,
}

struct Sent {
    name: Name,
    nonce: String,
    version: String,
    /// When it was sent, as long as its answer is waited for.
    awaited_since: Option<Instant>,
    /// Gone with the answer: the ledger keeps no key alive.
    unanswered: Option<Bytes>,
}

impl Ledger {
    /// `stream` makes this stream's nonces differ from those of every other, so that one of an earlier stream is never
    /// mistaken for ours.
    pub(crate) fn new(stream: u64) -> Self {
        Self {
            stream,
            pushes: 0,
            slots: PerName::default(),
            newest: None,
            leaf_waits_since: None,
        }
    }

    /// True if any of our names is subscribed.
    pub(crate) fn wants_any(&self) -> bool {
        Name::ALL.into_iter().any(|name| self.wants(name))
    }

    pub(crate) fn wants(&self, name: Name) -> bool {
        self.slots.of(name).wanted
    }

    /// True once a response was sent.
    pub(crate) fn has_pushed(&self) -> bool {
        self.newest.is_some()
    }

    /// Subscribes to `name` and owes an answer. True if it was not subscribed before.
    pub(crate) fn want(&mut self, name: Name) -> bool {
        let slot = self.slots.of_mut(name);
        slot.owed = true;
        !std::mem::replace(&mut slot.wanted, true)
    }

    /// The client says, as it comes, that it holds some version of `name`.
    pub(crate) fn hold(&mut self, name: Name) {
        self.slots.of_mut(name).held = true;
    }

    /// True if the client said so.
    pub(crate) fn holds(&self, name: Name) -> bool {
        self.slots.of(name).held
    }

    /// Never send these under `name`.
    pub(crate) fn withhold(&mut self, name: Name, refused: Vec<Digest>) {
        let known = &mut self.slots.of_mut(name).refused;
        // The same are said again with each new subscription.
        for digest in refused {
            if !known.contains(&digest) {
                known.push(digest);
            }
        }
    }

    /// Ends the subscription. True if there was one. What was refused stays known.
    pub(crate) fn forget(&mut self, name: Name) -> bool {
        let slot = self.slots.of_mut(name);
        slot.owed = false;
        slot.sent_version = None;
        if let Some(sent) = &mut slot.newest {
            // Its answer may still come, and is understood then.
            sent.awaited_since = None;
        }
        std::mem::replace(&mut slot.wanted, false)
    }

    pub(crate) fn nonce(&self, nonce: &str) -> Nonce {
        match &self.newest {
            _ if nonce.is_empty() => Nonce::Empty,
            Some(newest) if newest == nonce => Nonce::Newest,
            Some(_) | None => Nonce::Other,
        }
    }

    /// The client accepted the response with this nonce. What it was, if it had not been answered before.
    pub(crate) fn accept(&mut self, nonce: &str) -> Option<(Name, String)> {
        let sent = self.sent_mut(nonce)?;
        sent.unanswered.take()?;
        Some((sent.name, sent.version.clone()))
    }

    /// The client refused the response with this nonce. `None` if it is not one of ours; no secret if it was answered
    /// before.
    pub(crate) fn refuse(&mut self, nonce: &str) -> Option<(Name, Option<Rejected>)> {
        let sent = self.sent_mut(nonce)?;
        let name = sent.name;
        let Some(secret) = sent.unanswered.take() else {
            return Some((name, None));
        };
        let rejected = Rejected::new(&sent.version, &secret);
        self.slots.of_mut(name).refused.push(rejected.digest);
        Some((name, Some(rejected)))
    }

    /// What to do now. `roots_accepted`: every other `ROOTCA` stream of this connection and signer accepted the anchors of the
    /// certificate that is on offer, and this one was sent them, if it is one.
    pub(crate) fn next(&mut self, now: Instant, offers: &Offers, roots_accepted: bool, patience: Patience) -> Next {
        let due = |name: Name| {
            offers
                .of(name)
                .as_ref()
                .filter(|offer| self.slots.of(name).is_due(offer))
        };
        let (bundle, certificate) = (due(Name::Bundle), due(Name::Certificate));
        let unanswered = |name: Name| {
            let until = self.slots.of(name).answer_awaited_until(patience);
            until.filter(|until| now < *until)
        };
        if let Some(offer) = bundle.cloned() {
            return match unanswered(Name::Bundle) {
                Some(until) => Next::HoldUntil(until),
                None => Next::Push(self.push(Name::Bundle, offer, now)),
            };
        }
        let Some(offer) = certificate.cloned() else {
            return Next::Hold;
        };
        if let Some(until) = unanswered(Name::Certificate) {
            return Next::HoldUntil(until);
        }
        if !roots_accepted {
            let until = *self.leaf_waits_since.get_or_insert(now) + patience.roots;
            if now < until {
                return Next::HoldUntil(until);
            }
        }
        self.leaf_waits_since = None;
        Next::Push(self.push(Name::Certificate, offer, now))
    }

    fn push(&mut self, name: Name, offer: Offer, now: Instant) -> Push {
        self.pushes += 1;
        let nonce = format!("{:x}-{:x}", self.stream, self.pushes);
        let slot = self.slots.of_mut(name);
        slot.owed = false;
        slot.sent_version = Some(offer.version.clone());
        let sent = Sent {
            name,
            nonce: nonce.clone(),
            version: offer.version.clone(),
            awaited_since: Some(now),
            unanswered: Some(offer.secret.clone()),
        };
        slot.unanswered = slot.newest.replace(sent).filter(|before| before.unanswered.is_some());
        self.newest = Some(nonce.clone());
        Push { name, nonce, offer }
    }

    fn sent_mut(&mut self, nonce: &str) -> Option<&mut Sent> {
        let PerName { bundle, certificate } = &mut self.slots;
        [bundle, certificate]
            .into_iter()
            .flat_map(|slot| [&mut slot.newest, &mut slot.unanswered])
            .flatten()
            .find(|sent| sent.nonce == nonce)
    }
}

impl Slot {
    fn answer_awaited_until(&self, patience: Patience) -> Option<Instant> {
        let sent = self.newest.as_ref()?;
        sent.unanswered.as_ref()?;
        Some(sent.awaited_since? + patience.answer)
    }

    fn is_due(&self, offer: &Offer) -> bool {
        let news = self.owed || self.sent_version.as_ref() != Some(&offer.version);
        // The digest last: it is only worth computing where something was refused.
        self.wanted && news && (self.refused.is_empty() || !self.refused.contains(&crypto::sha256(&offer.secret)))
    }
}

// The bytes of a secret are never printed.
impl std::fmt::Debug for Offer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Offer")
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Push {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { name, nonce, offer } = self;
        f.debug_struct("Push")
            .field("name", name)
            .field("nonce", nonce)
            .field("offer", offer)
            .finish()
    }
}

impl std::fmt::Debug for Sent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            name, nonce, version, ..
        } = self;
        f.debug_struct("Sent")
            .field("name", name)
            .field("nonce", nonce)
            .field("version", version)
            .finish_non_exhaustive()
    }
}
