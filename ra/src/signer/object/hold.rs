//! Getting hold of an object under one name: the one of an earlier try, or a new one.
//!
//! What the watch shows under the name is judged first, so a retry whose object is known costs no request. Otherwise it
//! is created; "already there" sends us back to the watch, which shows it in a moment. A create is repeated for as long
//! as the server is away or busy: should an earlier one have got through after all, it is found like any other try's.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use kube::ResourceExt as _;
use tokio::time::timeout;

use super::adoption::{self, Taken, Verdict};
use super::conversation::{Conversation, Held};
use super::dialect::Dialect;
use super::kind::{self, RequestKind};
use super::metrics::Event;
use super::stage::Stage;
use crate::kubernetes::{ApiError, Subscription, WatchState};
use crate::signer::SignerError;

impl<D: Dialect> Conversation<'_, D> {
    /// `None`: the name is taken.
    pub(super) async fn hold(
        &mut self,
        draft: &D::Object,
        place: &mut Subscription<D::Object>,
    ) -> Result<Option<Held<D::Object>>, SignerError> {
        let name = draft.name_any();
        *self.stage = Stage::Create { last: None };
        loop {
            if let Some(found) = place.current() {
                let other = self.signer.dialect.difference(draft, &found);
                match adoption::judge(draft, &found, self.asker(), other) {
                    Verdict::Adopt => {
                        self.count(Event::Adopted);
                        tracing::info!(
                            request_id = &*self.ask.request_id,
                            signer = %self.signer.name,
                            object = name,
                            "going on with the object of an earlier try"
                        );
                        return Ok(Some(Held {
                            object: found,
                            fresh: false,
                        }));
                    }
                    Verdict::Replace => {
                        // Whatever becomes of it, the create below tells whether the name is free.
                        _ = self.signer.requests.delete(&name, kind::uid(&*found)).await;
                    }
                    Verdict::Leave(why) => return Ok(self.taken(&name, &why)),
                }
            }
            match self.signer.requests.create(draft).await {
                Ok(made) => {
                    self.no_more_pauses();
                    self.made(&made);
                    return Ok(Some(Held {
                        object: Arc::new(made),
                        fresh: true,
                    }));
                }
                Err(ApiError::AlreadyExists(_)) => {
                    *self.stage = Stage::Sight { object: name.clone() };
                    if !self.comes_in_sight(place).await {
                        return Ok(self.taken(&name, &Taken::Unseen));
                    }
                }
                Err(error) if error.is_passing() => {
                    *self.stage = Stage::Create {
                        last: Some(error.to_string()),
                    };
                    self.pause(&error).await;
                }
                Err(error) => return Err(self.not_created(&name, error)),
            }
        }
    }

    /// Waits until the watch shows something under the name; `false` if it is well and shows nothing.
    async fn comes_in_sight(&self, place: &mut Subscription<D::Object>) -> bool {
        let mut watched = self.signer.requests.watched().clone();
        loop {
            if timeout(IN_SIGHT, place.changed()).await.is_ok() {
                return true;
            }
            if watched.state() == WatchState::Synced {
                return false;
            }
            // It is being brought back, and shows everything when it is.
            tokio::select! {
                () = place.changed() => return true,
                alive = watched.changed() => if !alive { return false },
            }
        }
    }

    fn made(&self, made: &D::Object) {
        self.count(Event::Created);
        tracing::debug!(
            request_id = &*self.ask.request_id,
            signer = %self.signer.name,
            object = made.name_any(),
            "request created"
        );
        let (stamped, ours) = (made.requester().unwrap_or_default(), self.signer.requests.username());
        if stamped != ours && !self.signer.unstamped.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                signer = %self.signer.name,
                object = made.name_any(),
                stamped,
                ours,
                "our own requests do not bear our name: no retry finds its own, and the janitor leaves them alone (said once)"
            );
        }
    }

    fn taken<T>(&self, name: &str, why: &Taken) -> Option<T> {
        self.count(Event::Renamed);
        tracing::warn!(
            request_id = &*self.ask.request_id,
            signer = %self.signer.name,
            object = name,
            namespace = self.ask.namespace,
            service_account = self.ask.service_account,
            %why,
            "the name of a request is taken by an object that is left alone; trying the next number"
        );
        None
    }

    fn not_created(&self, name: &str, error: ApiError) -> SignerError {
        let (group, resource) = <D::Object as RequestKind>::RBAC;
        match error {
            ApiError::Invalid(why) => SignerError::Failed {
                signer: self.signer.name.clone(),
                detail: format!("the server does not take {name}: {why}"),
            },
            ApiError::Forbidden(why) => {
                tracing::error!(
                    signer = %self.signer.name,
                    error = why,
                    missing_rule = %format_args!("apiGroups: [{group}], resources: [{resource}], verbs: [create]"),
                    "may not create a request: a rule is missing, or admission forbids it"
                );
                self.signer
                    .unavailable(format!("the server forbids to create {resource}: {why}"))
            }
            ApiError::NotFound(why) => self.signer.unavailable(format!(
                "there is no place for {resource}.{group}: their CRD or their namespace is missing ({why})"
            )),
            error @ (ApiError::Unauthorized(_)
            | ApiError::Other { .. }
            | ApiError::Conflict(_)
            | ApiError::AlreadyExists(_)
            | ApiError::Throttled { .. }
            | ApiError::Away(_)) => self.signer.unavailable(format!("{name} could not be created: {error}")),
        }
    }
}

/// A watch that is well shows an object within milliseconds, on a busy server within a few seconds.
const IN_SIGHT: Duration = Duration::from_secs(5);
