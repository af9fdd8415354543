//! Stands for election until told to stop: the I/O around [`Term`].
//!
//! Others are followed by a watch of the one Lease, so a Lease that is given back is taken at once. A write carries the
//! version that it was decided on: of two who try, one succeeds. Stopping while a write is under way leaves at worst a
//! Lease in our name that expires.

use std::future::Future;
use std::time::SystemTime;

use ensign_daemon::logging;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::Candidate;
use super::term::{Step, Term};
use crate::kubernetes::{ApiError, FIELD_MANAGER, ObjectKey, follow_one};

/// Stands for election. The receiver is `true` while this replica leads; the future is the work, until `stop`.
pub fn elect(
    candidate: Candidate,
    stop: CancellationToken,
) -> (watch::Receiver<bool>, impl Future<Output = ()> + Send) {
    let (tell, leading) = watch::channel(false);
    let term = Term::new(&candidate.identity, candidate.timing);
    let election = Election {
        api: Api::namespaced(candidate.cluster.client(), &candidate.namespace),
        candidate,
        term,
        tell,
        complained: false,
    };
    (leading, election.run(stop))
}

struct Election {
    candidate: Candidate,
    api: Api<Lease>,
    term: Term,
    tell: watch::Sender<bool>,
    /// Whether the failure under way was logged.
    complained: bool,
}

// === impl Election ===

impl Election {
    async fn run(mut self, stop: CancellationToken) {
        let key = ObjectKey::new(self.candidate.namespace.clone(), self.candidate.lease.clone());
        let metrics = self.candidate.cluster.metrics().clone();
        let (mut lease, mut watched, watching) =
            follow_one("leader lease", self.api.clone(), key, metrics, stop.clone());
        let election = async {
            // Before that nobody knows whether there is a Lease.
            tokio::select! {
                () = stop.cancelled() => return,
                _ = watched.synced() => {}
            }
            self.term
                .see(lease.current().map(|seen| Lease::clone(&seen)), Instant::now());
            while !stop.is_cancelled() {
                let next = match self.term.step(Instant::now()) {
                    Step::Wait(until) => until,
                    step => {
                        self.write(step).await;
                        self.judge();
                        continue;
                    }
                };
                let until = self.term.ends().map_or(next, |end| end.min(next));
                tokio::select! {
                    () = stop.cancelled() => {}
                    seen = lease.next() => self.term.see(seen.map(|seen| Lease::clone(&seen)), Instant::now()),
                    () = sleep_until(until) => {}
                }
                self.judge();
            }
            self.release().await;
        };
        // The watch must not end first: it is what the election waits for.
        tokio::join!(watching, election);
    }

    /// One try, given up in time to step down.
    async fn write(&mut self, step: Step) {
        let began = Instant::now();
        // A slow answer is better than a second question to a server that has much to do.
        let patience = began + self.candidate.timing.deadline;
        let limit = self
            .term
            .ends()
            .filter(|end| *end > began)
            .map_or(patience, |end| end.min(patience));
        let outcome = match step {
            Step::Create => timeout_at(limit, self.create()).await,
            Step::Take | Step::Renew | Step::Wait(_) => timeout_at(limit, self.put(step)).await,
        };
        let outcome = outcome.unwrap_or_else(|_| Err(ApiError::Away("no answer in time".to_owned())));
        match outcome {
            Ok(lease) if step == Step::Create => self.term.see(Some(lease), Instant::now()),
            Ok(lease) => {
                self.term.held(lease, began);
                self.complained = false;
            }
            Err(error) => {
                self.term.failed(Instant::now());
                self.complain(&error);
            }
        }
    }

    /// An empty Lease; whoever else makes one at the same time makes the same.
    async fn create(&self) -> Result<Lease, ApiError> {
        let empty = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": self.candidate.lease}});
        let params = PatchParams::apply(FIELD_MANAGER);
        let lease = self
            .api
            .patch(&self.candidate.lease, &params, &Patch::Apply(empty))
            .await?;
        Ok(lease)
    }

    async fn put(&self, step: Step) -> Result<Lease, ApiError> {
        let version = self
            .term
            .lease()
            .and_then(|lease| lease.metadata.resource_version.clone());
        let spec = self.term.spec(step, self.wall());
        self.patch(&json!({"metadata": {"resourceVersion": version}, "spec": spec}))
            .await
    }

    /// Gives the Lease back, as client-go does, so that a replica that waits need not wait for its end.
    async fn release(&mut self) {
        let leads = self.term.leads(Instant::now());
        self.term.end();
        // First: nobody here may act on a Lease that another may have in a moment.
        self.judge();
        if !leads {
            return;
        }
        let version = self
            .term
            .lease()
            .and_then(|lease| lease.metadata.resource_version.clone());
        let patch = json!({
            "metadata": {"resourceVersion": version},
            "spec": {"holderIdentity": "", "leaseDurationSeconds": 1, "acquireTime": self.wall(), "renewTime": self.wall()},
        });
        match timeout(self.candidate.timing.retry, self.patch(&patch)).await {
            Ok(Ok(_)) => tracing::info!(lease = self.candidate.lease, "leader lease given back"),
            Ok(Err(error)) => {
                let error = logging::chain(&error);
                tracing::warn!(
                    lease = self.candidate.lease,
                    error,
                    "leader lease not given back, it will expire"
                );
            }
            Err(_) => tracing::warn!(
                lease = self.candidate.lease,
                "leader lease not given back in time, it will expire"
            ),
        }
    }

    async fn patch(&self, patch: &serde_json::Value) -> Result<Lease, ApiError> {
        let params = PatchParams {
            field_manager: Some(FIELD_MANAGER.to_owned()),
            ..PatchParams::default()
        };
        let lease = self
            .api
            .patch(&self.candidate.lease, &params, &Patch::Merge(patch))
            .await?;
        Ok(lease)
    }

    /// Tells whether we lead, if that has changed.
    fn judge(&mut self) {
        let leads = self.term.leads(Instant::now());
        if !leads {
            self.term.end();
        }
        let changed = self.tell.send_if_modified(|led| std::mem::replace(led, leads) != leads);
        if !changed {
            return;
        }
        self.candidate.metrics.leads(&self.candidate.lease, leads);
        let (namespace, lease) = (&self.candidate.namespace, &self.candidate.lease);
        if leads {
            tracing::info!(namespace, lease, "this replica leads now");
        } else {
            let holder = self.term.holder();
            tracing::info!(
                namespace,
                lease,
                holder,
                "this replica leads no longer; signing goes on"
            );
        }
    }

    /// Once per streak of failures. Losing a race is none.
    fn complain(&mut self, error: &ApiError) {
        if matches!(error, ApiError::Conflict(_)) || self.complained {
            return;
        }
        self.complained = true;
        let (namespace, lease, error) = (&self.candidate.namespace, &self.candidate.lease, logging::chain(error));
        tracing::warn!(
            namespace,
            lease,
            error,
            "the leader lease cannot be written, trying on; signing goes on"
        );
    }

    fn wall(&self) -> MicroTime {
        MicroTime(timestamp(self.candidate.clock.now()))
    }
}

/// Times outside of what Kubernetes can write do not occur.
pub(super) fn timestamp(at: SystemTime) -> Timestamp {
    Timestamp::try_from(at).unwrap_or(Timestamp::UNIX_EPOCH)
}
