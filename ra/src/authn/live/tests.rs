//! Tokens against the live objects that they are bound to: what is there, what is not, and what is only late.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ensign_pki::Clock;
use test_case::test_case;

use super::testing::{Teller, live, live_at, pod};
use super::*;
use crate::authn::caller::{Bound, NodeRef};
use crate::authn::subject::Subject;
use crate::kubernetes::WatchState;

fn subject() -> Subject {
    Subject {
        namespace: "foo".to_owned(),
        service_account: "a".to_owned(),
        account_uid: Some("sa-1".to_owned()),
        pod: Some(Bound {
            name: "a-0".to_owned(),
            uid: "pod-1".to_owned(),
        }),
        node: Some(NodeRef {
            name: "n".to_owned(),
            uid: Some("node-1".to_owned()),
        }),
        token_id: None,
    }
}

fn all_there(teller: &Teller) {
    teller.account("foo", "a", "sa-1");
    teller.pod(pod("foo", "a-0", "pod-1", "a", Some("n"), "Running"));
}

#[tokio::test(start_paused = true)]
async fn a_token_whose_account_and_pod_live_is_confirmed_at_once() {
    let (live, teller) = live("Kubernetes");
    all_there(&teller);
    let began = Instant::now();
    let confirmed = live.confirm(subject()).await.unwrap();
    assert_eq!(confirmed, subject());
    assert_eq!(began.elapsed(), Duration::ZERO);
}

#[tokio::test]
async fn the_node_of_a_token_that_names_none_is_its_pods() {
    let (live, teller) = live("Kubernetes");
    all_there(&teller);
    let token = Subject {
        node: None,
        ..subject()
    };
    let node = live.confirm(token).await.unwrap().node.unwrap();
    assert_eq!((&*node.name, node.uid), ("n", None));
}

#[tokio::test]
async fn a_token_of_no_pod_needs_its_account_only() {
    let (live, teller) = live("Kubernetes");
    teller.account("foo", "a", "sa-1");
    let token = Subject {
        pod: None,
        node: None,
        ..subject()
    };
    live.confirm(token).await.unwrap();
}

#[test_case(|t| t.account_gone("foo", "a", "sa-1"), "account_not_seen"; "a deleted account")]
#[test_case(|t| t.account("foo", "a", "sa-2"), "account_changed"; "an account made anew")]
#[test_case(|t| t.account_deleted_at("foo", "a", "sa-1", "2020-01-01T00:00:00Z"), "deleted"; "an account that only a finalizer keeps")]
#[test_case(|t| t.pod_gone(pod("foo", "a-0", "pod-1", "a", Some("n"), "Running")), "pod_not_seen"; "a deleted pod")]
#[test_case(|t| t.pod(pod("foo", "a-0", "pod-2", "a", Some("n"), "Running")), "pod_changed"; "a pod made anew under its name")]
#[test_case(|t| t.pod(pod("foo", "a-0", "pod-1", "b", Some("n"), "Running")), "pod_account"; "a pod of another account")]
#[test_case(|t| t.pod(pod("foo", "a-0", "pod-1", "a", Some("m"), "Running")), "pod_node"; "a pod on another node")]
#[test_case(|t| t.pod(pod("foo", "a-0", "pod-1", "a", Some("n"), "Succeeded")), "pod_finished"; "a pod that has succeeded")]
#[test_case(|t| t.pod(pod("foo", "a-0", "pod-1", "a", Some("n"), "Failed")), "pod_finished"; "a pod that has failed")]
#[tokio::test(start_paused = true)]
async fn what_a_token_is_bound_to_must_live(change: fn(&Teller), reason: &str) {
    let (live, teller) = live("Kubernetes");
    all_there(&teller);
    change(&teller);
    assert_eq!(live.confirm(subject()).await.unwrap_err().reason(), reason);
}

#[tokio::test]
async fn a_token_without_the_uid_of_its_account_is_anybodys() {
    let (live, teller) = live("Kubernetes");
    all_there(&teller);
    let token = Subject {
        account_uid: None,
        ..subject()
    };
    assert_eq!(
        live.confirm(token).await.unwrap_err().reason(),
        "token_without_account_uid"
    );
}

#[derive(Debug)]
struct At(u64);

impl Clock for At {
    fn now(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(self.0)
    }
}

/// 2020-01-01T00:00:00Z.
const DUE: u64 = 1_577_836_800;

#[test_case(DUE - 30, true; "within its grace period")]
#[test_case(DUE + 60, true; "a minute after it")]
#[test_case(DUE + 61, false; "later")]
#[tokio::test]
async fn a_deleted_account_counts_until_a_minute_after_its_time(now: u64, counts: bool) {
    let (live, teller) = live_at("Kubernetes", Arc::new(At(now)));
    all_there(&teller);
    teller.account_deleted_at("foo", "a", "sa-1", "2020-01-01T00:00:00Z");
    assert_eq!(live.confirm(subject()).await.is_ok(), counts);
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_is_heard_of_late_is_waited_for_and_its_event_ends_the_wait() {
    let (live, teller) = live("Kubernetes");
    teller.account("foo", "a", "sa-1");
    let began = Instant::now();
    let later = async {
        tokio::time::sleep(Duration::from_millis(700)).await;
        teller.pod(pod("foo", "other", "x", "a", Some("n"), "Running"));
        tokio::time::sleep(Duration::from_millis(300)).await;
        teller.pod(pod("foo", "a-0", "pod-1", "a", Some("n"), "Pending"));
    };
    let (confirmed, ()) = tokio::join!(live.confirm(subject()), later);
    confirmed.unwrap();
    assert_eq!(began.elapsed(), Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn the_wait_is_bounded() {
    let (live, _teller) = live("Kubernetes");
    let began = Instant::now();
    live.confirm(subject()).await.unwrap_err();
    assert_eq!(began.elapsed(), LATE);
}

#[tokio::test(start_paused = true)]
async fn a_crowd_of_deleted_pods_does_not_wait() {
    let (live, _teller) = live("Kubernetes");
    let mut waiting: Vec<_> = (0..WAITING).map(|_| Box::pin(live.confirm(subject()))).collect();
    for one in &mut waiting {
        assert!(futures::poll!(one).is_pending());
    }
    let began = Instant::now();
    live.confirm(subject()).await.unwrap_err();
    assert_eq!(began.elapsed(), Duration::ZERO);
    drop(waiting);
    live.confirm(subject()).await.unwrap_err();
    assert_eq!(began.elapsed(), LATE, "those that leave give their place back");
}

#[tokio::test(start_paused = true)]
async fn a_broken_watch_is_relied_on_for_a_bounded_time() {
    let (live, teller) = live("Kubernetes");
    assert!(live.is_fresh() && live.is_whole());
    teller.watch_is(WatchState::Broken { since: Instant::now() });
    assert!(live.is_fresh() && !live.is_whole());
    tokio::time::advance(FRESH + Duration::from_millis(1)).await;
    assert!(!live.is_fresh());
    teller.watch_is(WatchState::Synced);
    assert!(live.is_fresh());
    teller.watch_is(WatchState::Starting);
    assert!(!live.is_fresh());
}

#[tokio::test(start_paused = true)]
async fn an_account_by_name_is_told_only_while_the_watch_can_be_relied_on() {
    let (live, teller) = live("Kubernetes");
    teller.account("foo", "a", "sa-1");
    assert_eq!(
        (live.has_account("foo", "a"), live.has_account("foo", "b")),
        (Some(true), Some(false))
    );
    teller.watch_is(WatchState::Starting);
    assert_eq!(live.has_account("foo", "a"), None);
}
