//! Turns, bounds, deadlines and clients that go away.

use futures::{FutureExt as _, future::join_all};

use super::*;

#[tokio::test(start_paused = true)]
async fn a_place_that_comes_free_goes_to_the_one_that_waits() {
    let rig = rig(limits(1, 1, None));
    let first = rig.enter("a").await.unwrap();
    let mut second = rig.arrives("a").await;
    assert!(second.try_recv().is_err());
    assert_eq!(rig.counts(), (1.0, 1.0));
    first.finish(Outcome::Answered);
    assert_eq!(rig.counts(), (0.0, 1.0));
    drop(second.await.unwrap().unwrap());
    assert_eq!(rig.counts(), (0.0, 0.0));
}

#[tokio::test(start_paused = true)]
async fn a_namespace_with_5000_waiting_delays_anothers_first_by_one_turn() {
    let rig = rig(limits(1, 10_000, None));
    let first = rig.enter("a").await.unwrap();
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let client = |name: &'static str| {
        let (gate, tell) = (Arc::clone(&rig.gate), tell.clone());
        rig.clients.spawn(async move {
            let pass = gate.enter(name, Instant::now() + HOUR).await.unwrap();
            tell.send(name).unwrap();
            pass.finish(Outcome::Answered);
        })
    };
    let many: Vec<_> = (0..5000).map(|_| client("a")).collect();
    while rig.counts().0 < 5000.0 {
        settle().await;
    }
    client("b");
    settle().await;
    assert_eq!(rig.counts(), (5001.0, 1.0));
    drop(first);
    assert_eq!((told.recv().await.unwrap(), told.recv().await.unwrap()), ("a", "b"));
    for one in many {
        one.await.unwrap();
    }
    assert_eq!(rig.counts(), (0.0, 0.0));
}

#[tokio::test(start_paused = true)]
async fn nobody_is_shed_before_the_queue_is_full_and_then_the_next_is() {
    let rig = rig(limits(1, 3, None));
    let _first = rig.enter("a").await.unwrap();
    let mut waiting = Vec::new();
    for _ in 0..3 {
        waiting.push(rig.arrives("a").await);
    }
    let error = rig.enter("a").await.unwrap_err();
    assert_eq!(error, GateError::QueueFull { queue: 3 });
    assert_eq!(
        (error.code(), error.reason()),
        (tonic::Code::ResourceExhausted, "signer_queue_full")
    );
    assert!(waiting.iter_mut().all(|one| one.try_recv().is_err()));
}

#[tokio::test(start_paused = true)]
async fn the_last_room_goes_to_the_namespace_that_has_less() {
    let rig = rig(limits(1, 4, None));
    let first = rig.enter("a").await.unwrap();
    let mut of_a = Vec::new();
    for _ in 0..4 {
        of_a.push(rig.arrives("a").await);
    }
    let of_b = rig.arrives("b").await;
    let newest = of_a.pop().unwrap().await.unwrap();
    assert_eq!(newest.unwrap_err(), GateError::QueueFull { queue: 4 });
    assert_eq!(rig.counts(), (4.0, 1.0));
    drop(first);
    let [a, b, c]: [_; 3] = of_a.try_into().unwrap();
    for one in [a, of_b, b, c] {
        one.await.unwrap().unwrap().finish(Outcome::Answered);
    }
    assert_eq!(rig.counts(), (0.0, 0.0));
}

