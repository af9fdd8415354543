//! What to do about the Lease as it was last seen: the rules of the election, without I/O.
//!
//! Whether another's Lease has expired is judged by how long *we* have seen it unchanged, never by the times in it:
//! clocks of nodes differ. We lead from a successful write until [`Timing::deadline`] after that write *began*, which is
//! before anybody who saw it may take over.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use tokio::time::Instant;

/// The times of an election. Each must be well below the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Between two tries after a failure.
    pub retry: Duration,
    /// Between two renewals.
    pub renew: Duration,
    /// A leader that could not renew for so long steps down.
    pub deadline: Duration,
    /// Others wait for so long since the last renewal that they saw.
    pub lease: Duration,
}

/// The Lease as seen last, and since when it has looked so.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) lease: Lease,
    pub(super) since: Instant,
}

/// What is known now.
#[derive(Debug)]
pub(super) struct Term {
    identity: String,
    timing: Timing,
    seen: Option<Seen>,
    /// When the last write that made or kept us leader began.
    held: Option<Instant>,
    /// Not before this is another write tried.
    retry_at: Option<Instant>,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// There is no Lease.
    Create,
    /// It is free, or its holder is gone.
    Take,
    /// It is ours.
    Renew,
    /// Nothing before this.
    Wait(Instant),
}

// === impl Timing ===

impl Default for Timing {
    /// Slower than client-go's 2, 10 and 15 s: what depends on it can wait, and an API server has better things to do.
    fn default() -> Self {
        Self {
            retry: Duration::from_secs(3),
            renew: Duration::from_secs(8),
            deadline: Duration::from_secs(20),
            lease: Duration::from_secs(30),
        }
    }
}

// === impl Term ===

impl Term {
    pub(super) fn new(identity: &str, timing: Timing) -> Self {
        Self {
            identity: identity.to_owned(),
            timing,
            seen: None,
            held: None,
            retry_at: None,
        }
    }

    /// The watch showed this. The same version again is no news: it must not look younger than it is. An older one is
    /// what the watch has still to say about the time before a write of ours.
    pub(super) fn see(&mut self, lease: Option<Lease>, now: Instant) {
        let Some(lease) = lease else {
            self.seen = None;
            return;
        };
        let known = self.seen.as_ref().map(|seen| &seen.lease);
        if known.is_none_or(|known| is_newer(&lease, known)) {
            self.seen = Some(Seen { lease, since: now });
        }
    }

    /// A write of ours that began then was accepted; the Lease is ours.
    pub(super) fn held(&mut self, lease: Lease, began: Instant) {
        self.see(Some(lease), began);
        self.held = Some(began);
        self.retry_at = None;
    }

    /// A write did not succeed.
    pub(super) fn failed(&mut self, now: Instant) {
        self.retry_at = Some(now + self.timing.retry);
    }

    /// Whether we lead now. Somebody else in the Lease, or no Lease, ends it at once.
    pub(super) fn leads(&self, now: Instant) -> bool {
        self.held.is_some_and(|held| now < held + self.timing.deadline) && self.is_ours()
    }

    /// When leading ends if nothing happens.
    pub(super) fn ends(&self) -> Option<Instant> {
        self.held.map(|held| held + self.timing.deadline)
    }

    /// We stepped down, or were put down.
    pub(super) fn end(&mut self) {
        self.held = None;
    }

    pub(super) fn lease(&self) -> Option<&Lease> {
        self.seen.as_ref().map(|seen| &seen.lease)
    }

    pub(super) fn holder(&self) -> &str {
        let spec = self.lease().and_then(|lease| lease.spec.as_ref());
        spec.and_then(|spec| spec.holder_identity.as_deref())
            .unwrap_or_default()
    }

    /// What to do now. Only once the watch has shown what there is.
    pub(super) fn step(&self, now: Instant) -> Step {
        if let Some(at) = self.retry_at.filter(|at| *at > now) {
            return Step::Wait(at);
        }
        let Some(seen) = &self.seen else { return Step::Create };
        if self.is_ours() {
            // A Lease that bears our name although we do not hold it: a write whose answer was lost.
            let due = self.held.map_or(now, |held| held + self.timing.renew);
            return if due <= now { Step::Renew } else { Step::Wait(due) };
        }
        let free = match self.holder() {
            "" => now,
            _ => seen.since + self.duration(seen),
        };
        if free <= now { Step::Take } else { Step::Wait(free) }
    }

    /// What to write for a step, at this wall time.
    pub(super) fn spec(&self, step: Step, wall: MicroTime) -> LeaseSpec {
        let old = self.lease().and_then(|lease| lease.spec.clone()).unwrap_or_default();
        let ours = self.is_ours() && step == Step::Renew;
        let transitions = old.lease_transitions.unwrap_or(0);
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(self.timing.lease.as_secs().max(1)).ok(),
            acquire_time: old.acquire_time.filter(|_| ours).or_else(|| Some(wall.clone())),
            renew_time: Some(wall),
            lease_transitions: Some(if ours {
                transitions
            } else {
                transitions.saturating_add(1)
            }),
            ..LeaseSpec::default()
        }
    }

    fn is_ours(&self) -> bool {
        self.holder() == self.identity
    }

    /// How long the holder asked to be believed; ours if it did not say.
    fn duration(&self, seen: &Seen) -> Duration {
        let said = seen.lease.spec.as_ref().and_then(|spec| spec.lease_duration_seconds);
        let said = said.and_then(|seconds| u64::try_from(seconds).ok());
        said.map_or(self.timing.lease, Duration::from_secs)
    }
}

