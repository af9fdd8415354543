//! The subject alternative name of requests and certificates, where exactly one SPIFFE id may stand.
//!
//! Read from the raw extension value, because the difference between "one URI" and "one URI and something that the
//! parser skips" is an identity somebody else could read. Shared by the request parser and the check of issued
//! certificates, so that both refuse the same things.

use crate::{
    der::{self, DerError, Reader},
    spiffe_id::{SpiffeId, SpiffeIdError},
};

/// `id-ce-subjectAltName`, 2.5.29.17, as the content of an OID.
pub(crate) const OID: &[u8] = &[0x55, 0x1d, 0x11];

/// `[6]`, primitive: `uniformResourceIdentifier`.
const URI: u8 = 0x86;

/// Why a subject alternative name is not exactly one SPIFFE id.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum SanError {
    /// Not DER, or bytes left over.
    #[error("the subject alternative name is not valid DER: {0}")]
    Encoding(DerError),
    /// An empty sequence of names.
    #[error("the subject alternative name is empty, expected one URI")]
    Empty,
    /// A name that is no URI.
    #[error("the subject alternative name holds a {0}, expected one URI and nothing else")]
    OtherName(&'static str),
    /// More than one URI.
    #[error("the subject alternative name holds {0} URIs, expected one")]
    SeveralUris(usize),
    /// Bytes that are no text.
    #[error("the URI of the subject alternative name is not ASCII")]
    NotText,
    /// A URI that is no id.
    #[error("the URI of the subject alternative name is no SPIFFE id: {0}")]
    NotSpiffe(SpiffeIdError),
}

impl SanError {
    /// A fixed word for metrics and log fields.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Encoding(_) => "san_encoding",
            Self::Empty => "san_empty",
            Self::OtherName(_) => "san_other_name",
            Self::SeveralUris(_) => "san_several_uris",
            Self::NotText | Self::NotSpiffe(_) => "san_not_spiffe",
        }
    }
}

/// The id in the value of a subject alternative name extension.
pub(crate) fn single_id(value: &[u8]) -> Result<SpiffeId, SanError> {
    let mut names = Reader::whole(value, der::SEQUENCE).map_err(SanError::Encoding)?;
    let mut uris = Vec::new();
    while !names.is_empty() {
        let name = names.next().map_err(SanError::Encoding)?;
        match name.tag {
            URI => uris.push(name.value),
            other => return Err(SanError::OtherName(kind(other))),
        }
    }
    match uris.as_slice() {
        [] => Err(SanError::Empty),
        [uri] => {
            let text = std::str::from_utf8(uri)
                .ok()
                .filter(|t| t.is_ascii())
                .ok_or(SanError::NotText)?;
            text.parse().map_err(SanError::NotSpiffe)
        }
        several => Err(SanError::SeveralUris(several.len())),
    }
}

/// What RFC 5280 calls the name with this tag.
fn kind(tag: u8) -> &'static str {
    match tag {
        0xa0 => "otherName",
        0x81 => "rfc822Name (e-mail)",
        0x82 => "dNSName",
        0xa3 => "x400Address",
        0xa4 => "directoryName",
        0xa5 => "ediPartyName",
        0x87 => "iPAddress",
        0x88 => "registeredID",
        _ => "name of an unknown kind",
    }
}

#[cfg(test)]
mod tests {
    use test_case::test_case;

    use super::*;

    const ID: &str = "spiffe://td/ns/foo/sa/bar";

    fn names(parts: &[(u8, &[u8])]) -> Vec<u8> {
        let parts: Vec<_> = parts.iter().map(|(tag, value)| der::element(*tag, &[value])).collect();
        let parts: Vec<_> = parts.iter().map(|p| p.as_slice()).collect();
        der::element(der::SEQUENCE, &parts).to_vec()
    }

    #[test]
    fn one_uri_is_the_id() {
        assert_eq!(single_id(&names(&[(URI, ID.as_bytes())])).unwrap().as_str(), ID);
    }

    #[test_case(&[], "san_empty" ; "no name")]
    #[test_case(&[(URI, ID.as_bytes()), (URI, ID.as_bytes())], "san_several_uris" ; "two equal uris")]
    #[test_case(&[(URI, ID.as_bytes()), (0x82, b"foo")], "san_other_name" ; "dns after it")]
    #[test_case(&[(0x82, b"foo"), (URI, ID.as_bytes())], "san_other_name" ; "dns before it")]
    #[test_case(&[(0x81, b"a@b")], "san_other_name" ; "email")]
    #[test_case(&[(0x87, &[127, 0, 0, 1])], "san_other_name" ; "ip")]
    #[test_case(&[(0x88, ID.as_bytes())], "san_other_name" ; "registered id with the bytes of the id")]
    #[test_case(&[(0xa0, &[6, 1, 42])], "san_other_name" ; "other name")]
    #[test_case(&[(0xa4, &[0x30, 0])], "san_other_name" ; "directory name")]
    #[test_case(&[(0x06, ID.as_bytes())], "san_other_name" ; "tag 6 of class universal")]
    #[test_case(&[(0xa6, ID.as_bytes())], "san_other_name" ; "tag 6 constructed")]
    #[test_case(&[(0x46, ID.as_bytes())], "san_other_name" ; "tag 6 of class application")]
    #[test_case(&[(URI, b"spiffe://td/ns/foo/sa/b\0r")], "san_not_spiffe" ; "zero byte")]
    #[test_case(&[(URI, &[0xff, 0xfe])], "san_not_spiffe" ; "no text")]
    #[test_case(&[(URI, b"https://example.com")], "san_not_spiffe" ; "web address")]
    fn refuses(parts: &[(u8, &[u8])], reason: &str) {
        assert_eq!(single_id(&names(parts)).unwrap_err().reason(), reason);
    }

    #[test]
    fn nothing_may_follow() {
        let mut value = names(&[(URI, ID.as_bytes())]);
        value.push(0);
        assert_eq!(single_id(&value), Err(SanError::Encoding(DerError::Trailing(1))));
    }
}
