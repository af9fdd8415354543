//! Every way in which an issued certificate can be wrong, each with its reason; and what must pass.

use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose,
    SanType,
};
use test_case::test_case;

use super::*;
use crate::{
    crypto,
    test_ca::{Ca, HOUR, id, key, leaf_params, now, valid},
};

fn bundle(roots: &[&Ca]) -> Bundle {
    Bundle::from_certificates(roots.iter().map(|ca| ca.certificate.clone()).collect()).unwrap()
}

fn chain(certificates: &[&Certificate]) -> Chain {
    Chain::from_certificates(certificates.iter().map(|c| (*c).clone()).collect()).unwrap()
}

fn reason(chain: &Chain, anchors: &Bundle, key: &PrivateKey, now: SystemTime) -> &'static str {
    match verify_issued(chain, anchors, &id(), &key.spki_der(), now) {
        Ok(_) => "ok",
        Err(error) => error.reason(),
    }
}

/// The verdict on a leaf with one thing changed, under its own root.
fn verdict(change: impl FnOnce(&mut CertificateParams)) -> &'static str {
    let (root, key) = (Ca::root("root"), key());
    let leaf = root.leaf_with(&key, change);
    reason(&chain(&[&leaf]), &bundle(&[&root]), &key, now())
}

#[test]
fn an_honest_certificate_passes() {
    let (root, key) = (Ca::root("root"), key());
    let intermediate = root.intermediate("intermediate");
    let leaf = intermediate.leaf(&key);
    let validity = verify_issued(
        &chain(&[&leaf, &intermediate.certificate, &root.certificate]),
        &bundle(&[&root]),
        &id(),
        &key.spki_der(),
        now(),
    )
    .unwrap();
    assert_eq!(validity.not_before, now() - HOUR / 60);
    assert_eq!(validity.not_after, now() + 24 * HOUR);
    assert_eq!(validity.serial, leaf.serial());
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

#[test_case(|_| {}, "ok" ; "nothing changed")]
#[test_case(|p| p.subject_alt_names = vec![uri("spiffe://cluster.local/ns/foo/sa/other")], "wrong_san" ; "another account")]
#[test_case(|p| p.subject_alt_names = vec![uri("spiffe://cluster.local/ns/fo/sa/httpbin")], "wrong_san" ; "another namespace")]
#[test_case(|p| p.subject_alt_names = vec![uri("spiffe://td/ns/foo/sa/httpbin")], "wrong_san" ; "another trust domain")]
#[test_case(|p| p.subject_alt_names = vec![], "wrong_san" ; "no name")]
#[test_case(|p| p.subject_alt_names.push(SanType::DnsName("example.com".try_into().unwrap())), "wrong_san" ; "a dns name more")]
#[test_case(|p| p.subject_alt_names.push(uri("spiffe://cluster.local/ns/foo/sa/other")), "wrong_san" ; "an id more")]
#[test_case(|p| p.subject_alt_names.push(uri("spiffe://cluster.local/ns/foo/sa/httpbin")), "wrong_san" ; "the id twice")]
#[test_case(|p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained), "ca_leaf" ; "ca")]
#[test_case(|p| p.is_ca = IsCa::NoCa, "ok" ; "no basic constraints")]
#[test_case(|p| p.extended_key_usages = vec![], "missing_eku" ; "no extended key usage")]
#[test_case(|p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth], "missing_eku" ; "server only")]
#[test_case(|p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth], "missing_eku" ; "client only")]
#[test_case(|p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::Any], "missing_eku" ; "any")]
#[test_case(|p| p.key_usages = vec![KeyUsagePurpose::KeyEncipherment], "missing_key_usage" ; "encipherment only")]
#[test_case(|p| p.key_usages = vec![], "ok" ; "no key usage extension")]
#[test_case(|p| valid(p, now() - 3 * HOUR, now() - HOUR), "expired" ; "expired")]
#[test_case(|p| valid(p, now() + HOUR, now() + 2 * HOUR), "not_yet_valid" ; "not yet valid")]
#[test_case(|p| valid(p, now() - HOUR, now()), "ok" ; "ends in this second")]
#[test_case(|p| valid(p, now(), now() + HOUR), "ok" ; "begins in this second")]
#[test_case(|p| p.distinguished_name.push(DnType::CommonName, "httpbin"), "ok" ; "a subject beside the id")]
#[test_case(|p| p.custom_extensions.push(critical_unknown()), "unacceptable_chain" ; "critical unknown extension")]
fn verdicts(change: fn(&mut CertificateParams), expected: &str) {
    assert_eq!(verdict(change), expected);
}

fn critical_unknown() -> CustomExtension {
    let mut unknown = CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![5, 0]);
    unknown.set_criticality(true);
    unknown
}

