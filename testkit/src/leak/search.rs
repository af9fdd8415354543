//! The search: all forms of all pieces of all secrets at once, in a text as it is and without its line breaks and quoting.

use std::collections::BTreeSet;

use aho_corasick::AhoCorasick;

use super::secrets::{Secrets, forms, pieces};

/// Finds secrets.
pub struct Search {
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
pub struct Find {
    /// Its name.
    pub secret: String,
    /// How it was written.
    pub form: &'static str,
    /// What stands around the first one.
    pub context: String,
}

impl Search {
    /// For these secrets.
    pub fn new(secrets: &Secrets) -> Self {
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
    pub fn find(&self, text: &[u8]) -> Vec<Find> {
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
