//! The few DER moves that this crate makes itself: read one element strictly, write one element.
//!
//! Certificates are read by `x509-parser` and `webpki`. What is read here are the two formats where "exactly this and
//! nothing else" is the whole point (signing requests), or that no library in the tree reads with both crypto
//! providers (SEC1 and PKCS#1 keys). Strict means: one-byte tags, definite and minimal lengths, nothing left over.

use zeroize::Zeroizing;

pub(crate) const BOOLEAN: u8 = 0x01;
pub(crate) const INTEGER: u8 = 0x02;
pub(crate) const BIT_STRING: u8 = 0x03;
pub(crate) const OCTET_STRING: u8 = 0x04;
pub(crate) const OID: u8 = 0x06;
pub(crate) const SEQUENCE: u8 = 0x30;
pub(crate) const SET: u8 = 0x31;
/// `[0]`, constructed.
pub(crate) const CONTEXT_0: u8 = 0xa0;
/// `[1]`, constructed.
pub(crate) const CONTEXT_1: u8 = 0xa1;

/// What is wrong with an encoding.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum DerError {
    /// The input ends inside an element.
    #[error("it ends inside an element")]
    Truncated,
    /// Indefinite, not minimal, or more than four bytes.
    #[error("it has a length that is not in DER's shortest form")]
    Length,
    /// A tag of more than one byte: nothing that we read has one.
    #[error("it has a tag of more than one byte")]
    Tag,
    /// Another element than the one that belongs here.
    #[error("it has tag {seen:#04x} where {expected:#04x} belongs")]
    Unexpected {
        /// The tag that belongs here.
        expected: u8,
        /// The tag that is here.
        seen: u8,
    },
    /// Bytes after the last element.
    #[error("{0} bytes follow its last element")]
    Trailing(usize),
    /// The right element with a value that its type does not allow.
    #[error("it has an invalid {0}")]
    Value(&'static str),
}

/// One element.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Element<'a> {
    pub(crate) tag: u8,
    pub(crate) value: &'a [u8],
    /// Tag, length and value.
    pub(crate) raw: &'a [u8],
}

/// Reads element after element.
#[derive(Clone, Debug)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(input: &'a [u8]) -> Self {
        Self { rest: input }
    }

    /// The elements of one element of `tag` that fills `input`.
    pub(crate) fn whole(input: &'a [u8], tag: u8) -> Result<Self, DerError> {
        let mut outer = Self::new(input);
        let element = outer.read(tag)?;
        outer.end()?;
        Ok(Self::new(element.value))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Whether the next element has this tag.
    pub(crate) fn at(&self, tag: u8) -> bool {
        self.rest.first() == Some(&tag)
    }

    /// The next element, of whatever tag.
    pub(crate) fn next(&mut self) -> Result<Element<'a>, DerError> {
        let (&tag, after_tag) = self.rest.split_first().ok_or(DerError::Truncated)?;
        if tag & 0x1f == 0x1f {
            return Err(DerError::Tag);
        }
        let (length, header) = length(after_tag)?;
        let end = (1 + header).checked_add(length).ok_or(DerError::Length)?;
        let raw = self.rest.get(..end).ok_or(DerError::Truncated)?;
        let value = raw.get(1 + header..).ok_or(DerError::Truncated)?;
        self.rest = self.rest.get(end..).ok_or(DerError::Truncated)?;
        Ok(Element { tag, value, raw })
    }

    /// The next element, which must have this tag.
    pub(crate) fn read(&mut self, tag: u8) -> Result<Element<'a>, DerError> {
        if let Some(&seen) = self.rest.first()
            && seen != tag
        {
            return Err(DerError::Unexpected { expected: tag, seen });
        }
        self.next()
    }

    /// The next element, whose own elements are wanted.
    pub(crate) fn enter(&mut self, tag: u8) -> Result<Self, DerError> {
        Ok(Self::new(self.read(tag)?.value))
    }

    /// A non-negative integer without its sign byte.
    pub(crate) fn unsigned(&mut self) -> Result<&'a [u8], DerError> {
        let bytes = self.read(INTEGER)?.value;
        match bytes {
            [] => Err(DerError::Value("integer: empty")),
            [0x80..=0xff, ..] => Err(DerError::Value("integer: negative")),
            [0] => Ok(bytes),
            [0, 0..=0x7f, ..] => Err(DerError::Value("integer: not in its shortest form")),
            [0, magnitude @ ..] | magnitude => Ok(magnitude),
        }
    }

    /// A bit string of whole bytes.
    pub(crate) fn bits(&mut self) -> Result<&'a [u8], DerError> {
        match self.read(BIT_STRING)?.value {
            [0, bytes @ ..] => Ok(bytes),
            _ => Err(DerError::Value("bit string: not of whole bytes")),
        }
    }

    /// Nothing may follow.
    pub(crate) fn end(&self) -> Result<(), DerError> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(DerError::Trailing(self.rest.len()))
        }
    }
}

