//! What each change of a place means: roots, a removal, or damage. The cases of istio-csr's root file, and more.

use std::path::Path;
use std::time::{Duration, SystemTime};

use ensign_pki::{Certificate, SystemClock};
use test_case::test_case;

use super::*;
use crate::signer::local::root;
use crate::trust::RootsSource as _;

const PATIENCE: Duration = Duration::from_secs(60);

fn root(name: &str) -> String {
    let now = SystemClock::shared().now();
    root::make(name, &"cluster.local".parse().unwrap(), now)
        .unwrap()
        .certificate_pem
}

fn leaf() -> String {
    rcgen::generate_simple_self_signed(["foo".to_owned()])
        .unwrap()
        .cert
        .pem()
}

fn host() -> Host {
    Host::alone(SystemClock::shared())
}

fn judge() -> Judge {
    Judge {
        signer: "foo".parse().unwrap(),
        place: "the place".to_owned(),
        metrics: TrustMetrics::default(),
    }
}

async fn open_file(path: &Path, host: &Host) -> Result<Trust, OpenRootsError> {
    let signer = "foo".parse().unwrap();
    open(&signer, &RootsSpec::File(path.to_owned()), host, &host.stop).await
}

/// Waits until the state of `trust` is what it should be.
async fn until(trust: &Trust, what: &str, wanted: impl Fn(&State) -> bool) {
    let look = async {
        while !wanted(&trust.current()) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, look)
        .await
        .unwrap_or_else(|_| panic!("not {what}: {:?}", trust.current().map(|roots| roots.bundle().len())));
}

fn holds(pem: &str) -> impl Fn(&State) -> bool {
    let wanted = Roots::parse(pem).unwrap();
    move |state| state.as_ref().is_ok_and(|roots| **roots == wanted)
}

fn reason(state: &State) -> &'static str {
    state.as_ref().map_or_else(NoRoots::reason, |_| "roots")
}

#[test_case(None, "roots_gone"; "nothing there")]
#[test_case(Some(""), "roots_empty"; "nothing in it")]
#[test_case(Some("# no root any more\n"), "roots_empty"; "a comment alone")]
fn a_removal_has_its_reason(content: Option<&str>, expected: &str) {
    assert_eq!(reason(&judge().judge(content).unwrap()), expected);
}

#[test_case("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"; "no certificate")]
#[test_case("-----BEGIN CERTIFICATE-----\nMII"; "cut off")]
#[test_case(&leaf(); "no ca")]
#[test_case(&(root("a") + &leaf()); "a leaf among roots")]
fn damage_leaves_what_was_before_and_is_told_where_nothing_was(content: &str) {
    let judge = judge();
    let (states, _keep) = watch::channel(Arc::new(Err(NoRoots::NotYet { place: String::new() })));
    judge.publish(Some(content), &states);
    assert_eq!(reason(&states.borrow()), "roots_damaged");
    let good = root("a");
    judge.publish(Some(&good), &states);
    judge.publish(Some(content), &states);
    assert!(holds(&good)(&states.borrow()));
    judge.publish(None, &states);
    judge.publish(Some(content), &states);
    assert_eq!(
        reason(&states.borrow()),
        "roots_damaged",
        "what was taken away does not come back by a mistake"
    );
}

#[test]
fn equal_roots_in_another_order_are_no_change() {
    let (a, b) = (root("a"), root("b"));
    let (states, mut seen) = watch::channel(Arc::new(Err(NoRoots::NotYet { place: String::new() })));
    judge().publish(Some(&format!("{a}{b}")), &states);
    assert!(seen.has_changed().unwrap());
    seen.mark_unchanged();
    judge().publish(Some(&format!("# again\n{b}{a}{b}")), &states);
    assert!(!seen.has_changed().unwrap());
}

#[tokio::test]
async fn a_file_that_is_missing_empty_or_damaged_starts_no_signer() {
    let (folder, host) = (tempfile::tempdir().unwrap(), host());
    let path = folder.path().join("roots.pem");
    for (content, expected) in [
        (None, "is not there"),
        (Some(String::new()), "holds no certificate"),
        (Some(leaf()), "is no CA certificate"),
    ] {
        if let Some(content) = content {
            std::fs::write(&path, content).unwrap();
        }
        let error = open_file(&path, &host).await.unwrap_err();
        let text = logging::chain(&error);
        assert!(text.contains(expected) && text.contains("roots.pem"), "{text}");
    }
}

