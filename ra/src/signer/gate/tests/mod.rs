//! The gate as its callers see it, on a paused clock. Here are the parts that its tests share.

mod circuit;
mod pace;
mod properties;
mod waiting;

use std::sync::Arc;

use prometheus_client::{encoding::text::encode, registry::Registry};
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use super::*;
use crate::metrics::Metrics;

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

/// A gate, and what it says in the metrics.
struct Rig {
    gate: Arc<Gate>,
    registry: Registry,
    clients: TaskTracker,
}

fn limits(concurrency: usize, queue: usize, rate: Option<f64>) -> SignerLimits {
    SignerLimits {
        concurrency,
        queue,
        rate: rate.map(|rate| Rate::new(rate).unwrap()),
    }
}

fn rig(limits: SignerLimits) -> Rig {
    rig_of(limits, GateParts::default())
}

fn rig_of(limits: SignerLimits, parts: GateParts) -> Rig {
    let mut registry = Registry::default();
    let metrics = Metrics::register(&mut registry);
    let foo = "foo".parse().unwrap();
    let gate = Gate::new(&foo, parts);
    gate.count(|| metrics.gate(&foo));
    gate.set_limits(limits);
    Rig {
        gate: Arc::new(gate),
        registry,
        clients: TaskTracker::new(),
    }
}

fn of_replicas(live: watch::Receiver<usize>) -> GateParts {
    GateParts {
        replicas: Some(live),
        ..GateParts::default()
    }
}

impl Rig {
    /// Somebody with all the time of the world.
    async fn enter(&self, namespace: &str) -> Result<Pass, GateError> {
        self.gate.enter(namespace, Instant::now() + HOUR).await
    }

    /// Somebody in a task, who waits now if there is something to wait for. Tells what became of it.
    async fn arrives(&self, namespace: &'static str) -> oneshot::Receiver<Result<Pass, GateError>> {
        let gate = Arc::clone(&self.gate);
        let (tell, told) = oneshot::channel();
        self.clients.spawn(async move {
            let outcome = gate.enter(namespace, Instant::now() + HOUR).await;
            _ = tell.send(outcome);
        });
        settle().await;
        told
    }

    fn metric(&self, name: &str) -> f64 {
        let mut text = String::new();
        encode(&mut text, &self.registry).unwrap();
        let line = format!("ensign_ra_signer_{name}{{signer=\"foo\"}} ");
        let value = text.lines().find_map(|one| one.strip_prefix(&line));
        value.unwrap_or_else(|| panic!("{text} lacks {line}")).parse().unwrap()
    }

    /// Waiting, in flight.
    fn counts(&self) -> (f64, f64) {
        (self.metric("queued"), self.metric("in_flight"))
    }
}

/// Lets every other task run until it waits, without moving the clock.
async fn settle() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}