#[test]
fn another_key_is_refused() {
    let root = Ca::root("root");
    let leaf = root.leaf(&key());
    assert_eq!(reason(&chain(&[&leaf]), &bundle(&[&root]), &key(), now()), "wrong_key");
}

#[test]
fn a_foreign_root_is_told_from_a_missing_issuer() {
    let (root, other, key) = (Ca::root("root"), Ca::root("other"), key());
    let intermediate = root.intermediate("intermediate");
    let (direct, deep) = (root.leaf(&key), intermediate.leaf(&key));
    let ours = bundle(&[&other]);
    // The reply brings its own root, which is not in our bundle.
    assert_eq!(
        reason(&chain(&[&direct, &root.certificate]), &ours, &key, now()),
        "foreign_root"
    );
    let all = [&deep, &intermediate.certificate, &root.certificate];
    assert_eq!(reason(&chain(&all), &ours, &key, now()), "foreign_root");
    // Nobody knows the issuer.
    assert_eq!(reason(&chain(&[&direct]), &ours, &key, now()), "incomplete_chain");
    assert_eq!(
        reason(&chain(&[&deep, &root.certificate]), &bundle(&[&root]), &key, now()),
        "incomplete_chain"
    );
}

/// A root of the same name with another key: names do not make trust.
#[test]
fn a_root_that_borrows_the_name_is_foreign() {
    let (root, imposter, key) = (Ca::root("root"), Ca::root("root"), key());
    let leaf = imposter.leaf(&key);
    assert_eq!(
        reason(&chain(&[&leaf, &imposter.certificate]), &bundle(&[&root]), &key, now()),
        "foreign_root"
    );
}

/// Both roots of a rotation may have one name, in either order.
#[test]
fn two_roots_of_one_name_both_anchor() {
    let (one, two, key) = (Ca::root("root"), Ca::root("root"), key());
    let both = bundle(&[&one, &two]);
    for root in [&one, &two] {
        assert_eq!(reason(&chain(&[&root.leaf(&key)]), &both, &key, now()), "ok");
    }
    assert_eq!(
        reason(&chain(&[&two.leaf(&key)]), &bundle(&[&one]), &key, now()),
        "foreign_root"
    );
}

#[test]
fn an_expired_root_stays_in_the_bundle_and_anchors_nothing() {
    let old = Ca::root_with("old", |p| valid(p, now() - 9 * HOUR, now() - HOUR));
    let (fresh, key) = (Ca::root("fresh"), key());
    let both = bundle(&[&old, &fresh]);
    assert_eq!(both.len(), 2);
    assert_eq!(reason(&chain(&[&old.leaf(&key)]), &both, &key, now()), "root_not_valid");
    assert_eq!(
        reason(&chain(&[&old.leaf(&key)]), &bundle(&[&old]), &key, now()),
        "root_not_valid"
    );
    assert_eq!(reason(&chain(&[&fresh.leaf(&key)]), &both, &key, now()), "ok");
    let future = Ca::root_with("future", |p| valid(p, now() + HOUR, now() + 9 * HOUR));
    assert_eq!(
        reason(&chain(&[&future.leaf(&key)]), &bundle(&[&future]), &key, now()),
        "root_not_valid"
    );
}

