//! What is written, where and when, decided without an API server. The cases of istiod and istio-csr, and more.

use std::time::{Duration, SystemTime};

use ensign_pki::{Certificate, SystemClock};
use k8s_openapi::api::certificates::v1beta1::ClusterTrustBundle;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use serde_json::{Value, json};
use test_case::test_case;
use tokio::time::Instant;

use super::content::{Content, InUse, next_history};
use super::history::History;
use super::object::{Digest, Held, Place, Target, digest};
use super::plan::{Pass, Plan, Wanted};
use super::*;
use crate::signer::local::root;

const US: &str = "ensign-ra";
const MINUTE: Duration = Duration::from_secs(60);

fn now() -> SystemTime {
    SystemClock::shared().now()
}

fn root(name: &str, at: SystemTime) -> Certificate {
    let pem = root::make(name, &"cluster.local".parse().unwrap(), at)
        .unwrap()
        .certificate_pem;
    Certificate::parse_pem(&pem).unwrap()
}

fn config_map(data: Value, labels: Value, managers: &[(&str, i64)]) -> ConfigMap {
    let fields = |(manager, second): &(&str, i64)| {
        json!({"manager": manager, "operation": "Update", "time": format!("2026-01-01T00:00:{second:02}Z"),
               "fieldsType": "FieldsV1", "fieldsV1": {"f:data": {"f:root-cert.pem": {}}}})
    };
    let managers: Vec<Value> = managers.iter().map(fields).collect();
    let object = json!({"metadata": {"name": "istio-ca-root-cert", "labels": labels, "resourceVersion": "1",
                        "managedFields": managers}, "data": data});
    serde_json::from_value(object).unwrap()
}

/// A ConfigMap with these roots, written by `writer` in that version.
fn held(roots: &str, writer: &str, version: u64) -> Held {
    Held {
        digest: digest(roots),
        marked: Some("true".to_owned()),
        writers: vec![writer.to_owned()],
        version: version.to_string(),
    }
}

/// One namespace through time.
struct Stage {
    plan: Plan,
    now: Instant,
    wanted: Digest,
}

impl Stage {
    fn new(wanted: &str) -> Self {
        Self {
            plan: Plan::new(US.to_owned()),
            now: Instant::now(),
            wanted: digest(wanted),
        }
    }

    fn target() -> Target {
        Target::Namespace("foo".to_owned())
    }

    fn pass(&mut self, held: Option<&Held>) -> Pass {
        let wanted = Wanted {
            digest: &self.wanted,
            marked: Some("true"),
        };
        self.plan.pass([(Self::target(), held, wanted)].into_iter(), self.now)
    }

    /// Whether it would be written now.
    fn due(&mut self, held: Option<&Held>) -> bool {
        !self.pass(held).due.is_empty()
    }

    fn wrote(&mut self, replaced: Option<&Held>) {
        let replaced = replaced.map(|held| held.version.clone());
        self.plan.wrote(&Self::target(), self.wanted, replaced, self.now);
    }

    fn after(&mut self, time: Duration) {
        self.now += time;
    }
}

#[test_case(json!({"root-cert.pem": "R"}), json!({"istio.io/config": "true"}), true; "as it should be")]
#[test_case(json!({"root-cert.pem": "R", "other": "x"}), json!({"istio.io/config": "true", "x": "y"}), true; "other keys and labels are not ours")]
#[test_case(Value::Null, json!({"istio.io/config": "true"}), false; "no data")]
#[test_case(json!({}), json!({"istio.io/config": "true"}), false; "no key")]
#[test_case(json!({"root-cert.pem": "old"}), json!({"istio.io/config": "true"}), false; "other roots")]
#[test_case(json!({"root-cert.pem": "R"}), json!({"istio.io/config": "false"}), false; "a wrong label")]
#[test_case(json!({"root-cert.pem": "R"}), Value::Null, false; "no label")]
fn what_a_config_map_must_hold(data: Value, labels: Value, right: bool) {
    let held = Held::of_config_map(config_map(data, labels, &[]));
    assert_eq!(Stage::new("R").due(Some(&held)), !right);
}

#[test]
fn an_absent_object_is_written_and_then_left_alone() {
    let mut stage = Stage::new("R");
    assert!(stage.due(None));
    stage.wrote(None);
    assert!(!stage.due(None), "the watch has not shown it yet");
    stage.after(MINUTE);
    assert!(!stage.due(None), "and is far behind");
    let pass = stage.pass(Some(&held("R", US, 1)));
    assert_eq!((pass.due.len(), pass.tally.wanted, pass.tally.done), (0, 1, 1));
}

