//! `StreamSecrets`: what each state-of-the-world request means for the stream. Pure: no I/O, no clock.
//!
//! Owns the order of the rules, which is Istio's: a refusal is counted and never answered; an empty list
//! unsubscribes; a first request, a request without a nonce and one on a stream that has nothing are answered in
//! full; a nonce that is stale for its name is ignored; an accepting request is answered only for names that it adds. Two
//! deviations: a *first* message that carries an error is still a first request and answered, and each resource
//! gets a response of its own (partial responses are legal for secrets, and a refusal then names its secret).
//! Leaves when to send to the [`Ledger`].

use super::ledger::{Ledger, Nonce};
use super::names::{Name, Wanted};
use super::refused::Rejected;
use super::request::{Introduction, Refusal, Request};

/// What a request asks the I/O half to do, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// The first message came: this is who sent it.
    Introduced(Introduction),
    /// Watch `name`; the client says that it holds the version `claim`.
    Subscribe {
        /// What to watch.
        name: Name,
        /// The client's word, judged by nobody so far.
        claim: Option<String>,
    },
    /// Stop watching it.
    Unsubscribe(Name),
    /// The client took it.
    Accepted {
        /// What.
        name: Name,
        /// Which version.
        version: String,
    },
    /// The client refused something: count, log and tell rotation.
    Refused {
        /// What; `None` if that is not known.
        name: Option<Name>,
        /// Which one; `None` also if the client had answered it before.
        rejected: Option<Rejected>,
        /// Why.
        refusal: Refusal,
    },
    /// A request about an older response was ignored: count.
    Stale,
    /// So many names are none of ours.
    Unknown(usize),
}

impl Effect {
    /// The client refused this, as the ledger tells it.
    pub(crate) fn refused(what: Option<(Name, Option<Rejected>)>, refusal: Refusal) -> Self {
        let (name, rejected) = what.map_or((None, None), |(name, rejected)| (Some(name), rejected));
        Self::Refused {
            name,
            rejected,
            refusal,
        }
    }
}

/// One `StreamSecrets` stream.
#[derive(Debug)]
pub(crate) struct Stream {
    met: bool,
    pub(crate) ledger: Ledger,
}

impl Stream {
    pub(crate) fn new(id: u64) -> Self {
        Self {
            met: false,
            ledger: Ledger::new(id),
        }
    }

    /// True until the first request that counts.
    pub(crate) fn expects_first(&self) -> bool {
        !self.met
    }

    /// Takes one request.
    pub(crate) fn on_request(&mut self, request: Request) -> Vec<Effect> {
        let mut effects = Vec::new();
        if request.health {
            return effects;
        }
        let first = !std::mem::replace(&mut self.met, true);
        effects.extend(request.introduction.map(Effect::Introduced));
        if request.names.unknown() > 0 {
            effects.push(Effect::Unknown(request.names.unknown()));
        }
        if first && !request.version.is_empty() {
            let named = Name::ALL.into_iter().filter(|name| request.names.has(*name));
            named.for_each(|name| self.ledger.hold(name));
        }
        let nonce = self.ledger.nonce(&request.nonce);
        let refused = request.refusal.is_some();
        if let Some(refusal) = request.refusal {
            effects.push(Effect::refused(self.ledger.refuse(&request.nonce), refusal));
            if !first && nonce != Nonce::Newest {
                return effects;
            }
        }
        if request.names.is_empty() {
            if !refused {
                effects.extend(self.accept(&request.nonce));
            }
            self.replace_names(request.names, Resend::New, &mut effects);
            return effects;
        }
        let never_answered = !self.ledger.has_pushed() || !self.ledger.wants_any();
        if first || (!refused && (nonce == Nonce::Empty || never_answered)) {
            // One version cannot speak for two names, and one that came with a nonce or an error is no reconnect.
            let claims = first && !refused && nonce == Nonce::Empty && !request.version.is_empty();
            let claim = (claims && request.names.only().is_some()).then_some(request.version);
            self.replace_names(request.names, Resend::All(claim), &mut effects);
            return effects;
        }
        match nonce {
            Nonce::Newest => {
                if !refused {
                    effects.extend(self.accept(&request.nonce));
                }
                self.replace_names(request.names, Resend::New, &mut effects);
            }
            // An answer to a response after which the other name was sent counts; the names of a later request do.
            Nonce::Empty | Nonce::Other => effects.push(self.accept(&request.nonce).unwrap_or(Effect::Stale)),
        }
        effects
    }

    fn accept(&mut self, nonce: &str) -> Option<Effect> {
        self.ledger
            .accept(nonce)
            .map(|(name, version)| Effect::Accepted { name, version })
    }

    /// Makes `names` the subscription.
    fn replace_names(&mut self, names: Wanted, resend: Resend, effects: &mut Vec<Effect>) {
        let (all, claim) = match resend {
            Resend::All(claim) => (true, claim),
            Resend::New => (false, None),
        };
        for name in Name::ALL {
            if !names.has(name) {
                if self.ledger.forget(name) {
                    effects.push(Effect::Unsubscribe(name));
                }
            } else if (all || !self.ledger.wants(name)) && self.ledger.want(name) {
                effects.push(Effect::Subscribe {
                    name,
                    claim: claim.clone(),
                });
            }
        }
    }
}

/// Which names of a request are owed an answer.
enum Resend {
    /// All, and this is the version that the client says it holds.
    All(Option<String>),
    /// Those that were not subscribed.
    New,
}

#[cfg(test)]
mod tests;
