//! Keys of other programs are read, ours are read by the provider again, nothing of a key shows.

use test_case::test_case;

use super::*;

const P256_SEC1: &str = include_str!("../../testdata/p256.sec1.pem");
const P256_PKCS8: &str = include_str!("../../testdata/p256.pkcs8.pem");
const P384_SEC1: &str = include_str!("../../testdata/p384.sec1.pem");
const P384_PKCS8: &str = include_str!("../../testdata/p384.pkcs8.pem");
const RSA_PKCS1: &str = include_str!("../../testdata/rsa-2048.pkcs1.pem");
const RSA_PKCS8: &str = include_str!("../../testdata/rsa-2048.pkcs8.pem");
const RSA_3072: &str = include_str!("../../testdata/rsa-3072.pkcs8.pem");
const RSA_4096: &str = include_str!("../../testdata/rsa-4096.pkcs8.pem");

#[test_case(P256_SEC1, KeyType::P256 ; "p256 sec1 with parameters block")]
#[test_case(P256_PKCS8, KeyType::P256 ; "p256 pkcs8")]
#[test_case(P384_SEC1, KeyType::P384 ; "p384 sec1")]
#[test_case(P384_PKCS8, KeyType::P384 ; "p384 pkcs8")]
#[test_case(RSA_PKCS1, KeyType::Rsa2048 ; "rsa pkcs1")]
#[test_case(RSA_PKCS8, KeyType::Rsa2048 ; "rsa 2048 pkcs8")]
#[test_case(RSA_3072, KeyType::Rsa3072 ; "rsa 3072 pkcs8")]
#[test_case(RSA_4096, KeyType::Rsa4096 ; "rsa 4096 pkcs8")]
fn reads_what_openssl_writes(text: &str, expected: KeyType) {
    let key = PrivateKey::from_pem(text).unwrap();
    assert_eq!(key.key_type(), expected);
    assert_signs(&key);
    let again = PrivateKey::from_pem(&key.to_pkcs8_pem()).unwrap();
    assert_eq!(again.spki_der(), key.spki_der());
    assert_eq!(*again.to_pkcs8_pem(), *key.to_pkcs8_pem());
}

#[test]
fn the_same_key_in_two_forms_is_the_same_key() {
    for (one, other) in [(P256_SEC1, P256_PKCS8), (P384_SEC1, P384_PKCS8), (RSA_PKCS1, RSA_PKCS8)] {
        let (one, other) = (PrivateKey::from_pem(one).unwrap(), PrivateKey::from_pem(other).unwrap());
        assert_eq!(one.spki_der(), other.spki_der());
        assert_eq!(*one.to_pkcs8_pem(), *other.to_pkcs8_pem());
    }
    // RSA has one encoding in PKCS#8, so ours equals OpenSSL's.
    assert_eq!(*PrivateKey::from_pem(RSA_PKCS1).unwrap().to_pkcs8_pem(), RSA_PKCS8);
    assert_eq!(*PrivateKey::from_pem(P256_SEC1).unwrap().to_pkcs8_pem(), P256_PKCS8);
}

#[test_case(KeyType::P256)]
#[test_case(KeyType::P384)]
fn makes_keys_that_differ_and_sign(key_type: KeyType) {
    let (one, other) = (
        PrivateKey::generate(key_type).unwrap(),
        PrivateKey::generate(key_type).unwrap(),
    );
    assert_ne!(one.spki_der(), other.spki_der());
    assert_eq!(one.key_type(), key_type);
    assert_signs(&one);
}

#[test]
fn rsa_keys_are_made_or_refused_with_the_way_out() {
    for key_type in [KeyType::Rsa2048, KeyType::Rsa3072, KeyType::Rsa4096] {
        if crypto::MAKES_RSA_KEYS {
            assert!(key_type.ensure_generatable().is_ok());
        } else {
            let refused = key_type.ensure_generatable().unwrap_err().to_string();
            assert!(refused.contains(key_type.as_str()), "{refused}");
            assert!(
                refused.contains("--no-default-features --features aws-lc-rs"),
                "{refused}"
            );
            assert_eq!(PrivateKey::generate(key_type).unwrap_err().to_string(), refused);
        }
    }
    assert!(KeyType::P256.ensure_generatable().is_ok());
    assert!(KeyType::P384.ensure_generatable().is_ok());
}

#[cfg(feature = "aws-lc-rs")]
#[test_case(KeyType::Rsa2048)]
#[test_case(KeyType::Rsa3072)]
#[test_case(KeyType::Rsa4096)]
fn makes_rsa_keys(key_type: KeyType) {
    let key = PrivateKey::generate(key_type).unwrap();
    assert_eq!(key.key_type(), key_type);
    assert_signs(&key);
}

/// Version 1 of PKCS#8 says so in its first integer; BoringSSL refuses any other.
#[test_case(P256_SEC1)]
#[test_case(P384_PKCS8)]
#[test_case(RSA_PKCS1)]
fn what_leaves_is_pkcs8_version_1_with_nothing_beside_the_key(text: &str) {
    assert_version_1(&PrivateKey::from_pem(text).unwrap());
}

