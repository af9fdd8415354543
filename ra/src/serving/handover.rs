//! From one serving certificate to the next when the next one needs a root that clients may not have yet.
//!
//! Promises that a root is published before a certificate under it is shown: the old certificate stays in use for the
//! overlap, in which the root reaches the namespaces and the agents read it, or until it is about to expire. A next
//! certificate under known roots is shown at once. Roots that the certificate in use no longer needs leave here; that they
//! stay with the clients until they expire is the business of `distribution`.

use std::sync::Arc;
use std::time::Duration;

use ensign_pki::SharedClock;
use tokio::sync::watch;
use tokio::time::Instant;

use super::{Absent, Face, Shown};
use crate::signer::local::issuer::rfc3339;
use crate::trust::Roots;

/// Publishes what to show.
pub(super) struct Handover {
    shown: watch::Sender<Arc<Shown>>,
    clock: SharedClock,
    overlap: Duration,
    /// Roots of the certificate in use alone.
    in_use: Option<Arc<Roots>>,
    next: Option<Next>,
}

/// A certificate that waits for its root to spread.
struct Next {
    face: Arc<Face>,
    roots: Arc<Roots>,
    at: Instant,
}

// === impl Handover ===

impl Handover {
    /// Nothing is shown yet, for this reason.
    pub(super) fn new(why: String, overlap: Duration, clock: SharedClock) -> (Self, watch::Receiver<Arc<Shown>>) {
        let absent = Absent { why, ready: false };
        let (shown, current) = watch::channel(Arc::new(Shown {
            face: Err(absent),
            roots: None,
        }));
        let handover = Self {
            shown,
            clock,
            overlap,
            in_use: None,
            next: None,
        };
        (handover, current)
    }

    /// Says why there is still nothing to show. A certificate in use stays.
    pub(super) fn absent(&self, why: String, ready: bool) {
        let absent = Absent { why, ready };
        self.shown.send_if_modified(|shown| {
            let news = shown.face.as_ref().is_err_and(|old| *old != absent);
            if news {
                *shown = Arc::new(Shown {
                    face: Err(absent),
                    roots: shown.roots.clone(),
                });
            }
            news
        });
    }

    /// Whether something is shown.
    pub(super) fn shows(&self) -> bool {
        self.shown.borrow().face.is_ok()
    }

    /// The next certificate, and all roots that go with it.
    pub(super) fn offer(&mut self, face: Face, roots: Arc<Roots>) {
        let face = Arc::new(face);
        let in_use = self.shown.borrow().face.as_ref().ok().cloned();
        let known = self
            .in_use
            .as_ref()
            .is_some_and(|known| known.bundle().contains_all(roots.bundle()));
        let Some(in_use) = in_use.filter(|_| !known && !self.overlap.is_zero()) else {
            self.show(face, roots);
            return;
        };
        // One that waits already keeps its turn: a renewal meanwhile must not put the change off for ever.
        let turn = self.next.take().filter(|next| next.roots == roots).map(|next| next.at);
        let at = turn.unwrap_or_else(|| Instant::now() + self.overlap.min(self.left(&in_use)));
        tracing::info!(
            overlap = ?at.saturating_duration_since(Instant::now()),
            roots = roots.bundle().len(),
            "a new root of the serving certificate goes out before a certificate under it is shown"
        );
        self.publish(Ok(in_use), &roots);
        self.next = Some(Next { face, roots, at });
    }

    /// When [`turn`](Self::turn) has something to do.
    pub(super) fn due(&self) -> Option<Instant> {
        self.next.as_ref().map(|next| next.at)
    }

    /// Shows what waits, if it is time.
    pub(super) fn turn(&mut self) {
        if let Some(next) = self.next.take_if(|next| next.at <= Instant::now()) {
            self.show(next.face, next.roots);
        }
    }

    fn show(&mut self, face: Arc<Face>, roots: Arc<Roots>) {
        tracing::info!(not_after = rfc3339(face.not_after), "serving certificate in use");
        self.next = None;
        self.in_use = Some(Arc::clone(&roots));
        let shown = Shown {
            face: Ok(face),
            roots: Some(roots),
        };
        self.shown.send_replace(Arc::new(shown));
    }

    /// The roots of the next certificate beside those of the one in use.
    fn publish(&self, face: Result<Arc<Face>, Absent>, next: &Arc<Roots>) {
        let roots = match &self.in_use {
            // More roots than a bundle takes do not come from two CAs; then the next ones matter more.
            Some(known) => known
                .bundle()
                .union(next.bundle())
                .map_or_else(|_| Arc::clone(next), |both| Arc::new(Roots::new(both))),
            None => Arc::clone(next),
        };
        let shown = Shown {
            face,
            roots: Some(roots),
        };
        self.shown.send_replace(Arc::new(shown));
    }

    /// How long the certificate in use can still be shown.
    fn left(&self, face: &Face) -> Duration {
        let left = face.not_after.duration_since(self.clock.now()).unwrap_or_default();
        left.saturating_sub(MARGIN)
    }
}

/// An expired certificate is worse than a root that is not known everywhere.
const MARGIN: Duration = Duration::from_mins(1);
