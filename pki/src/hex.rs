//! Bytes as lower-case hex digits: the one spelling of serial numbers and digests in logs, versions and keys.
//!
//! What a serial number's leading zero byte means is `certificate`'s.

/// Two lower-case digits for each byte.
pub fn encode(bytes: &[u8]) -> String {
    let digit = |nibble: u8| char::from_digit(nibble.into(), 16).unwrap_or('0');
    bytes
        .iter()
        .flat_map(|byte| [digit(byte >> 4), digit(byte & 0xf)])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_byte_has_two_digits() {
        assert_eq!(encode(&[0, 0x0a, 0xb1, 0xff]), "000ab1ff");
        assert_eq!(encode(&[]), "");
    }
}
