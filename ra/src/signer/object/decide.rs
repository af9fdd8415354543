//! From an object in hand to what became of it.
//!
//! The answer to a create or an approval is a state like those of the watch; whichever is later counts. Each decision is
//! acted upon with the event that shows it. We write once: the approval, built from the state in hand; if somebody wrote
//! in between, from the next state that the watch shows. What is approved is never written again.

use std::sync::Arc;

use ensign_pki::SignerName;
use kube::ResourceExt as _;

use super::conversation::{Conversation, Lost};
use super::dialect::Dialect;
use super::kind::{self, Phase, RequestKind};
use super::metrics::Event;
use super::stage::Stage;
use crate::kubernetes::{ApiError, Subscription, is_later};
use crate::signer::SignerError;

impl<D: Dialect> Conversation<'_, D> {
    /// The object with its certificate.
    pub(super) async fn decision(
        &mut self,
        object: Arc<D::Object>,
        place: &mut Subscription<D::Object>,
    ) -> Result<Arc<D::Object>, Lost> {
        let mut state = object;
        loop {
            let name = state.name_any();
            state = match state.phase() {
                Phase::Issued(_) => return Ok(state),
                Phase::Denied(said) => {
                    let detail = format!("{name}: {said}");
                    return Err(self.decided(&state, |signer| SignerError::ApprovalDenied { signer, detail }));
                }
                Phase::Refused(said) => {
                    let detail = format!("{name}: {said}");
                    return Err(self.decided(&state, |signer| SignerError::Denied { signer, detail }));
                }
                Phase::Failed(said) => {
                    let detail = format!("{name}: {said}");
                    return Err(self.decided(&state, |signer| SignerError::Failed { signer, detail }));
                }
                Phase::Approved { said } => {
                    *self.stage = Stage::certificate(&name, said);
                    next_state(&state, place).await?
                }
                Phase::Pending => {
                    if let Some(approved) = self.signer.dialect.approved(&state, self.now()) {
                        self.approve(&approved, &state, place).await?
                    } else {
                        *self.stage = Stage::Approval { object: name };
                        next_state(&state, place).await?
                    }
                }
            };
        }
    }

    async fn approve(
        &mut self,
        approved: &D::Object,
        state: &Arc<D::Object>,
        place: &mut Subscription<D::Object>,
    ) -> Result<Arc<D::Object>, Lost> {
        let name = state.name_any();
        if !matches!(self.stage, Stage::Approve { .. }) {
            *self.stage = Stage::Approve {
                object: name.clone(),
                last: None,
            };
        }
        let error = match self.signer.requests.approve(approved).await {
            Ok(written) => {
                self.no_more_pauses();
                return Ok(Arc::new(written));
            }
            Err(error) => error,
        };
        match error {
            // Somebody wrote first: perhaps our own write whose answer was lost, perhaps another approver.
            ApiError::Conflict(_) => {
                self.count(Event::ApprovalConflict);
                tracing::debug!(object = name, "somebody wrote to a request before us");
                next_state(state, place).await
            }
            // Gone, which the watch shows in a moment.
            ApiError::NotFound(_) => next_state(state, place).await,
            ApiError::Throttled { .. } | ApiError::Away(_) => {
                *self.stage = Stage::Approve {
                    object: name,
                    last: Some(error.to_string()),
                };
                self.pause(&error).await;
                match later_state(state, place)? {
                    Some(later) => Ok(later),
                    None => Ok(Arc::clone(state)),
                }
            }
            // Denied already, or an admission plugin will not have it approved.
            ApiError::Invalid(why) => {
                let detail = format!("{name}: the server does not take an approval: {why}");
                Err(self.decided(state, |signer| SignerError::ApprovalDenied { signer, detail }))
            }
            ApiError::Forbidden(why) => {
                tracing::error!(
                    signer = %self.signer.name,
                    object = name,
                    error = why,
                    missing_rule = self.signer.dialect.approval_rule(),
                    "may not approve a request: a rule is missing, or admission forbids it"
                );
                let detail = format!("the server forbids to approve {name}: {why}");
                Err(self.decided(state, |signer| SignerError::Unavailable { signer, detail }))
            }
            error @ (ApiError::Unauthorized(_) | ApiError::AlreadyExists(_) | ApiError::Other { .. }) => {
                Err(Lost::Decided(
                    self.signer
                        .unavailable(format!("{name} could not be approved: {error}")),
                ))
            }
        }
    }

    /// Nobody needs the object any more.
    fn decided(&self, object: &D::Object, error: impl FnOnce(SignerName) -> SignerError) -> Lost {
        self.remove(object);
        Lost::Decided(error(self.signer.name.clone()))
    }
}

/// Waits for a later state of the object.
async fn next_state<K: RequestKind>(state: &Arc<K>, place: &mut Subscription<K>) -> Result<Arc<K>, Lost> {
    loop {
        if let Some(later) = later_state(state, place)? {
            return Ok(later);
        }
        place.changed().await;
    }
}

/// A later state of the object, if the watch has shown one. Its last state counts also once it is gone: somebody who
/// saw the decision before us may have deleted it.
fn later_state<K: RequestKind>(state: &Arc<K>, place: &Subscription<K>) -> Result<Option<Arc<K>>, Lost> {
    let is_ours = |seen: &K| kind::uid(seen) == kind::uid(&**state);
    let later = |seen: &K| is_later(kind::version(seen), kind::version(&**state));
    if let Some(gone) = place.gone() {
        if is_ours(&gone) {
            return if is_decided(&*gone) {
                Ok(Some(gone))
            } else {
                Err(Lost::Vanished)
            };
        }
        if later(&gone) {
            return Err(Lost::Vanished);
        }
    }
    match place.current() {
        Some(seen) if is_ours(&seen) => Ok(later(&seen).then_some(seen)),
        // A predecessor whose deletion the watch has not shown yet, or a successor.
        Some(seen) if later(&seen) => Err(Lost::Vanished),
        Some(_) | None => Ok(None),
    }
}

fn is_decided<K: RequestKind>(object: &K) -> bool {
    match object.phase() {
        Phase::Pending | Phase::Approved { .. } => false,
        Phase::Issued(_) | Phase::Denied(_) | Phase::Refused(_) | Phase::Failed(_) => true,
    }
}
