//! The table of requests: each line one request with one thing wrong, and the reason that it must be refused for.

use proptest::prelude::*;
use test_case::test_case;

use super::*;
use crate::der::element;

const ID: &str = "spiffe://cluster.local/ns/foo/sa/httpbin";
const P256: &str = include_str!("../../testdata/p256.pkcs8.pem");
const OID_SAN: &[u8] = &[6, 3, 0x55, 0x1d, 0x11];
const OID_EXTENSION_REQUEST: &[u8] = &[6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x0e];
/// `ecdsa-with-SHA256`
const ECDSA_SHA256: &[u8] = &[6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];

fn key() -> PrivateKey {
    PrivateKey::from_pem(P256).unwrap()
}

/// A request in parts, honest until a test changes one of them.
struct Mold {
    version: Vec<u8>,
    subject: Vec<u8>,
    spki: Option<Vec<u8>>,
    /// The whole `[0]` element.
    attributes: Vec<u8>,
    signature_algorithm: Vec<u8>,
    flip_signature: bool,
    after_signature: Vec<u8>,
    after: Vec<u8>,
}

impl Default for Mold {
    fn default() -> Self {
        Self {
            version: vec![2, 1, 0],
            subject: seq(&[]),
            spki: None,
            attributes: attributes(&[request(&[san(&[uri(ID)])])]),
            signature_algorithm: seq(&[ECDSA_SHA256.to_vec()]),
            flip_signature: false,
            after_signature: Vec::new(),
            after: Vec::new(),
        }
    }
}

impl Mold {
    fn cast(&self) -> Vec<u8> {
        use rcgen::SigningKey as _;
        let key = key();
        let spki = self.spki.clone().unwrap_or_else(|| key.spki_der());
        let content = seq(&[
            self.version.clone(),
            self.subject.clone(),
            spki,
            self.attributes.clone(),
        ]);
        let mut signature = key.sign(&content).unwrap();
        if self.flip_signature {
            *signature.last_mut().unwrap() ^= 1;
        }
        let signature = tlv(der::BIT_STRING, &[&[0], &signature]);
        let parts = [
            content,
            self.signature_algorithm.clone(),
            signature,
            self.after_signature.clone(),
        ];
        let mut whole = seq(&parts);
        whole.extend_from_slice(&self.after);
        whole
    }
}

fn tlv(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    element(tag, parts).to_vec()
}

fn seq(parts: &[Vec<u8>]) -> Vec<u8> {
    tlv(der::SEQUENCE, &parts.iter().map(Vec::as_slice).collect::<Vec<_>>())
}

fn attributes(all: &[Vec<u8>]) -> Vec<u8> {
    tlv(der::CONTEXT_0, &all.iter().map(Vec::as_slice).collect::<Vec<_>>())
}

/// An `extensionRequest` attribute.
fn request(extensions: &[Vec<u8>]) -> Vec<u8> {
    seq(&[OID_EXTENSION_REQUEST.to_vec(), tlv(der::SET, &[&seq(extensions)])])
}

fn extension(oid: &[u8], value: &[u8]) -> Vec<u8> {
    seq(&[oid.to_vec(), tlv(der::OCTET_STRING, &[value])])
}

fn san(names: &[Vec<u8>]) -> Vec<u8> {
    extension(OID_SAN, &seq(names))
}

fn uri(text: &str) -> Vec<u8> {
    tlv(0x86, &[text.as_bytes()])
}

fn with_extensions(extensions: &[Vec<u8>]) -> Mold {
    Mold {
        attributes: attributes(&[request(extensions)]),
        ..Mold::default()
    }
}

fn with_names(names: &[Vec<u8>]) -> Mold {
    with_extensions(&[san(names)])
}

/// A relative distinguished name of one attribute `2.5.4.<arc>`.
fn rdn(arc: u8, string_tag: u8, value: &[u8]) -> Vec<u8> {
    tlv(
        der::SET,
        &[&seq(&[vec![6, 3, 0x55, 4, arc], tlv(string_tag, &[value])])],
    )
}

fn with_subject(rdns: &[Vec<u8>]) -> Mold {
    Mold {
        subject: seq(rdns),
        ..Mold::default()
    }
}

