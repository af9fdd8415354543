//! The proof that the search finds what it is for: secrets planted in every form that it claims to find.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::json;

use super::secrets::scalar;
use super::*;
use crate::TestCa;
use crate::tokens::{Claims, TokenMint};

#[track_caller]
fn found(search: &Search, form: &str, text: impl AsRef<[u8]>) {
    let mut haystack = b"2026-11-23T03:45:59Z TRACE h2::codec: received frame=".to_vec();
    haystack.extend_from_slice(text.as_ref());
    haystack.extend_from_slice(b" and more\n");
    let text = String::from_utf8_lossy(&haystack).into_owned();
    assert!(!search.find(&haystack).is_empty(), "not found as {form}: {text}");
}

fn wrapped(text: &str, width: usize) -> String {
    let lines: Vec<_> = text.as_bytes().chunks(width).map(String::from_utf8_lossy).collect();
    lines.join("\n")
}

#[test]
fn a_key_is_found_in_every_form() {
    let pem = TestCa::new("planted").issuing_key_pem();
    let mut secrets = Secrets::default();
    secrets.key("key", &pem);
    let search = Search::new(&secrets);
    let (scalar, _) = scalar(&pem);
    let body: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
    let der = STANDARD.decode(&body).unwrap();
    assert!(search.find(b"nothing to see here").is_empty());
    for bytes in [&der[..], &scalar, &scalar[3..20], &scalar[14..]] {
        found(&search, "raw", bytes);
        found(&search, "hex", hex::encode(bytes));
        found(&search, "upper hex", hex::encode_upper(bytes));
        found(&search, "wrapped hex", wrapped(&hex::encode(bytes), 60));
        let pairs: Vec<_> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        found(&search, "hex with colons", pairs.join(":"));
        found(&search, "hexdump", pairs.join(" "));
        found(&search, "Debug", format!("{bytes:?}"));
        found(&search, "pretty Debug", format!("{bytes:#?}"));
        found(&search, "hex Debug", format!("{bytes:x?}"));
        found(&search, "JSON", json!(bytes).to_string());
        found(&search, "escaped", bytes.escape_ascii().to_string());
        found(
            &search,
            "Debug of Bytes",
            format!("{:?}", bytes::Bytes::copy_from_slice(bytes)),
        );
        let quoted = format!("{:?}", bytes::Bytes::copy_from_slice(bytes));
        found(&search, "Debug of Bytes in JSON", json!(quoted).to_string());
        let percent: String = bytes.iter().map(|byte| format!("%{byte:02X}")).collect();
        found(&search, "percent", percent);
        for before in 0..3 {
            let moved = [&vec![7; before][..], bytes].concat();
            found(&search, "base64", STANDARD.encode(&moved));
            found(&search, "base64url", URL_SAFE_NO_PAD.encode(&moved));
            found(&search, "wrapped base64", wrapped(&STANDARD.encode(&moved), 76));
            found(
                &search,
                "base64 wrapped in JSON",
                json!(wrapped(&STANDARD.encode(&moved), 19)).to_string(),
            );
        }
    }
    for text in [pem.clone(), pem.replace('\n', ""), pem.replace('\n', "\r\n    ")] {
        found(&search, "PEM", &text);
        found(&search, "PEM in Debug", format!("{text:?}"));
        found(&search, "PEM in Debug in JSON", json!(format!("{text:?}")).to_string());
        found(&search, "PEM as bytes", format!("{:?}", text.as_bytes()));
        found(&search, "PEM in base64, as in a Secret", STANDARD.encode(&text));
        found(&search, "PEM in hex", hex::encode(&text));
    }
}

#[test]
fn a_token_is_found_whole_and_in_part() {
    let token = TokenMint::rs256("planted").mint(&Claims::service_account("foo", "planted"));
    let mut secrets = Secrets::default();
    secrets.token("token", &token);
    let search = Search::new(&secrets);
    found(&search, "header", format!("authorization: Bearer {token}"));
    found(&search, "start", &token[..20]);
    found(&search, "end", &token[token.len() - 20..]);
    found(&search, "Debug", format!("{:?}", token.as_bytes()));
    let signature = URL_SAFE_NO_PAD.decode(token.rsplit('.').next().unwrap()).unwrap();
    found(&search, "signature", hex::encode(&signature));
    assert!(
        search
            .find(b"system:serviceaccount:foo:planted, kid planted")
            .is_empty()
    );
}
