//! The forms of names that Kubernetes has (RFC 1123, as `k8s.io/apimachinery` reads it in `util/validation`).

/// A DNS label has at most 63 characters (RFC 1123); every Kubernetes namespace is one.
pub(crate) const MAX_LABEL: usize = 63;
/// A DNS subdomain has at most 253 characters; names of service accounts, pods, nodes and issuers are such.
pub(crate) const MAX_SUBDOMAIN: usize = 253;

/// Whether a text is a DNS label: 1 to 63 of a-z, 0-9 and `-`, no `-` at either end.
pub fn is_label(text: &str) -> bool {
    text.len() <= MAX_LABEL && is_part(text)
}

/// Whether a text is a DNS subdomain: parts with `.` between them, 253 characters in all. Kubernetes bounds the whole, not
/// the parts: one of them may have more than 63 characters.
pub fn is_subdomain(text: &str) -> bool {
    text.len() <= MAX_SUBDOMAIN && text.split('.').all(is_part)
}

fn is_part(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'))
        && !text.starts_with('-')
        && !text.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;
    use test_case::test_case;

    #[test_case("foo", true)]
    #[test_case("foo-2", true)]
    #[test_case("", false; "empty")]
    #[test_case("Foo", false; "upper case")]
    #[test_case("-foo", false; "leading dash")]
    #[test_case("foo-", false; "trailing dash")]
    #[test_case("a.b", false; "dotted")]
    #[test_case("a/b", false; "slash")]
    #[test_case("a\nb", false; "line break")]
    #[test_case(&"a".repeat(63), true; "longest")]
    #[test_case(&"a".repeat(64), false; "too long")]
    fn labels(text: &str, valid: bool) {
        assert_eq!(is_label(text), valid);
    }

    #[test_case("httpbin", true)]
    #[test_case("v1.httpbin", true)]
    #[test_case(&"a".repeat(64), true; "a long part")]
    #[test_case(&"a".repeat(253), true; "longest")]
    #[test_case(&"a".repeat(254), false; "too long")]
    #[test_case("a..b", false; "empty part")]
    #[test_case("a.-b", false; "a part with a leading dash")]
    #[test_case("a.", false; "trailing dot")]
    #[test_case(".", false; "dot")]
    #[test_case("", false; "empty")]
    fn subdomains(text: &str, valid: bool) {
        assert_eq!(is_subdomain(text), valid);
    }
}