fn refused(mold: &Mold) -> &'static str {
    let der = mold.cast();
    let by_der = Csr::parse_der(&der).unwrap_err();
    assert_eq!(Csr::parse_pem(&pem::encode(LABEL, &der)).unwrap_err(), by_der);
    by_der.reason()
}

#[test]
fn the_honest_mold_is_accepted() {
    let csr = Csr::parse_der(&Mold::default().cast()).unwrap();
    assert_eq!(csr.spiffe_id().as_str(), ID);
    assert_eq!(csr.key_type(), KeyType::P256);
    assert_eq!(csr.spki_der(), key().spki_der());
}

#[test_case(include_str!("../../testdata/go-p256-empty-organization.csr.pem"), KeyType::P256 ; "istio agent")]
#[test_case(include_str!("../../testdata/go-p256-empty-subject.csr.pem"), KeyType::P256 ; "go without subject")]
#[test_case(include_str!("../../testdata/go-p384.csr.pem"), KeyType::P384 ; "go with p384")]
#[test_case(include_str!("../../testdata/go-rsa-2048.csr.pem"), KeyType::Rsa2048 ; "go with rsa")]
#[test_case(include_str!("../../testdata/openssl-p256.csr.pem"), KeyType::P256 ; "openssl")]
fn accepts_what_others_write(text: &str, key_type: KeyType) {
    let csr = Csr::parse_pem(text).unwrap();
    assert_eq!(csr.spiffe_id().as_str(), ID);
    assert_eq!(csr.key_type(), key_type);
    assert_eq!(csr.to_pem(), text, "fresh armour around the same bytes");
}

#[test_case(include_str!("../../testdata/p256.pkcs8.pem") ; "p256")]
#[test_case(include_str!("../../testdata/p384.pkcs8.pem") ; "p384")]
#[test_case(include_str!("../../testdata/rsa-2048.pkcs8.pem") ; "rsa 2048")]
#[test_case(include_str!("../../testdata/rsa-3072.pkcs8.pem") ; "rsa 3072")]
#[test_case(include_str!("../../testdata/rsa-4096.pkcs8.pem") ; "rsa 4096")]
fn what_is_built_is_accepted(pem: &str) {
    let key = PrivateKey::from_pem(pem).unwrap();
    let built = build(&key, &ID.parse().unwrap()).unwrap();
    assert_eq!(Csr::parse_der(built.der()).unwrap(), built);
    assert_eq!(Csr::parse_pem(&built.to_pem()).unwrap(), built);
    assert_eq!(built.key_type(), key.key_type());
    assert_eq!(built.spki_der(), key.spki_der());
}

/// The longest id with the largest key stays within the bounds.
#[test]
fn the_largest_honest_request_is_accepted() {
    let key = PrivateKey::from_pem(include_str!("../../testdata/rsa-4096.pkcs8.pem")).unwrap();
    let td = "t".repeat(255).parse().unwrap();
    let id = SpiffeId::new(&td, &"n".repeat(63), &"s".repeat(253)).unwrap();
    let built = build(&key, &id).unwrap();
    assert_eq!(Csr::parse_pem(&built.to_pem()).unwrap().spiffe_id(), &id);
}

/// What is built has an empty subject and marks the name critical, which RFC 5280 demands of an empty subject.
#[test]
fn what_is_built_has_no_subject_and_a_critical_name() {
    let built = build(&key(), &ID.parse().unwrap()).unwrap();
    let mut fields = Reader::whole(built.der(), der::SEQUENCE)
        .unwrap()
        .enter(der::SEQUENCE)
        .unwrap();
    fields.unsigned().unwrap();
    assert!(fields.read(der::SEQUENCE).unwrap().value.is_empty());
    fields.read(der::SEQUENCE).unwrap();
    let mut attribute = fields.enter(der::CONTEXT_0).unwrap().enter(der::SEQUENCE).unwrap();
    attribute.next().unwrap();
    let mut extensions = attribute.enter(der::SET).unwrap().enter(der::SEQUENCE).unwrap();
    let mut extension = extensions.enter(der::SEQUENCE).unwrap();
    extension.next().unwrap();
    assert_eq!(extension.read(der::BOOLEAN).unwrap().value, [0xff]);
    extensions.end().unwrap();
}

