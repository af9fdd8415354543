//! Keys that take up to seconds of a core (RSA): one at a time, each by a thread that yields to all others.
//!
//! So a node full of RSA workloads stays alive. A request that needs such a key begins with a job that makes it and asks nobody, and takes no
//! slot of those that ask ([`core`](super::core)): no workload waits for another's key. A key whose request is gone is made to its end all the same, since nothing can stop that;
//! it keeps its turn meanwhile, or whoever makes and deletes pods in a loop would have one thread more for each.

use std::sync::Arc;

use ensign_pki::KeyType;
use tokio::sync::{Mutex, oneshot};

/// Whether keys of this type are made here.
pub(super) fn are_slow(key_type: KeyType) -> bool {
    key_type.is_rsa()
}

/// The one turn. Clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct SlowKeys {
    turn: Arc<Mutex<()>>,
}

// === impl SlowKeys ===

impl SlowKeys {
    /// Waits for its turn, and for what `make` makes then; none if there is no thread for it.
    pub(super) async fn make<T: Send + 'static>(&self, make: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let turn = Arc::clone(&self.turn).lock_owned().await;
        let (done, made) = oneshot::channel();
        let work = move || {
            // Of this thread alone; where it is refused, the key is made all the same.
            let _ = rustix::process::nice(LOWEST_PRIORITY);
            let key = make();
            drop(turn);
            let _ = done.send(key);
        };
        let thread = std::thread::Builder::new().name("rsa-key".to_owned()).spawn(work);
        thread.ok()?;
        made.await.ok()
    }
}

/// Of a thread: the kernel lets everybody else go first.
const LOWEST_PRIORITY: i32 = 19;

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    /// What would come, comes in a fraction of this.
    const A_WHILE: Duration = Duration::from_millis(200);

    #[tokio::test]
    async fn a_key_that_nobody_waits_for_any_more_keeps_its_turn_until_it_is_made() {
        let keys = SlowKeys::default();
        let (begun, begins) = oneshot::channel();
        let (end, ended) = mpsc::channel();
        let first = keys.make(move || {
            let _ = begun.send(());
            ended.recv()
        });
        tokio::select! {
            _ = first => panic!("it ended too early"),
            begun = begins => begun.unwrap(),
        }
        // Its pod is gone, its thread is not.
        let mut second = Box::pin(keys.make(|| 2));
        let made = timeout(A_WHILE, &mut second).await;
        assert!(made.is_err(), "a second key was made beside the first: {made:?}");
        end.send(()).unwrap();
        assert_eq!(second.await, Some(2));
    }
}
