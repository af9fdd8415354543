//! When roots and CAs die, in the metrics.

use std::sync::Arc;
use std::time::Duration;

use ensign_pki::SharedClock;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::desk::Desk;
use crate::metrics::Metrics;
use crate::signer::Signers;
use crate::trust::TrustMetrics;

/// Keeps the expiry of each signer's roots and CA in the metrics: bundles change on disk without a new policy.
pub(super) async fn follow_roots(
    mut desk: watch::Receiver<Arc<Desk>>,
    metrics: Metrics,
    trust_metrics: TrustMetrics,
    clock: SharedClock,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let mut before = Signers::default();
    loop {
        let signers = desk.borrow_and_update().signers();
        for (name, _) in before.iter().filter(|(name, _)| signers.get(name).is_none()) {
            metrics.forget_signer(name);
            trust_metrics.forget(name);
        }
        for (name, running) in signers.iter() {
            if let Ok(roots) = running.trust().current() {
                metrics.root_expiry(name, roots.not_after());
            }
            if let Some(not_after) = running.signer().ca_not_after() {
                metrics.ca_expiry(name, not_after);
            }
        }
        let roots = signers.iter().filter_map(|(_, running)| running.trust().current().ok());
        if let Some(first) = roots.map(|roots| roots.not_after()).min() {
            metrics.first_root_expiry(first, clock.now());
        }
        before = signers;
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            _ = tokio::time::timeout(ROOTS_LOOK, desk.changed()) => {}
        }
    }
}

/// Alerts on roots think in days.
const ROOTS_LOOK: Duration = Duration::from_secs(15);
