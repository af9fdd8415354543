//! Random clients against random limits: bounds hold, no turn is lost, and in the end everything is as in the beginning.

use std::sync::atomic::{AtomicUsize, Ordering};

use proptest::prelude::*;
use tokio::time::sleep;

use super::*;

/// One request.
#[derive(Debug, Clone)]
struct Client {
    namespace: usize,
    arrives: u64,
    /// How long its signing takes.
    work: u64,
    patience: Patience,
    end: End,
}

#[derive(Debug, Clone, Copy)]
enum Patience {
    Endless,
    Deadline(u64),
    /// The client goes away without a word.
    Gone(u64),
}

#[derive(Debug, Clone, Copy)]
enum End {
    Answered,
    Away,
    Dropped,
}

/// What happens beside the clients.
#[derive(Debug, Clone, Copy)]
enum Event {
    Pause(u64),
    Limits(usize, usize, Option<u32>),
    Replicas(usize),
}

#[derive(Debug, Clone)]
struct Scene {
    limits: (usize, usize, Option<u32>),
    clients: Vec<Client>,
    events: Vec<(u64, Event)>,
}

/// What was seen from outside.
#[derive(Debug, Default)]
struct Seen {
    inside: AtomicUsize,
    most_inside: AtomicUsize,
    entries: Mutex<Vec<Instant>>,
    let_in: AtomicUsize,
    shed: AtomicUsize,
    late: AtomicUsize,
    refused: AtomicUsize,
    gone: AtomicUsize,
}

fn limit_values() -> impl Strategy<Value = (usize, usize, Option<u32>)> {
    (1usize..6, 0usize..30, proptest::option::of(5u32..200))
}

fn clients(ends: impl Strategy<Value = End> + Clone) -> impl Strategy<Value = Vec<Client>> {
    let patience = prop_oneof![
        4 => Just(Patience::Endless),
        1 => (0u64..3000).prop_map(Patience::Deadline),
        1 => (0u64..3000).prop_map(Patience::Gone),
    ];
    let client =
        (0usize..4, 0u64..4000, 0u64..300, patience, ends).prop_map(|(namespace, arrives, work, patience, end)| {
            Client {
                namespace,
                arrives,
                work,
                patience,
                end,
            }
        });
    proptest::collection::vec(client, 1..80)
}

fn of(limits: (usize, usize, Option<u32>)) -> SignerLimits {
    super::limits(limits.0, limits.1, limits.2.map(f64::from))
}

/// Runs a scene to its end on a paused clock, and checks what must hold at every moment.
fn play(scene: &Scene) -> Seen {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        let (live, counted) = watch::channel(1);
        let rig = rig_of(of(scene.limits), of_replicas(counted));
        let seen = Arc::new(Seen::default());
        let begin = Instant::now();
        let mut tasks = JoinSet::new();
        for client in scene.clients.clone() {
            tasks.spawn(visit(Arc::clone(&rig.gate), client, Arc::clone(&seen)));
        }
        let mut watchdog = JoinSet::from_iter([watch_for_lost_turns(Arc::clone(&rig.gate))]);
        for (at, event) in &scene.events {
            tokio::time::sleep_until(begin + Duration::from_millis(*at)).await;
            match event {
                Event::Pause(millis) => {
                    let end = Instant::now() + Duration::from_millis(*millis);
                    rig.gate.pause_until(end);
                }
                Event::Limits(concurrency, queue, rate) => rig.gate.set_limits(of((*concurrency, *queue, *rate))),
                Event::Replicas(count) => live.send(*count).unwrap(),
            }
        }
        // Whoever waits without end for something that never comes hangs here, for a day of the paused clock.
        let all = async { while tasks.join_next().await.transpose().unwrap().is_some() {} };
        tokio::time::timeout(24 * HOUR, all)
            .await
            .expect("everybody's turn comes");
        // It never ends by itself.
        assert!(watchdog.try_join_next().is_none());
        drop(watchdog);
        sleep(HOUR).await;
        assert_eq!(rig.counts(), (0.0, 0.0));
        assert_eq!((rig.metric("paused"), seen.inside.load(Ordering::Relaxed)), (0.0, 0));
        let let_in = seen.let_in.load(Ordering::Relaxed);
        let ends = [&seen.shed, &seen.late, &seen.refused, &seen.gone].map(|count| count.load(Ordering::Relaxed));
        assert_eq!(let_in + ends.iter().sum::<usize>(), scene.clients.len());
        Arc::into_inner(seen).unwrap()
    })
}