#[tokio::test(start_paused = true)]
async fn without_a_queue_nobody_waits() {
    let rig = rig(limits(1, 0, None));
    let first = rig.enter("a").await.unwrap();
    assert_eq!(rig.enter("b").await.unwrap_err().reason(), "signer_queue_full");
    drop(first);
    drop(rig.enter("b").await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn who_goes_away_leaves_its_place_at_once() {
    let rig = rig(limits(1, 1, None));
    let first = rig.enter("a").await.unwrap();
    {
        let mut gone = Box::pin(rig.enter("a"));
        assert!(gone.as_mut().now_or_never().is_none());
        assert_eq!(rig.counts(), (1.0, 1.0));
    }
    assert_eq!(rig.counts(), (0.0, 1.0));
    // There is room for another, and its turn comes.
    let next = rig.arrives("a").await;
    drop(first);
    drop(next.await.unwrap().unwrap());
}

#[tokio::test(start_paused = true)]
async fn who_goes_away_with_its_turn_passes_it_on() {
    let rig = rig(limits(1, 2, None));
    let first = rig.enter("a").await.unwrap();
    let mut gone = Box::pin(rig.enter("a"));
    assert!(gone.as_mut().now_or_never().is_none());
    let next = rig.arrives("a").await;
    // Its turn is granted here, and it never looks.
    drop(first);
    assert_eq!(rig.counts(), (1.0, 1.0));
    drop(gone);
    drop(next.await.unwrap().unwrap());
    assert_eq!(rig.counts(), (0.0, 0.0));
}

#[tokio::test(start_paused = true)]
async fn a_deadline_ends_the_wait_and_says_what_held_it_up() {
    let rig = rig(limits(1, 1, None));
    let _first = rig.enter("a").await.unwrap();
    let error = rig.gate.enter("a", Instant::now() + SECOND).await.unwrap_err();
    let GateError::Deadline { waited, obstacle } = &error else {
        panic!("{error:?}")
    };
    assert!(*waited >= SECOND, "{waited:?}");
    assert_eq!(*obstacle, Obstacle::Concurrency(1));
    assert_eq!(
        (error.code(), error.reason()),
        (tonic::Code::DeadlineExceeded, "signer_queue_deadline")
    );
    assert!(error.to_string().contains("in the signer's queue"), "{error}");
    assert_eq!(rig.counts(), (0.0, 1.0));
}

#[tokio::test(start_paused = true)]
async fn who_comes_too_late_is_told_so() {
    let rig = rig(limits(1, 1, None));
    let error = rig.gate.enter("a", Instant::now()).await.unwrap_err();
    assert_eq!(error.reason(), "signer_queue_deadline");
    assert_eq!(rig.counts(), (0.0, 0.0));
}

/// On real threads: clients that are aborted wherever they happen to be lose no place.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn aborted_clients_lose_no_place() {
    let rig = rig(limits(3, 10_000, None));
    for _ in 0..20 {
        let mut clients = JoinSet::new();
        let aborts: Vec<_> = (0..200)
            .map(|number| {
                let gate = Arc::clone(&rig.gate);
                clients.spawn(async move {
                    let pass = gate.enter(["a", "b", "c"][number % 3], Instant::now() + HOUR).await?;
                    for _ in 0..fastrand::u32(0..4) {
                        tokio::task::yield_now().await;
                    }
                    pass.finish(Outcome::Answered);
                    Ok::<_, GateError>(())
                })
            })
            .collect();
        for abort in aborts.iter().filter(|_| fastrand::bool()) {
            abort.abort();
            tokio::task::yield_now().await;
        }
        while let Some(client) = clients.join_next().await {
            assert!(client.is_err() || client.is_ok_and(|outcome| outcome.is_ok()));
        }
    }
    assert_eq!(rig.counts(), (0.0, 0.0));
    let all = join_all((0..3).map(|_| rig.enter("a"))).await;
    assert!(all.iter().all(Result::is_ok));
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_at_once_all_get_through() {
    let rig = rig(SignerLimits::default());
    let clients = (0..10_200).map(|number| {
        let gate = Arc::clone(&rig.gate);
        async move {
            let namespace = format!("ns-{}", number % 37);
            let pass = gate.enter(&namespace, Instant::now() + HOUR).await?;
            tokio::time::sleep(SECOND).await;
            pass.finish(Outcome::Answered);
            Ok::<_, GateError>(())
        }
    });
    let outcomes = join_all(clients).await;
    assert!(outcomes.iter().all(Result::is_ok));
    assert_eq!(rig.counts(), (0.0, 0.0));
    assert_eq!(rig.metric("queue_wait_seconds_count"), 10_200.0);
}
