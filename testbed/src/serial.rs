//! Serial numbers in one spelling: lower-case hex without leading zeros, as `/certs`, headers and logs are compared.

use anyhow::Context;
use rustls_pki_types::{CertificateDer, pem::PemObject};

/// Brings any hex spelling (`0A:B1`, `0ab1`) into the compared one.
pub fn normal(serial: &str) -> String {
    let hex: String = serial
        .chars()
        .filter(char::is_ascii_hexdigit)
        .map(|c| c.to_ascii_lowercase())
        .collect();
    hex.trim_start_matches('0').to_owned()
}

/// The serial of the first certificate in a PEM text, which may be percent-encoded as Envoy writes it into headers.
pub fn of_pem(pem: &str) -> anyhow::Result<String> {
    let pem = percent_decoded(pem);
    let certificate = CertificateDer::from_pem_slice(&pem).context("no certificate in the PEM text")?;
    let (_, parsed) = x509_parser::parse_x509_certificate(&certificate).context("not an X.509 certificate")?;
    Ok(normal(&hex::encode(parsed.raw_serial())))
}

fn percent_decoded(text: &str) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let escaped = (first == b'%')
            .then(|| tail.get(..2).and_then(|digits| hex::decode(digits).ok()))
            .flatten();
        if let Some(byte) = escaped {
            decoded.extend(byte);
            rest = &tail[2..];
        } else {
            decoded.push(first);
            rest = tail;
        }
    }
    decoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_of_one_serial_are_equal() {
        assert_eq!(normal("00:0A:B1"), "ab1");
        assert_eq!(normal("0ab1"), normal("AB1"));
    }

    #[test]
    fn percent_encoding_is_undone_and_anything_else_kept() {
        assert_eq!(percent_decoded("a%20b%0Ac%zz%2"), b"a b\nc%zz%2");
    }
}