async fn visit(gate: Arc<Gate>, client: Client, seen: Arc<Seen>) {
    sleep(Duration::from_millis(client.arrives)).await;
    let millis = |millis| Instant::now() + Duration::from_millis(millis);
    let deadline = match client.patience {
        Patience::Deadline(within) => millis(within),
        Patience::Endless | Patience::Gone(_) => Instant::now() + 24 * HOUR,
    };
    let goes = match client.patience {
        Patience::Gone(within) => millis(within),
        Patience::Endless | Patience::Deadline(_) => Instant::now() + 48 * HOUR,
    };
    let namespace = client.namespace.to_string();
    let count = |counter: &AtomicUsize| counter.fetch_add(1, Ordering::Relaxed) + 1;
    match timeout_at(goes, gate.enter(&namespace, deadline)).await {
        Ok(Ok(pass)) => {
            count(&seen.let_in);
            seen.most_inside.fetch_max(count(&seen.inside), Ordering::Relaxed);
            seen.entries.lock().push(Instant::now());
            sleep(Duration::from_millis(client.work)).await;
            seen.inside.fetch_sub(1, Ordering::Relaxed);
            match client.end {
                End::Answered => pass.finish(Outcome::Answered),
                End::Away => pass.finish(Outcome::Away("away".to_owned())),
                End::Dropped => drop(pass),
            }
        }
        Ok(Err(GateError::QueueFull { .. })) => _ = count(&seen.shed),
        Ok(Err(GateError::CircuitOpen { .. })) => _ = count(&seen.refused),
        Ok(Err(GateError::Deadline { .. })) => {
            assert!(Instant::now() >= deadline);
            count(&seen.late);
        }
        Err(_) => _ = count(&seen.gone),
    }
}

/// Panics when somebody waits although nothing holds it up. The keeper's timer has the
/// granularity of tokio's, a millisecond.
async fn watch_for_lost_turns(gate: Arc<Gate>) {
    let look = || gate.shared.state.lock().waits_for_nothing(Instant::now());
    loop {
        sleep(Duration::from_millis(5)).await;
        if let Some(before) = look() {
            sleep(Duration::from_millis(3)).await;
            assert_ne!(look(), Some(before), "a turn was lost");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    /// Concurrency and rate hold at every moment and over every span, whoever comes and goes.
    #[test]
    fn bounds_hold_and_counts_return_to_zero(
        limits in limit_values(),
        clients in clients(prop_oneof![Just(End::Answered), Just(End::Dropped)]),
    ) {
        let scene = Scene { limits, clients, events: Vec::new() };
        let seen = play(&scene);
        prop_assert!(seen.most_inside.into_inner() <= limits.0);
        prop_assert_eq!(seen.refused.into_inner(), 0);
        if let Some(rate) = limits.2 {
            let entries: Vec<_> = (0u32..).zip(seen.entries.into_inner()).collect();
            for (first, from) in &entries {
                for (last, to) in entries.iter().filter(|(last, _)| last >= first) {
                    let allowed = f64::from(rate) * (1.0 + (*to - *from).as_secs_f64()) + 0.01;
                    let taken = last - first + 1;
                    prop_assert!(f64::from(taken) <= allowed, "{taken} within {:?} at {rate}/s", *to - *from);
                }
            }
        }
    }

    /// With room for all and no deadlines, everybody gets in, whatever else happens.
    #[test]
    fn nobody_is_forgotten(
        limits in limit_values(),
        clients in clients(prop_oneof![Just(End::Answered), Just(End::Dropped)]),
        mut events in proptest::collection::vec((0u64..5000, prop_oneof![
            (0u64..10_000).prop_map(Event::Pause),
            (1usize..6, proptest::option::of(5u32..200))
                .prop_map(|(concurrency, rate)| Event::Limits(concurrency, 1000, rate)),
            (0usize..5).prop_map(Event::Replicas),
        ]), 0..20),
    ) {
        events.sort_by_key(|(at, _)| *at);
        let endless = |client: Client| Client { patience: Patience::Endless, ..client };
        let clients: Vec<_> = clients.into_iter().map(endless).collect();
        let all = clients.len();
        let limits = (limits.0, 1000, limits.2);
        let seen = play(&Scene { limits, clients, events });
        prop_assert_eq!(seen.let_in.into_inner(), all);
    }

    /// Also with signers that are away now and then, and everything at once.
    #[test]
    fn nothing_wedges(
        limits in limit_values(),
        clients in clients(prop_oneof![1 => Just(End::Answered), 3 => Just(End::Away), 1 => Just(End::Dropped)]),
        mut events in proptest::collection::vec((0u64..5000, prop_oneof![
            (0u64..10_000).prop_map(Event::Pause),
            limit_values().prop_map(|(concurrency, queue, rate)| Event::Limits(concurrency, queue, rate)),
            (0usize..5).prop_map(Event::Replicas),
        ]), 0..20),
    ) {
        events.sort_by_key(|(at, _)| *at);
        play(&Scene { limits, clients, events });
    }
}
