//! Clears up what a crash, a cancelled call or a lost delete left behind at the API server.
//!
//! Every object carries its end. Twice a minute or more each replica looks through what the shared watches show (it asks
//! the server for nothing) and deletes what is past its end: also what another replica made, never what another user made.
//! It needs no leader: the Lease may be held by somebody who clears nothing up (`--leader-election-lease=istio-csr`), and a
//! watch that lags or a second janitor costs a delete that finds nothing.

use std::time::Duration;

use ensign_pki::SharedClock;
use futures::StreamExt as _;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::signer::object::Backends;

/// The janitor of one process.
#[derive(Debug)]
pub struct Janitor {
    backends: Backends,
    clock: SharedClock,
}

// === impl Janitor ===

impl Janitor {
    /// Looks after everything that `backends` follow.
    pub fn new(backends: Backends, clock: SharedClock) -> Self {
        Self { backends, clock }
    }

    /// Passes until `stop`.
    pub async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        stop.run_until_cancelled(self.passes()).await;
        Ok(())
    }

    async fn passes(&self) {
        loop {
            self.pass().await;
            sleep(PAUSE.mul_f64(0.75 + fastrand::f64() / 2.0)).await;
        }
    }

    async fn pass(&self) {
        let now = self.clock.now();
        for kind in self.backends.leftovers() {
            let leftovers = kind.past_end(now);
            futures::stream::iter(&leftovers)
                .for_each_concurrent(AT_ONCE, |leftover| async {
                    let removal = kind.sweep(leftover).await;
                    tracing::info!(
                        object = leftover.name,
                        place = kind.place(),
                        outcome = removal.as_str(),
                        "a request was past its end"
                    );
                })
                .await;
        }
    }
}

/// Between two passes, a quarter more or less: an object outlives its end by half a minute.
const PAUSE: Duration = Duration::from_secs(24);
/// Removals at once; what is left over is in no hurry.
const AT_ONCE: usize = 8;
