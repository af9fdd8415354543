//! A wrong certificate must be wrong in its one way, or the tests that use it prove nothing.

use std::time::{Duration, SystemTime};

use ensign_pki::{Bundle, Chain, Clock, KeyType, PrivateKey, SpiffeId, SystemClock, csr, verify_issued};

use super::TestCa;
use crate::Fault;

struct Request {
    id: SpiffeId,
    key: PrivateKey,
    csr_pem: String,
}

fn request() -> Request {
    let id: SpiffeId = "spiffe://cluster.local/ns/foo/sa/httpbin".parse().unwrap();
    let key = PrivateKey::generate(KeyType::P256).unwrap();
    let csr_pem = csr::build(&key, &id).unwrap().to_pem();
    Request { id, key, csr_pem }
}

/// The reason for which a reply is refused, or `accepted`.
fn judge(ca: &TestCa, fault: Option<Fault>) -> String {
    let Request { id, key, csr_pem } = request();
    let reply = ca.reply(&csr_pem, Duration::from_hours(1), fault);
    let anchors = Bundle::parse_pem(&ca.root_pem()).unwrap();
    match Chain::from_reply_elements(&reply) {
        Err(error) => format!("chain: {}", error.reason()),
        Ok(chain) => match verify_issued(&chain, &anchors, &id, &key.spki_der(), SystemClock.now()) {
            Err(error) => error.reason().to_owned(),
            Ok(_) => "accepted".to_owned(),
        },
    }
}

#[test]
fn a_right_reply_is_accepted_whatever_the_depth() {
    for count in 0..3 {
        assert_eq!(
            judge(&TestCa::with_intermediates("a", count), None),
            "accepted",
            "{count} intermediates"
        );
    }
}

#[test]
fn each_fault_is_refused_for_its_own_reason() {
    let ca = TestCa::new("a");
    for fault in Fault::ALL {
        let expected = match fault {
            Fault::OtherKey => "wrong_key",
            Fault::OtherSan | Fault::ExtraSan => "wrong_san",
            Fault::CaLeaf => "ca_leaf",
            Fault::MissingServerAuth | Fault::MissingClientAuth => "missing_eku",
            Fault::Expired => "expired",
            Fault::NotYetValid => "not_yet_valid",
            Fault::ForeignRoot => "foreign_root",
            Fault::ForeignChain | Fault::MissingIntermediate => "incomplete_chain",
            Fault::Empty | Fault::Garbage => "chain: empty_chain",
            Fault::RootOnly => "chain: no_leaf",
            Fault::LeafNotFirst => "chain: misordered_chain",
        };
        assert_eq!(judge(&ca, Some(fault)), expected, "{fault:?}");
    }
}

#[test]
fn two_roots_of_one_subject_differ() {
    let (first, second) = (TestCa::root_only("same"), TestCa::root_only("same"));
    assert_ne!(first.root_pem(), second.root_pem());
    let both = Bundle::parse_pem(&(first.root_pem() + &second.root_pem())).unwrap();
    assert_eq!(both.len(), 2);
}

#[test]
fn serials_differ_for_one_key() {
    let ca = TestCa::new("a");
    let csr_pem = request().csr_pem;
    let leaf = || ca.reply(&csr_pem, Duration::from_mins(1), None)[0].clone();
    assert_ne!(leaf(), leaf());
}

#[test]
fn the_folder_holds_what_istio_plugs_in() {
    let folder = tempfile::tempdir().unwrap();
    let ca = TestCa::new("a");
    ca.write_to(folder.path()).unwrap();
    let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
    assert_eq!(read("root-cert.pem"), ca.root_pem());
    assert_eq!(read("ca-cert.pem"), ca.intermediate_pems()[0]);
    assert_eq!(read("cert-chain.pem"), ca.intermediate_pems().concat());
    assert!(PrivateKey::from_pem(&read("ca-key.pem")).is_ok());
}

#[test]
fn a_moved_clock_moves_the_validity() {
    let ca = TestCa::new("a");
    let later = SystemTime::now() + Duration::from_hours(24);
    let reply = ca.reply_at(later, &request().csr_pem, Duration::from_mins(1), None);
    let (_, pem) = x509_parser::pem::parse_x509_pem(reply[0].as_bytes()).unwrap();
    let seen = pem.parse_x509().unwrap().validity().not_after.timestamp();
    let expected = (later + Duration::from_mins(1))
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap()
        .as_secs();
    assert_eq!(u64::try_from(seen).unwrap(), expected);
}
