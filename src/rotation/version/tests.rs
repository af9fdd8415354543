//! What is believed, and what is not.

use super::*;
use proptest::prelude::*;

const TTL: Duration = Duration::from_hours(24);
const NOW: u64 = 1_900_000_000;

fn at(seconds: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(NOW.saturating_add_signed(seconds))
}

fn versions(uid: &str, signer: Option<&str>) -> Versions {
    let signer = signer.map(|name| name.parse().unwrap());
    let id = "spiffe://cluster.local/ns/foo/sa/bar".parse().unwrap();
    Versions::new(&WorkloadUid::new(uid), signer.as_ref(), KeyType::P256, &id)
}

fn version(not_before: i64, renew_at: i64, not_after: i64) -> String {
    let validity = Validity {
        not_before: at(not_before),
        not_after: at(not_after),
        serial: "0a1b".into(),
    };
    versions("u", None).of_certificate(&validity, at(renew_at))
}

fn believed(version: &str) -> bool {
    versions("u", None).claim(version, TTL, at(0)).is_some()
}

#[test]
fn what_was_written_is_believed() {
    let claim = versions("u", None)
        .claim(&version(-100, 500, 1000), TTL, at(0))
        .unwrap();
    assert_eq!(claim.renew_at, at(500));
    assert_eq!(
        claim.validity,
        Validity {
            not_before: at(-100),
            not_after: at(1000),
            serial: "0a1b".into()
        }
    );
}

#[test]
fn times_that_do_not_fit_are_not_believed() {
    assert!(!believed(&version(-2000, -1500, -1000)), "expired");
    assert!(!believed(&version(-2000, -1, 1000)), "renewal is due");
    assert!(
        !believed(&version(-100, 500, 10 * 24 * 3600)),
        "longer than we would ask for"
    );
    assert!(!believed(&version(3600, 4000, 8000)), "from the future");
    assert!(!believed(&version(-100, 2000, 1000)), "renewal after the end");
}

#[test]
fn another_entry_is_not_believed() {
    let ours = version(-100, 500, 1000);
    assert!(versions("v", None).claim(&ours, TTL, at(0)).is_none());
    assert!(versions("u", Some("foo")).claim(&ours, TTL, at(0)).is_none());
}

#[test]
fn what_this_agent_would_not_write_is_not_believed() {
    let good = version(-100, 500, 1000);
    assert!(believed(&good) && good.len() <= MAX_BYTES);
    for bad in [
        good.to_uppercase(),
        format!("{good} "),
        format!(" {good}"),
        format!("{good}."),
        good.replace("c1.", "c1.0"),
        good.replace("c1.", "c2."),
        good.replace("0a1b", ""),
        good.replace("0a1b", &"0".repeat(41)),
        good.replace("0a1b", "0A1B"),
        good.replace("0a1b", "+1"),
        "c1.".repeat(1000),
    ] {
        assert!(!believed(&bad), "{bad}");
    }
}

#[test]
fn bundles_carry_their_entry_and_cannot_pass_for_certificates() {
    let digest = "0".repeat(32);
    let ours = format!("b1.{digest}.{}", versions("u", None).bundle_digest);
    assert!(versions("u", None).is_our_bundle(&ours));
    assert!(!versions("v", None).is_our_bundle(&ours));
    assert!(!versions("u", None).is_our_bundle(&ours.replace("b1", "c1")));
    assert!(!believed(&ours));
}

#[test]
fn parts_do_not_run_into_each_other() {
    assert_ne!(digest(&["ab", "c"]), digest(&["a", "bc"]));
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "(c1|b1)?[.0-9a-f\\PC]{0,250}") {
        let versions = versions("u", None);
        prop_assert!(versions.claim(&text, TTL, at(0)).is_none());
        prop_assert!(!versions.is_our_bundle(&text));
    }
}
