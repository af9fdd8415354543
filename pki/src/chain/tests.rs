//! Replies in the arrangements that Istio, istio-csr and careless authorities send.

use super::*;
use crate::test_ca::{Ca, key};

struct Parts {
    leaf: Certificate,
    lower: Certificate,
    upper: Certificate,
    root: Certificate,
    other_root: Certificate,
}

fn parts() -> Parts {
    let (root, other_root) = (Ca::root("root"), Ca::root("other"));
    let upper = root.intermediate("upper");
    let lower = upper.intermediate("lower");
    Parts {
        leaf: lower.leaf(&key()),
        lower: lower.certificate,
        upper: upper.certificate,
        root: root.certificate,
        other_root: other_root.certificate,
    }
}

fn elements(groups: &[&[&Certificate]]) -> Vec<String> {
    groups
        .iter()
        .map(|group| group.iter().map(|c| c.to_pem()).collect())
        .collect()
}

#[test]
fn every_arrangement_gives_one_chain() {
    let p = parts();
    let (leaf, lower, upper, root, other) = (&p.leaf, &p.lower, &p.upper, &p.root, &p.other_root);
    let expected = Chain::from_reply_elements(&elements(&[&[leaf], &[lower], &[upper], &[root, other]])).unwrap();
    assert_eq!(expected.leaf(), leaf);
    assert_eq!(expected.intermediates(), [lower.clone(), upper.clone()]);
    assert_eq!(expected.roots().unwrap().len(), 2);
    assert_eq!(expected.to_pem(), leaf.to_pem() + &lower.to_pem() + &upper.to_pem());
    let arrangements: &[&[&[&Certificate]]] = &[
        &[&[leaf, lower, upper, root, other]],
        &[&[leaf], &[upper], &[lower], &[other, root]],
        &[&[leaf], &[root], &[upper, lower], &[other]],
        &[&[leaf], &[lower, lower], &[upper], &[root], &[root, other]],
        &[&[leaf], &[lower], &[upper], &[leaf], &[root, other, root]],
        &[&[root], &[leaf], &[lower], &[upper], &[other]],
    ];
    for arrangement in arrangements {
        assert_eq!(Chain::from_reply_elements(&elements(arrangement)).unwrap(), expected);
    }
}

#[test]
fn ders_and_text_give_the_same() {
    let p = parts();
    let all = [&p.leaf, &p.upper, &p.lower, &p.root];
    let ders: Vec<_> = all.iter().map(|c| c.der().clone()).collect();
    assert_eq!(
        Chain::from_ders(&ders).unwrap(),
        Chain::from_reply_elements(&elements(&[&all])).unwrap()
    );
}

#[test]
fn a_leaf_alone_is_a_chain_without_roots() {
    let p = parts();
    let chain = Chain::from_reply_elements(&elements(&[&[&p.leaf]])).unwrap();
    assert!(chain.roots().is_none() && chain.intermediates().is_empty());
}

#[test]
fn comments_and_line_ends_are_no_matter() {
    let p = parts();
    let text = format!(
        "subject=leaf\r\n{}\n\n\n# root\n{}",
        p.leaf.to_pem().replace('\n', "\r\n"),
        p.lower.to_pem()
    );
    assert!(Chain::from_reply_elements(&[text]).is_ok());
}

fn reason(elements: &[String]) -> &'static str {
    Chain::from_reply_elements(elements).unwrap_err().reason()
}

#[test]
fn each_disorder_has_its_reason() {
    let p = parts();
    let (leaf, lower, upper, root) = (&p.leaf, &p.lower, &p.upper, &p.root);
    assert_eq!(reason(&[]), "empty_chain");
    assert_eq!(reason(&[String::new()]), "empty_chain");
    assert_eq!(reason(&[leaf.to_pem(), "hello".to_owned()]), "empty_chain");
    assert_eq!(reason(&elements(&[&[root]])), "no_leaf");
    assert_eq!(
        reason(&elements(&[&[lower], &[leaf], &[upper], &[root]])),
        "misordered_chain"
    );
    assert_eq!(reason(&elements(&[&[upper], &[lower], &[leaf]])), "misordered_chain");
    // The way up has a gap: nothing in the reply was issued by `upper`.
    assert_eq!(reason(&elements(&[&[leaf], &[upper], &[root]])), "unplaced_certificate");
    let stranger = Ca::root("stranger");
    assert_eq!(
        reason(&elements(&[&[leaf], &[&stranger.intermediate("x").certificate]])),
        "unplaced_certificate"
    );
    assert_eq!(
        reason(&elements(&[&[leaf], &[&stranger.leaf(&key())]])),
        "unplaced_certificate"
    );
    let cut = leaf.to_pem().replace("-----END CERTIFICATE-----", "");
    assert_eq!(reason(&[cut]), "damaged_certificate");
    assert_eq!(
        reason(&["-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----".to_owned()]),
        "damaged_certificate"
    );
    let two_in_one = [leaf.der().as_ref(), lower.der().as_ref()].concat();
    assert_eq!(
        reason(&[crate::pem::encode("CERTIFICATE", &two_in_one).to_string()]),
        "damaged_certificate"
    );
}