/// A root renewed with the same name and key: the expired one beside it does no harm.
#[test]
fn a_renewed_root_anchors_beside_its_expired_self() {
    let file = include_str!("../../testdata/p256.pkcs8.pem");
    let same = || PrivateKey::from_pem(file).unwrap();
    let old = Ca::root_with_key("root", same(), |p| valid(p, now() - 9 * HOUR, now() - HOUR));
    let renewed = Ca::root_with_key("root", same(), |_| {});
    let key = key();
    assert_eq!(
        reason(&chain(&[&old.leaf(&key)]), &bundle(&[&old, &renewed]), &key, now()),
        "ok"
    );
}

#[test]
fn each_certificate_of_the_chain_must_be_valid_and_the_earliest_end_counts() {
    let (root, key) = (Ca::root("root"), key());
    let under = |from, to| {
        let intermediate = root.intermediate_with("intermediate", |p| valid(p, from, to));
        (
            chain(&[&intermediate.leaf(&key), &intermediate.certificate]),
            bundle(&[&root]),
        )
    };
    let (chain, anchors) = under(now() - 9 * HOUR, now() - HOUR);
    let error = verify_issued(&chain, &anchors, &id(), &key.spki_der(), now()).unwrap_err();
    assert!(
        matches!(&error, SvidError::Expired { subject, .. } if subject == "CN=intermediate"),
        "{error}"
    );
    let (chain, anchors) = under(now() + HOUR, now() + 9 * HOUR);
    assert_eq!(reason(&chain, &anchors, &key, now()), "not_yet_valid");
    let (chain, anchors) = under(now() - 9 * HOUR, now() + HOUR);
    let validity = verify_issued(&chain, &anchors, &id(), &key.spki_der(), now()).unwrap();
    assert_eq!(
        validity.not_after,
        now() + HOUR,
        "the intermediate ends 23 hours before the leaf"
    );
}

#[test]
fn an_issuer_must_be_allowed_to_issue() {
    let (root, key) = (Ca::root("root"), key());
    let verdict = |change: fn(&mut CertificateParams)| {
        let intermediate = root.intermediate_with("intermediate", change);
        reason(
            &chain(&[&intermediate.leaf(&key), &intermediate.certificate]),
            &bundle(&[&root]),
            &key,
            now(),
        )
    };
    assert_eq!(
        verdict(|p| p.key_usages = vec![KeyUsagePurpose::CrlSign]),
        "unacceptable_chain"
    );
    assert_eq!(
        verdict(|p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]),
        "unacceptable_chain"
    );
    assert_eq!(
        verdict(|p| {
            p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        }),
        "ok"
    );
}

#[test]
fn the_path_length_counts() {
    let (root, key) = (Ca::root("root"), key());
    let short = root.intermediate_with("short", |p| p.is_ca = IsCa::Ca(BasicConstraints::Constrained(0)));
    let below = short.intermediate("below");
    let leaf = below.leaf(&key);
    let long = chain(&[&leaf, &below.certificate, &short.certificate]);
    assert_eq!(reason(&long, &bundle(&[&root]), &key, now()), "unacceptable_chain");
    assert_eq!(
        reason(
            &chain(&[&short.leaf(&key), &short.certificate]),
            &bundle(&[&root]),
            &key,
            now()
        ),
        "ok"
    );
}

#[test]
fn a_broken_signature_is_named() {
    let (root, key) = (Ca::root("root"), key());
    let intermediate = root.intermediate("intermediate");
    let imposter = root.intermediate("intermediate");
    let mixed = chain(&[&intermediate.leaf(&key), &imposter.certificate]);
    assert_eq!(reason(&mixed, &bundle(&[&root]), &key, now()), "bad_signature");
    let mut changed = root.leaf(&key).der().to_vec();
    *changed.last_mut().unwrap() ^= 1;
    let changed = Certificate::parse_der(&changed).unwrap();
    assert_ne!(reason(&chain(&[&changed]), &bundle(&[&root]), &key, now()), "ok");
}