#[test]
fn made_keys_leave_as_pkcs8_version_1_too() {
    assert_version_1(&PrivateKey::generate(KeyType::P256).unwrap());
    assert_version_1(&PrivateKey::generate(KeyType::P384).unwrap());
}

fn assert_version_1(key: &PrivateKey) {
    let pem = key.to_pkcs8_pem();
    assert!(pem.starts_with("-----BEGIN PRIVATE KEY-----\n") && pem.ends_with("-----END PRIVATE KEY-----\n"));
    let der = pem::decode_one("PRIVATE KEY", &pem).unwrap();
    let mut reader = Reader::whole(&der, der::SEQUENCE).unwrap();
    assert_eq!(reader.unsigned().unwrap(), [0]);
    reader.read(der::SEQUENCE).unwrap();
    reader.read(der::OCTET_STRING).unwrap();
    reader.end().unwrap();
}

/// Version 2 of PKCS#8 carries the public key beside the private one: read, and written as version 1.
#[test]
fn reads_pkcs8_version_2() {
    let key = PrivateKey::from_pem(P256_PKCS8).unwrap();
    let der = pem::decode_one("PRIVATE KEY", P256_PKCS8).unwrap();
    let mut reader = Reader::whole(&der, der::SEQUENCE).unwrap();
    reader.unsigned().unwrap();
    let (algorithm, inner) = (reader.next().unwrap().raw, reader.next().unwrap().raw);
    let public = der::element(0x81, &[&[0], key.der_bytes()]);
    let v2 = der::element(der::SEQUENCE, &[&[der::INTEGER, 1, 1], algorithm, inner, &public]);
    let read = PrivateKey::from_pem(&pem::encode("PRIVATE KEY", &v2)).unwrap();
    assert_eq!(*read.to_pkcs8_pem(), *key.to_pkcs8_pem());
}

/// A scalar without its leading zeros, as old writers store it, and with one too many.
#[test]
fn pads_and_trims_the_scalar() {
    let key = loop {
        let key = PrivateKey::generate(KeyType::P256).unwrap();
        if scalar(&key)[0] == 0 {
            break key;
        }
    };
    let (scalar, oid) = (
        scalar(&key),
        der::element(der::CONTEXT_0, &[&[0x06, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7]]),
    );
    let public = der::element(
        der::CONTEXT_1,
        &[&der::element(der::BIT_STRING, &[&[0], key.der_bytes()])],
    );
    for digits in [&scalar[1..], &scalar[..], &[&[0], &scalar[..]].concat()] {
        let digits = der::element(der::OCTET_STRING, &[digits]);
        let sec1 = der::element(der::SEQUENCE, &[&[der::INTEGER, 1, 1], &digits, &oid, &public]);
        let read = PrivateKey::from_pem(&pem::encode("EC PRIVATE KEY", &sec1)).unwrap();
        assert_eq!(*read.to_pkcs8_pem(), *key.to_pkcs8_pem());
    }
}

fn scalar(key: &PrivateKey) -> Vec<u8> {
    let mut reader = Reader::whole(&key.pkcs8, der::SEQUENCE).unwrap();
    reader.unsigned().unwrap();
    reader.read(der::SEQUENCE).unwrap();
    let mut sec1 = Reader::whole(reader.read(der::OCTET_STRING).unwrap().value, der::SEQUENCE).unwrap();
    sec1.unsigned().unwrap();
    sec1.read(der::OCTET_STRING).unwrap().value.to_vec()
}

#[test_case("", "no private key" ; "empty")]
#[test_case("hello", "no private key" ; "text")]
#[test_case(include_str!("../../testdata/go-p384.csr.pem"), "no private key" ; "a request")]
#[test_case(include_str!("../../testdata/encrypted-legacy.pem"), "encrypted" ; "encrypted pkcs1")]
#[test_case(include_str!("../../testdata/encrypted-pkcs8.pem"), "encrypted" ; "encrypted pkcs8")]
#[test_case(include_str!("../../testdata/ed25519.pkcs8.pem"), "Ed25519" ; "ed25519")]
#[test_case(include_str!("../../testdata/p521.sec1.pem"), "another elliptic curve" ; "p521")]
#[test_case(include_str!("../../testdata/p256-explicit.sec1.pem"), "another elliptic curve" ; "explicit parameters")]
#[test_case(include_str!("../../testdata/p256-without-public.sec1.pem"), "no public key" ; "no public key")]
#[test_case(include_str!("../../testdata/rsa-1024.pkcs8.pem"), "RSA with 1024 bits" ; "rsa 1024")]
#[test_case("-----BEGIN PRIVATE KEY-----\nMA==\n-----END PRIVATE KEY-----\n", "not valid PKCS#8" ; "cut off")]
#[test_case("-----BEGIN PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----\n", "not valid PKCS#8" ; "empty sequence")]
#[test_case("-----BEGIN PRIVATE KEY-----\n%%%%\n-----END PRIVATE KEY-----\n", "not base64" ; "not base64")]
#[test_case("-----BEGIN PRIVATE KEY-----\nMAA=\n", "no END line" ; "no end")]
fn refuses_and_says_why(text: &str, expected: &str) {
    let error = PrivateKey::from_pem(text).unwrap_err().to_string();
    assert!(error.contains(expected), "{error}");
}

