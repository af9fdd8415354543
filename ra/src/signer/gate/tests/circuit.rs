//! Signers that are away, and how long that is believed.

use futures::FutureExt as _;

use super::breaker::{COOL_DOWN_FIRST, PATIENCE, THRESHOLD};
use super::*;

fn away() -> Outcome {
    Outcome::Away("nobody there".to_owned())
}

/// Fails as often as it takes.
async fn open(rig: &Rig) {
    for _ in 0..THRESHOLD {
        rig.enter("a").await.unwrap().finish(away());
    }
    assert_eq!(
        (rig.metric("circuit_state"), rig.metric("circuit_openings_total")),
        (2.0, 1.0)
    );
}

#[tokio::test(start_paused = true)]
async fn who_comes_while_the_signer_is_away_is_told_so_at_once_and_why() {
    let rig = rig(limits(10, 10, None));
    open(&rig).await;
    let before = Instant::now();
    let error = rig.enter("a").await.unwrap_err();
    assert_eq!(Instant::now(), before);
    assert_eq!(
        (error.code(), error.reason()),
        (tonic::Code::Unavailable, "signer_circuit_open")
    );
    assert!(error.to_string().contains("nobody there"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn after_the_cool_down_one_goes_and_its_answer_lets_all_in() {
    let rig = rig(limits(10, 10, None));
    open(&rig).await;
    tokio::time::sleep(COOL_DOWN_FIRST).await;
    settle().await;
    assert_eq!(rig.metric("circuit_state"), 1.0);
    let probe = rig.enter("a").await.unwrap();
    assert_eq!(rig.enter("a").await.unwrap_err().reason(), "signer_circuit_open");
    probe.finish(Outcome::Answered);
    assert_eq!(rig.metric("circuit_state"), 0.0);
    let _all = (rig.enter("a").await.unwrap(), rig.enter("a").await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn who_waits_when_it_opens_waits_on_and_is_the_probe() {
    let rig = rig(limits(1, 10, None));
    for _ in 0..THRESHOLD - 1 {
        rig.enter("a").await.unwrap().finish(away());
    }
    let last = rig.enter("a").await.unwrap();
    let (mut one, mut two) = (rig.arrives("a").await, rig.arrives("a").await);
    last.finish(away());
    assert_eq!(rig.counts(), (2.0, 0.0));
    tokio::time::sleep(COOL_DOWN_FIRST).await;
    settle().await;
    let probe = one.try_recv().unwrap().unwrap();
    assert_eq!(rig.counts(), (1.0, 1.0));
    // It fails: the other goes on waiting, for twice as long, and goes then.
    probe.finish(away());
    tokio::time::sleep(COOL_DOWN_FIRST + SECOND).await;
    assert!(two.try_recv().is_err());
    tokio::time::sleep(COOL_DOWN_FIRST).await;
    settle().await;
    two.try_recv().unwrap().unwrap().finish(Outcome::Answered);
    assert_eq!(rig.metric("circuit_state"), 0.0);
}

#[tokio::test(start_paused = true)]
async fn who_waits_until_its_deadline_learns_what_the_signer_said() {
    let rig = rig(limits(1, 10, None));
    for _ in 0..THRESHOLD - 1 {
        rig.enter("a").await.unwrap().finish(away());
    }
    let last = rig.enter("a").await.unwrap();
    let waits = rig.gate.enter("a", Instant::now() + SECOND);
    let (error, ()) = tokio::join!(waits, async {
        settle().await;
        last.finish(away());
    });
    let error = error.unwrap_err();
    assert_eq!(error.reason(), "signer_queue_deadline");
    assert!(error.to_string().contains("nobody there"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_is_dropped_does_not_wedge() {
    let rig = rig(limits(10, 10, None));
    open(&rig).await;
    tokio::time::sleep(COOL_DOWN_FIRST).await;
    settle().await;
    drop(rig.enter("a").await.unwrap());
    drop(rig.enter("a").await.unwrap());
    rig.enter("a").await.unwrap().finish(Outcome::Answered);
    assert_eq!(rig.metric("circuit_state"), 0.0);
}

#[tokio::test(start_paused = true)]
async fn a_probe_granted_to_somebody_who_is_gone_does_not_wedge() {
    let rig = rig(limits(1, 10, None));
    for _ in 0..THRESHOLD - 1 {
        rig.enter("a").await.unwrap().finish(away());
    }
    let last = rig.enter("a").await.unwrap();
    let mut gone = Box::pin(rig.enter("a"));
    assert!(gone.as_mut().now_or_never().is_none());
    let next = rig.arrives("a").await;
    last.finish(away());
    tokio::time::sleep(COOL_DOWN_FIRST).await;
    settle().await;
    assert_eq!(rig.counts(), (1.0, 1.0));
    drop(gone);
    next.await.unwrap().unwrap().finish(Outcome::Answered);
    assert_eq!((rig.counts(), rig.metric("circuit_state")), ((0.0, 0.0), 0.0));
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_is_worked_on_keeps_nobody_out_for_long() {
    let rig = rig(limits(10, 10, None));
    open(&rig).await;
    tokio::time::sleep(COOL_DOWN_FIRST).await;
    settle().await;
    let slow = rig.enter("a").await.unwrap();
    tokio::time::sleep(PATIENCE).await;
    settle().await;
    let _others = (rig.enter("a").await.unwrap(), rig.enter("b").await.unwrap());
    // On trial: one failure is enough now.
    slow.finish(away());
    assert_eq!(rig.metric("circuit_state"), 2.0);
}

#[tokio::test(start_paused = true)]
async fn a_signer_that_takes_longer_than_any_request_is_not_away() {
    let rig = rig(limits(10, 10, None));
    for _ in 0..3 * THRESHOLD {
        // What `Running::sign` does when the deadline passes while the signer works.
        drop(rig.enter("a").await.unwrap());
    }
    assert_eq!(rig.metric("circuit_openings_total"), 0.0);
    drop(rig.enter("a").await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_pause_outlasts_the_cool_down_and_the_probe_goes_after_it() {
    let rig = rig(limits(10, 10, None));
    open(&rig).await;
    let begin = Instant::now();
    rig.gate.pause_until(begin + 2 * COOL_DOWN_FIRST);
    tokio::time::sleep(COOL_DOWN_FIRST).await;
    settle().await;
    // It will be the probe, so the next is told that there is none to spare.
    let probe = rig.arrives("a").await;
    assert_eq!(rig.enter("a").await.unwrap_err().reason(), "signer_circuit_open");
    probe.await.unwrap().unwrap().finish(Outcome::Answered);
    assert_eq!(Instant::now() - begin, 2 * COOL_DOWN_FIRST);
    drop(rig.enter("a").await.unwrap());
}
