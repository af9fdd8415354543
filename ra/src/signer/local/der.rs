//! The few DER forms that a leaf certificate is made of.
//!
//! Owns the encoding only: tag, length, content. Why written here and not by rcgen: rcgen rebuilds the issuer's name
//! from a map with one value per attribute type, so the name of a plugged-in CA such as `DC=example, DC=org` would
//! change and no verifier would find the issuer. Here the issuer's name is copied byte for byte from its certificate.

use std::time::SystemTime;

use time::OffsetDateTime;

/// Tags of the universal class, and the context tags of a certificate.
pub(super) mod tag {
    pub(crate) const BOOLEAN: u8 = 0x01;
    pub(crate) const INTEGER: u8 = 0x02;
    pub(crate) const BIT_STRING: u8 = 0x03;
    pub(crate) const OCTET_STRING: u8 = 0x04;
    pub(crate) const OID: u8 = 0x06;
    pub(crate) const UTC_TIME: u8 = 0x17;
    pub(crate) const GENERALIZED_TIME: u8 = 0x18;
    pub(crate) const SEQUENCE: u8 = 0x30;
    /// `[n]`, primitive.
    pub(crate) const fn context(number: u8) -> u8 {
        0x80 | number
    }
    /// `[n]`, constructed.
    pub(crate) const fn constructed(number: u8) -> u8 {
        0xa0 | number
    }
}

/// One element whose content is `parts`, one after the other.
pub(super) fn element(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let mut out = Vec::with_capacity(length + 6);
    out.push(tag);
    push_length(&mut out, length);
    for part in parts {
        out.extend_from_slice(part);
    }
    out
}

/// A SEQUENCE of `parts`.
pub(super) fn sequence(parts: &[&[u8]]) -> Vec<u8> {
    element(tag::SEQUENCE, parts)
}

/// A positive INTEGER from big-endian bytes, in its shortest form.
pub(super) fn positive_integer(bytes: &[u8]) -> Vec<u8> {
    let leading = bytes.iter().take_while(|byte| **byte == 0).count();
    match bytes.get(leading..) {
        Some(short @ [first, ..]) if first & 0x80 != 0 => element(tag::INTEGER, &[&[0], short]),
        Some(short @ [_, ..]) => element(tag::INTEGER, &[short]),
        Some([]) | None => element(tag::INTEGER, &[&[0]]),
    }
}

/// A BIT STRING of whole bytes.
pub(super) fn bit_string(bytes: &[u8]) -> Vec<u8> {
    element(tag::BIT_STRING, &[&[0], bytes])
}

/// A certificate's time: UTCTime up to 2049, GeneralizedTime after that (RFC 5280, 4.1.2.5). Part seconds are cut.
pub(super) fn certificate_time(at: SystemTime) -> Vec<u8> {
    let at = OffsetDateTime::from(at);
    let rest = format!(
        "{:02}{:02}{:02}{:02}{:02}Z",
        u8::from(at.month()),
        at.day(),
        at.hour(),
        at.minute(),
        at.second()
    );
    if (1950..2050).contains(&at.year()) {
        element(
            tag::UTC_TIME,
            &[format!("{:02}", at.year() % 100).as_bytes(), rest.as_bytes()],
        )
    } else {
        element(
            tag::GENERALIZED_TIME,
            &[format!("{:04}", at.year()).as_bytes(), rest.as_bytes()],
        )
    }
}

/// One X.509 extension; `oid` is the encoded object identifier without tag and length.
pub(super) fn extension(oid: &[u8], critical: bool, value: &[u8]) -> Vec<u8> {
    let oid = element(tag::OID, &[oid]);
    let value = element(tag::OCTET_STRING, &[value]);
    if critical {
        // DER leaves out a value equal to its DEFAULT, so FALSE is never written.
        let critical = element(tag::BOOLEAN, &[&[0xff]]);
        sequence(&[&oid, &critical, &value])
    } else {
        sequence(&[&oid, &value])
    }
}

fn push_length(out: &mut Vec<u8>, length: usize) {
    if length < 0x80 {
        out.push(u8::try_from(length).unwrap_or(0x7f));
        return;
    }
    let bytes = length.to_be_bytes();
    let leading = bytes.iter().take_while(|byte| **byte == 0).count();
    out.push(0x80 | u8::try_from(bytes.len() - leading).unwrap_or(8));
    out.extend(bytes.iter().skip(leading));
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use proptest::prelude::*;
    use x509_parser::{
        asn1_rs::{FromDer, Integer},
        time::ASN1Time,
    };

    use super::*;

    proptest! {
        #[test]
        fn integers_are_positive_and_read_back(bytes in proptest::collection::vec(any::<u8>(), 0..20)) {
            let der = positive_integer(&bytes);
            let (rest, read) = Integer::from_der(&der).unwrap();
            prop_assert!(rest.is_empty());
            let shortest: Vec<u8> = bytes.iter().copied().skip_while(|byte| *byte == 0).collect();
            let seen: Vec<u8> = read.as_ref().iter().copied().skip_while(|byte| *byte == 0).collect();
            prop_assert_eq!(seen, shortest);
            prop_assert!(der[2] & 0x80 == 0, "negative: {:02x?}", der);
        }

        #[test]
        fn times_read_back_to_the_second(seconds in 0_u64..200_000_000_000, nanos in 0_u32..1_000_000_000) {
            let der = certificate_time(UNIX_EPOCH + Duration::new(seconds, nanos));
            let (rest, read) = ASN1Time::from_der(&der).unwrap();
            prop_assert!(rest.is_empty());
            prop_assert_eq!(u64::try_from(read.timestamp()).unwrap(), seconds);
        }

        #[test]
        fn lengths_read_back(length in 0_usize..70_000) {
            let der = element(tag::OCTET_STRING, &[&vec![7; length]]);
            let (rest, read) = x509_parser::asn1_rs::OctetString::from_der(&der).unwrap();
            prop_assert!(rest.is_empty());
            prop_assert_eq!(read.as_ref().len(), length);
        }
    }
}
