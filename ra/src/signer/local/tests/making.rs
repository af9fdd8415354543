//! A CA that makes itself: once, whole or not at all, and never over something else.

use super::*;

#[tokio::test]
async fn a_self_made_ca_appears_with_narrow_modes_signs_and_is_found_again() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("foo");
    let (host, _) = host();
    let first = open(&spec(&dir, true, None), &host).await.unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&dir), mode(&dir.join(CA_KEY))), (0o700, 0o600));
    assert_eq!(names(parent.path()), BTreeSet::from(["foo".to_owned()]));
    let holds_key = |name: &String| std::fs::read_to_string(dir.join(name)).unwrap().contains("PRIVATE KEY");
    assert_eq!(
        names(&dir).iter().filter(|name| holds_key(name)).collect::<Vec<_>>(),
        [CA_KEY]
    );
    // A root needs no intermediates.
    assert_eq!(issue(&first, request(KeyType::P256, DAY), now()).await.len(), 1);
    let again = open(&spec(&dir, true, None), &host).await.unwrap();
    assert_eq!(
        again.trust().current().unwrap().pem(),
        first.trust().current().unwrap().pem()
    );
}

#[test]
fn a_crash_at_any_step_leaves_nothing_or_a_whole_ca_and_the_next_start_mends_it() {
    let mut crashes = 0;
    for crash_at in 0.. {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("foo");
        if crash_at % 2 == 0 {
            std::fs::create_dir(&dir).unwrap();
        }
        let (mut step, mut seen) = (0, None);
        let crashed = ensure_with(&dir, material, &mut |at: Step| {
            seen = Some(at);
            step += 1;
            if step > crash_at {
                Err(io::Error::other("power cut"))
            } else {
                Ok(())
            }
        });
        if crashed.is_ok() {
            break;
        }
        crashes += 1;
        let whole = names_or_none(&dir).len() == 4;
        assert!(
            whole || names_or_none(&dir).is_empty(),
            "after {seen:?}: {:?}",
            names_or_none(&dir)
        );
        let outcome = ensure(&dir, material).unwrap();
        assert_eq!(
            outcome,
            if whole { Outcome::Found } else { Outcome::Made },
            "after {seen:?}"
        );
        assert_eq!(
            names(parent.path()),
            BTreeSet::from(["foo".to_owned()]),
            "after {seen:?}"
        );
        assert_eq!(names(&dir).len(), 4);
    }
    assert_eq!(crashes, 8, "every step was a crash once");
}

fn names_or_none(dir: &Path) -> BTreeSet<String> {
    if dir.exists() { names(dir) } else { BTreeSet::new() }
}

#[test]
fn of_many_threads_one_makes_the_ca() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("foo");
    let barrier = std::sync::Barrier::new(8);
    let outcomes: Vec<Outcome> = std::thread::scope(|scope| {
        let start = || {
            barrier.wait();
            ensure(&dir, material).unwrap()
        };
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(start)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(
        outcomes.iter().filter(|outcome| **outcome == Outcome::Made).count(),
        1,
        "{outcomes:?}"
    );
    assert_eq!(names(parent.path()), BTreeSet::from(["foo".to_owned()]));
}

/// Not a test of its own: what `of_two_processes_one_makes_the_ca` runs as another process.
#[test]
fn child_process_makes_the_ca() {
    if let Some(dir) = std::env::var_os("ENSIGN_TEST_CA_DIR") {
        ensure(Path::new(&dir), material).unwrap();
    }
}

#[test]
fn of_two_processes_one_makes_the_ca() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("foo");
    let start = || {
        std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "signer::local::tests::making::child_process_makes_the_ca"])
            .env("ENSIGN_TEST_CA_DIR", &dir)
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap()
    };
    let mut children = [start(), start(), start()];
    assert!(children.iter_mut().all(|child| child.wait().unwrap().success()));
    assert_eq!(ensure(&dir, material).unwrap(), Outcome::Found);
    assert_eq!(names(parent.path()), BTreeSet::from(["foo".to_owned()]));
    let files = [CA_CERT, ROOT_CERT].map(|name| std::fs::read_to_string(dir.join(name)).unwrap());
    assert_eq!(files[0], files[1]);
}

#[test]
fn half_a_ca_a_foreign_folder_and_an_open_key_stop_the_start() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("foo");
    std::fs::create_dir(&dir).unwrap();
    write(&dir, &[("notes.txt", "mine")]);
    let refusal = |dir: &Path| ensure(dir, material).unwrap_err().to_string();
    assert!(refusal(&dir).contains("notes.txt"), "{}", refusal(&dir));
    write(&dir, &[(CA_KEY, "x")]);
    assert!(
        refusal(&dir).contains("lacks ca-cert.pem, root-cert.pem"),
        "{}",
        refusal(&dir)
    );
    assert_eq!(std::fs::read_to_string(dir.join(CA_KEY)).unwrap(), "x");
    std::fs::remove_dir_all(&dir).unwrap();
    ensure(&dir, material).unwrap();
    std::fs::set_permissions(dir.join(CA_KEY), std::fs::Permissions::from_mode(0o644)).unwrap();
    assert!(refusal(&dir).contains("make it 0600"), "{}", refusal(&dir));
    assert_eq!(names(parent.path()), BTreeSet::from(["foo".to_owned()]));
}
