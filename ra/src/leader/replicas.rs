//! How many replicas are alive, for whoever divides a total among them.
//!
//! One Lease object holds a beat of each replica as an annotation: `replica.ensign.mesh/<hash>: <time> <identity>`.
//! Each replica writes its own and nothing else, by a merge patch that cannot conflict. A Lease per replica would do the
//! same for as many writes, but names that nobody knows beforehand need the right to change and delete every Lease of
//! the namespace, and with it the elections of others.
//!
//! Whether a beat is young is judged by when we saw it move, compared with our own last beat as the watch showed it: while
//! the API server or the watch is away nobody ages, so an outage makes no replica believe that it is alone.

use std::collections::HashMap;
use std::future::Future;
use std::time::Duration;

use ensign_daemon::logging;
use ensign_pki::{crypto, hex};
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{Api, Patch, PatchParams};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::Candidate;
use super::election::timestamp;
use crate::kubernetes::{ApiError, FIELD_MANAGER, ObjectKey, follow_one};

/// Beats and counts. The receiver is 1 at first: this replica. `leading` decides who sweeps up after the dead. The
/// future is the work, until `stop`.
pub fn count_replicas(
    candidate: Candidate,
    leading: watch::Receiver<bool>,
    stop: CancellationToken,
) -> (watch::Receiver<usize>, impl Future<Output = ()> + Send) {
    let (tell, count) = watch::channel(1);
    candidate.metrics.replicas(1);
    let counter = Counter {
        api: Api::namespaced(candidate.cluster.client(), &candidate.namespace),
        name: format!("{}-replicas", candidate.lease),
        own: key(&candidate.identity),
        beats: Beats::new(candidate.timing.renew),
        candidate,
        leading,
        tell,
        complained: false,
    };
    (count, counter.run(stop))
}

struct Counter {
    candidate: Candidate,
    api: Api<Lease>,
    name: String,
    own: String,
    beats: Beats,
    leading: watch::Receiver<bool>,
    tell: watch::Sender<usize>,
    complained: bool,
}

/// The beats of all replicas as they were seen.
#[derive(Debug)]
struct Beats {
    every: Duration,
    seen: HashMap<String, (String, Instant)>,
}

// === impl Counter ===

impl Counter {
    async fn run(mut self, stop: CancellationToken) {
        let key = ObjectKey::new(self.candidate.namespace.clone(), self.name.clone());
        let metrics = self.candidate.cluster.metrics().clone();
        let (mut lease, _watched, watching) = follow_one("replica beats", self.api.clone(), key, metrics, stop.clone());
        let counting = async {
            let mut due = Instant::now();
            while !stop.is_cancelled() {
                if due <= Instant::now() {
                    // Drawn anew each time, so that replicas that started together do not beat together.
                    let every = self.candidate.timing.renew;
                    due = Instant::now() + every.mul_f64(0.8 + 0.4 * fastrand::f64());
                    let beat = format!("{} {}", timestamp(self.candidate.clock.now()), self.candidate.identity);
                    self.write(json!({ self.own.clone(): beat })).await;
                    self.sweep().await;
                }
                tokio::select! {
                    () = stop.cancelled() => {}
                    seen = lease.next() => self.see(seen.as_deref()),
                    () = sleep_until(due) => {}
                }
            }
            self.write(json!({ self.own.clone(): null })).await;
        };
        tokio::join!(watching, counting);
    }

    fn see(&mut self, lease: Option<&Lease>) {
        let annotations = lease.and_then(|lease| lease.metadata.annotations.as_ref());
        let beats = annotations
            .into_iter()
            .flatten()
            .filter(|(key, _)| key.starts_with(PREFIX));
        self.beats.see(beats, Instant::now());
        let count = self.beats.alive(&self.own);
        if self.tell.send_if_modified(|old| std::mem::replace(old, count) != count) {
            self.candidate.metrics.replicas(count);
            tracing::info!(replicas = count, "number of live replicas changed");
        }
    }

    /// The leader takes out what the dead left.
    async fn sweep(&mut self) {
        if !*self.leading.borrow() {
            return;
        }
        let dead = self.beats.dead(&self.own);
        if !dead.is_empty() {
            tracing::info!(replicas = dead.len(), "beats of dead replicas removed");
            self.write(dead.into_iter().map(|key| (key, Value::Null)).collect())
                .await;
        }
    }

    async fn write(&mut self, annotations: Value) {
        let patch = json!({"metadata": {"annotations": annotations}});
        let written = timeout(self.candidate.timing.deadline, self.patch(&patch)).await;
        match written.unwrap_or_else(|_| Err(ApiError::Away("no answer in time".to_owned()))) {
            Ok(()) => self.complained = false,
            Err(_) if self.complained => {}
            Err(error) => {
                self.complained = true;
                let (namespace, lease, error) = (&self.candidate.namespace, &self.name, logging::chain(&error));
                tracing::warn!(namespace, lease, error, "this replica cannot be counted, trying on");
            }
        }
    }