#[test_case(&[] ; "without names")]
#[test_case(&[rdn(10, 0x13, b"")] ; "empty organization, printable string")]
#[test_case(&[rdn(10, 0x0c, b"")] ; "empty organization, utf8 string")]
fn accepts_subject(rdns: &[Vec<u8>]) {
    assert!(Csr::parse_der(&with_subject(rdns).cast()).is_ok());
}

#[test_case(&[rdn(3, 0x0c, b"admin")] ; "common name")]
#[test_case(&[rdn(3, 0x0c, b"")] ; "empty common name")]
#[test_case(&[rdn(3, 0x0c, b"admin"), rdn(3, 0x0c, b"")] ; "common name hidden behind an empty one")]
#[test_case(&[rdn(3, 0x1c, b"\0\0\0a")] ; "common name as universal string")]
#[test_case(&[rdn(10, 0x0c, b"system:masters")] ; "organization")]
#[test_case(&[rdn(10, 0x13, b""), rdn(10, 0x13, b"")] ; "two empty organizations")]
#[test_case(&[rdn(10, 0x13, b""), rdn(3, 0x13, b"x")] ; "empty organization, then a common name")]
#[test_case(&[rdn(11, 0x0c, b"")] ; "empty organizational unit")]
#[test_case(&[rdn(10, 0x14, b"")] ; "empty organization, teletex string")]
#[test_case(&[tlv(der::SET, &[])] ; "empty set")]
#[test_case(&[tlv(der::SET, &[&seq(&[vec![6, 10, 0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 25], tlv(0x16, &[b"x"])])])] ; "domain component")]
fn refuses_subject(rdns: &[Vec<u8>]) {
    assert_eq!(refused(&with_subject(rdns)), "subject");
}

#[test_case(&[], "san_empty" ; "empty sequence")]
#[test_case(&[uri(ID), uri(ID)], "san_several_uris" ; "the same uri twice")]
#[test_case(&[uri(ID), uri("spiffe://cluster.local/ns/bar/sa/x")], "san_several_uris" ; "two uris")]
#[test_case(&[uri(ID), tlv(0x82, &[b"example.com"])], "san_other_name" ; "dns beside it")]
#[test_case(&[tlv(0x87, &[&[1, 2, 3, 4]]), uri(ID)], "san_other_name" ; "ip before it")]
#[test_case(&[uri(ID), tlv(0x81, &[b"a@b"])], "san_other_name" ; "email beside it")]
#[test_case(&[uri(ID), tlv(0x81, &[b""])], "san_other_name" ; "an empty email beside it")]
#[test_case(&[uri(ID), tlv(0x82, &[b""])], "san_other_name" ; "an empty dns name beside it")]
#[test_case(&[uri(ID), tlv(0xa0, &[&[6, 1, 42], &[0xa0, 2, 5, 0]])], "san_other_name" ; "other name beside it")]
#[test_case(&[uri(ID), tlv(0xa4, &[&[0x30, 0]])], "san_other_name" ; "directory name beside it")]
#[test_case(&[uri(ID), tlv(0x88, &[ID.as_bytes()])], "san_other_name" ; "registered id beside it")]
#[test_case(&[tlv(0x88, &[ID.as_bytes()])], "san_other_name" ; "registered id instead")]
#[test_case(&[tlv(0x06, &[ID.as_bytes()])], "san_other_name" ; "tag 6 of class universal instead")]
#[test_case(&[tlv(0xa6, &[ID.as_bytes()])], "san_other_name" ; "constructed uri")]
#[test_case(&[uri("https://example.com")], "san_not_spiffe" ; "web address")]
#[test_case(&[uri("spiffe://cluster.local/ns/foo/sa/httpbin/")], "san_not_spiffe" ; "trailing slash")]
#[test_case(&[uri("spiffe://cluster.local/workload")], "san_not_spiffe" ; "not of istio's form")]
#[test_case(&[uri("")], "san_not_spiffe" ; "empty uri")]
fn refuses_names(names: &[Vec<u8>], reason: &str) {
    assert_eq!(refused(&with_names(names)), reason);
}

#[test]
fn refuses_bytes_after_the_names() {
    let mut value = seq(&[uri(ID)]);
    value.extend_from_slice(&[5, 0]);
    assert_eq!(refused(&with_extensions(&[extension(OID_SAN, &value)])), "san_encoding");
}

