//! A CA that the operator plugs in: keys of every form, chains in any order, and sets that do not go together.

use super::*;

#[tokio::test]
async fn plugged_in_keys_of_every_form() {
    let (host, _) = host();
    for (text, intermediate) in [(RSA_PKCS1, true), (P256_SEC1, true), (P384_SEC1, false)] {
        let root = TestCa::root("root");
        let key = || PrivateKey::from_pem(text).unwrap();
        let params = TestCa::params("issuing", 30 * DAY);
        let (ca, roots) = if intermediate {
            let issuer = rcgen::Issuer::from_params(&root.params, root.key.signing_key());
            let certificate = params.signed_by(key().signing_key(), &issuer).unwrap();
            (
                TestCa {
                    key: key(),
                    params,
                    certificate,
                },
                root.pem(),
            )
        } else {
            let ca = TestCa::root_with(key(), params);
            let pem = ca.pem();
            (ca, pem)
        };
        for form in [text.to_owned(), ca.key.to_pkcs8_pem().to_string()] {
            let dir = plugged_in(&ca, &form, &ca.pem(), &roots);
            let running = open(&spec(dir.path(), false, None), &host).await.unwrap();
            let chain = issue(&running, request(KeyType::P384, DAY), now()).await;
            assert_eq!(chain.len(), if intermediate { 2 } else { 1 });
        }
    }
}

#[tokio::test]
async fn the_chain_file_leads_to_the_root_in_any_order_and_without_the_root_itself() {
    let (host, _) = host();
    let root = TestCa::root("root");
    let middle = root.child("middle", 60 * DAY);
    let issuing = middle.child("issuing", 30 * DAY);
    let chain = [root.pem(), issuing.pem(), middle.pem(), TestCa::root("stranger").pem()].concat();
    let dir = plugged_in(&issuing, &issuing.key.to_pkcs8_pem(), &chain, &root.pem());
    let running = open(&spec(dir.path(), false, None), &host).await.unwrap();
    let chain = issue(&running, request(KeyType::P256, DAY), now()).await;
    assert_eq!(
        chain[1..],
        [issuing.certificate.der().clone(), middle.certificate.der().clone()]
    );
    // The last second of the earliest end, and not one more.
    let long = issue(&running, request(KeyType::P256, 3650 * DAY), now()).await;
    assert_eq!(Certificate::parse_der(&long[0]).unwrap().not_after(), now() + 30 * DAY);
}

#[tokio::test]
async fn what_does_not_go_together_is_refused_with_its_place() {
    let (host, _) = host();
    let (root, other) = (TestCa::root("root"), TestCa::root("root"));
    let ca = root.child("issuing", 30 * DAY);
    let key = ca.key.to_pkcs8_pem();
    let leaf_like = TestCa {
        params: CertificateParams::default(),
        ..root.child("leaf", DAY)
    };
    let wrong_key = plugged_in(&ca, &other.key.to_pkcs8_pem(), "", &root.pem());
    let wrong_root = plugged_in(&ca, &key, "", &other.pem());
    let no_pem = plugged_in(&ca, "nonsense", "", &root.pem());
    let mut no_ca = TestCa::params("no ca", DAY);
    no_ca.is_ca = IsCa::NoCa;
    let issuer = rcgen::Issuer::from_params(&root.params, root.key.signing_key());
    let certificate = no_ca.signed_by(leaf_like.key.signing_key(), &issuer).unwrap();
    let leaf = TestCa {
        certificate,
        ..leaf_like
    };
    let not_a_ca = plugged_in(&leaf, &leaf.key.to_pkcs8_pem(), "", &root.pem());
    let missing = plugged_in(&ca, &key, "", &root.pem());
    std::fs::remove_file(missing.path().join(CA_KEY)).unwrap();
    let no_certificate = plugged_in(&ca, &key, "", &root.pem());
    write(no_certificate.path(), &[(CA_CERT, "nonsense")]);
    let absent = plugged_in(&ca, &key, "", &root.pem());
    std::fs::remove_file(absent.path().join(CA_CERT)).unwrap();
    // Two levels need no chain file, since the issuing CA is under the root; three do.
    let deep = root.child("middle", 60 * DAY).child("issuing", 30 * DAY);
    let no_chain = plugged_in(&deep, &deep.key.to_pkcs8_pem(), "", &root.pem());
    for (dir, expected) in [
        (&wrong_key, "does not belong to the certificate"),
        (&wrong_root, "does not chain into the signer's roots"),
        (&no_pem, "holds no key that can sign"),
        (&not_a_ca, "may not sign certificates"),
        (&missing, "ca-key.pem"),
        (&no_certificate, "ca-cert.pem holds no certificate"),
        (&absent, "ca-cert.pem"),
        (&no_chain, "does not chain into the signer's roots"),
    ] {
        let error = open(&spec(dir.path(), false, None), &host).await.unwrap_err();
        assert!(error.contains(expected) && error.contains("signer foo"), "{error}");
        assert!(error.contains(dir.path().to_str().unwrap()), "{error}");
    }
}

#[tokio::test]
async fn a_ca_under_a_path_length_of_zero_is_found_out_at_load() {
    let (host, _) = host();
    let mut params = TestCa::params("root", 365 * DAY);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let root = TestCa::root_with(PrivateKey::generate(KeyType::P256).unwrap(), params);
    let middle = root.child("middle", DAY);
    let ca = middle.child("issuing", DAY);
    let dir = plugged_in(&ca, &ca.key.to_pkcs8_pem(), &middle.pem(), &root.pem());
    let error = open(&spec(dir.path(), false, None), &host).await.unwrap_err();
    assert!(error.contains("allows 0 CAs below it, but there are 2"), "{error}");
}

#[tokio::test]
async fn a_ca_outside_its_time_loads_and_is_unavailable() {
    let (host, clock) = host();
    let root = TestCa::root("root");
    let ca = root.child("issuing", 30 * DAY);
    let dir = plugged_in(&ca, &ca.key.to_pkcs8_pem(), "", &root.pem());
    for (at, expected) in [(now() - 2 * DAY, "not valid before"), (now() + 31 * DAY, "expired")] {
        *clock.0.lock() = at;
        let running = open(&spec(dir.path(), false, None), &host).await.unwrap();
        let error = running.signer().sign(request(KeyType::P256, DAY)).await.unwrap_err();
        assert!(
            matches!(error, SignerError::Unavailable { .. }) && error.to_string().contains(expected),
            "{error}"
        );
    }
    // On the first second NotBefore is the issuer's own, although backdating asks for earlier.
    *clock.0.lock() = now() - DAY;
    let running = open(&spec(dir.path(), false, None), &host).await.unwrap();
    let chain = issue(&running, request(KeyType::P256, DAY), now() - DAY).await;
    assert_eq!(Certificate::parse_der(&chain[0]).unwrap().not_before(), now() - DAY);
}
