//! Keys that are slow to make: who waits for whom.
//!
//! The core alone, told what came of its jobs: no build makes such a key in the time of a test, and one makes none.

use std::time::{Duration, SystemTime};

use ensign_pki::{KeyType, PrivateKey};
use tokio::time::Instant;

use super::fake::{config, workload};
use crate::csr_client::SignerName;
use crate::rotation::core::Core;
use crate::rotation::entry::Now;
use crate::rotation::issue::{Attempt, Done, IssueError, Job, Outcome, Work};
use crate::rotation::{Held, RotationConfig, Workload};

/// More requests than these are never on their way.
const SLOTS: usize = 2;

struct Scene {
    core: Core,
    now: Now,
}

impl Scene {
    /// With so many workloads with RSA keys, whose signer is known.
    fn new(crowd: usize) -> Self {
        let config = RotationConfig {
            max_in_flight: SLOTS,
            ..config()
        };
        let now = Now {
            wall: SystemTime::now(),
            mono: Instant::now(),
        };
        let mut core = Core::new(config, fastrand::Rng::with_seed(1));
        core.begin();
        for number in 0..crowd {
            core.put(rsa(&format!("rsa-{number:02}")), now);
        }
        Self { core, now }
    }

    /// What is to be done now: for whom, and how far.
    fn jobs(&mut self) -> Vec<Job> {
        let step = self.core.step(self.now);
        step.jobs.into_iter().map(|(job, _)| job).collect()
    }

    /// Adds one with a usual key for which an Envoy waits.
    fn neighbour(&mut self, account: &str) {
        let neighbour = workload(account);
        self.core.put(neighbour.clone(), self.now);
        self.core
            .subscribe(&neighbour.uid, None, &Held::Nothing, self.now)
            .unwrap();
    }

    fn finish(&mut self, job: &Job, result: Result<Done, IssueError>) {
        let outcome = Outcome {
            ticket: job.ticket,
            entry: job.entry.clone(),
            request_id: job.request_id.clone(),
            took: Duration::ZERO,
            result,
            attempt: None,
        };
        self.core.finish(outcome, self.now);
    }

    /// The key is there. Of another type, which nobody here looks at.
    fn made(&mut self, job: &Job) {
        let key = PrivateKey::generate(KeyType::P256).unwrap();
        let attempt = Attempt::new(key, &job.id, job.request_id.clone()).unwrap();
        self.finish(job, Ok(Done::Key(attempt)));
    }

    fn pass(&mut self, time: Duration) {
        self.now.wall += time;
        self.now.mono += time;
    }
}

fn rsa(account: &str) -> Workload {
    let foo: SignerName = "foo".parse().unwrap();
    Workload {
        key_type: KeyType::Rsa4096,
        signers: [Some(foo)].into(),
        ..workload(account)
    }
}

fn told(jobs: &[Job]) -> Vec<(&str, Work)> {
    jobs.iter().map(|job| (job.id.service_account(), job.work)).collect()
}

#[test]
fn a_crowd_that_waits_for_its_keys_takes_no_slot_of_others() {
    let mut scene = Scene::new(100);
    assert_eq!(told(&scene.jobs()), [("rsa-00", Work::Key)], "one key at a time");
    scene.neighbour("web");
    scene.neighbour("api");
    assert_eq!(
        told(&scene.jobs()),
        [("api", Work::Request), ("web", Work::Request)],
        "all slots are theirs"
    );
    let load = scene.core.load(scene.now);
    assert_eq!((load.in_flight, load.queued), (2, 100));
    assert_eq!(scene.core.counters().requests, 2, "nobody was asked for the crowd yet");
}

#[test]
fn a_request_goes_out_with_the_key_that_was_made_for_it_while_the_next_one_is_made() {
    let mut scene = Scene::new(3);
    let first = scene.jobs();
    scene.made(&first[0]);
    let next = scene.jobs();
    assert_eq!(told(&next), [("rsa-00", Work::Request), ("rsa-01", Work::Key)]);
    assert!(next[0].resume.is_some(), "its key is used");
    assert_eq!(next[0].request_id, first[0].request_id);
    assert_eq!(told(&scene.jobs()), []);
}

#[test]
fn a_key_for_which_an_envoy_waits_is_made_before_others() {
    let mut scene = Scene::new(50);
    let first = scene.jobs();
    let waiting = rsa("rsa-40");
    let foo = waiting.signers.iter().next().cloned().flatten();
    scene
        .core
        .subscribe(&waiting.uid, foo, &Held::Nothing, scene.now)
        .unwrap();
    scene.made(&first[0]);
    assert_eq!(told(&scene.jobs()), [("rsa-00", Work::Request), ("rsa-40", Work::Key)]);
}

#[test]
fn a_key_that_cannot_be_made_is_tried_later_and_keeps_no_other_waiting() {
    let mut scene = Scene::new(2);
    let first = scene.jobs();
    scene.finish(&first[0], Err(IssueError::KeyInterrupted(KeyType::Rsa4096)));
    let next = scene.jobs();
    assert_eq!(told(&next), [("rsa-01", Work::Key)]);
    scene.made(&next[0]);
    scene.pass(Duration::from_mins(10));
    assert!(
        told(&scene.jobs()).contains(&("rsa-00", Work::Key)),
        "it is tried again although it failed"
    );
}

#[test]
fn a_key_that_waited_too_long_for_a_slot_is_made_anew() {
    let mut scene = Scene::new(1);
    let first = scene.jobs();
    scene.made(&first[0]);
    scene.pass(Duration::from_mins(6));
    assert_eq!(told(&scene.jobs()), [("rsa-00", Work::Key)]);
}
