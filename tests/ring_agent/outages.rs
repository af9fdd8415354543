//! An authority that is silent, away or slow: who does not need it now notices nothing.

use std::time::{Duration, SystemTime};

use ensign_testkit::fake_ra::{Door, RaOutcome};
use ensign_testkit::metrics::{Metrics, Sample};
use ensign_testkit::{Gate, eventually, patience};

use crate::node::Node;

/// Due a hundredth of its life after receipt.
const SOON: [&str; 2] = [
    "--secret-grace-period-ratio=0.99",
    "--secret-grace-period-ratio-jitter=0.001",
];

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_are_never_answered_end_at_their_deadline_and_delay_no_other() {
    // More than may be under way at once.
    let silent: Vec<_> = (0..24).map(|number| format!("silent{number}")).collect();
    let mut workloads: Vec<&str> = silent.iter().map(String::as_str).collect();
    workloads.extend(["x", "y"]);
    let node = Node::start(&workloads, &["--request-deadline=8s"]).await;
    let mut waiting = Vec::new();
    for name in &silent {
        node.script(name).set_default(RaOutcome::Hang);
        waiting.push(node.envoy(name).await.subscribe(&["default"]).await);
    }
    for name in ["x", "y"] {
        node.envoy(name)
            .await
            .subscribe(&["default"])
            .await
            .next_secret(patience())
            .await;
    }
    let first = silent[0].as_str();
    node.until(first, "/lastError/reason", "deadline").await;
    node.script(first).set_default(RaOutcome::Issue);
    waiting[0].next_secret(patience()).await;
    let requests = node.requests(first);
    let same = requests.windows(2).all(|pair| pair[0].csr == pair[1].csr);
    assert!(requests.len() >= 2 && same, "the same request is resumed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_authority_is_waited_for_with_one_key() {
    let node = Node::start(&["slow"], &["--request-deadline=1s"]).await;
    let gate = Gate::new();
    node.script("slow").set_default(RaOutcome::IssueAfter(gate.clone()));
    let mut stream = node.envoy("slow").await.subscribe(&["default"]).await;
    eventually("a second try", async || {
        let seen = node.requests("slow").len();
        if seen >= 2 { Ok(()) } else { Err(seen) }
    })
    .await;
    gate.open();
    stream.next_secret(patience()).await;
    let requests = node.requests("slow");
    assert!(requests.iter().all(|request| request.csr == requests[0].csr));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_accepts_and_says_nothing_is_told_from_one_that_is_closed() {
    let mut node = Node::prepared(&["a"], &["--request-deadline=2s"]).await;
    node.ra.set_door(Door::Silent);
    node.resume().await;
    let mut stream = node.envoy("a").await.subscribe(&["default"]).await;
    let status = node.until("a", "/lastError/reason", "deadline").await;
    assert!(
        status["lastError"]["next"]
            .as_str()
            .is_some_and(|next| !next.is_empty()),
        "{status}"
    );
    node.ra.set_door(Door::Slammed);
    node.until("a", "/lastError/reason", "connect").await;
    node.ra.set_door(Door::Open);
    stream.next_secret(patience()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_that_is_away_when_a_renewal_is_due_changes_nothing_until_it_is_back() {
    let mut node = Node::start(&["due", "later"], &SOON).await;
    node.script("due").push(RaOutcome::IssueFor(Duration::from_mins(10)));
    let envoy = node.envoy("due").await;
    let mut due = envoy.subscribe(&["default"]).await;
    due.next_secret(patience()).await;
    let mut later = node.envoy("later").await.subscribe(&["default"]).await;
    later.next_secret(patience()).await;
    node.ra.stop().await;
    let before = node.certificate("due").await;
    let others = series_of("fixed/later", &node.metrics().await);
    assert!(!others.is_empty());

    let failing = node.until("due", "/lastError/reason", "connect").await;
    eventually("several tries", async || {
        let status = node.certificate("due").await;
        if status["attempts"].as_u64() >= Some(3) {
            Ok(())
        } else {
            Err(status)
        }
    })
    .await;
    assert_eq!(failing["serial"], before["serial"]);
    let again = envoy.subscribe(&["default"]).await.next(patience()).await.unwrap();
    assert!(again.version.contains(before["serial"].as_str().unwrap()), "served on");
    assert_eq!(
        node.pushes("due", "default").await,
        2.0,
        "the first and the one for the second stream"
    );

    node.ra.restart().await;
    due.next_secret(patience()).await;
    let after = node.until("due", "/lastError", serde_json::Value::Null).await;
    assert_ne!(after["serial"], before["serial"]);
    let (now, end) = (SystemTime::now(), before["notAfter"].as_str().unwrap());
    let end = time::OffsetDateTime::parse(end, &time::format_description::well_known::Rfc3339).unwrap();
    assert!(now < SystemTime::from(end), "before the old one ended");
    assert_eq!(series_of("fixed/later", &node.metrics().await), others);
    assert_eq!(node.requests("later").len(), 1);
}

/// Every series of a workload but the ones that count seconds down.
fn series_of(workload: &str, metrics: &Metrics) -> Vec<Sample> {
    let mut samples = metrics.samples().to_vec();
    samples.retain(|sample| {
        sample.labels.get("workload").is_some_and(|seen| seen == workload) && !sample.name.ends_with("_seconds")
    });
    samples
}