/// Versions of one object are numbers that rise (KEP-5504 makes official what always held). Another UID is another object.
fn is_newer(lease: &Lease, known: &Lease) -> bool {
    let version = |lease: &Lease| lease.metadata.resource_version.clone().unwrap_or_default();
    let (new, old) = (version(lease), version(known));
    if lease.metadata.uid != known.metadata.uid {
        return true;
    }
    match (new.parse::<u64>(), old.parse::<u64>()) {
        (Ok(new), Ok(old)) => new > old,
        _ => new != old || new.is_empty(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn lease(holder: &str, version: &str, seconds: Option<i32>) -> Lease {
        let mut lease = Lease::default();
        lease.metadata.resource_version = Some(version.to_owned());
        lease.spec = Some(LeaseSpec {
            holder_identity: Some(holder.to_owned()),
            lease_duration_seconds: seconds,
            lease_transitions: Some(4),
            ..LeaseSpec::default()
        });
        lease
    }

    fn term() -> Term {
        Term::new("me", Timing::default())
    }

    fn wall() -> MicroTime {
        MicroTime(k8s_openapi::jiff::Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn a_lease_that_is_not_there_is_made_and_a_free_one_taken() {
        let (mut term, now) = (term(), Instant::now());
        assert_eq!(term.step(now), Step::Create);
        term.see(Some(Lease::default()), now);
        assert_eq!(term.step(now), Step::Take);
        term.see(Some(lease("", "2", Some(1))), now);
        assert_eq!(term.step(now), Step::Take);
        assert_eq!(term.spec(Step::Take, wall()).lease_transitions, Some(5));
    }

    #[test]
    fn anothers_lease_is_taken_once_it_has_not_moved_for_as_long_as_it_says() {
        let (mut term, now) = (term(), Instant::now());
        term.see(Some(lease("other", "1", Some(15))), now);
        assert_eq!(term.step(now), Step::Wait(now + 15 * SECOND));
        // Seen again, by a new list: no younger for that.
        term.see(Some(lease("other", "1", Some(15))), now + 10 * SECOND);
        assert_eq!(term.step(now + 10 * SECOND), Step::Wait(now + 15 * SECOND));
        term.see(Some(lease("other", "2", Some(15))), now + 14 * SECOND);
        assert_eq!(term.step(now + 15 * SECOND), Step::Wait(now + 29 * SECOND));
        assert_eq!(term.step(now + 29 * SECOND), Step::Take);
        term.see(Some(lease("other", "3", None)), now + 29 * SECOND);
        assert_eq!(term.step(now + 29 * SECOND), Step::Wait(now + 59 * SECOND));
    }

    #[test]
    fn a_leader_renews_and_steps_down_before_anybody_may_follow() {
        let (mut term, now) = (term(), Instant::now());
        let timing = Timing::default();
        term.held(lease("me", "1", Some(30)), now);
        assert!(term.leads(now));
        assert_eq!(term.step(now), Step::Wait(now + timing.renew));
        let due = now + timing.renew;
        assert_eq!(term.step(due), Step::Renew);
        let spec = term.spec(Step::Renew, wall());
        assert_eq!(spec.lease_transitions, Some(4), "a renewal is no change of hands");
        term.failed(due);
        assert_eq!(term.step(due), Step::Wait(due + timing.retry));
        assert!(term.leads(now + timing.deadline - SECOND));
        assert!(!term.leads(now + timing.deadline));
        assert!(timing.deadline < timing.lease && timing.renew + timing.retry < timing.deadline);
    }

    #[test]
    fn whoever_else_is_in_the_lease_ends_it_at_once() {
        let (mut term, now) = (term(), Instant::now());
        term.held(lease("me", "1", Some(30)), now);
        term.see(Some(lease("other", "2", Some(30))), now + SECOND);
        assert!(!term.leads(now + SECOND));
        let (mut term, now) = (self::term(), Instant::now());
        term.held(lease("me", "1", Some(30)), now);
        term.see(None, now + SECOND);
        assert!(
            !term.leads(now + SECOND),
            "the Lease was deleted: anybody may make a new one"
        );
    }

    #[test]
    fn what_the_watch_says_late_about_the_past_ends_nothing() {
        let (mut term, now) = (term(), Instant::now());
        term.see(Some(lease("other", "9", Some(1))), now);
        term.held(lease("me", "11", Some(30)), now + 2 * SECOND);
        term.see(Some(lease("", "10", Some(1))), now + 3 * SECOND);
        assert!(term.leads(now + 3 * SECOND));
        let mut again = lease("", "1", None);
        again.metadata.uid = Some("another".to_owned());
        term.see(Some(again), now + 4 * SECOND);
        assert!(!term.leads(now + 4 * SECOND), "deleted and made again");
    }

    #[test]
    fn a_lease_in_our_name_whose_answer_was_lost_is_renewed_before_we_lead() {
        let (mut term, now) = (term(), Instant::now());
        term.see(Some(lease("me", "7", Some(30))), now);
        assert!(!term.leads(now));
        assert_eq!(term.step(now), Step::Renew);
    }
}
