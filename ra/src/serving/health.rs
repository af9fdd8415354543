//! Readiness and metrics of the serving certificate.
//!
//! A replica whose certificate has expired, or that has none, is of no use to any client: its gate shuts, so that the
//! Service leaves it out. Time is looked at often instead of slept through, so that a clock that jumps is noticed.

use std::time::Duration;

use ensign_daemon::readiness::Gate;
use ensign_pki::SharedClock;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::Serving;
use crate::metrics::Metrics;
use crate::signer::local::issuer::rfc3339;

/// Keeps gate and metric in step with the certificate, until `stop`.
pub async fn follow_health(
    mut serving: Serving,
    gate: Gate,
    metrics: Metrics,
    clock: SharedClock,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let mut expired = false;
    loop {
        match serving.not_after() {
            Some(not_after) => {
                metrics.serving_expiry(not_after);
                let was = std::mem::replace(&mut expired, not_after <= clock.now());
                if expired {
                    let at = rfc3339(not_after);
                    if !was {
                        tracing::error!(
                            expired_at = at,
                            "the serving certificate has expired, so this replica is not ready"
                        );
                    }
                    gate.shut(format!(
                        "the serving certificate expired at {at}; see why it was not renewed"
                    ));
                } else {
                    gate.open();
                }
            }
            None => match serving.absent() {
                Some(absent) if !absent.ready => gate.shut(absent.why),
                Some(_) | None => gate.open(),
            },
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            more = timeout(LOOK, serving.changed()) => if more == Ok(false) {
                // Nobody renews it any more: from now on only time passes.
                tokio::select! {
                    () = stop.cancelled() => return Ok(()),
                    () = tokio::time::sleep(LOOK) => {}
                }
            }
        }
    }
}

/// Readiness probes come every few seconds.
const LOOK: Duration = Duration::from_secs(5);
