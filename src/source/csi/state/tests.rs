//! The state on a real file system: what comes back, what is set aside, who may write.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};

use ensign_pki::KeyType;
use serde_json::json;
use tempfile::TempDir;
use test_case::test_case;

use super::super::request::{Publish, tests as requests};
use super::*;

const UID: &str = "0d5a7e1c-6f0a-4f0c-9d52-3c1b8a1f7e11";

fn place() -> (TempDir, Config) {
    let place = tempfile::tempdir().unwrap();
    let config = Config {
        state_dir: place.path().join("state"),
        ..requests::config()
    };
    (place, config)
}

fn volumes(config: &Config) -> Volumes {
    let one = |name: &str, attributes: &[(&str, &str)]| {
        let target = Target::new(UID, name).unwrap();
        let request = requests::request(UID, attributes);
        let volume = Publish::read(request, &target, config).unwrap().volume;
        (target, volume)
    };
    vec![one("a", &[]), one("b", &[("signer", "foo"), ("keyType", "P-384")])]
}

#[tokio::test]
async fn what_was_saved_comes_back_and_holds_no_token() {
    let (_place, config) = place();
    let volumes = volumes(&config);
    let (saver, writer) = State::open(&config).unwrap().writer();
    let stop = CancellationToken::new();
    let saving = async {
        let revision = Revision {
            number: 1,
            volumes: volumes.clone(),
        };
        saver.save(revision).await;
        let text = std::fs::read_to_string(config.state_dir.join(FILE)).unwrap();
        assert!(!text.contains("planted") && text.contains("httpbin"), "{text}");
        let mode = |path: &Path| std::fs::metadata(path).unwrap().mode() & 0o7777;
        assert_eq!(mode(&config.state_dir), 0o700);
        assert_eq!(mode(&config.state_dir.join(FILE)), 0o600);
        stop.cancel();
    };
    tokio::join!(writer.run(nothing_to_inherit, stop.clone()), saving);
    assert_eq!(State::open(&config).unwrap().load(), volumes);
}

#[tokio::test]
async fn without_volumes_there_is_no_file() {
    let (_place, config) = place();
    let all = volumes(&config);
    let (saver, writer) = State::open(&config).unwrap().writer();
    let stop = CancellationToken::new();
    let saving = async {
        for (number, volumes) in [(1, &[][..]), (2, &all), (3, &[])] {
            saver.save(revision(number, volumes)).await;
            assert_eq!(config.state_dir.join(FILE).exists(), !volumes.is_empty());
        }
        stop.cancel();
    };
    tokio::join!(writer.run(nothing_to_inherit, stop.clone()), saving);
    assert_eq!(State::open(&config).unwrap().load(), []);
}

async fn nothing_to_inherit(_: Volumes) -> Revision {
    panic!("there was no other agent")
}

fn revision(number: u64, volumes: &[(Target, Volume)]) -> Revision {
    Revision {
        number,
        volumes: volumes.to_vec(),
    }
}

#[tokio::test]
async fn a_second_agent_reads_at_once_and_reads_again_and_writes_when_the_first_is_gone() {
    let (_place, config) = place();
    let all = volumes(&config);
    let (a, b) = (&all[..1], &all[1..]);
    let first = State::open(&config).unwrap();
    assert!(!first.is_anothers());
    let (first_saver, first_writer) = first.writer();
    let (first_stop, stop) = (CancellationToken::new(), CancellationToken::new());
    let watching = async {
        first_saver.save(revision(1, a)).await;
        let second = State::open(&config).unwrap();
        assert!(second.is_anothers());
        assert_eq!(second.load(), a);
        let (saver, writer) = second.writer();
        let inherited = CancellationToken::new();
        let inherit = |saved: Volumes| {
            let (config, inherited) = (&config, &inherited);
            async move {
                assert_eq!(saved, volumes(config)[1..], "what the first wrote last");
                inherited.cancel();
                revision(2, &volumes(config))
            }
        };
        let working = async {
            // Nobody is held up by a lock.
            saver.save(revision(1, &all)).await;
            assert_eq!(State::open(&config).unwrap().load(), a);
            // Handed in and stopped at once: written all the same.
            first_saver.newest.send_replace(Arc::new(revision(2, b)));
            first_stop.cancel();
            inherited.cancelled().await;
            while State::open(&config).unwrap().load() != all {
                sleep(Duration::from_millis(20)).await;
            }
            stop.cancel();
        };
        tokio::join!(writer.run(inherit, stop.clone()), working);
    };
    tokio::join!(first_writer.run(nothing_to_inherit, first_stop.clone()), watching);
}

