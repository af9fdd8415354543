//! `DeltaSecrets`: what each incremental request means for the stream. Pure: no I/O, no clock.
//!
//! Owns the protocol's own rules: names come and go by two lists, a request may carry lists and an answer at
//! once, subscribing again to a name asks for it again, and the versions held from before come by name. An unknown name
//! is held, not reported as removed: a removal ends Envoy's wait for its first secret, and a listener that
//! is ready without a certificate resets every connection.

use super::ledger::{Ledger, Nonce};
use super::names::Name;
use super::request::DeltaRequest;
use super::stream::Effect;

/// One `DeltaSecrets` stream.
#[derive(Debug)]
pub(crate) struct Delta {
    met: bool,
    pub(crate) ledger: Ledger,
}

impl Delta {
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
    pub(crate) fn on_request(&mut self, mut request: DeltaRequest) -> Vec<Effect> {
        let mut effects = Vec::new();
        if request.health {
            return effects;
        }
        let first = !std::mem::replace(&mut self.met, true);
        effects.extend(request.introduction.map(Effect::Introduced));
        if request.subscribe.unknown() > 0 {
            effects.push(Effect::Unknown(request.subscribe.unknown()));
        }
        let claims = first && request.refusal.is_none() && request.nonce.is_empty();
        if let Some(refusal) = request.refusal {
            effects.push(Effect::refused(self.ledger.refuse(&request.nonce), refusal));
        } else if let Some((name, version)) = self.ledger.accept(&request.nonce) {
            effects.push(Effect::Accepted { name, version });
        } else if !first && self.ledger.nonce(&request.nonce) == Nonce::Other {
            effects.push(Effect::Stale);
        }
        for name in Name::ALL {
            if first && request.held.of(name).is_some() {
                self.ledger.hold(name);
            }
            // Both lists in one request: the subscription wins.
            if request.unsubscribe.has(name) && !request.subscribe.has(name) && self.ledger.forget(name) {
                effects.push(Effect::Unsubscribe(name));
            }
            if request.subscribe.has(name) && self.ledger.want(name) {
                let claim = if claims { request.held.of_mut(name).take() } else { None };
                effects.push(Effect::Subscribe { name, claim });
            }
        }
        effects
    }
}

#[cfg(test)]
mod tests;
