//! The search: all forms of all pieces of all secrets at once, in a text as it is and without its line breaks and quoting.

use std::collections::BTreeSet;

use aho_corasick::AhoCorasick;

use crate::secrets::{Secrets, forms, pieces};

/// Finds secrets.
pub(crate) struct Search {
    names: Vec<String>,
    plain: Patterns,
    squeezed: Patterns,
}

/// One automaton, and of each pattern the secret and the form.
struct Patterns {
    automaton: AhoCorasick,
    meaning: Vec<(usize, &'static str)>,
}

/// Somewhere a secret was found.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Find {
    pub(crate) secret: String,
    pub(crate) form: &'static str,
    /// What stands around the first one.
    pub(crate) context: String,
}

impl Search {
    pub(crate) fn new(secrets: &Secrets) -> Self {
        let (mut plain, mut squeezed) = (BTreeSet::new(), BTreeSet::new());
        for (number, (_, secret)) in secrets.0.iter().enumerate() {
            for (form, text) in pieces(secret).flat_map(forms) {
                // Raw bytes are not text: nobody wraps or quotes them.
                if form != "raw" {
                    let short = squeeze(&text);
                    if short.len() >= 10 {
                        squeezed.insert((short, number, form));
                    }
                }
                plain.insert((text, number, form));
            }
        }
        Self {
            names: secrets.0.iter().map(|(name, _)| name.clone()).collect(),
            plain: Patterns::new(plain),
            squeezed: Patterns::new(squeezed),
        }
    }

    /// Each secret once in each form.
    pub(crate) fn find(&self, text: &[u8]) -> Vec<Find> {
        let squeezed = squeeze(text);
        let mut finds = self.plain.find(text, &self.names);
        finds.extend(self.squeezed.find(&squeezed, &self.names));
        finds.sort();
        finds.dedup_by(|a, b| (&a.secret, a.form) == (&b.secret, b.form));
        finds
    }
}

impl Patterns {
    fn new(patterns: BTreeSet<(Vec<u8>, usize, &'static str)>) -> Self {
        let automaton = AhoCorasick::new(patterns.iter().map(|(text, _, _)| text)).expect("patterns");
        let meaning = patterns.into_iter().map(|(_, secret, form)| (secret, form)).collect();
        Self { automaton, meaning }
    }

    fn find(&self, text: &[u8], names: &[String]) -> Vec<Find> {
        let mut seen = BTreeSet::new();
        let mut finds = Vec::new();
        for hit in self.automaton.find_overlapping_iter(text) {
            let meaning = self.meaning[hit.pattern()];
            if seen.insert(meaning) {
                let around = &text[hit.start().saturating_sub(160)..text.len().min(hit.end() + 20)];
                finds.push(Find {
                    secret: names[meaning.0].clone(),
                    form: meaning.1,
                    context: String::from_utf8_lossy(around).into_owned(),
                });
            }
        }
        finds
    }
}

/// Without white space, and without what Debug and JSON put before a character to quote it: so a wrapped, indented or
/// twice quoted secret stands in one piece.
fn squeeze(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte == b'\\' {
            while let Some((b'\\', after)) = rest.split_first() {
                rest = after;
            }
            match rest.first() {
                Some(b'n' | b'r' | b't') => rest = &rest[1..],
                Some(b'/' | b'"' | b'\'') | None => {}
                Some(_) => out.push(byte),
            }
        } else if !byte.is_ascii_whitespace() {
            out.push(byte);
        }
    }
    out
}

/// The proof that the search finds what it is for.
mod planted {
    use base64::Engine as _;
    use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
    use ensign_testkit::TestCa;
    use ensign_testkit::tokens::{Claims, TokenMint};
    use serde_json::json;

    use super::*;
    use crate::secrets::scalar;

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
}
