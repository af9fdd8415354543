//! What is asked of a certificate authority, and the seam through which it is asked.
//!
//! Owns the vocabulary of one request. [`Sign`] is the only thing that `rotation` knows of the world outside; its tests
//! put a scripted fake there.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use ensign_pki::SpiffeId;
use futures::future::BoxFuture;

use super::{SignError, TokenSource};

/// Anything that turns a CSR into a certificate chain.
pub trait Sign: fmt::Debug + Send + Sync {
    /// Asks once. Ends within the deadline of the implementation; dropping the future gives the request up.
    ///
    /// The answer is the reply's elements as they came (PEM text each); nothing of it is verified.
    fn sign(&self, request: SignRequest) -> BoxFuture<'_, Result<Vec<String>, SignError>>;
}

/// One request for one certificate. A resumed request carries the same CSR and the same id again.
#[derive(Debug, Clone)]
pub struct SignRequest {
    /// The certificate signing request, PEM.
    pub csr_pem: String,
    /// The identity that the CSR asks for.
    pub id: SpiffeId,
    /// The signer that shall issue it; none means the authority's default.
    pub signer: Option<SignerName>,
    /// How long the certificate should live.
    pub ttl: Duration,
    /// Where the bearer token comes from; read once per call.
    pub token: Arc<dyn TokenSource>,
    /// Names this request in the logs of both sides.
    pub request_id: RequestId,
}

/// Names one request in logs: 16 hex digits, random, not secret.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct RequestId(Arc<str>);

impl RequestId {
    /// The id made of these random bits.
    pub fn from_bits(bits: u64) -> Self {
        Self(format!("{bits:016x}").into())
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name of a signer as workloads see it: a DNS label such as `foo`.
///
/// It comes from untrusted node metadata too, so its form is checked once, here.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SignerName(Arc<str>);

/// Why a text is not a signer's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "signer name {seen:?} is not a DNS label: 1 to 63 lower-case letters, digits or '-', which neither begins nor ends it"
)]
pub struct SignerNameError {
    /// The beginning of what was seen.
    seen: String,
}

impl SignerName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SignerName {
    type Err = SignerNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        let fits = (1..=63).contains(&text.len())
            && text.bytes().all(letter)
            && !text.starts_with('-')
            && !text.ends_with('-');
        if fits {
            Ok(Self(text.into()))
        } else {
            Err(SignerNameError {
                seen: text.chars().take(80).collect(),
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
    #[test_case("", false; "empty")]
    #[test_case("-a", false; "leading hyphen")]
    #[test_case("a-", false; "trailing hyphen")]
    #[test_case("Foo", false; "upper case")]
    #[test_case("a.b", false; "two labels")]
    #[test_case("a\nb", false; "line break")]
    fn signer_names_are_dns_labels(text: &str, fits: bool) {
        assert_eq!(text.parse::<SignerName>().is_ok(), fits);
    }

    #[test]
    fn a_long_signer_name_is_refused_and_its_error_is_short() {
        let error = "a".repeat(10_000).parse::<SignerName>().unwrap_err();
        assert!(error.to_string().len() < 300);
    }
}