#[test_case(&[], "san_missing" ; "no extension")]
#[test_case(&[san(&[uri(ID)]), san(&[uri(ID)])], "several_sans" ; "two names extensions")]
#[test_case(&[san(&[uri(ID)]), extension(&[6, 3, 0x55, 0x1d, 0x0f], &[3, 2, 5, 0xa0])], "extension" ; "E2 key usage")]
#[test_case(&[extension(&[6, 3, 0x55, 0x1d, 0x0f], &[3, 2, 2, 4]), san(&[uri(ID)])], "extension" ; "E9 cert sign")]
#[test_case(&[san(&[uri(ID)]), extension(&[6, 3, 0x55, 0x1d, 0x25], &[0x30, 10, 6, 8, 0x2b, 6, 1, 5, 5, 7, 3, 1])], "extension" ; "E8 extended key usage")]
#[test_case(&[san(&[uri(ID)]), extension(&[6, 3, 0x55, 0x1d, 0x13], &[0x30, 3, 1, 1, 0xff])], "extension" ; "E12 basic constraints, ca")]
#[test_case(&[san(&[uri(ID)]), extension(&[6, 3, 0x55, 0x1d, 0x13], &[0x30, 0])], "extension" ; "E12 basic constraints, no ca")]
#[test_case(&[san(&[uri(ID)]), extension(&[6, 3, 0x55, 0x1d, 0x0e], &[4, 1, 1])], "extension" ; "E12 subject key identifier")]
#[test_case(&[san(&[uri(ID)]), extension(&[6, 3, 0x55, 0x1d, 0x1e], &[0x30, 0])], "extension" ; "E12 name constraints")]
#[test_case(&[san(&[uri(ID)]), extension(&[6, 3, 0x2a, 3, 4], &[5, 0])], "extension" ; "E12 unknown")]
#[test_case(&[extension(&[6, 3, 0x55, 0x1d, 0x07], &[0x30, 0])], "extension" ; "issuer alternative name instead")]
fn refuses_extensions(extensions: &[Vec<u8>], reason: &str) {
    assert_eq!(refused(&with_extensions(extensions)), reason);
}

/// Every key usage there is, alone: ours is stricter than istio-csr's E10, none passes.
#[test]
fn refuses_each_key_usage_and_says_which_extension() {
    for bit in 0..8_u32 {
        let usage = extension(&[6, 3, 0x55, 0x1d, 0x0f], &[3, 2, u8::try_from(bit).unwrap(), 1 << bit]);
        let error = Csr::parse_der(&with_extensions(&[san(&[uri(ID)]), usage]).cast()).unwrap_err();
        assert_eq!(error, CsrError::Extension("2.5.29.15".to_owned()));
    }
}

#[test]
fn refuses_a_written_out_default_and_odd_booleans() {
    for (value, accepted) in [(0xff, true), (0x00, false), (0x01, false)] {
        let critical = seq(&[
            OID_SAN.to_vec(),
            vec![1, 1, value],
            tlv(der::OCTET_STRING, &[&seq(&[uri(ID)])]),
        ]);
        assert_eq!(
            Csr::parse_der(&with_extensions(&[critical]).cast()).is_ok(),
            accepted,
            "{value:#x}"
        );
    }
}

#[test_case(attributes(&[request(&[seq(&[OID_SAN.to_vec(), tlv(der::OCTET_STRING, &[&seq(&[uri(ID)])]), vec![5, 0]])])]), "encoding" ; "an element after the extension's value")]
#[test_case(attributes(&[]), "san_missing" ; "none")]
#[test_case(attributes(&[request(&[san(&[uri(ID)])]), request(&[san(&[uri(ID)])])]), "several_extension_requests" ; "two equal requests")]
#[test_case(attributes(&[request(&[san(&[uri(ID)])]), request(&[])]), "several_extension_requests" ; "an empty one behind")]
#[test_case(attributes(&[seq(&[OID_EXTENSION_REQUEST.to_vec(), tlv(der::SET, &[&seq(&[san(&[uri(ID)])]), &seq(&[san(&[uri(ID)])])])])]), "several_extension_requests" ; "two values in one")]
#[test_case(attributes(&[seq(&[OID_EXTENSION_REQUEST.to_vec(), tlv(der::SET, &[])])]), "encoding" ; "no value in it")]
#[test_case(attributes(&[request(&[san(&[uri(ID)])]), seq(&[vec![6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 7], tlv(der::SET, &[&[0x0c, 1, 0x61]])])]), "attribute" ; "challenge password")]
#[test_case(attributes(&[seq(&[vec![6, 10, 0x2b, 6, 1, 4, 1, 0x82, 0x37, 2, 1, 14], tlv(der::SET, &[&seq(&[san(&[uri(ID)])])])])]), "attribute" ; "microsoft's extension request")]
#[test_case(vec![0xa1, 0], "encoding" ; "wrong tag")]
#[test_case(vec![], "encoding" ; "missing")]
fn refuses_attributes(attributes: Vec<u8>, reason: &str) {
    assert_eq!(
        refused(&Mold {
            attributes,
            ..Mold::default()
        }),
        reason
    );
}

