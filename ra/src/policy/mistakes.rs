//! The mistakes of a policy, collected so that a file with three of them is corrected in one go.
//!
//! Each names its place and the thing that it is about. They quote names and values, so what looks like a key or a token
//! is taken out before anybody sees them.

use std::fmt::Display;
use std::str::FromStr;
use std::time::Duration;

use ensign_daemon::{GoDuration, redact};
use serde_saphyr::Spanned;
use thiserror::Error;

/// What is wrong with a policy.
#[derive(Debug, Error)]
pub enum PolicyError {
    /// The file is no YAML of this form: bad syntax, an unknown field, a field of the wrong type, one missing.
    #[error("the policy cannot be read: {0}")]
    Form(#[from] crate::yaml::YamlError),
    /// It can be read and contradicts itself, names what does not exist, or does not fit Istio's configuration.
    #[error("the policy has {} mistake(s): {}", .0.len(), .0.join("; "))]
    Mistakes(Vec<String>),
}

/// Collects.
#[derive(Debug, Default)]
pub(super) struct Mistakes(Vec<String>);

// === impl Mistakes ===

impl Mistakes {
    /// One without a place in the file.
    pub(super) fn add(&mut self, what: impl Display) {
        self.0.push(what.to_string());
    }

    /// One at a place in the file.
    pub(super) fn at<T>(&mut self, place: &Spanned<T>, what: impl Display) {
        self.0.push(format!("line {}: {what}", place.referenced.line()));
    }

    /// The value, if there was no mistake.
    pub(super) fn finish<T>(self, value: Option<T>) -> Result<T, PolicyError> {
        let redacted = |mistake: &String| redact::random_words(mistake).into_owned();
        match value {
            Some(value) if self.0.is_empty() => Ok(value),
            _ => Err(PolicyError::Mistakes(self.0.iter().map(redacted).collect())),
        }
    }

    /// A value of the file.
    pub(super) fn parse<T: FromStr<Err: Display>>(&mut self, form: &Spanned<String>, what: &str) -> Option<T> {
        match form.value.parse() {
            Ok(value) => Some(value),
            Err(error) => {
                self.at(form, format!("{what}: {error}"));
                None
            }
        }
    }

    /// A duration of the file, or `fallback` where it says none.
    pub(super) fn duration(&mut self, form: Option<&Spanned<String>>, what: &str, fallback: Duration) -> Duration {
        let Some(form) = form else { return fallback };
        match form.value.parse().and_then(GoDuration::not_negative) {
            Ok(duration) => duration,
            Err(error) => {
                self.at(form, format!("{what}: {error}"));
                fallback
            }
        }
    }
}
