//! What a gate needs besides its callers: somebody who looks when time has changed something, and listens to what others
//! say that holds it up.

use std::future::pending;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::Shared;
use super::state::State;

/// What a gate is told by others. What was said last stays when they say no more.
#[derive(Debug, Clone, Default)]
pub struct GateParts {
    /// How many replicas live, this one included; without it this one is alone.
    pub replicas: Option<watch::Receiver<usize>>,
    /// Until when the backend wants no requests; without it, it never says so.
    pub pushback: Option<watch::Receiver<Option<Instant>>>,
}

/// Keeps a gate until it is aborted.
pub(super) async fn keep(shared: Arc<Shared>, mut parts: GateParts) {
    let GateParts { replicas, pushback } = &mut parts;
    loop {
        let next = shared.change(State::plan);
        tokio::select! {
            () = until(next) => {}
            () = shared.earlier.notified() => {}
            live = changed(replicas) => shared.change(|state, now| state.set_replicas(live, now)),
            end = changed(pushback) => if let Some(end) = end {
                shared.change(|state, now| state.pause_until(end, now));
            },
        }
    }
}

pub(super) fn current<T: Copy>(told: &mut Option<watch::Receiver<T>>) -> Option<T> {
    told.as_mut().map(|told| *told.borrow_and_update())
}

/// What is said next. Nothing is lost if this is dropped.
async fn changed<T: Copy>(told: &mut Option<watch::Receiver<T>>) -> T {
    if let Some(next) = told
        && next.changed().await.is_ok()
    {
        return *next.borrow_and_update();
    }
    *told = None;
    pending().await
}

async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => pending().await,
    }
}