#[test]
fn two_keys_in_one_file_are_refused() {
    let error = PrivateKey::from_pem(&format!("{P256_PKCS8}{RSA_PKCS1}")).unwrap_err();
    assert!(matches!(error, KeyError::SeveralKeys), "{error}");
}

/// The envelope says P-256, the letter says P-384: neither is believed.
#[test]
fn a_key_that_names_two_curves_is_refused() {
    let key = PrivateKey::generate(KeyType::P256).unwrap();
    let digits = der::element(der::OCTET_STRING, &[&scalar(&key)]);
    let p384 = der::element(der::CONTEXT_0, &[&[0x06, 5, 0x2b, 0x81, 4, 0, 34]]);
    let public = der::element(
        der::CONTEXT_1,
        &[&der::element(der::BIT_STRING, &[&[0], key.der_bytes()])],
    );
    let sec1 = der::element(der::SEQUENCE, &[&[der::INTEGER, 1, 1], &digits, &p384, &public]);
    let algorithm = der::element(der::SEQUENCE, &[alg_id::ECDSA_P256.as_ref()]);
    let inner = der::element(der::OCTET_STRING, &[&sec1]);
    let pkcs8 = der::element(der::SEQUENCE, &[&[der::INTEGER, 1, 0], &algorithm, &inner]);
    let error = PrivateKey::from_pem(&pem::encode("PRIVATE KEY", &pkcs8)).unwrap_err();
    assert!(error.to_string().contains("invalid curve"), "{error}");
}

#[test]
fn a_public_key_of_another_key_is_refused() {
    let (one, other) = (
        PrivateKey::generate(KeyType::P256).unwrap(),
        PrivateKey::generate(KeyType::P256).unwrap(),
    );
    let digits = der::element(der::OCTET_STRING, &[&scalar(&one)]);
    let public = der::element(
        der::CONTEXT_1,
        &[&der::element(der::BIT_STRING, &[&[0], other.der_bytes()])],
    );
    let oid = der::element(der::CONTEXT_0, &[&[0x06, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7]]);
    let sec1 = der::element(der::SEQUENCE, &[&[der::INTEGER, 1, 1], &digits, &oid, &public]);
    let error = PrivateKey::from_pem(&pem::encode("EC PRIVATE KEY", &sec1)).unwrap_err();
    assert!(matches!(error, KeyError::Crypto(CryptoError::Key)), "{error}");
}

/// A damaged key file is quoted by nobody: not the parser, not the error, not `Debug`.
#[test]
fn no_message_shows_key_material() {
    let body: Vec<&str> = P256_PKCS8.lines().filter(|l| !l.starts_with("-----")).collect();
    let damaged = [
        P256_PKCS8.replace("-----END PRIVATE KEY-----", ""),
        P256_PKCS8.replace(body[0], &format!("{}%", body[0])),
        P256_PKCS8.replace(body[0], &format!("-----BEGIN {}", body[0])),
        P256_PKCS8.replacen("MIGH", "MIGG", 1),
    ];
    for text in damaged {
        let error = PrivateKey::from_pem(&text).unwrap_err();
        let mut shown = format!("{error:?} {error}");
        let mut source = std::error::Error::source(&error);
        while let Some(inner) = source {
            shown = format!("{shown} {inner:?} {inner}");
            source = inner.source();
        }
        for line in &body {
            assert!(!shown.contains(&line[4..20]), "{shown}");
        }
    }
    let key = PrivateKey::from_pem(P256_PKCS8).unwrap();
    assert_eq!(format!("{key:?}"), r#"PrivateKey { type: "P-256", .. }"#);
}

#[test]
fn names_of_key_types_round_trip() {
    for key_type in KeyType::ALL {
        assert_eq!(key_type.to_string().parse::<KeyType>().unwrap(), key_type);
    }
    assert!("p-256".parse::<KeyType>().is_err());
    assert!("RSA".parse::<KeyType>().unwrap_err().to_string().contains("RSA-2048"));
}

#[test]
fn a_key_may_be_shared_between_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<PrivateKey>();
}

fn assert_signs(key: &PrivateKey) {
    let signature = key.sign(b"message").unwrap();
    let spki = key.spki_der();
    let mut fields = Reader::whole(&spki, der::SEQUENCE).unwrap();
    let algorithm = fields.read(der::SEQUENCE).unwrap().value;
    let bits = fields.bits().unwrap();
    let signed_with = match key.key_type() {
        KeyType::P256 => alg_id::ECDSA_SHA256,
        KeyType::P384 => alg_id::ECDSA_SHA384,
        KeyType::Rsa2048 | KeyType::Rsa3072 | KeyType::Rsa4096 => alg_id::RSA_PKCS1_SHA256,
    };
    crypto::verify_x509(algorithm, bits, signed_with.as_ref(), b"message", &signature).unwrap();
    assert!(crypto::verify_x509(algorithm, bits, signed_with.as_ref(), b"messagE", &signature).is_err());
}
