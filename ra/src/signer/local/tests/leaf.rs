//! What a leaf looks like: profile, serial numbers, and the edges of its life.

use super::*;

#[tokio::test]
async fn a_leaf_has_the_profile_and_serials_are_positive_and_differ() {
    let parent = tempfile::tempdir().unwrap();
    let (host, _) = host();
    let running = open(&spec(&parent.path().join("foo"), true, None), &host)
        .await
        .unwrap();
    let rsa = PrivateKey::from_pem(RSA_PKCS1).unwrap();
    let mut serials = BTreeSet::new();
    for number in 0..200 {
        let is_rsa = number == 0;
        let issuance = if is_rsa {
            request_for(&rsa, DAY)
        } else {
            request(KeyType::P256, DAY)
        };
        let chain = issue(&running, issuance, now()).await;
        let (rest, leaf) = X509Certificate::from_der(&chain[0]).unwrap();
        assert!(rest.is_empty());
        let serial = leaf.raw_serial();
        assert!(
            serial[0] & 0x80 == 0 && serial.len() <= 17 && serial.len() > 8,
            "{serial:02x?}"
        );
        assert!(serials.insert(serial.to_vec()));
        assert_eq!(leaf.subject().iter().count(), 0);
        let san = leaf.subject_alternative_name().unwrap().unwrap();
        assert!(san.critical);
        assert_eq!(
            san.value.general_names,
            [GeneralName::URI("spiffe://cluster.local/ns/ns/sa/app")]
        );
        let usage = leaf.key_usage().unwrap().unwrap();
        assert!(usage.critical && usage.value.digital_signature());
        assert_eq!(usage.value.key_encipherment(), is_rsa);
        let extended = leaf.extended_key_usage().unwrap().unwrap().value;
        assert!(extended.server_auth && extended.client_auth && extended.other.is_empty() && !extended.any);
        let constraints = leaf.basic_constraints().unwrap().unwrap();
        assert!(constraints.critical && !constraints.value.ca && constraints.value.path_len_constraint.is_none());
        assert_eq!(leaf.extensions().len(), 6);
        let parsed = Certificate::parse_der(&chain[0]).unwrap();
        assert_eq!(
            (parsed.not_before(), parsed.not_after()),
            (now() - BACKDATE, now() + DAY)
        );
    }
}

proptest::proptest! {
    #[test]
    fn a_leaf_never_leaves_the_life_of_its_chain(
        from in 0_u64..1_000_000, life in 2_u64..1_000_000, at in 0_u64..2_000_000,
        ttl in 0_u64..2_000_000, backdate in 0_u64..2_000_000,
    ) {
        let mut params = TestCa::params("root", DAY);
        params.not_before = (now() + Duration::from_secs(from)).into();
        params.not_after = (now() + Duration::from_secs(from + life)).into();
        let ca = TestCa::root_with(PrivateKey::generate(KeyType::P256).unwrap(), params);
        let bundle = Bundle::parse_pem(&ca.pem()).unwrap();
        let certificate = Certificate::parse_pem(&ca.pem()).unwrap();
        let path = crate::trust::path::to_root(&certificate, &[], &bundle).unwrap();
        let (spki, at) = (ca.key.spki_der(), now() + Duration::from_secs(at));
        let issuer = Issuer::new(certificate.der(), ca.key, path).unwrap();
        let leaf = Leaf {
            spki_der: &spki,
            rsa: false,
            names: &[Name::Uri("spiffe://cluster.local/ns/ns/sa/app")],
            purpose: Purpose::Workload,
            ttl: Duration::from_secs(ttl),
            backdate: Duration::from_secs(backdate),
        };
        match issuer.issue(&leaf, at) {
            Ok(der) => {
                let leaf = Certificate::parse_der(&der).unwrap();
                proptest::prop_assert!(leaf.not_before() >= certificate.not_before());
                proptest::prop_assert!(leaf.not_after() <= certificate.not_after());
                proptest::prop_assert!(leaf.is_valid_at(at) && leaf.not_after() > at);
            }
            Err(_) => proptest::prop_assert!(
                ttl == 0 || at < certificate.not_before() || at + Duration::from_secs(1) > certificate.not_after()
            ),
        }
    }
}