#[test]
fn a_change_by_somebody_is_put_right_twice_and_then_left_to_him() {
    let mut stage = Stage::new("R");
    let mut version = 0;
    let mut put_right_again = |stage: &mut Stage| {
        let (ours, theirs) = (held("R", US, version), held("X", "pilot-discovery", version + 1));
        version += 2;
        assert!(!stage.due(Some(&ours)));
        stage.after(MINUTE);
        let pass = stage.pass(Some(&theirs));
        stage.wrote(Some(&theirs));
        (!pass.due.is_empty(), pass.recognised)
    };
    assert!(put_right_again(&mut stage).0);
    assert!(put_right_again(&mut stage).0);
    let (due, recognised) = put_right_again(&mut stage);
    assert!(!due);
    assert_eq!(recognised, [("pilot-discovery".to_owned(), Stage::target())]);
    assert_eq!(
        stage.plan.contested().into_iter().collect::<Vec<_>>(),
        [("pilot-discovery", 1)]
    );
}

/// Three changes, so that `writer` is known.
fn contested(stage: &mut Stage, writer: &str) -> Held {
    for version in 0..3 {
        stage.pass(Some(&held("R", US, version * 2)));
        let theirs = held("X", writer, version * 2 + 1);
        if stage.due(Some(&theirs)) {
            stage.wrote(Some(&theirs));
        }
        stage.after(Duration::from_secs(10));
    }
    held("X", writer, 5)
}

#[test]
fn a_contested_object_is_tried_again_later_and_later() {
    let mut stage = Stage::new("R");
    let theirs = contested(&mut stage, "istio-csr");
    assert!(!stage.due(Some(&theirs)));
    stage.after(5 * MINUTE);
    assert!(stage.due(Some(&theirs)), "one more try");
    stage.wrote(Some(&theirs));
    stage.pass(Some(&held("R", US, 8)));
    stage.after(MINUTE);
    let again = held("X", "istio-csr", 9);
    assert_eq!(
        stage.pass(Some(&again)).recognised.len(),
        1,
        "at the first change this time"
    );
    stage.after(6 * MINUTE);
    assert!(!stage.due(Some(&again)), "twice as long");
    stage.after(5 * MINUTE);
    assert!(stage.due(Some(&again)));
}

#[test]
fn a_rival_that_is_gone_is_forgotten() {
    let mut stage = Stage::new("R");
    let theirs = contested(&mut stage, "istio-csr");
    stage.after(5 * MINUTE);
    assert!(stage.due(Some(&theirs)));
    stage.wrote(Some(&theirs));
    let ours = held("R", US, 8);
    stage.pass(Some(&ours));
    stage.after(20 * MINUTE);
    stage.pass(Some(&ours));
    assert!(stage.plan.contested().is_empty());
    assert!(
        stage.due(Some(&held("X", "kubectl-edit", 9))),
        "a change is a change again, and no contest"
    );
}