#[test]
fn what_the_agent_beside_us_wrote_is_not_ours_to_set_aside() {
    let (_place, config) = place();
    let _first = State::open(&config).unwrap();
    std::fs::write(config.state_dir.join(FILE), "{").unwrap();
    assert!(State::open(&config).unwrap().load().is_empty());
    assert_eq!(std::fs::read(config.state_dir.join(FILE)).unwrap(), b"{");
}

#[test_case(b"{"; "cut short")]
#[test_case(b""; "empty")]
#[test_case(br#"{"version":2,"node":"node1","volumes":[]}"#; "of another version")]
#[test_case(br#"{"version":1,"node":"node2","volumes":[]}"#; "of another node")]
fn what_is_not_ours_is_set_aside(bytes: &[u8]) {
    let (_place, config) = place();
    let state = State::open(&config).unwrap();
    std::fs::write(config.state_dir.join(FILE), bytes).unwrap();
    assert!(state.load().is_empty());
    assert_eq!(std::fs::read(config.state_dir.join(ASIDE)).unwrap(), bytes);
    assert!(state.load().is_empty(), "now there is none");
}

#[test_case("podUid", "../.."; "a place that climbs")]
#[test_case("namespace", "foo/sa/x"; "a forged identity")]
#[test_case("socketName", "../a"; "a socket that climbs")]
#[test_case("keyType", "P-1"; "a key of no type")]
fn a_volume_that_means_nothing_is_left_out_and_the_others_stay(field: &str, value: &str) {
    let (_place, config) = place();
    let state = State::open(&config).unwrap();
    let good = json!({
        "volumeId": "1", "podUid": "u", "volume": "v", "namespace": "foo", "pod": "p", "serviceAccount": "s",
        "keyType": "P-256", "socketName": "a",
    });
    let mut bad = good.clone();
    bad[field] = json!(value);
    let file = json!({ "version": 1, "node": "node1", "volumes": [bad, good] });
    std::fs::write(config.state_dir.join(FILE), file.to_string()).unwrap();
    let volumes = state.load();
    assert_eq!(volumes.len(), 1, "{volumes:?}");
    assert_eq!(volumes[0].0, Target::new("u", "v").unwrap());
}

#[test]
fn what_was_allowed_when_it_was_published_stays() {
    let (_place, config) = place();
    let state = State::open(&config).unwrap();
    assert!(!config.key_types.contains(&KeyType::Rsa4096));
    let volume = json!({
        "volumeId": "1", "podUid": "u", "volume": "v", "namespace": "foo", "pod": "p", "serviceAccount": "s",
        "keyType": "RSA-4096", "socketName": "a",
    });
    let file = json!({ "version": 1, "node": "node1", "volumes": [volume] });
    std::fs::write(config.state_dir.join(FILE), file.to_string()).unwrap();
    assert_eq!(state.load()[0].1.key_type, KeyType::Rsa4096);
}

