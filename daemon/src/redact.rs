//! Takes secrets out of texts that quote somebody's input: error chains, settings, answers of other programs.
//!
//! People paste a token where a path belongs, and a key where a list belongs; the error that says so must not repeat it.
//! This is the net below the first rule, that secrets are never put into a text: it knows what a private key in PEM
//! armour and a JWT look like, and (where a text quotes nothing else of that kind) a long random word.

use std::borrow::Cow;

/// Stands where a secret was.
pub const REDACTED: &str = "<redacted: looks like a key or a token>";

/// `text` without private keys in PEM armour and without tokens.
pub fn secrets(text: &str) -> Cow<'_, str> {
    replace(text, token)
}

/// As [`secrets`], and without long random words (a key without its armour). For texts in which no digest, key id or
/// serial number is expected, since those look the same.
pub fn random_words(text: &str) -> Cow<'_, str> {
    replace(text, |word| token(word).or_else(|| random(word).then_some(0)))
}

/// Whether `text` holds what [`random_words`] would take out.
pub fn is_suspect(text: &str) -> bool {
    matches!(random_words(text), Cow::Owned(_))
}

/// `secret_from` gives the offset within a word from which it is secret.
fn replace(text: &str, secret_from: impl Fn(&str) -> Option<usize>) -> Cow<'_, str> {
    let mut out = String::new();
    let (mut rest, mut found) = (text, false);
    while let Some(begin) = private_key(rest) {
        words(&rest[..begin], &secret_from, &mut out);
        out.push_str(REDACTED);
        found = true;
        // A block that was cut short has no end: nothing after its beginning can be trusted.
        let block = &rest[begin + BEGIN.len()..];
        rest = match block.find(END) {
            Some(end) => {
                let label = &block[end + END.len()..];
                label.find(DASHES).map_or("", |dashes| &label[dashes + DASHES.len()..])
            }
            None => "",
        };
    }
    found |= words(rest, &secret_from, &mut out);
    if found { Cow::Owned(out) } else { Cow::Borrowed(text) }
}

/// Where the armour of a private key begins; certificates and requests may be shown.
fn private_key(text: &str) -> Option<usize> {
    let is_key = |(at, _): &(usize, &str)| {
        let label = &text[at + BEGIN.len()..];
        // No label is longer; a cut one counts as a key's.
        label.find(DASHES).is_none_or(|end| label[..end].contains("PRIVATE"))
    };
    text.match_indices(BEGIN).find(is_key).map(|(at, _)| at)
}

/// Copies `text`, secret words replaced; says whether there were any.
fn words(text: &str, secret_from: &impl Fn(&str) -> Option<usize>, out: &mut String) -> bool {
    let mut found = false;
    for part in text.split_inclusive(|c: char| !is_word(c)) {
        let end = part.trim_end_matches(|c: char| !is_word(c)).len();
        let (word, separator) = part.split_at(end);
        match secret_from(word) {
            Some(from) => {
                out.push_str(&word[..from]);
                out.push_str(REDACTED);
                found = true;
            }
            None => out.push_str(word),
        }
        out.push_str(separator);
    }
    found
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '+' | '/' | '_' | '-' | '=' | '.')
}

/// Where a JWT begins: its first part is a JSON object, so it begins with `{"` in base64, cut short or not.
fn token(word: &str) -> Option<usize> {
    let at = word.find("eyJ")?;
    let first = word[at..].split('.').next().unwrap_or_default();
    (first.len() >= SHORTEST_TOKEN).then_some(at)
}

/// Upper case, lower case and digits without a break: no path, host or name is written like that.
fn random(word: &str) -> bool {
    word.split(['/', '.']).any(|run| {
        let has = |kind: fn(&u8) -> bool| run.as_bytes().iter().any(kind);
        run.len() >= LONGEST_PLAIN
            && has(u8::is_ascii_uppercase)
            && has(u8::is_ascii_lowercase)
            && has(u8::is_ascii_digit)
    })
}

const BEGIN: &str = "-----BEGIN ";
const END: &str = "-----END ";
const DASHES: &str = "-----";
const SHORTEST_TOKEN: usize = 9;
/// Sixteen random bytes have 22 characters in base64.
const LONGEST_PLAIN: usize = 22;

#[cfg(test)]
mod tests {
    use test_case::test_case;

    use super::*;

    #[test_case("a eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJ4In0.c2lnbmF0dXJl b", "a # b"; "a token among words")]
    #[test_case("`/run/eyJhbGciOiJSUzI1NiJ9`, expected a path", "`/run/#`, expected a path"; "a token that was cut")]
    #[test_case("is `-----BEGIN EC PRIVATE KEY-----\nMHcC\n-----END EC PRIVATE KEY-----\n`, no", "is `#\n`, no"; "a key")]
    #[test_case("\"-----BEGIN PRIVATE KEY-----\\nMHcC\\n-----END PRIVATE KEY-----\"", "\"#\""; "a key in quotes")]
    #[test_case("x -----BEGIN PRIVATE KEY-----\nMHcC…", "x #"; "a key that was cut")]
    #[test_case("x -----BEGIN PRIV", "x #"; "armour that was cut")]
    #[test_case("-----BEGIN PRIVATE KEY-----a-----END PRIVATE KEY-----b-----BEGIN PRIVATE KEY-----c", "#b#"; "two keys")]
    fn taken_out(text: &str, expected: &str) {
        assert_eq!(secrets(text), expected.replace('#', REDACTED));
    }

    #[test_case("cannot read /run/secrets/tokens/istio-token: No such file")]
    #[test_case("expected -----BEGIN CERTIFICATE REQUEST-----")]
    #[test_case("https://kubernetes.default.svc.cluster.local, eyJ, wir müssen")]
    #[test_case("")]
    fn left_alone(text: &str) {
        assert_eq!(secrets(text), text);
        assert_eq!(random_words(text), text);
        assert!(!is_suspect(text));
    }

    #[test]
    fn random_words_go_only_where_asked() {
        let text = "unknown field `KJHa7/9fZq2mXw8Rb3Lk5TnVc1Yp0Ds6`, expected `name`";
        assert_eq!(secrets(text), text);
        assert_eq!(
            random_words(text),
            format!("unknown field `{REDACTED}`, expected `name`")
        );
        assert!(is_suspect("MHcCAQEEIKJHa79fZq2mXw8Rb3Lk5TnVc1Yp0Ds6"));
    }
}