/// A cross-certificate beside the direct way up is sent to peers as well, so it must be genuine as well.
#[test]
fn what_stands_beside_the_path_is_checked_too() {
    let (old, new, key) = (Ca::root("old"), Ca::root("new"), key());
    let issuing = new.intermediate("issuing");
    let leaf = issuing.leaf(&key);
    let cross = new.certified_by(&old);
    let with_cross = chain(&[&leaf, &issuing.certificate, &cross]);
    assert_eq!(reason(&with_cross, &bundle(&[&new]), &key, now()), "ok");
    assert_eq!(reason(&with_cross, &bundle(&[&old]), &key, now()), "ok");
    let forged = Ca::root("new").certified_by(&old);
    let with_forged = chain(&[&leaf, &issuing.certificate, &forged]);
    assert_eq!(reason(&with_forged, &bundle(&[&new]), &key, now()), "bad_signature");
}

/// An operator may pin an intermediate: what it issued passes, its siblings do not.
#[test]
fn an_intermediate_may_be_an_anchor() {
    let (root, key) = (Ca::root("root"), key());
    let (pinned, sibling) = (root.intermediate("pinned"), root.intermediate("sibling"));
    let anchors = bundle(&[&pinned]);
    assert_eq!(reason(&chain(&[&pinned.leaf(&key)]), &anchors, &key, now()), "ok");
    let beside = chain(&[&sibling.leaf(&key), &sibling.certificate, &root.certificate]);
    assert_eq!(reason(&beside, &anchors, &key, now()), "foreign_root");
}

#[test]
fn an_svid_holds_what_was_verified_and_shows_no_key() {
    let (root, key) = (Ca::root("root"), key());
    let intermediate = root.intermediate("intermediate");
    let leaf = intermediate.leaf(&key);
    let key_pem = key.to_pkcs8_pem();
    let reply = chain(&[&leaf, &root.certificate, &intermediate.certificate]);
    let svid = Svid::assemble(key, reply, &bundle(&[&root]), &id(), now()).unwrap();
    assert_eq!(
        svid.chain_pem(),
        leaf.to_pem() + &intermediate.certificate.to_pem(),
        "leaf first, no root"
    );
    assert_eq!(*svid.key_pem(), *key_pem);
    assert_eq!(svid.spiffe_id(), &id());
    assert_eq!(svid.validity().serial, leaf.serial());
    let shown = format!("{svid:?}");
    for line in key_pem.lines() {
        assert!(!shown.contains(line), "{shown}");
    }
}

/// A refused answer costs no key: whoever keeps it in an `Arc` can ask again with it.
#[test]
fn a_refused_answer_leaves_the_key_usable() {
    let (root, key) = (Ca::root("root"), Arc::new(key()));
    let wrong = chain(&[&root.leaf(&crate::test_ca::key())]);
    let refused = Svid::assemble(Arc::clone(&key), wrong, &bundle(&[&root]), &id(), now());
    assert_eq!(refused.unwrap_err().reason(), "wrong_key");
    let right = chain(&[&root.leaf(&key)]);
    assert!(Svid::assemble(key, right, &bundle(&[&root]), &id(), now()).is_ok());
}

/// CAs with RSA and P-384 keys sign leaves of P-256 keys.
#[test_case(include_str!("../../testdata/rsa-2048.pkcs8.pem") ; "rsa 2048")]
#[test_case(include_str!("../../testdata/rsa-4096.pkcs8.pem") ; "rsa 4096")]
#[test_case(include_str!("../../testdata/p384.sec1.pem") ; "p384")]
fn authorities_of_other_key_types(pem: &str) {
    let root = Ca::root_with_key("root", PrivateKey::from_pem(pem).unwrap(), |_| {});
    let key = key();
    assert!(root.certificate.is_self_signed());
    assert_eq!(
        reason(
            &chain(&[&root.leaf(&key), &root.certificate]),
            &bundle(&[&root]),
            &key,
            now()
        ),
        "ok"
    );
}

