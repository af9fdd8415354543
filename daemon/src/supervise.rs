//! Runs a process's long-lived tasks under their names, and stops all of them together.
//!
//! Promises: the first named task that ends, fails or panics stops the process, and the error says
//! which it was; a half-dead daemon that looks healthy is worse than a restart. SIGTERM or SIGINT
//! begins the drain, within which tasks and connections may finish; a second signal ends it at once.
//! Tasks of connections go through [`Supervisor::connections`]: one of them hurts only itself.

use std::{
    collections::HashMap,
    future::{Future, pending},
    io,
    time::Duration,
};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    task::{Id, JoinError, JoinSet},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Owns the named tasks of one process.
#[derive(Debug, Default)]
pub struct Supervisor {
    tasks: JoinSet<anyhow::Result<()>>,
    names: HashMap<Id, &'static str>,
    stop: CancellationToken,
    connections: TaskTracker,
}

/// SIGTERM and SIGINT, caught from the moment that this is made.
#[derive(Debug)]
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

/// Why the process stopped although nobody asked it to in the orderly way.
#[derive(Debug, thiserror::Error)]
pub enum SuperviseError {
    /// A second signal came while draining.
    #[error("second signal while draining: stopped at once")]
    Aborted,
    /// A task ended that should run as long as the process.
    #[error("task `{task}` ended, expected it to run until the process stops")]
    Ended {
        /// Its name.
        task: &'static str,
    },
    /// A task failed.
    #[error("task `{task}` failed")]
    Failed {
        /// Its name.
        task: &'static str,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A task panicked.
    #[error("task `{task}` panicked")]
    Panicked {
        /// Its name.
        task: &'static str,
        /// What tokio says of it; the panic's own text went to standard error.
        #[source]
        source: JoinError,
    },
}

// === impl Supervisor ===

impl Supervisor {
    /// No tasks yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Cancelled when the drain begins; cancelling it begins the drain. Every task watches it.
    pub fn stop_token(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// For tasks that come and go, one per connection; the drain waits for them.
    pub fn connections(&self) -> TaskTracker {
        self.connections.clone()
    }

    /// Starts a task that must run until the stop token is cancelled.
    pub fn spawn<F>(&mut self, name: &'static str, task: F)
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let handle = self.tasks.spawn(task);
        self.names.insert(handle.id(), name);
    }

    /// Waits until a task stops, a signal comes or the stop token is cancelled; then drains for at
    /// most `drain_timeout`. `None` for `signals` leaves signals to the caller (tests in-process).
    pub async fn run(mut self, mut signals: Option<Signals>, drain_timeout: Duration) -> Result<(), SuperviseError> {
        let stop = self.stop.clone();
        let outcome = tokio::select! {
            // In this order: a task that ends because it was told to is no failure.
            biased;
            () = stop.cancelled() => Ok(()),
            name = next_signal(&mut signals) => {
                tracing::info!(signal = name, "draining");
                Ok(())
            }
            error = self.first_to_stop() => match error {
                // It saw the stop token before we did.
                SuperviseError::Ended { .. } if stop.is_cancelled() => Ok(()),
                error => Err(error),
            },
        };
        self.stop.cancel();
        self.connections.close();
        let timeout = tokio::time::sleep(drain_timeout);
        tokio::select! {
            () = self.drain() => {}
            () = timeout => {
                let connections = self.connections.len();
                let tasks = self.tasks.len();
                tracing::warn!(tasks, connections, ?drain_timeout, "drain timed out");
            }
            name = next_signal(&mut signals) => {
                tracing::warn!(signal = name, "second signal");
                return outcome.and(Err(SuperviseError::Aborted));
            }
        }
        outcome
    }

    /// The error for the first task that stops; for ever pending if there is none.
    async fn first_to_stop(&mut self) -> SuperviseError {
        match self.tasks.join_next_with_id().await {
            Some(Ok((id, outcome))) => {
                let task = self.name(id);
                match outcome {
                    Ok(()) => SuperviseError::Ended { task },
                    Err(source) => SuperviseError::Failed {
                        task,
                        source: source.into(),
                    },
                }
            }
            Some(Err(source)) => SuperviseError::Panicked {
                task: self.name(source.id()),
                source,
            },
            None => pending().await,
        }
    }

    async fn drain(&mut self) {
        while let Some(joined) = self.tasks.join_next_with_id().await {
            match joined {
                Ok((_, Ok(()))) => {}
                Ok((id, Err(error))) => {
                    let task = self.name(id);
                    tracing::warn!(
                        task,
                        error = crate::logging::chain(error.as_ref()),
                        "task failed while draining"
                    );
                }
                Err(error) => {
                    let task = self.name(error.id());
                    tracing::error!(task, %error, "task panicked while draining");
                }
            }
        }
        self.connections.wait().await;
    }

    fn name(&self, id: Id) -> &'static str {
        self.names.get(&id).copied().unwrap_or("unnamed")
    }
}

// === impl Signals ===

impl Signals {
    /// Catches SIGTERM and SIGINT from now on; needs a tokio runtime.
    pub fn install() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }
}

async fn next_signal(signals: &mut Option<Signals>) -> &'static str {
    let Some(signals) = signals else { return pending().await };
    tokio::select! {
        _ = signals.interrupt.recv() => "SIGINT",
        _ = signals.terminate.recv() => "SIGTERM",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(5);

    fn with_idle_task() -> Supervisor {
        let mut supervisor = Supervisor::new();
        let stop = supervisor.stop_token();
        supervisor.spawn("idle", async move {
            stop.cancelled().await;
            Ok(())
        });
        supervisor
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_ends_fails_or_panics_stops_all_and_is_named() {
        let mut supervisor = with_idle_task();
        supervisor.spawn("brief", async { Ok(()) });
        let error = supervisor.run(None, PATIENCE).await.unwrap_err();
        assert!(matches!(error, SuperviseError::Ended { task: "brief" }), "{error}");

        let mut supervisor = with_idle_task();
        supervisor.spawn("failing", async { Err(anyhow::anyhow!("disk on fire")) });
        let error = supervisor.run(None, PATIENCE).await.unwrap_err();
        assert_eq!(crate::logging::chain(&error), "task `failing` failed: disk on fire");

        let mut supervisor = with_idle_task();
        supervisor.spawn("panicking", async { panic!("boom") });
        let error = supervisor.run(None, PATIENCE).await.unwrap_err();
        assert!(
            matches!(error, SuperviseError::Panicked { task: "panicking", .. }),
            "{error}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn the_drain_waits_for_connections_but_not_for_ever() {
        let supervisor = with_idle_task();
        let (connections, stop) = (supervisor.connections(), supervisor.stop_token());
        connections.spawn(async { tokio::time::sleep(Duration::from_secs(1)).await });
        stop.cancel();
        let began = tokio::time::Instant::now();
        supervisor.run(None, PATIENCE).await.unwrap();
        assert_eq!(began.elapsed().as_secs(), 1);

        let supervisor = with_idle_task();
        supervisor.connections().spawn(pending::<()>());
        supervisor.stop_token().cancel();
        let began = tokio::time::Instant::now();
        supervisor.run(None, PATIENCE).await.unwrap();
        assert_eq!(began.elapsed().as_secs(), PATIENCE.as_secs());
    }
}
