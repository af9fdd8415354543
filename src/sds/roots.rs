//! Which trust anchors the streams of one connection have accepted.
//!
//! Owns the answer to one question: may a leaf go out, or must it wait because its root is not with this Envoy
//! yet? Only `ROOTCA` streams of the same connection and signer count; a connection without one waits
//! for nothing, and neither does one whose client holds nothing yet: with nothing in use, roots and leaf may arrive in
//! any order. A leaf that follows its root on the same stream waits for no answer of that stream, which is read in order; only
//! a stream of its own, as Envoy has for each name, must have accepted it. A refused bundle counts as not accepted, so a leaf from a new root waits out its whole bound
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
    /// The signers whose leaf this client has, by its own word or from us.
    in_use: Vec<Option<SignerName>>,
    waiting: Vec<Waker>,
}

#[derive(Debug)]
struct RootStream {
    id: u64,
    signer: Option<SignerName>,
    /// The client said that it holds roots from before.
    holds: bool,
    accepted: Option<Arc<BundleSecret>>,
    /// Sent last, not refused: enough for what follows on the same stream.
    sent: Option<Arc<BundleSecret>>,
}

impl Roots {
    /// A stream subscribed to `ROOTCA`. `holds`: its client said that it holds some version of it.
    pub(crate) fn join(&self, id: u64, signer: Option<SignerName>, holds: bool) {
        self.inner.lock().streams.push(RootStream {
            id,
            signer,
            holds,
            accepted: None,
            sent: None,
        });
    }

    /// The client has a leaf of this signer.
    pub(crate) fn leaf_in_use(&self, signer: Option<&SignerName>) {
        let mut inner = self.inner.lock();
        if !inner.in_use.iter().any(|known| known.as_ref() == signer) {
            inner.in_use.push(signer.cloned());
        }
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

    /// This stream was sent this bundle; none: it refused what it was sent.
    pub(crate) fn sent(&self, id: u64, bundle: Option<&Arc<BundleSecret>>) {
        self.change(|streams| {
            if let Some(stream) = streams.iter_mut().find(|stream| stream.id == id) {
                stream.sent = bundle.cloned();
            }
        });
    }

    /// True if every `ROOTCA` stream of this signer accepted a bundle with the leaf's root, or its client has nothing in
    /// use. For the stream `id`, on which the leaf would follow, it is enough that it was sent one. If not, the task is woken
    /// when that may have changed.
    pub(crate) fn suffice(
        &self,
        id: u64,
        signer: Option<&SignerName>,
        leaf: &CertificateSecret,
        cx: &Context<'_>,
    ) -> bool {
        let mut inner = self.inner.lock();
        let in_use = inner.in_use.iter().any(|known| known.as_ref() == signer);
        let sent_before = |stream: &RootStream| {
            let sent = stream.sent.as_ref().filter(|_| stream.id == id);
            sent.is_some_and(|bundle| leaf.is_rooted_in(bundle))
        };
        let holds_root = |stream: &RootStream| match &stream.accepted {
            _ if sent_before(stream) => true,
            Some(bundle) => leaf.is_rooted_in(bundle),
            None => !in_use && !stream.holds,
        };
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rotation::EntryState;
    use crate::rotation::tests::fake::two_states;

    /// What an entry offers before and after its signer's root was replaced.
    async fn states() -> [(Arc<BundleSecret>, Arc<CertificateSecret>); 2] {
        two_states()
            .await
            .map(|EntryState { certificate, bundle }| (bundle.unwrap(), certificate.unwrap()))
    }

    fn suffice(roots: &Roots, leaf: &CertificateSecret) -> bool {
        roots.suffice(2, None, leaf, &Context::from_waker(Waker::noop()))
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_holds_nothing_waits_for_nothing() {
        let [(_, leaf), (_, next)] = states().await;
        let roots = Roots::default();
        assert!(suffice(&roots, &leaf), "no stream of roots");
        roots.join(1, None, false);
        assert!(suffice(&roots, &leaf), "nothing in use");
        roots.leaf_in_use(None);
        assert!(!suffice(&roots, &next), "now there is");
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_holds_roots_or_a_leaf_accepts_the_new_root_first() {
        let [(old_bundle, old), (new_bundle, new)] = states().await;
        let roots = Roots::default();
        roots.join(1, None, true);
        assert!(!suffice(&roots, &new), "it holds roots from before");
        roots.accepted(1, &old_bundle);
        assert!(suffice(&roots, &old), "a refused successor does not matter to it");
        assert!(!suffice(&roots, &new));
        roots.accepted(1, &new_bundle);
        assert!(suffice(&roots, &new) && suffice(&roots, &old));
        roots.join(2, None, false);
        assert!(suffice(&roots, &new));
        roots.leaf_in_use(None);
        assert!(!suffice(&roots, &new), "each stream counts");
        roots.sent(1, Some(&new_bundle));
        assert!(!suffice(&roots, &new), "sent is not accepted");
        roots.sent(2, Some(&new_bundle));
        assert!(suffice(&roots, &new), "the leaf follows on this stream");
        roots.sent(2, None);
        assert!(!suffice(&roots, &new), "refused");
        roots.leave(2);
        assert!(suffice(&roots, &new));
    }
}
