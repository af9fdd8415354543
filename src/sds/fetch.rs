//! `FetchSecrets`: one request, one response with all that was asked for. Pure: no I/O, no clock.
//!
//! Owns its two differences from a stream: all secrets go in one response, once all are there, and a request for
//! names that are none of ours is answered with an error, since nothing could ever come. Until then it is held:
//! how long is the caller's own deadline.

use bytes::Bytes;
use ensign_proto::SECRET_TYPE_URL;
use tonic::Status;

use super::ledger::Offers;
use super::names::{Name, Wanted};
use super::request::Request;
use super::secret::{self, Pieces};
use super::stream::Effect;

/// One `FetchSecrets` call.
#[derive(Debug, Default)]
pub(crate) struct Fetch {
    wanted: Option<Wanted>,
}

impl Fetch {
    /// True until the request came.
    pub(crate) fn expects_request(&self) -> bool {
        self.wanted.is_none()
    }

    /// Takes the request. Anything after it is not looked at.
    pub(crate) fn on_request(&mut self, request: Request) -> Result<Vec<Effect>, Status> {
        if self.wanted.is_some() {
            return Ok(Vec::new());
        }
        let names = request.names;
        self.wanted = Some(names);
        let known: Vec<Name> = Name::ALL.into_iter().filter(|name| names.has(*name)).collect();
        if known.is_empty() {
            return Err(Status::not_found(format!(
                "no such secret, there are `default` and `ROOTCA` of {SECRET_TYPE_URL}"
            )));
        }
        let introduced = request.introduction.map(Effect::Introduced);
        let subscriptions = known.into_iter().map(|name| Effect::Subscribe { name, claim: None });
        Ok(introduced.into_iter().chain(subscriptions).collect())
    }

    /// The response, once all that is wanted is there.
    pub(crate) fn answer(&self, offers: &Offers) -> Option<Vec<Pieces>> {
        let wanted = self.wanted.as_ref()?;
        let offers = Name::ALL
            .into_iter()
            .filter(|name| wanted.has(*name))
            .map(|name| offers.of(name).clone());
        let offers = offers.collect::<Option<Vec<_>>>()?;
        // The certificate's version where there is one: it comes last.
        let version = offers.last()?.version.clone();
        let secrets: Vec<Bytes> = offers.into_iter().map(|offer| offer.secret).collect();
        Some(secret::fetch_response(&version, &secrets))
    }
}