#[tokio::test]
async fn a_file_is_followed_through_each_way_of_replacing_it() {
    let (folder, host) = (tempfile::tempdir().unwrap(), host());
    let path = folder.path().join("roots.pem");
    let next = folder.path().join("next.pem");
    let roots: Vec<String> = (0..5).map(|n| root(&n.to_string())).collect();
    std::fs::write(&path, &roots[0]).unwrap();
    let trust = open_file(&path, &host).await.unwrap();
    assert!(holds(&roots[0])(&trust.current()), "the first content counts at once");

    std::fs::write(&path, &roots[1]).unwrap();
    until(&trust, "overwritten", holds(&roots[1])).await;
    std::fs::write(&next, &roots[2]).unwrap();
    std::fs::rename(&next, &path).unwrap();
    until(&trust, "renamed over", holds(&roots[2])).await;
    std::fs::remove_file(&path).unwrap();
    until(&trust, "removed", |state| reason(state) == "roots_gone").await;
    std::fs::write(&path, &roots[3]).unwrap();
    until(&trust, "made again", holds(&roots[3])).await;

    // Half a write that stays, then the rest of it.
    std::fs::write(&path, &roots[4][..roots[4].len() / 2]).unwrap();
    std::fs::write(&next, &roots[4]).unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(
        holds(&roots[3])(&trust.current()),
        "half a root is damage, the old one stays"
    );
    std::fs::rename(&next, &path).unwrap();
    until(&trust, "whole", holds(&roots[4])).await;

    // One of two roots goes.
    std::fs::write(&path, format!("{}{}", roots[0], roots[1])).unwrap();
    until(&trust, "two roots", holds(&format!("{}{}", roots[0], roots[1]))).await;
    std::fs::write(&path, &roots[1]).unwrap();
    until(&trust, "one root less", holds(&roots[1])).await;
    host.stop.cancel();
}

#[tokio::test]
async fn a_kubernetes_volume_is_followed_over_its_swap() {
    let (folder, host) = (tempfile::tempdir().unwrap(), host());
    let (first, second) = (root("a"), root("b"));
    for (version, content) in [("..1", &first), ("..2", &second)] {
        std::fs::create_dir(folder.path().join(version)).unwrap();
        std::fs::write(folder.path().join(version).join("roots.pem"), content).unwrap();
    }
    std::os::unix::fs::symlink("..1", folder.path().join("..data")).unwrap();
    let path = folder.path().join("roots.pem");
    std::os::unix::fs::symlink("..data/roots.pem", &path).unwrap();
    let trust = open_file(&path, &host).await.unwrap();
    std::os::unix::fs::symlink("..2", folder.path().join("..data_tmp")).unwrap();
    std::fs::rename(folder.path().join("..data_tmp"), folder.path().join("..data")).unwrap();
    until(&trust, "swapped", holds(&second)).await;
    host.stop.cancel();
}

#[tokio::test]
async fn objects_and_discovery_need_what_they_read_from() {
    let host = host();
    let signer: SignerName = "foo".parse().unwrap();
    let config_map = RootsSpec::ConfigMap {
        namespace: "istio-system".to_owned(),
        name: "roots".to_owned(),
        key: "ca.pem".to_owned(),
    };
    let bundle = RootsSpec::ClusterTrustBundle {
        name: "roots".to_owned(),
    };
    for (spec, expected) in [
        (config_map, "key ca.pem of ConfigMap istio-system/roots"),
        (bundle, "ClusterTrustBundle roots"),
        (RootsSpec::Discover, "--serving-from=cert-manager"),
    ] {
        let error = open(&signer, &spec, &host, &host.stop).await.unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn a_discovered_root_joins_those_before_it_until_they_expire() {
    let discovery = Discovery::new();
    assert_eq!(reason(&discovery.roots()), "roots_undiscovered");
    let (first, second) = (root("a"), root("b"));
    let parse = |pem: &str| Certificate::parse_all(pem).unwrap();
    let now = SystemClock::shared().now();
    discovery.found(&parse(&first), now).unwrap();
    discovery.found(&parse(&second), now).unwrap();
    assert!(holds(&format!("{first}{second}"))(&discovery.roots()));
    let mut changes = discovery.changes();
    changes.mark_unchanged();
    discovery.found(&parse(&second), now).unwrap();
    assert!(!changes.has_changed().unwrap(), "the same again is no news");

    let late: SystemTime = parse(&first)[0].not_after() + Duration::from_secs(1);
    let third = root::make("c", &"cluster.local".parse().unwrap(), late)
        .unwrap()
        .certificate_pem;
    discovery.found(&parse(&third), late).unwrap();
    let left = discovery.current().unwrap();
    assert!(left.bundle().contains(&parse(&third)[0]) && !left.bundle().contains(&parse(&first)[0]));
    let expired_alone = discovery.found(&[], late + Duration::from_hours(20 * 365 * 24));
    assert!(expired_alone.is_err());
    assert!(
        discovery.current().is_some(),
        "nothing to put in its place: what is known stays"
    );
}