/// Workloads with RSA keys under a P-256 authority.
#[test]
fn workloads_of_other_key_types() {
    let root = Ca::root("root");
    for pem in [
        include_str!("../../testdata/rsa-2048.pkcs8.pem"),
        include_str!("../../testdata/p384.sec1.pem"),
    ] {
        let key = PrivateKey::from_pem(pem).unwrap();
        assert_eq!(
            reason(&chain(&[&root.leaf(&key)]), &bundle(&[&root]), &key, now()),
            "ok"
        );
    }
}

/// The serial as Envoy prints it: two digits per byte, no sign byte.
#[test]
fn serials_are_lower_case_hex_without_a_sign_byte() {
    let (root, key) = (Ca::root("root"), key());
    for (serial, text) in [
        (vec![0xAB, 0x01], "ab01"),
        (vec![0x0A], "0a"),
        (vec![0x7f, 0xff], "7fff"),
    ] {
        let mut params = leaf_params();
        params.serial_number = Some(serial.into());
        assert_eq!(root.sign(&params, &key).serial(), text);
    }
}

/// A clock before 1970 is wrong, and is answered, not panicked about.
#[test]
fn an_absurd_clock_is_refused() {
    let (root, key) = (Ca::root("root"), key());
    let before = SystemTime::UNIX_EPOCH - HOUR;
    assert_eq!(
        reason(&chain(&[&root.leaf(&key)]), &bundle(&[&root]), &key, before),
        "not_yet_valid"
    );
}

#[test]
fn the_provider_is_the_one_of_this_build() {
    assert_eq!(crypto::PROVIDER_NAME == "ring", cfg!(feature = "ring"));
    crypto::install_default();
    crypto::install_default();
    assert!(rustls::crypto::CryptoProvider::get_default().is_some());
}

fn presented(change: impl FnOnce(&mut CertificateParams)) -> &'static str {
    let root = Ca::root("root");
    let leaf = root.leaf_with(&key(), change);
    match verify_presented(&chain(&[&leaf]), &bundle(&[&root]), now()) {
        Ok(seen) => {
            assert_eq!(seen, id());
            "ok"
        }
        Err(error) => error.reason(),
    }
}

#[test_case(|_| {}, "ok" ; "as issued")]
#[test_case(|p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth], "ok" ; "client only")]
#[test_case(|p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth], "missing_eku" ; "server only")]
#[test_case(|p| p.extended_key_usages = vec![], "missing_eku" ; "no extended key usage")]
#[test_case(|p| p.subject_alt_names = vec![], "wrong_san" ; "no name")]
#[test_case(|p| p.subject_alt_names.push(uri("spiffe://cluster.local/ns/foo/sa/other")), "wrong_san" ; "two ids")]
#[test_case(|p| p.subject_alt_names.push(SanType::DnsName("example.com".try_into().unwrap())), "wrong_san" ; "a dns name more")]
#[test_case(|p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained), "ca_leaf" ; "ca")]
#[test_case(|p| valid(p, now() - 2 * HOUR, now() - HOUR), "expired" ; "expired")]
#[test_case(|p| valid(p, now() + HOUR, now() + 2 * HOUR), "not_yet_valid" ; "not yet valid")]
fn a_presented_certificate_names_its_bearer_or_nobody(change: fn(&mut CertificateParams), verdict: &str) {
    assert_eq!(presented(change), verdict);
}

#[test]
fn a_presented_certificate_counts_under_its_own_root_only() {
    let (ours, theirs) = (Ca::root("root"), Ca::root("root"));
    let leaf = theirs.leaf(&key());
    let error = verify_presented(&chain(&[&leaf]), &bundle(&[&ours]), now()).unwrap_err();
    assert_eq!(error.reason(), "foreign_root");
}