/// The length and the number of bytes that encode it.
fn length(input: &[u8]) -> Result<(usize, usize), DerError> {
    let (&first, rest) = input.split_first().ok_or(DerError::Truncated)?;
    if first < 0x80 {
        return Ok((usize::from(first), 1));
    }
    let count = usize::from(first & 0x7f);
    if count == 0 || count > 4 {
        return Err(DerError::Length);
    }
    let bytes = rest.get(..count).ok_or(DerError::Truncated)?;
    let length = bytes.iter().fold(0_usize, |sum, &b| (sum << 8) | usize::from(b));
    let minimal = bytes.first() != Some(&0) && length >= 0x80;
    if minimal {
        Ok((length, 1 + count))
    } else {
        Err(DerError::Length)
    }
}

/// An element around the given parts. The buffer is sized before it is filled, so no copy of a key stays behind.
pub(crate) fn element(tag: u8, parts: &[&[u8]]) -> Zeroizing<Vec<u8>> {
    let length = parts.iter().map(|p| p.len()).sum::<usize>();
    let mut out = Zeroizing::new(Vec::with_capacity(length + 6));
    out.push(tag);
    match u8::try_from(length) {
        Ok(short) if short < 0x80 => out.push(short),
        _ => {
            let bytes = length.to_be_bytes();
            let skip = bytes.iter().take_while(|b| **b == 0).count();
            let significant = bytes.get(skip..).unwrap_or_default();
            out.push(0x80 | u8::try_from(significant.len()).unwrap_or_default());
            out.extend_from_slice(significant);
        }
    }
    for part in parts {
        out.extend_from_slice(part);
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use test_case::test_case;

    use super::*;

    #[test_case(&[], DerError::Truncated ; "nothing")]
    #[test_case(&[0x30], DerError::Truncated ; "no length")]
    #[test_case(&[0x30, 0x01], DerError::Truncated ; "no value")]
    #[test_case(&[0x30, 0x80, 0x00, 0x00], DerError::Length ; "indefinite")]
    #[test_case(&[0x30, 0x81, 0x01, 0x00], DerError::Length ; "long form for a short length")]
    #[test_case(&[0x30, 0x82, 0x00, 0x80], DerError::Length ; "leading zero in a length")]
    #[test_case(&[0x30, 0x85, 1, 1, 1, 1, 1], DerError::Length ; "five bytes of length")]
    #[test_case(&[0x30, 0x84, 0xff, 0xff, 0xff, 0xff], DerError::Truncated ; "huge")]
    #[test_case(&[0x31, 0x00], DerError::Unexpected { expected: 0x30, seen: 0x31 } ; "other tag")]
    #[test_case(&[0x30, 0x00, 0x00], DerError::Trailing(1) ; "one byte more")]
    fn refuses(input: &[u8], expected: DerError) {
        assert_eq!(Reader::whole(input, SEQUENCE).unwrap_err(), expected);
    }

    #[test_case(&[2, 0] ; "empty")]
    #[test_case(&[2, 1, 0x80] ; "negative")]
    #[test_case(&[2, 2, 0, 0x7f] ; "padded")]
    fn refuses_integer(input: &[u8]) {
        assert!(matches!(Reader::new(input).unsigned(), Err(DerError::Value(_))));
    }

    #[test]
    fn refuses_tags_of_several_bytes() {
        assert_eq!(Reader::new(&[0x1f, 0x01, 0x00]).next().unwrap_err(), DerError::Tag);
        assert_eq!(
            Reader::new(&[0xbf, 0x81, 0x01, 0x00]).next().unwrap_err(),
            DerError::Tag
        );
    }

    #[test]
    fn reads_integers_without_their_sign_byte() {
        assert_eq!(Reader::new(&[2, 1, 0]).unsigned().unwrap(), [0]);
        assert_eq!(Reader::new(&[2, 1, 0x7f]).unsigned().unwrap(), [0x7f]);
        assert_eq!(Reader::new(&[2, 2, 0, 0x80]).unsigned().unwrap(), [0x80]);
    }

    #[test_case(0 ; "empty")]
    #[test_case(0x7f ; "longest short form")]
    #[test_case(0x80 ; "shortest long form")]
    #[test_case(0xff ; "one byte")]
    #[test_case(0x100 ; "two bytes")]
    #[test_case(0x1_0000 ; "three bytes")]
    fn what_is_written_reads_back(size: usize) {
        let value = vec![7; size];
        let written = element(OCTET_STRING, &[&value]);
        let mut reader = Reader::new(&written);
        let read = reader.read(OCTET_STRING).unwrap();
        assert_eq!(read.value, value);
        assert_eq!(read.raw, written.as_slice());
        reader.end().unwrap();
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let mut reader = Reader::new(&bytes);
            while let Ok(element) = reader.next() {
                // What is accepted is canonical: writing it again gives the same bytes.
                let again = super::element(element.tag, &[element.value]);
                prop_assert_eq!(element.raw, again.as_slice());
            }
        }
    }
}
