//! `CA_HEADER_<NAME>`: each such variable is a header of every call to the authority, as in Istio's agent.
//!
//! What stands in one may be a secret (a key of a gateway in between): a value is never shown.

use std::ffi::OsString;

use ensign_daemon::settings::Checker;

use crate::csr_client::IstioCaConfig;

const PREFIX: &str = "CA_HEADER_";

/// Names and values, as they are.
#[expect(
    clippy::disallowed_methods,
    reason = "clap knows no variable whose name the operator chooses"
)]
pub(super) fn of_environment() -> Vec<(String, String)> {
    among(std::env::vars_os())
}

fn among(variables: impl Iterator<Item = (OsString, OsString)>) -> Vec<(String, String)> {
    let header = |(name, value): (OsString, OsString)| {
        let name = name.to_str()?.strip_prefix(PREFIX)?.to_owned();
        // What is no text cannot be sent, and is refused as such.
        Some((name, value.to_string_lossy().into_owned()))
    };
    let mut headers: Vec<_> = variables.filter_map(header).collect();
    headers.sort_unstable();
    headers
}

/// All of them, or none if one cannot be sent.
pub(super) fn checked(c: &mut Checker<'_>, headers: Vec<(String, String)>) -> Option<Vec<(String, String)>> {
    let mut good = true;
    for (name, value) in &headers {
        if let Err(error) = IstioCaConfig::check_header(name, value) {
            c.mistake(&error.to_string());
            good = false;
        }
    }
    good.then_some(headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(all: &[(&str, &str)]) -> Vec<(String, String)> {
        among(all.iter().map(|(name, value)| (name.into(), value.into())))
    }

    #[test]
    fn what_follows_the_prefix_is_a_headers_name() {
        let headers = variables(&[
            ("CA_HEADER_X-TENANT", "a=b"),
            ("CA_HEADER_b", ""),
            ("CA_ADDR", "x"),
            ("XCA_HEADER_c", "x"),
        ]);
        let expected = [("X-TENANT", "a=b"), ("b", "")];
        assert_eq!(
            headers,
            expected.map(|(name, value)| (name.to_owned(), value.to_owned()))
        );
    }

    #[test]
    fn each_that_cannot_be_sent_is_told_without_its_value() {
        let command = clap::Command::new("test");
        let mut checker = Checker::new(&command);
        let headers = variables(&[
            ("CA_HEADER_good", "1"),
            ("CA_HEADER_authorization", "Bearer hidden"),
            ("CA_HEADER_two words", "hidden"),
            ("CA_HEADER_line", "hidden\nhidden"),
        ]);
        assert_eq!(checked(&mut checker, headers), None);
        let problems = checker.finish(Some(())).unwrap_err();
        assert_eq!(problems.count(), 3);
        let text = problems.to_string();
        for name in ["CA_HEADER_authorization", "CA_HEADER_two words", "CA_HEADER_line"] {
            assert!(text.contains(name), "{text}");
        }
        assert!(!text.contains("hidden"), "{text}");
    }
}
