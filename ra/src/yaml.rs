//! Reads YAML that people write: errors of one line, with their place, and without what somebody pasted there.
//!
//! Two readings: [`strict`] for files of our own form, where anything unknown is a mistake, and [`lenient`] for Istio's,
//! which is read as istiod reads it: of a key that occurs twice the last one counts.

use ensign_daemon::redact;
use serde::de::DeserializeOwned;
use serde_saphyr::options::DuplicateKeyPolicy;

/// Why a text is not what was expected: one line that names the place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct YamlError(String);

/// One document; a key that occurs twice is a mistake.
pub(crate) fn strict<T: DeserializeOwned>(text: &str) -> Result<T, YamlError> {
    serde_saphyr::from_str(text).map_err(|error| YamlError::of(&error))
}

/// One document, as istiod reads it.
pub(crate) fn lenient<T: DeserializeOwned>(text: &str) -> Result<T, YamlError> {
    let options = serde_saphyr::options! {
        duplicate_keys: DuplicateKeyPolicy::LastWins,
    };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| YamlError::of(&error))
}

// === impl YamlError ===

impl YamlError {
    /// The parser draws the line with a marker below it; a log line and a status page want one line. It also quotes what
    /// stands in the wrong place.
    fn of(error: &serde_saphyr::Error) -> Self {
        let text = error.without_snippet().to_string();
        let words: Vec<_> = text.split_whitespace().collect();
        Self(redact::random_words(&words.join(" ")).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    type Map = BTreeMap<String, String>;

    #[test]
    fn a_key_twice_is_a_mistake_or_the_last_one_counts() {
        let text = "a: b\na: c\n";
        assert!(strict::<Map>(text).is_err());
        assert_eq!(lenient::<Map>(text).unwrap()["a"], "c");
    }

    #[test]
    fn an_error_is_one_line_with_its_place_and_without_what_was_pasted() {
        let secret = "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0MTIzNDU2Nzg5MEFCQ0RFRg";
        let text = format!("a: b\nc: [{secret}\n");
        let error = lenient::<Map>(&text).unwrap_err().to_string();
        assert!(error.contains("line"), "{error}");
        assert!(!error.contains('\n') && !error.contains(secret), "{error}");
    }
}