#[test_case(&Mold { version: vec![2, 1, 1], ..Mold::default() }, "version" ; "version 1")]
#[test_case(&Mold { version: vec![2, 2, 0, 0], ..Mold::default() }, "encoding" ; "padded version")]
#[test_case(&Mold { flip_signature: true, ..Mold::default() }, "signature" ; "wrong signature")]
#[test_case(&Mold { after: vec![0], ..Mold::default() }, "encoding" ; "a byte after it")]
#[test_case(&Mold { after_signature: vec![5, 0], ..Mold::default() }, "encoding" ; "an element after the signature")]
#[test_case(&Mold { spki: Some(PrivateKey::generate(KeyType::P256).unwrap().spki_der()), ..Mold::default() }, "signature" ; "somebody else's key")]
#[test_case(&Mold { signature_algorithm: seq(&[ECDSA_SHA256.to_vec(), vec![5, 0]]), ..Mold::default() }, "signature_algorithm" ; "parameters of ecdsa")]
#[test_case(&Mold { signature_algorithm: seq(&[vec![6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 1]]), ..Mold::default() }, "signature_algorithm" ; "ecdsa with sha1")]
#[test_case(&Mold { signature_algorithm: seq(&[vec![6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 11], vec![5, 0]]), ..Mold::default() }, "signature_algorithm" ; "rsa signature for an elliptic key")]
fn refuses_structure(mold: &Mold, reason: &str) {
    assert_eq!(refused(mold), reason);
}

#[test_case(include_str!("../../testdata/go-p521.csr.pem"), "key_type" ; "p521")]
#[test_case(include_str!("../../testdata/go-ed25519.csr.pem"), "key_type" ; "ed25519")]
#[test_case(include_str!("../../testdata/openssl-rsa-1024.csr.pem"), "rsa_key_size" ; "rsa 1024")]
#[test_case(include_str!("../../testdata/openssl-sha1.csr.pem"), "signature_algorithm" ; "sha1")]
#[test_case(include_str!("../../testdata/openssl-pss.csr.pem"), "signature_algorithm" ; "pss")]
fn refuses_algorithms(text: &str, reason: &str) {
    assert_eq!(Csr::parse_pem(text).unwrap_err().reason(), reason);
}

/// RSA keys of sizes between and beyond the three; nothing needs to be signed, since the size is looked at first.
#[test_case(2047 ; "just below")]
#[test_case(2056 ; "a byte more")]
#[test_case(8192 ; "twice the largest")]
fn refuses_odd_rsa_sizes(bits: usize) {
    let mut modulus = vec![0xff; bits.div_ceil(8)];
    modulus[0] = if bits.is_multiple_of(8) {
        0xff
    } else {
        (1 << (bits % 8)) - 1
    };
    let sign: &[u8] = if modulus[0] >= 0x80 { &[0] } else { &[] };
    let numbers = seq(&[tlv(der::INTEGER, &[sign, &modulus]), vec![2, 3, 1, 0, 1]]);
    let algorithm = seq(&[vec![6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1], vec![5, 0]]);
    let spki = seq(&[algorithm, tlv(der::BIT_STRING, &[&[0], &numbers])]);
    let error = Csr::parse_der(
        &Mold {
            spki: Some(spki),
            ..Mold::default()
        }
        .cast(),
    )
    .unwrap_err();
    assert_eq!(error, CsrError::RsaKeySize(bits));
}

