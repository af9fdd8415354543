//! The name by which a workload asks for a signer: one type for the agent that asks and the RA that answers, so that no
//! name is good for one of them alone.

use std::{fmt, str::FromStr, sync::Arc};

use crate::dns_name::{MAX_SUBDOMAIN, is_subdomain};

/// A signer's name as workloads see it in `CertSigner`: `foo`, or `namespace.issuer` for an issuer of a namespace, which is
/// the rest of `issuers.cert-manager.io/namespace.issuer` behind istiod's `CERT_SIGNER_DOMAIN`. A DNS subdomain, as the path of
/// a Kubernetes signer name is (`k8s.io/api/certificates/v1`, `spec.signerName`).
///
/// It comes from untrusted metadata, so its form is checked once, here.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SignerName(Arc<str>);

/// A text that is no signer name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "signer name {name:?} is not a DNS subdomain: use a-z, 0-9 and '-' with '.' between parts, '-' neither first nor last in a part, {MAX_SUBDOMAIN} characters in all"
)]
pub struct SignerNameError {
    /// The beginning of what was seen.
    name: String,
}

// === impl SignerName ===

impl SignerName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SignerName {
    type Err = SignerNameError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        if is_subdomain(name) {
            Ok(Self(name.into()))
        } else {
            Err(SignerNameError {
                name: name.chars().take(80).collect(),
            })
        }
    }
}

impl fmt::Display for SignerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for SignerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use test_case::test_case;

    #[test_case("foo", true)]
    #[test_case("a-1", true)]
    #[test_case("istio-system.istio-ca", true; "an issuer of a namespace")]
    #[test_case("", false; "empty")]
    #[test_case("-a", false; "leading hyphen")]
    #[test_case("a-.b", false; "a part with a trailing hyphen")]
    #[test_case("Foo", false; "upper case")]
    #[test_case("issuers.cert-manager.io/a.b", false; "a full name of Kubernetes")]
    #[test_case("a\nb", false; "line break")]
    fn signer_names_are_dns_subdomains(text: &str, fits: bool) {
        assert_eq!(text.parse::<SignerName>().is_ok(), fits);
    }

    #[test]
    fn a_long_signer_name_is_refused_and_its_error_is_short() {
        let error = "a".repeat(10_000).parse::<SignerName>().unwrap_err();
        assert!(error.to_string().len() < 300);
    }
}