    async fn patch(&self, patch: &Value) -> Result<(), ApiError> {
        let params = PatchParams {
            field_manager: Some(FIELD_MANAGER.to_owned()),
            ..PatchParams::default()
        };
        match self
            .api
            .patch(&self.name, &params, &Patch::Merge(patch))
            .await
            .map_err(ApiError::from)
        {
            Ok(_) => return Ok(()),
            Err(ApiError::NotFound(_)) => {}
            Err(error) => return Err(error),
        }
        let empty = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": self.name}});
        self.api
            .patch(&self.name, &PatchParams::apply(FIELD_MANAGER), &Patch::Apply(empty))
            .await?;
        self.api.patch(&self.name, &params, &Patch::Merge(patch)).await?;
        Ok(())
    }
}

// === impl Beats ===

impl Beats {
    fn new(every: Duration) -> Self {
        Self {
            every,
            seen: HashMap::new(),
        }
    }

    /// What the object holds now.
    fn see<'a>(&mut self, beats: impl Iterator<Item = (&'a String, &'a String)>, now: Instant) {
        let mut before = std::mem::take(&mut self.seen);
        for (key, beat) in beats {
            let since = match before.remove(key) {
                Some((old, since)) if old == *beat => since,
                _ => now,
            };
            self.seen.insert(key.clone(), (beat.clone(), since));
        }
    }

    /// How many are alive, this one always.
    fn alive(&self, own: &str) -> usize {
        let others = self.seen.iter().filter(|(key, _)| key.as_str() != own);
        1 + others
            .filter(|(_, (_, since))| self.age(own, *since) < self.every * MISSED)
            .count()
    }

    /// Whose beats may go.
    fn dead(&self, own: &str) -> Vec<String> {
        let others = self.seen.iter().filter(|(key, _)| key.as_str() != own);
        let dead = others.filter(|(_, (_, since))| self.age(own, *since) >= self.every * FORGOTTEN);
        dead.map(|(key, _)| key.clone()).collect()
    }

    /// How long it had not moved when our own beat was seen last.
    fn age(&self, own: &str, since: Instant) -> Duration {
        let clock = self.seen.get(own).map_or(since, |(_, own)| *own);
        clock.saturating_duration_since(since)
    }
}

/// Identities are as long as pod names; the name of an annotation is not.
fn key(identity: &str) -> String {
    let hash = crypto::sha256(identity.as_bytes());
    format!("{PREFIX}{}", hex::encode(hash.get(..8).unwrap_or(&hash)))
}

const PREFIX: &str = "replica.ensign.mesh/";
/// Beats that may be missed before a replica counts as dead.
const MISSED: u32 = 4;
/// After so many its mark is removed; a replica that was only paused makes a new one.
const FORGOTTEN: u32 = 40;

#[cfg(test)]
mod tests {
    use super::*;

    const EVERY: Duration = Duration::from_secs(8);

    /// Shows `beats` after `seconds`.
    fn see(seen: &mut Beats, start: Instant, seconds: u64, beats: &[(&str, u64)]) {
        let beats: Vec<_> = beats
            .iter()
            .map(|(key, beat)| ((*key).to_owned(), beat.to_string()))
            .collect();
        seen.see(
            beats.iter().map(|(key, beat)| (key, beat)),
            start + Duration::from_secs(seconds),
        );
    }

    #[test]
    fn who_moves_is_alive_and_who_stops_dies_in_time() {
        let (mut beats, start) = (Beats::new(EVERY), Instant::now());
        assert_eq!(beats.alive("me"), 1);
        see(&mut beats, start, 0, &[("me", 0), ("a", 0), ("b", 0)]);
        assert_eq!(beats.alive("me"), 3);
        for beat in 1..=3 {
            see(&mut beats, start, beat * 8, &[("me", beat), ("a", beat), ("b", 0)]);
        }
        assert_eq!(beats.alive("me"), 3, "three missed beats are forgiven");
        see(&mut beats, start, 32, &[("me", 4), ("a", 4), ("b", 0)]);
        assert_eq!(beats.alive("me"), 2);
        assert!(beats.dead("me").is_empty());
        see(&mut beats, start, 320, &[("me", 40), ("a", 40), ("b", 0)]);
        assert_eq!(beats.dead("me"), ["b"]);
        see(&mut beats, start, 328, &[("me", 41), ("a", 41)]);
        assert_eq!(beats.alive("me"), 2);
    }

    #[test]
    fn nobody_ages_while_our_own_beat_is_not_seen() {
        let (mut beats, start) = (Beats::new(EVERY), Instant::now());
        see(&mut beats, start, 0, &[("me", 0), ("a", 0)]);
        see(&mut beats, start, 3600, &[("me", 0), ("a", 0)]);
        assert_eq!(beats.alive("me"), 2, "an outage of an hour");
        see(&mut beats, start, 3601, &[("me", 0), ("a", 1)]);
        see(&mut beats, start, 3602, &[("me", 1), ("a", 1)]);
        assert_eq!(beats.alive("me"), 2, "both beat again, the other first");
    }

    #[test]
    fn keys_are_names_of_annotations() {
        let key = key(&"very-long-pod-name.".repeat(20));
        assert_eq!(key.len(), PREFIX.len() + 16);
        assert_ne!(key, super::key("other"));
    }
}
