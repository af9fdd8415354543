//! The one task that drives all entries: asks the core what to do, carries requests out, sleeps, looks again.
//!
//! Requests run inside this task, so ending it ends them all. It never sleeps for longer than half a minute: the wall
//! clock may have been set, or the machine may have slept.

use std::sync::Arc;

use ensign_pki::SharedClock;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use tokio_util::sync::CancellationToken;

use super::core::Core;
use super::handle::Shared;
use super::issue::Issuer;
use super::slow_keys::SlowKeys;
use super::{Handle, RotationConfig};
use crate::csr_client::Sign;

/// The task behind a [`Handle`]. Nothing is issued before [`Worker::run`] runs.
#[derive(Debug)]
pub struct Worker {
    handle: Handle,
    issuer: Issuer,
}

/// Rotation with these settings: the handle for everyone, and the worker to be run by the supervisor.
pub fn start(config: RotationConfig, sign: Arc<dyn Sign>, clock: SharedClock) -> (Handle, Worker) {
    start_with(config, sign, clock, fastrand::Rng::new())
}

/// As [`start`], with random numbers of the caller's choice.
pub(super) fn start_with(
    config: RotationConfig,
    sign: Arc<dyn Sign>,
    clock: SharedClock,
    random: fastrand::Rng,
) -> (Handle, Worker) {
    let core = Core::new(config, random);
    let handle = Handle {
        shared: Arc::new(Shared::new(core, Arc::clone(&clock))),
    };
    let issuer = Issuer {
        sign,
        clock,
        slow_keys: SlowKeys::default(),
    };
    (handle.clone(), Worker { handle, issuer })
}

impl Worker {
    /// Runs until stopped. What is in flight then is dropped, with its keys.
    pub async fn run(self, stop: CancellationToken) {
        let shared = &self.handle.shared;
        shared.lock().begin();
        let mut running = FuturesUnordered::new();
        loop {
            let now = shared.now();
            let step = shared.lock().step(now);
            for (job, cancel) in step.jobs {
                let issuer = &self.issuer;
                running.push(async move { cancel.run_until_cancelled_owned(issuer.run(job)).await });
            }
            tokio::select! {
                () = stop.cancelled() => return,
                Some(outcome) = running.next(), if !running.is_empty() => {
                    // None: its entry is gone, and the request was dropped.
                    if let Some(outcome) = outcome {
                        let now = shared.now();
                        shared.lock().finish(outcome, now);
                    }
                }
                () = shared.wake.notified() => {}
                () = tokio::time::sleep(step.sleep) => {}
            }
        }
    }
}
