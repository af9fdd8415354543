//! The full name of a Kubernetes signer, such as `clusterissuers.cert-manager.io/foo`, and the domains of such names.
//!
//! A value is of the form that the API server accepts in `spec.signerName` of a CertificateSigningRequest
//! (<https://kubernetes.io/docs/reference/access-authn-authz/certificate-signing-requests/#kubernetes-signers>): a domain
//! of at least two labels, one slash, and a path of labels with dots between them. So what a workload or a
//! configuration says can never name another API object or hide a second slash.

use std::fmt;
use std::str::FromStr;

use ensign_pki::dns_name::is_label;
use thiserror::Error;

/// `domain/path`, as in `spec.signerName`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KubernetesSigner {
    domain: SignerDomain,
    path: String,
}

/// What stands before the slash: `clusterissuers.cert-manager.io`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SignerDomain(String);

/// A text that is no name of a Kubernetes signer.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum KubernetesSignerError {
    /// Not one slash.
    #[error(
        "{0:?} is no full name of a Kubernetes signer: expected one '/' between a domain and a name, such as clusterissuers.cert-manager.io/foo"
    )]
    Slash(String),
    /// No domain before the slash.
    #[error("{0:?} is no domain of Kubernetes signers: expected at least two DNS labels, such as example.com")]
    Domain(String),
    /// No name after it.
    #[error("{0:?} is no name within a domain of Kubernetes signers: expected DNS labels with '.' between them")]
    Path(String),
}

// === impl KubernetesSigner ===

impl KubernetesSigner {
    /// A signer of this domain.
    pub fn of(domain: &SignerDomain, path: &str) -> Result<Self, KubernetesSignerError> {
        // The API server's bound: a namespace, a dot and the name of an object.
        let fits = path.len() <= MAX_SUBDOMAIN + 1 + MAX_LABEL && path.split('.').all(is_path_label);
        if !fits {
            return Err(KubernetesSignerError::Path(excerpt(path)));
        }
        Ok(Self {
            domain: domain.clone(),
            path: path.to_owned(),
        })
    }

    /// What stands before the slash.
    pub fn domain(&self) -> &SignerDomain {
        &self.domain
    }

    /// What stands behind the slash.
    pub fn path(&self) -> &str {
        &self.path
    }
}

impl FromStr for KubernetesSigner {
    type Err = KubernetesSignerError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (domain, path) = text
            .split_once('/')
            .filter(|(_, path)| !path.contains('/'))
            .ok_or_else(|| KubernetesSignerError::Slash(excerpt(text)))?;
        Self::of(&domain.parse()?, path)
    }
}

impl fmt::Display for KubernetesSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.domain, self.path)
    }
}

// === impl SignerDomain ===

impl FromStr for SignerDomain {
    type Err = KubernetesSignerError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fits = text.len() <= MAX_SUBDOMAIN && text.contains('.') && text.split('.').all(is_label);
        if fits {
            Ok(Self(text.to_owned()))
        } else {
            Err(KubernetesSignerError::Domain(excerpt(text)))
        }
    }
}

impl fmt::Display for SignerDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// As a DNS label, and up to the length of a subdomain.
fn is_path_label(text: &str) -> bool {
    let letters = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=MAX_SUBDOMAIN).contains(&text.len())
        && text.bytes().all(letters)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

fn excerpt(text: &str) -> String {
    text.chars().take(100).collect()
}

/// RFC 1123, as Kubernetes reads it.
const MAX_LABEL: usize = 63;
const MAX_SUBDOMAIN: usize = 253;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use test_case::test_case;

    #[test_case("clusterissuers.cert-manager.io/foo", true; "a ClusterIssuer")]
    #[test_case("issuers.cert-manager.io/foo.my-issuer", true; "an Issuer of a namespace")]
    #[test_case("example.com/a", true; "short")]
    #[test_case("example.com", false; "no slash")]
    #[test_case("example.com/", false; "nothing behind the slash")]
    #[test_case("/foo", false; "nothing before the slash")]
    #[test_case("com/foo", false; "one label")]
    #[test_case("example.com/a/b", false; "two slashes")]
    #[test_case("example.com/..", false; "parent")]
    #[test_case("example.com/a..b", false; "an empty label")]
    #[test_case("example.com/Foo", false; "upper case")]
    #[test_case("Example.com/foo", false; "upper case domain")]
    #[test_case("example.com/*", false; "a pattern")]
    #[test_case("example.com/foo ", false; "a blank")]
    #[test_case("example.com/-a", false; "a leading hyphen")]
    #[test_case("", false; "empty")]
    fn names_as_the_api_server_takes_them(text: &str, fits: bool) {
        let parsed = text.parse::<KubernetesSigner>();
        assert_eq!(parsed.is_ok(), fits, "{parsed:?}");
        if let Ok(signer) = parsed {
            assert_eq!(signer.to_string(), text);
        }
    }

    #[test]
    fn an_error_quotes_the_beginning_only() {
        let error = "a".repeat(10_000).parse::<KubernetesSigner>().unwrap_err();
        assert!(error.to_string().len() < 400, "{error}");
    }

    proptest! {
        #[test]
        fn what_is_read_is_written_back_and_has_one_slash(text in "[a-z./*-]{0,40}") {
            if let Ok(signer) = text.parse::<KubernetesSigner>() {
                prop_assert_eq!(signer.to_string(), text.clone());
                prop_assert_eq!(text.matches('/').count(), 1);
                prop_assert!(!signer.path().contains("..") && !signer.path().is_empty());
            }
        }
    }
}
