//! Rates, replicas, pauses, and limits that change meanwhile.

use super::*;

/// When each of so many is let in, in milliseconds from now.
async fn entries(rig: &Rig, count: usize) -> Vec<u128> {
    let begin = Instant::now();
    let mut entries = Vec::new();
    for _ in 0..count {
        rig.enter("a").await.unwrap().finish(Outcome::Answered);
        entries.push((Instant::now() - begin).as_millis());
    }
    entries
}

#[tokio::test(start_paused = true)]
async fn a_rate_lets_in_a_seconds_worth_and_then_one_by_one() {
    let rig = rig(limits(100, 100, Some(4.0)));
    assert_eq!(entries(&rig, 8).await, [0, 0, 0, 0, 250, 500, 750, 1000]);
}

#[tokio::test(start_paused = true)]
async fn replicas_share_the_rate_and_the_survivors_take_over() {
    let (live, counted) = watch::channel(4);
    let rig = rig_of(limits(100, 100, Some(4.0)), of_replicas(counted));
    assert_eq!(entries(&rig, 3).await, [0, 1000, 2000]);
    // A waiting request profits as well.
    let waiting = rig.arrives("a").await;
    live.send(1).unwrap();
    let begin = Instant::now();
    waiting.await.unwrap().unwrap().finish(Outcome::Answered);
    assert_eq!((Instant::now() - begin).as_millis(), 250);
    // The last number stays when nobody counts any more, and none is one.
    drop(live);
    assert_eq!(entries(&rig, 2).await, [250, 500]);
    let (live, counted) = watch::channel(0);
    let rig = rig_of(limits(100, 100, Some(2.0)), of_replicas(counted));
    assert_eq!(entries(&rig, 3).await, [0, 0, 500]);
    drop(live);
}

#[tokio::test(start_paused = true)]
async fn changed_limits_count_at_once_and_for_those_who_wait() {
    let rig = rig(limits(1, 5, None));
    let first = rig.enter("a").await.unwrap();
    let (mut second, third) = (rig.arrives("a").await, rig.arrives("a").await);
    rig.gate.set_limits(limits(2, 1, None));
    settle().await;
    let second = second.try_recv().unwrap().unwrap();
    assert_eq!(rig.counts(), (1.0, 2.0));
    // As many as may wait do.
    assert_eq!(rig.enter("a").await.unwrap_err(), GateError::QueueFull { queue: 1 });
    // Fewer at once: those that are in stay, and one more goes only once there is a place.
    rig.gate.set_limits(limits(1, 1, Some(1.0)));
    drop(first);
    settle().await;
    assert_eq!(rig.counts(), (1.0, 1.0));
    drop(second);
    third.await.unwrap().unwrap().finish(Outcome::Answered);
    // The rate counts too: its token is gone.
    assert_eq!(entries(&rig, 1).await, [1000]);
    rig.gate.set_limits(limits(1, 1, None));
    assert_eq!(entries(&rig, 2).await, [0, 0]);
}

#[tokio::test(start_paused = true)]
async fn a_pause_lets_nobody_in_fails_nobody_and_ends() {
    let rig = rig(limits(10, 10, None));
    let inside = rig.enter("a").await.unwrap();
    rig.gate.pause_until(Instant::now() + 3 * SECOND);
    assert_eq!((rig.metric("paused"), rig.metric("pauses_total")), (1.0, 1.0));
    let begin = Instant::now();
    let (one, two) = (rig.arrives("a").await, rig.arrives("b").await);
    let short = rig.gate.enter("a", Instant::now() + SECOND).await.unwrap_err();
    assert!(matches!(
        short,
        GateError::Deadline {
            obstacle: Obstacle::Pause,
            ..
        }
    ));
    // Who is in may finish; an answer of the signer is no end of the pause.
    inside.finish(Outcome::Answered);
    let passes = (one.await.unwrap().unwrap(), two.await.unwrap().unwrap());
    assert_eq!(Instant::now() - begin, 3 * SECOND);
    assert_eq!(rig.metric("paused"), 0.0);
    drop(passes);
    assert_eq!(rig.counts(), (0.0, 0.0));
}

#[tokio::test(start_paused = true)]
async fn of_several_pauses_the_latest_end_counts_and_a_minute_is_the_longest() {
    let rig = rig(limits(10, 10, None));
    let (gate, begin) = (&rig.gate, Instant::now());
    let entry = async || {
        rig.enter("a").await.unwrap().finish(Outcome::Answered);
        Instant::now() - begin
    };
    gate.pause_until(begin + 5 * SECOND);
    gate.pause_until(begin + 2 * SECOND);
    gate.pause_until(begin);
    assert_eq!(entry().await, 5 * SECOND);
    gate.pause_until(begin + 4 * SECOND);
    assert_eq!(entry().await, 5 * SECOND);
    gate.pause_until(begin + HOUR);
    assert_eq!(entry().await, 65 * SECOND);
    assert_eq!(rig.metric("pauses_total"), 2.0);
}

#[tokio::test(start_paused = true)]
async fn what_the_backend_says_pauses_the_gate_also_if_it_was_said_before() {
    let begin = Instant::now();
    let (say, said) = watch::channel(Some(begin + SECOND));
    let parts = GateParts {
        pushback: Some(said),
        ..GateParts::default()
    };
    let rig = rig_of(limits(10, 10, None), parts);
    rig.enter("a").await.unwrap().finish(Outcome::Answered);
    assert_eq!(Instant::now() - begin, SECOND);
    say.send_replace(Some(begin + 3 * SECOND));
    settle().await;
    rig.enter("a").await.unwrap().finish(Outcome::Answered);
    assert_eq!(Instant::now() - begin, 3 * SECOND);
    drop(say);
    settle().await;
    rig.enter("a").await.unwrap().finish(Outcome::Answered);
    assert_eq!(Instant::now() - begin, 3 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_pause_shows_although_nobody_waits() {
    let rig = rig(limits(10, 10, None));
    rig.gate.pause_until(Instant::now() + SECOND);
    assert_eq!(rig.metric("paused"), 1.0);
    tokio::time::sleep(2 * SECOND).await;
    assert_eq!(rig.metric("paused"), 0.0);
}

#[tokio::test(start_paused = true)]
async fn a_gate_that_is_dropped_leaves_nothing_in_the_metrics_and_its_passes_work() {
    let Rig { gate, registry, .. } = rig(limits(10, 10, None));
    let pass = gate.enter("a", Instant::now() + HOUR).await.unwrap();
    gate.pause_until(Instant::now() + SECOND);
    drop(gate);
    settle().await;
    pass.finish(Outcome::Answered);
    let rig = Rig {
        gate: rig(limits(1, 1, None)).gate,
        registry,
        clients: TaskTracker::new(),
    };
    assert_eq!((rig.counts(), rig.metric("paused")), ((0.0, 0.0), 0.0));
}
