//! Which trust anchors the streams of one connection have accepted.
//!
//! Owns the answer to one question: may a leaf go out, or must it wait because its root is not with this Envoy
//! yet? Only `ROOTCA` streams of the same connection and signer count; a connection without one waits
//! for nothing. A refused bundle counts as not accepted, so a leaf from a new root waits out its whole bound
//! then: a corrected bundle may follow, and a leaf must not expire for it, so it goes at the bound all the same.

use std::sync::Arc;
use std::task::{Context, Waker};

use parking_lot::Mutex;

use crate::rotation::{BundleSecret, CertificateSecret, SignerName};

/// The `ROOTCA` streams of one connection.
#[derive(Debug, Default)]
pub(crate) struct Roots {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    streams: Vec<RootStream>,
    waiting: Vec<Waker>,
}

#[derive(Debug)]
struct RootStream {
    id: u64,
    signer: Option<SignerName>,
    accepted: Option<Arc<BundleSecret>>,
}

impl Roots {
    /// A stream subscribed to `ROOTCA`.
    pub(crate) fn join(&self, id: u64, signer: Option<SignerName>) {
        self.inner.lock().streams.push(RootStream {
            id,
            signer,
            accepted: None,
        });
    }

    /// It unsubscribed or ended.
    pub(crate) fn leave(&self, id: u64) {
        self.change(|streams| streams.retain(|stream| stream.id != id));
    }

    /// It accepted this bundle.
    pub(crate) fn accepted(&self, id: u64, bundle: &Arc<BundleSecret>) {
        self.change(|streams| {
            if let Some(stream) = streams.iter_mut().find(|stream| stream.id == id) {
                stream.accepted = Some(Arc::clone(bundle));
            }
        });
    }

    /// True if every `ROOTCA` stream of this signer accepted a bundle with the leaf's root. If not, the task is woken
    /// when that may have changed.
    pub(crate) fn suffice(&self, signer: Option<&SignerName>, leaf: &CertificateSecret, cx: &Context<'_>) -> bool {
        let mut inner = self.inner.lock();
        let holds_root = |stream: &RootStream| stream.accepted.as_ref().is_some_and(|bundle| leaf.is_rooted_in(bundle));
        if inner
            .streams
            .iter()
            .filter(|stream| stream.signer.as_ref() == signer)
            .all(holds_root)
        {
            return true;
        }
        if !inner.waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
            inner.waiting.push(cx.waker().clone());
        }
        false
    }

    fn change(&self, change: impl FnOnce(&mut Vec<RootStream>)) {
        let waiting = {
            let mut inner = self.inner.lock();
            change(&mut inner.streams);
            std::mem::take(&mut inner.waiting)
        };
        waiting.into_iter().for_each(Waker::wake);
    }
}