#[test]
fn a_symlink_is_not_followed() {
    let (place, config) = place();
    let state = State::open(&config).unwrap();
    let elsewhere = place.path().join("elsewhere");
    std::fs::write(&elsewhere, br#"{"version":1,"node":"node1","volumes":[]}"#).unwrap();
    symlink(&elsewhere, config.state_dir.join(FILE)).unwrap();
    assert!(state.load().is_empty());
    assert!(
        std::fs::symlink_metadata(config.state_dir.join(ASIDE))
            .unwrap()
            .is_symlink()
    );
    drop(state);

    let real = place.path().join("real");
    std::fs::rename(&config.state_dir, &real).unwrap();
    symlink(&real, &config.state_dir).unwrap();
    let error = State::open(&config).unwrap_err().to_string();
    assert!(error.contains("--state-dir"), "{error}");
}

#[test]
fn a_folder_that_kubelet_made_for_all_becomes_private() {
    let (_place, config) = place();
    std::fs::create_dir(&config.state_dir).unwrap();
    std::fs::set_permissions(&config.state_dir, std::fs::Permissions::from_mode(0o755)).unwrap();
    State::open(&config).unwrap();
    assert_eq!(std::fs::metadata(&config.state_dir).unwrap().mode() & 0o7777, 0o700);
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let waiting = async {
        while !holds() {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(Duration::from_secs(60), waiting).await.expect(what);
}

fn wipe(config: &Config) {
    for entry in std::fs::read_dir(&config.state_dir).unwrap() {
        std::fs::remove_file(entry.unwrap().path()).unwrap();
    }
}

#[tokio::test]
async fn what_is_wiped_is_written_again_and_the_lock_is_ours_as_before() {
    let (_place, config) = place();
    let volumes = volumes(&config);
    let file = config.state_dir.join(FILE);
    let (saver, writer) = State::open(&config).unwrap().writer();
    let stop = CancellationToken::new();
    // Known from the start, and no change since.
    saver.begin_with(revision(1, &volumes));
    let watching = async {
        until("the file", || file.exists()).await;
        let waiting = State::open(&config).unwrap();
        for wipe in [wipe, |config: &Config| {
            std::fs::remove_dir_all(&config.state_dir).unwrap();
        }] {
            wipe(&config);
            until("the file again", || file.exists()).await;
            let successor = State::open(&config).unwrap();
            assert!(successor.is_anothers());
            assert_eq!(successor.load(), volumes);
        }
        // Nor has it one that waited for the lock that was wiped.
        let mut waiting = waiting;
        assert!(!waiting.lock.take());
        stop.cancel();
        waiting
    };
    let ((), mut waiting) = tokio::join!(writer.run(nothing_to_inherit, stop.clone()), watching);
    assert!(waiting.lock.take());
    assert!(State::open(&config).unwrap().is_anothers());
}

#[tokio::test]
async fn what_is_wiped_at_the_last_moment_is_written_at_the_end() {
    let (_place, config) = place();
    let all = volumes(&config);
    let (saver, writer) = State::open(&config).unwrap().writer();
    let stop = CancellationToken::new();
    let saving = async {
        saver.save(revision(1, &all)).await;
        wipe(&config);
        stop.cancel();
    };
    tokio::join!(writer.run(nothing_to_inherit, stop.clone()), saving);
    assert_eq!(State::open(&config).unwrap().load(), all);
}

/// An agent that came before the wipe was noticed has the new lock. There is one writer all the same.
#[tokio::test]
async fn who_lost_the_lock_to_another_writes_when_that_one_is_gone() {
    let (_place, config) = place();
    let all = volumes(&config);
    let file = config.state_dir.join(FILE);
    let (saver, writer) = State::open(&config).unwrap().writer();
    let stop = CancellationToken::new();
    let watching = async {
        saver.save(revision(1, &all[..1])).await;
        wipe(&config);
        let other = State::open(&config).unwrap();
        assert!(!other.is_anothers());
        saver.save(revision(2, &all)).await;
        assert!(!file.exists());
        drop(other);
        until("the file again", || file.exists()).await;
        stop.cancel();
    };
    tokio::join!(writer.run(nothing_to_inherit, stop.clone()), watching);
    assert_eq!(State::open(&config).unwrap().load(), all);
}
