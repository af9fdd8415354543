//! A scripted signer that answers when the test says so.

use std::sync::{Arc, Mutex};

use tokio::sync::oneshot;

use crate::authority::Authority;
use crate::ca::{Ca, Leaf};

/// The signer gets one request, says that it has it, and signs when told to.
pub(crate) fn hold_one(authority: &Authority, ca: Arc<Ca>) -> (oneshot::Receiver<()>, oneshot::Sender<()>) {
    let (begun, has_begun) = oneshot::channel();
    let (go, may_go) = oneshot::channel::<()>();
    let once = Mutex::new(Some((begun, may_go)));
    authority.script(move |issuance| {
        let (begun, may_go) = once.lock().unwrap().take().expect("one request");
        let chain = ca.sign(&Leaf::of(issuance.csr.spki_der(), issuance.id.as_str()));
        Box::pin(async move {
            _ = begun.send(());
            _ = may_go.await;
            Ok(chain)
        })
    });
    (has_begun, go)
}
