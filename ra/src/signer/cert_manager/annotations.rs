//! Annotations that an operator wants on every CertificateRequest: `--certificate-request-additional-annotations`.

use std::collections::BTreeMap;

use ensign_pki::dns_name::is_subdomain;
use thiserror::Error;

use crate::signer::object::marks;

/// Why they are refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AnnotationError {
    /// No `=` in a part.
    #[error("{0:?} is no KEY=VALUE")]
    NoValue(String),
    /// Not what Kubernetes takes for a key.
    #[error(
        "{0:?} is no annotation key: a name of 1 to 63 of A-Z, a-z, 0-9, '-', '_' and '.', perhaps after a DNS name and '/'"
    )]
    Key(String),
    /// One of ours.
    #[error("{0:?} is one of our own annotations, whose values mean something to us")]
    Ours(String),
    /// Twice the same key.
    #[error("{0:?} is there twice")]
    Twice(String),
}

/// Reads `k=v,k2=v2`; an empty text is none.
pub fn parse(text: &str) -> Result<BTreeMap<String, String>, AnnotationError> {
    let mut annotations = BTreeMap::new();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (key, value) = part
            .split_once('=')
            .ok_or_else(|| AnnotationError::NoValue(part.to_owned()))?;
        let key = check(key)?;
        if annotations.insert(key.to_owned(), value.to_owned()).is_some() {
            return Err(AnnotationError::Twice(key.to_owned()));
        }
    }
    Ok(annotations)
}

/// The key, if it is one that an operator may set.
pub fn check(key: &str) -> Result<&str, AnnotationError> {
    let (prefix, name) = key
        .split_once('/')
        .map_or((None, key), |(prefix, name)| (Some(prefix), name));
    let edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = name.as_bytes();
    let fits = bytes.len() <= 63
        && edge(bytes.first())
        && edge(bytes.last())
        && bytes
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte))
        && prefix.is_none_or(is_subdomain);
    if !fits {
        return Err(AnnotationError::Key(key.to_owned()));
    }
    if key.starts_with(marks::PREFIX) {
        return Err(AnnotationError::Ours(key.to_owned()));
    }
    Ok(key)
}

#[cfg(test)]
mod tests {
    use test_case::test_case;

    use super::*;

    #[test_case("", Ok(&[]); "none")]
    #[test_case("a=b", Ok(&[("a", "b")]); "one")]
    #[test_case("a=b,example.com/c=d=e,", Ok(&[("a", "b"), ("example.com/c", "d=e")]); "two, one with an equals sign")]
    #[test_case("a=", Ok(&[("a", "")]); "an empty value")]
    #[test_case("a", Err(AnnotationError::NoValue("a".to_owned())); "no value")]
    #[test_case("=b", Err(AnnotationError::Key(String::new())); "no key")]
    #[test_case("-a=b", Err(AnnotationError::Key("-a".to_owned())); "a dash first")]
    #[test_case("Example.com/a=b", Err(AnnotationError::Key("Example.com/a".to_owned())); "a prefix that is no DNS name")]
    #[test_case("a/b/c=d", Err(AnnotationError::Key("a/b/c".to_owned())); "two slashes")]
    #[test_case("a=b,a=c", Err(AnnotationError::Twice("a".to_owned())); "twice")]
    #[test_case("ensign.mesh/expires-at=never", Err(AnnotationError::Ours("ensign.mesh/expires-at".to_owned())); "ours")]
    fn what_the_flag_takes(text: &str, expected: Result<&[(&str, &str)], AnnotationError>) {
        let expected = expected.map(|pairs| {
            let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
            pairs.iter().map(owned).collect::<BTreeMap<_, _>>()
        });
        assert_eq!(parse(text), expected);
    }
}
