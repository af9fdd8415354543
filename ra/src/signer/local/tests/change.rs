//! Files and policies that change while the signer runs: root rotation, reloads, ends.

use super::*;

async fn until<T: PartialEq + fmt::Debug>(expected: &T, mut look: impl FnMut() -> T) {
    let patience = Duration::from_secs(60);
    let wait = async {
        while look() != *expected {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(patience, wait)
        .await
        .unwrap_or_else(|_| panic!("never became {expected:?}"));
}

#[tokio::test]
async fn an_ordered_root_rotation_with_two_roots_of_one_subject() {
    let (host, _) = host();
    let (first, second) = (TestCa::root("mesh root"), TestCa::root("mesh root"));
    let (old, new) = (first.child("issuing", 30 * DAY), second.child("issuing", 30 * DAY));
    let dir = plugged_in(&old, &old.key.to_pkcs8_pem(), "", &first.pem());
    let roots = dir.path().join("roots.pem");
    write(dir.path(), &[("roots.pem", &first.pem())]);
    let running = open(&spec(dir.path(), false, Some(roots.clone())), &host)
        .await
        .unwrap();
    let size = || running.trust().current().unwrap().bundle().len();

    // A bundle without the root in use is refused whole.
    write(dir.path(), &[("roots.pem", &second.pem())]);
    let under_old = |chain: &[CertificateDer<'_>]| chain[1] == *old.certificate.der();
    assert!(under_old(&issue(&running, request(KeyType::P256, DAY), now()).await));
    write(dir.path(), &[("roots.pem", &[first.pem(), second.pem()].concat())]);
    until(&2, size).await;
    assert!(under_old(&issue(&running, request(KeyType::P256, DAY), now()).await));

    // Certificate first, key later: in between the old CA signs on.
    write(dir.path(), &[(CA_CERT, &new.pem())]);
    assert!(under_old(&issue(&running, request(KeyType::P256, DAY), now()).await));
    write(dir.path(), &[(CA_KEY, &new.key.to_pkcs8_pem())]);
    let switched = async {
        while issue(&running, request(KeyType::P256, DAY), now()).await[1] != *new.certificate.der() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), switched).await.unwrap();
    issue(&running, request(KeyType::P256, DAY), now()).await;

    write(dir.path(), &[("roots.pem", &second.pem())]);
    until(&1, size).await;
    issue(&running, request(KeyType::P256, DAY), now()).await;
    host.stop.cancel();
    host.tasks.close();
    host.tasks.wait().await;
}

#[tokio::test]
async fn a_reload_keeps_what_did_not_change_and_ends_what_is_gone() {
    let parent = tempfile::tempdir().unwrap();
    let (host, _) = host();
    let foo = spec(&parent.path().join("foo"), true, None);
    let mut bar = spec(&parent.path().join("bar"), true, None);
    bar.name = "bar".parse().unwrap();
    let before = Signers::open([&foo, &bar], &Signers::default(), &host).await.unwrap();
    bar.backdate = Duration::ZERO;
    let after = Signers::open([&foo, &bar], &before, &host).await.unwrap();
    let same = |name: &SignerName| Arc::ptr_eq(before.get(name).unwrap(), after.get(name).unwrap());
    assert!(same(&foo.name) && !same(&bar.name));
    assert_eq!(host.tasks.len(), 3);
    drop(before);
    drop(after);
    host.tasks.close();
    tokio::time::timeout(Duration::from_secs(60), host.tasks.wait())
        .await
        .unwrap();
}
