//! PEM armour: what we write, and how strictly we read where one block and nothing else is allowed.
//!
//! Reading of certificate files goes through `rustls-pki-types`, which skips what is not a certificate, as files in
//! the field need. Buffers here are sized before they are filled and wiped when dropped, so that the same code may
//! carry private keys.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use zeroize::Zeroizing;

/// Bytes per line: 64 characters, the width that RFC 7468 asks for.
const PER_LINE: usize = 48;

/// One block, each line and the last ended by a line feed.
pub(crate) fn encode(label: &str, der: &[u8]) -> Zeroizing<String> {
    let lines = der.len().div_ceil(PER_LINE);
    let mut out = Zeroizing::new(String::with_capacity(2 * (label.len() + 18) + lines * 65));
    let armour = |out: &mut String, side: &str| {
        for part in ["-----", side, " ", label, "-----\n"] {
            out.push_str(part);
        }
    };
    armour(&mut out, "BEGIN");
    for line in der.chunks(PER_LINE) {
        let mut text = Zeroizing::new([0_u8; 64]);
        let length = STANDARD.encode_slice(line, text.as_mut_slice()).unwrap_or_default();
        out.push_str(
            text.get(..length)
                .and_then(|t| std::str::from_utf8(t).ok())
                .unwrap_or_default(),
        );
        out.push('\n');
    }
    armour(&mut out, "END");
    out
}

/// Why a text is not exactly one block.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum PemError {
    /// Something other than white space stands before the block.
    #[error("it does not begin with -----BEGIN {0}-----")]
    Begin(&'static str),
    /// Something other than white space stands after the block.
    #[error("it does not end with -----END {0}-----")]
    End(&'static str),
    /// More than one block, a header, or a character that is not base64.
    #[error("it holds more between BEGIN and END than lines of base64 (a header, a second block, or damage)")]
    Body,
}

/// The bytes of exactly one block of this label, with nothing but white space around it.
pub(crate) fn decode_one(label: &'static str, text: &str) -> Result<Vec<u8>, PemError> {
    let text = text.trim_matches(['\n', '\r', ' ', '\t']);
    let body = strip(text, "-----BEGIN ", label).ok_or(PemError::Begin(label))?;
    let at = body.rfind("-----END ").ok_or(PemError::End(label))?;
    let (body, end) = body.split_at_checked(at).ok_or(PemError::End(label))?;
    if strip(end, "-----END ", label) != Some("") {
        return Err(PemError::End(label));
    }
    // A label is followed by a line end, else `-----BEGIN X-----AAAA` would pass.
    if !body.starts_with(['\n', '\r']) || !body.ends_with(['\n', '\r']) {
        return Err(PemError::Body);
    }
    let joined: String = body
        .split(['\n', '\r'])
        .map(|line| line.trim_end_matches([' ', '\t']))
        .collect();
    STANDARD.decode(joined).map_err(|_| PemError::Body)
}

fn strip<'a>(text: &'a str, side: &str, label: &str) -> Option<&'a str> {
    text.strip_prefix(side)?.strip_prefix(label)?.strip_prefix("-----")
}

#[cfg(test)]
mod tests {
    use test_case::test_case;

    use super::*;

    #[test_case(0 ; "empty")]
    #[test_case(1 ; "one byte")]
    #[test_case(47 ; "just below a line")]
    #[test_case(48 ; "one line")]
    #[test_case(49 ; "just above a line")]
    #[test_case(1000 ; "many lines")]
    fn what_is_written_reads_back_and_never_grew(size: usize) {
        let der: Vec<u8> = (0..size).map(|n| u8::try_from(n % 251).unwrap()).collect();
        let text = encode("THING", &der);
        assert!(text.lines().all(|l| l.len() <= 64), "{}", *text);
        assert!(
            text.capacity() < 2 * 23 + size.div_ceil(48) * 65 + 8,
            "grew: a copy stayed behind"
        );
        if size > 0 {
            assert_eq!(decode_one("THING", &text).unwrap(), der);
        }
    }

    #[test_case("-----BEGIN THING-----\nAQID\n-----END THING-----" ; "no line end at the end")]
    #[test_case("\r\n -----BEGIN THING-----\r\nAQID\r\n-----END THING-----\r\n" ; "carriage returns and space around")]
    #[test_case("-----BEGIN THING-----\nAQ\nID\n-----END THING-----\n" ; "short lines")]
    fn accepts(text: &str) {
        assert_eq!(decode_one("THING", text).unwrap(), [1, 2, 3]);
    }

    #[test_case("" ; "empty")]
    #[test_case("AQID" ; "no armour")]
    #[test_case("x\n-----BEGIN THING-----\nAQID\n-----END THING-----\n" ; "leading text")]
    #[test_case("-----BEGIN THING-----\nAQID\n-----END THING-----\nx" ; "trailing text")]
    #[test_case("-----BEGIN THING-----\nAQID\n-----END THING-----\n-----BEGIN THING-----\nAQID\n-----END THING-----\n" ; "two blocks")]
    #[test_case("-----BEGIN THING-----\nA: b\n\nAQID\n-----END THING-----\n" ; "header")]
    #[test_case("-----BEGIN THINGS-----\nAQID\n-----END THINGS-----\n" ; "longer label")]
    #[test_case("-----BEGIN THIN-----\nAQID\n-----END THIN-----\n" ; "shorter label")]
    #[test_case("-----BEGIN THING-----\nAQID\n-----END THIN-----\n" ; "labels differ")]
    #[test_case("-----BEGIN THING-----AQID\n-----END THING-----\n" ; "no line end after begin")]
    #[test_case("-----BEGIN THING-----\nAQID-----END THING-----\n" ; "no line end before end")]
    #[test_case("-----BEGIN THING-----\nAQI\n-----END THING-----\n" ; "no padding")]
    #[test_case("-----BEGIN THING-----\nAQJ=\n-----END THING-----\n" ; "bits beyond the last byte")]
    #[test_case("-----BEGIN THING-----\nAQ ID\n-----END THING-----\n" ; "space inside a line")]
    #[test_case("-----BEGIN THING-----\nAQ-_\n-----END THING-----\n" ; "url alphabet")]
    #[test_case("-----BEGIN THING-----" ; "begin only")]
    #[test_case("-----END THING-----" ; "end only")]
    fn refuses(text: &str) {
        assert!(decode_one("THING", text).is_err());
    }
}