/// Points that are not on the curve, compressed, or at infinity fail as signatures: no key can have made one.
#[test]
fn refuses_odd_points() {
    let spki = key().spki_der();
    let (head, point) = spki.split_at(spki.len() - 65);
    let mut off_curve = spki.clone();
    *off_curve.last_mut().unwrap() ^= 1;
    let compressed = {
        let algorithm = Reader::whole(&spki, der::SEQUENCE)
            .unwrap()
            .next()
            .unwrap()
            .raw
            .to_vec();
        seq(&[algorithm, tlv(der::BIT_STRING, &[&[0, 2], &point[1..33]])])
    };
    let infinity = [head, &[0; 65][..]].concat();
    for spki in [off_curve, compressed, infinity] {
        assert_eq!(
            refused(&Mold {
                spki: Some(spki),
                ..Mold::default()
            }),
            "signature"
        );
    }
}

fn armoured() -> String {
    pem::encode(LABEL, &Mold::default().cast()).to_string()
}

#[test_case(|s: String| format!("{s}{s}") ; "two blocks")]
#[test_case(|s: String| format!("hello\n{s}") ; "leading text")]
#[test_case(|s: String| format!("{s}hello") ; "trailing text")]
#[test_case(|s: String| s.replace("CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST") ; "label of old programs")]
#[test_case(|s: String| s.replace("CERTIFICATE REQUEST", "CERTIFICATE") ; "label of a certificate")]
#[test_case(|s: String| s.replacen('\n', "\nProc-Type: x\n\n", 1) ; "header")]
#[test_case(|s: String| s.replace("-----END CERTIFICATE REQUEST-----", "") ; "no end")]
#[test_case(|_| String::new() ; "nothing")]
#[test_case(|s: String| s.replace('\n', "") ; "one line")]
fn refuses_armour(change: fn(String) -> String) {
    assert_eq!(Csr::parse_pem(&change(armoured())).unwrap_err().reason(), "armour");
}

#[test]
fn white_space_around_the_block_is_no_matter_and_not_forwarded() {
    let text = armoured();
    let csr = Csr::parse_pem(&format!("\n  {}\r\n\n", text.replace('\n', "\r\n"))).unwrap();
    assert_eq!(csr.to_pem(), text);
}

#[test]
fn sizes_are_bounded_before_anything_is_read() {
    assert_eq!(
        Csr::parse_der(&vec![0x30; MAX_DER + 1]).unwrap_err().reason(),
        "too_large"
    );
    assert_eq!(
        Csr::parse_pem(&" ".repeat(MAX_PEM + 1)).unwrap_err().reason(),
        "too_large"
    );
}

#[test]
fn a_refusal_names_what_was_seen() {
    let error = Csr::parse_der(&with_names(&[tlv(0x82, &[b"example.com"])]).cast()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "in the request, the subject alternative name holds a dNSName, expected one URI and nothing else"
    );
}

proptest! {
    #[test]
    fn any_bytes_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(Csr::parse_der(&bytes).is_err());
    }

    #[test]
    fn any_text_is_refused(text in ".{0,400}") {
        prop_assert!(Csr::parse_pem(&text).is_err());
    }

    /// One changed byte anywhere makes a request invalid. A signature has two valid forms (s and n - s), but no
    /// single byte leads from one to the other.
    #[test]
    fn a_changed_byte_is_refused(at in 0..10_000_usize, change in 1..=255_u8) {
        let mut der = Mold::default().cast();
        let at = at % der.len();
        der[at] ^= change;
        prop_assert!(Csr::parse_der(&der).is_err());
    }

    #[test]
    fn a_cut_request_is_refused(keep in 0..10_000_usize) {
        let der = Mold::default().cast();
        prop_assert!(Csr::parse_der(&der[..keep % der.len()]).is_err());
    }

    /// What passes holds what was put in, whatever the id.
    #[test]
    fn round_trip(ns in "[a-z0-9]{1,63}", sa in "[a-z0-9]{1,100}") {
        let id = SpiffeId::new(&"td".parse().unwrap(), &ns, &sa).unwrap();
        let built = build(&key(), &id).unwrap();
        let parsed = Csr::parse_pem(&built.to_pem()).unwrap();
        prop_assert_eq!(parsed.spiffe_id(), &id);
    }
}