#[test]
fn counts_and_sizes_are_bounded() {
    let p = parts();
    let leaf = p.leaf.to_pem();
    assert_eq!(reason(&vec![leaf.clone(); MAX_ELEMENTS + 1]), "too_large");
    assert_eq!(reason(&[leaf.clone(), " ".repeat(MAX_TEXT)]), "too_large");
    let mut issuer = Ca::root("root");
    let mut tower = Vec::new();
    for level in 0..=MAX_INTERMEDIATES {
        issuer = issuer.intermediate(&format!("level {level}"));
        tower.push(issuer.certificate.to_pem());
    }
    tower.insert(0, issuer.leaf(&key()).to_pem());
    assert_eq!(reason(&tower), "too_large");
}

/// Two authorities that certify each other do not make the ordering turn in circles.
#[test]
fn circles_end() {
    let (one, two) = (Ca::root("one"), Ca::root("two"));
    let (one_by_two, two_by_one) = (one.certified_by(&two), two.certified_by(&one));
    let leaf = one.leaf(&key());
    let chain = Chain::from_certificates(vec![leaf, two_by_one.clone(), one_by_two.clone()]).unwrap();
    assert_eq!(chain.intermediates(), [one_by_two, two_by_one]);
}

#[test]
fn a_bundle_is_a_set() {
    let p = parts();
    let bundle = |certificates: &[&Certificate]| {
        Bundle::parse_pem(&certificates.iter().map(|c| c.to_pem()).collect::<String>()).unwrap()
    };
    let both = bundle(&[&p.root, &p.other_root]);
    let again = bundle(&[&p.other_root, &p.root, &p.other_root]);
    assert_eq!(both, again);
    assert_eq!(both.digest(), again.digest());
    assert_eq!(both.to_pem(), again.to_pem());
    assert_eq!(Bundle::parse_pem(&format!("# roots\n{}", both.to_pem())).unwrap(), both);
    let one = bundle(&[&p.root]);
    assert_ne!(one, both);
    assert!(both.contains_all(&one) && !one.contains_all(&both));
    assert!(both.contains(&p.root) && !one.contains(&p.other_root));
    assert_eq!(one.union(&both).unwrap(), both);
    assert_eq!(both.len(), 2);
    assert!(both.earliest_not_after() <= p.root.not_after());
}

/// Two roots of one name and one size differ in their bytes only, and so must the digests.
#[test]
fn digests_cover_the_bytes() {
    let one = Ca::root("root").certificate;
    let other = loop {
        let other = Ca::root("root").certificate;
        if other.der().len() == one.der().len() {
            break other;
        }
    };
    let bundle = |certificate| Bundle::from_certificates(vec![certificate]).unwrap();
    assert_ne!(bundle(one).digest(), bundle(other).digest());
}

#[test]
fn a_bundle_of_nothing_or_of_leaves_is_refused() {
    let p = parts();
    assert_eq!(Bundle::parse_pem("# nothing").unwrap_err(), BundleError::Empty);
    let with_leaf = Bundle::parse_pem(&(p.root.to_pem() + &p.leaf.to_pem())).unwrap_err();
    assert!(matches!(with_leaf, BundleError::NotCa { .. }), "{with_leaf}");
    let cut = p.root.to_pem().replace("-----END CERTIFICATE-----", "");
    assert_eq!(
        Bundle::parse_pem(&cut).unwrap_err(),
        BundleError::Certificate(CertificateError::Armour)
    );
    assert!(
        Bundle::parse_pem(&p.upper.to_pem()).is_ok(),
        "an intermediate may be pinned"
    );
}

#[test]
fn one_certificate_is_one() {
    let p = parts();
    assert_eq!(Certificate::parse_pem(&p.leaf.to_pem()).unwrap(), p.leaf);
    let two = p.leaf.to_pem() + &p.root.to_pem();
    assert_eq!(Certificate::parse_pem(&two).unwrap_err(), CertificateError::NotOne(2));
    assert_eq!(Certificate::parse_pem("").unwrap_err(), CertificateError::NotOne(0));
    assert!(matches!(
        Certificate::parse_der(&vec![0x30; 70_000]),
        Err(CertificateError::TooLarge(70_000))
    ));
}

proptest::proptest! {
    /// Damage anywhere in a reply gives an error or a chain, never a panic.
    #[test]
    fn damage_never_panics(at in 0..100_000_usize, byte in 0..=255_u8) {
        use std::sync::OnceLock;
        static DERS: OnceLock<Vec<CertificateDer<'static>>> = OnceLock::new();
        let mut ders = DERS.get_or_init(|| {
            let p = parts();
            [p.leaf, p.lower, p.upper, p.root].iter().map(|c| c.der().clone()).collect()
        }).clone();
        let which = at % ders.len();
        let mut bytes = ders[which].to_vec();
        let at = at / ders.len() % bytes.len();
        bytes[at] = byte;
        ders[which] = bytes.into();
        let _ = Chain::from_ders(&ders);
    }

    /// Whatever stands in a file of roots: no such text is a bundle, and none is worth a panic.
    #[test]
    fn no_text_of_roots_panics(text in "(?s).{0,300}", body in "[A-Za-z0-9+/=\n]{0,300}") {
        proptest::prop_assert!(Bundle::parse_pem(&text).is_err());
        let armoured = format!("{text}\n-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n");
        proptest::prop_assert!(Bundle::parse_pem(&armoured).is_err());
    }
}