#[test]
fn a_known_rival_is_recognised_in_the_next_namespace_at_once() {
    let mut stage = Stage::new("R");
    let theirs = contested(&mut stage, "pilot-discovery");
    let wanted = digest("R");
    let wanted = Wanted {
        digest: &wanted,
        marked: Some("true"),
    };
    let other = Target::Namespace("bar".to_owned());
    let ours = held("R", US, 1);
    let both = |theirs_too: &Held| {
        [
            (Stage::target(), Some(theirs.clone()), wanted),
            (other.clone(), Some(theirs_too.clone()), wanted),
        ]
    };
    let pass = |plan: &mut Plan, both: &[(Target, Option<Held>, Wanted<'_>)], now| {
        plan.pass(
            both.iter()
                .map(|(target, held, wanted)| (target.clone(), held.as_ref(), *wanted)),
            now,
        )
    };
    pass(&mut stage.plan, &both(&ours), stage.now);
    let found = pass(&mut stage.plan, &both(&held("X", "pilot-discovery", 2)), stage.now);
    assert_eq!(found.recognised, [("pilot-discovery".to_owned(), other.clone())]);
    assert!(found.due.is_empty());
}

#[test]
fn new_roots_are_no_ones_change() {
    let mut stage = Stage::new("R");
    let ours = held("R", US, 1);
    for version in 0..10 {
        stage.pass(Some(&ours));
        stage.wanted = digest(&format!("R{version}"));
        assert!(stage.due(Some(&held("old", "istio-csr", version))));
        stage.wanted = digest("R");
    }
    assert!(stage.plan.contested().is_empty());
}

#[test]
fn who_keeps_deleting_it_is_a_rival_too() {
    let mut stage = Stage::new("R");
    for version in 0..3 {
        stage.pass(Some(&held("R", US, version)));
        if stage.due(None) {
            stage.wrote(Some(&held("R", US, version)));
        }
        stage.after(MINUTE);
    }
    assert_eq!(stage.plan.contested().into_keys().collect::<Vec<_>>(), ["(deleted)"]);
}

#[test]
fn failures_wait_longer_each_time_and_a_success_ends_that() {
    let mut stage = Stage::new("R");
    for (failures, pause) in [(1, 1), (2, 2), (3, 4)] {
        assert!(stage.due(None));
        assert_eq!(stage.plan.failed(&Stage::target(), stage.now), failures);
        let pass = stage.pass(None);
        assert_eq!(pass.next, Some(stage.now + Duration::from_secs(pause)));
        stage.after(Duration::from_secs(pause));
    }
    for _ in 0..40 {
        stage.plan.failed(&Stage::target(), stage.now);
    }
    assert!(stage.pass(None).next.unwrap() - stage.now <= 5 * MINUTE);
}

#[test]
fn the_last_writer_of_the_roots_is_named() {
    let labels = json!({"istio.io/config": "true"});
    let data = json!({"root-cert.pem": "X"});
    let object = config_map(data.clone(), labels.clone(), &[(US, 1), ("pilot-discovery", 2)]);
    assert_eq!(Held::of_config_map(object).writers, ["pilot-discovery", US]);
    let mut object = config_map(data, labels, &[]);
    object.metadata.managed_fields = serde_json::from_value(json!([
        {"manager": "labeller", "fieldsV1": {"f:metadata": {"f:labels": {}}}},
        {"manager": "strange"},
    ]))
    .unwrap();
    assert!(Held::of_config_map(object).writers.is_empty());
    let bundle: ClusterTrustBundle = serde_json::from_value(json!({
        "metadata": {"managedFields": [{"manager": "istiod", "fieldsV1": {"f:spec": {"f:trustBundle": {}}}}]},
        "spec": {"signerName": "istio.io/istiod-ca", "trustBundle": "X"},
    }))
    .unwrap();
    let held = Held::of_bundle(bundle);
    assert_eq!(
        (held.writers, held.marked.as_deref()),
        (vec!["istiod".to_owned()], Some("istio.io/istiod-ca"))
    );
}

#[test_case(json!({"metadata": {}, "status": {"phase": "Active"}}), false)]
#[test_case(json!({"metadata": {}}), false; "no phase")]
#[test_case(json!({"metadata": {}, "status": {"phase": "Terminating"}}), true; "terminating")]
#[test_case(json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}, "status": {"phase": "Active"}}), true; "being deleted")]
fn a_namespace_that_ends_gets_nothing(object: Value, terminating: bool) {
    let object: Namespace = serde_json::from_value(object).unwrap();
    assert_eq!(Place::of(object).terminating, terminating);
}

#[test_case("istio-roots", Some(""); "of no signer")]
#[test_case("istio.io:istiod-ca:root-cert", Some("istio.io/istiod-ca"))]
#[test_case("example.com:a:b:c", Some("example.com/a:b"); "a path of two parts")]
#[test_case("istio.io:roots", None; "a signer without a path")]
#[test_case("Istio", None; "upper case")]
#[test_case("istio.io/istiod-ca:root", None; "slash")]
#[test_case("a::b", None; "empty part")]
#[test_case("", None; "empty")]
fn a_bundle_belongs_to_the_signer_in_its_name(name: &str, expected: Option<&str>) {
    let parsed = name.parse::<BundleName>().ok();
    let signer = parsed
        .as_ref()
        .map(|bundle| bundle.signer_name.as_deref().unwrap_or_default());
    assert_eq!(signer, expected);
}

fn history(data: Value) -> History {
    History::of(serde_json::from_value(json!({"metadata": {"resourceVersion": "7"}, "data": data})).unwrap())
}

fn in_use(lasting: &[&Certificate], passing: &[&Certificate]) -> InUse {
    InUse {
        lasting: lasting.iter().copied().cloned().collect(),
        passing: passing.iter().copied().cloned().collect(),
        silent: Vec::new(),
    }
}

/// The history that remembers these.
fn remembering(roots: &[&Certificate]) -> History {
    let next = next_history(&in_use(roots, &[]), &History::default(), now()).unwrap();
    let data: serde_json::Map<_, _> = next
        .iter()
        .map(|(key, root)| (key.clone(), root.to_pem().into()))
        .collect();
    history(data.into())
}

#[test]
fn roots_stay_until_they_expire() {
    let (old, new) = (root("old", now()), root("new", now()));
    let past = remembering(&[&old]);
    assert!(past.exists() && !History::default().exists());
    assert_eq!(
        next_history(&in_use(&[&old], &[]), &past, now()),
        None,
        "nothing to write"
    );
    let next = next_history(&in_use(&[&new], &[]), &past, now()).unwrap();
    assert_eq!(next.len(), 2);
    let content = Content::new(&in_use(&[&new], &[]), &past, now()).unwrap();
    assert!(content.pem.contains(&old.to_pem()) && content.pem.contains(&new.to_pem()));

    let late = old.not_after() + Duration::from_secs(1);
    let newest = root("newest", late);
    let next = next_history(&in_use(&[&newest], &[]), &past, late).unwrap();
    assert_eq!(next.values().collect::<Vec<_>>(), [&newest]);
    let content = Content::new(&in_use(&[&newest], &[]), &past, late).unwrap();
    assert_eq!(content.pem, newest.to_pem());
}

#[test]
fn what_stands_in_a_namespace_or_under_a_wrong_key_never_becomes_a_root() {
    let (ours, foreign) = (root("ours", now()), root("foreign", now()));
    let strange = history(json!({"0123456789abcdef0123456789abcdef.pem": foreign.to_pem(), "x": "y"}));
    assert_eq!((strange.roots.len(), strange.strange.len()), (0, 2));
    let content = Content::new(&in_use(&[&ours], &[]), &strange, now()).unwrap();
    assert_eq!(content.pem, ours.to_pem());
}

#[test]
fn a_root_that_a_person_took_out_of_the_history_is_gone() {
    let (old, new) = (root("old", now()), root("new", now()));
    let past = remembering(&[&new]);
    let content = Content::new(&in_use(&[&new], &[]), &past, now()).unwrap();
    assert!(!content.pem.contains(&old.to_pem()));
    assert_eq!(next_history(&in_use(&[&new], &[]), &past, now()), None);
}

#[test]
fn roots_of_a_migration_are_there_while_their_source_has_them() {
    let (ours, theirs) = (root("ours", now()), root("theirs", now()));
    let both = in_use(&[&ours], &[&theirs]);
    let past = remembering(&[&ours]);
    assert_eq!(next_history(&both, &past, now()), None, "not remembered");
    assert_eq!(Content::new(&both, &past, now()).unwrap().roots, 2);
    assert_eq!(Content::new(&in_use(&[&ours], &[]), &past, now()).unwrap().roots, 1);
}

#[test]
fn equal_roots_are_one_text_in_whatever_order() {
    let (a, b) = (root("a", now()), root("b", now()));
    let text = |use_: &InUse| Content::new(use_, &History::default(), now()).unwrap();
    assert_eq!(text(&in_use(&[&a, &b], &[&a])), text(&in_use(&[&b, &a, &b], &[])));
    assert_eq!(
        Content::new(&in_use(&[], &[]), &History::default(), now()),
        None,
        "nothing at all"
    );
}

#[test]
fn more_roots_of_before_than_a_mesh_can_have_leave_in_the_order_of_their_ends() {
    let year = Duration::from_secs(365 * 24 * 3600);
    let first = root("first", now() - year);
    let many: Vec<Certificate> = (0..127)
        .map(|n| root(&n.to_string(), now()))
        .chain([first.clone()])
        .collect();
    let past = remembering(&many.iter().collect::<Vec<_>>());
    let new = root("new", now());
    let next = next_history(&in_use(&[&new], &[]), &past, now()).unwrap();
    assert_eq!(next.len(), 128);
    assert!(next.values().any(|root| *root == new) && next.values().all(|root| *root != first));
    let next = next_history(&in_use(&[&first], &[]), &past, now());
    assert_eq!(next, None, "the one in use stays, however soon it ends");
}
