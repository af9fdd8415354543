//! Names: the trust domain and the SPIFFE id in Istio's form, `spiffe://<trust domain>/ns/<namespace>/sa/<account>`.
//!
//! A value of these types is valid by construction. There is exactly one text for one identity: no upper case, no
//! percent escape, no query, no empty segment, no trailing slash. So two ids are equal if and only if their texts
//! are, and a comparison of texts is a comparison of identities. Who *has* an identity is decided elsewhere.

use std::{fmt, hash::Hash, str::FromStr, sync::Arc};

use crate::dns_name::{MAX_LABEL, MAX_SUBDOMAIN, is_label, is_subdomain};

/// SPIFFE ID specification, section 2.3: at most 2048 bytes in all.
const MAX_ID: usize = 2048;
/// SPIFFE ID specification, section 2.1: a trust domain name has at most 255 bytes.
const MAX_TRUST_DOMAIN: usize = 255;

/// Why a text is not a trust domain or not an id.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum SpiffeIdError {
    /// More than 2048 bytes.
    #[error("SPIFFE id has {0} bytes, at most {MAX_ID} are allowed")]
    TooLong(usize),
    /// Not of the shape that Istio uses.
    #[error("SPIFFE id {0:?} is not of the form spiffe://<trust domain>/ns/<namespace>/sa/<service account>")]
    Form(String),
    /// Empty, too long, or a character outside `[a-z0-9._-]`.
    #[error("trust domain {0:?} is not 1 to {MAX_TRUST_DOMAIN} characters of a-z, 0-9, '.', '_' and '-'")]
    TrustDomain(String),
    /// Not an RFC 1123 label.
    #[error("namespace {0:?} is not a DNS label (1 to {MAX_LABEL} of a-z, 0-9 and '-', no '-' at either end)")]
    Namespace(String),
    /// Not an RFC 1123 subdomain.
    #[error(
        "service account {0:?} is not a DNS subdomain (1 to {MAX_SUBDOMAIN} of a-z, 0-9, '-' and '.', each part begins and ends with a letter or digit)"
    )]
    ServiceAccount(String),
}

/// The name of a trust domain, such as `cluster.local`.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct TrustDomain(Arc<str>);

impl TrustDomain {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for TrustDomain {
    type Err = SpiffeIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let valid = (1..=MAX_TRUST_DOMAIN).contains(&text.len())
            && text
                .bytes()
                .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-'));
        if valid {
            Ok(Self(text.into()))
        } else {
            Err(SpiffeIdError::TrustDomain(excerpt(text)))
        }
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<str> for TrustDomain {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

/// The identity of a workload. Cheap to clone.
#[derive(Clone)]
pub struct SpiffeId {
    text: Arc<str>,
    trust_domain: TrustDomain,
    /// Where the service account begins in the text. The namespace lies between it and the trust domain.
    account_at: usize,
}

impl SpiffeId {
    /// The id of a service account.
    pub fn new(trust_domain: &TrustDomain, namespace: &str, service_account: &str) -> Result<Self, SpiffeIdError> {
        if !is_label(namespace) {
            return Err(SpiffeIdError::Namespace(excerpt(namespace)));
        }
        if !is_subdomain(service_account) {
            return Err(SpiffeIdError::ServiceAccount(excerpt(service_account)));
        }
        // The parts are bounded by 255 + 63 + 253 bytes, so the sum stays far below MAX_ID.
        let text = format!("{SCHEME}{trust_domain}{NS}{namespace}{SA}{service_account}");
        Ok(Self {
            account_at: text.len() - service_account.len(),
            text: text.into(),
            trust_domain: trust_domain.clone(),
        })
    }

    /// The whole id as text.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The trust domain.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The Kubernetes namespace.
    pub fn namespace(&self) -> &str {
        let begin = SCHEME.len() + self.trust_domain.as_str().len() + NS.len();
        self.text.get(begin..self.account_at - SA.len()).unwrap_or_default()
    }

    /// The Kubernetes service account.
    pub fn service_account(&self) -> &str {
        self.text.get(self.account_at..).unwrap_or_default()
    }
}

const SCHEME: &str = "spiffe://";
const NS: &str = "/ns/";
const SA: &str = "/sa/";

impl FromStr for SpiffeId {
    type Err = SpiffeIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() > MAX_ID {
            return Err(SpiffeIdError::TooLong(text.len()));
        }
        let form = || SpiffeIdError::Form(excerpt(text));
        let mut parts = text.strip_prefix(SCHEME).ok_or_else(form)?.split('/');
        let (Some(trust_domain), Some("ns"), Some(namespace), Some("sa"), Some(account), None) = (
            parts.next(),
            parts.next(),
            parts.next(),
            parts.next(),
            parts.next(),
            parts.next(),
        ) else {
            return Err(form());
        };
        Self::new(&trust_domain.parse()?, namespace, account)
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl AsRef<str> for SpiffeId {
    fn as_ref(&self) -> &str {
        &self.text
    }
}

// One identity has one text, so the text alone decides.
impl PartialEq for SpiffeId {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for SpiffeId {}

impl Hash for SpiffeId {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}

impl Ord for SpiffeId {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.text.cmp(&other.text)
    }
}

impl PartialOrd for SpiffeId {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// Enough of a refused text to recognise it; a hostile one does not fill the log.
fn excerpt(text: &str) -> String {
    const KEEP: usize = 100;
    match text.char_indices().nth(KEEP) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use test_case::test_case;

    use super::*;

    #[test]
    fn the_parts_come_back_out() {
        let id: SpiffeId = "spiffe://cluster.local/ns/foo/sa/httpbin.v2".parse().unwrap();
        assert_eq!(id.trust_domain().as_str(), "cluster.local");
        assert_eq!(id.namespace(), "foo");
        assert_eq!(id.service_account(), "httpbin.v2");
        assert_eq!(SpiffeId::new(id.trust_domain(), "foo", "httpbin.v2").unwrap(), id);
    }

    #[test_case("" ; "empty")]
    #[test_case("spiffe://" ; "scheme only")]
    #[test_case("spiffe:///ns/foo/sa/bar" ; "no trust domain")]
    #[test_case("SPIFFE://td/ns/foo/sa/bar" ; "scheme in upper case")]
    #[test_case("spiffe://TD/ns/foo/sa/bar" ; "trust domain in upper case")]
    #[test_case("spiffe://td:80/ns/foo/sa/bar" ; "port")]
    #[test_case("spiffe://user@td/ns/foo/sa/bar" ; "user info")]
    #[test_case("spiffe://td/ns/foo/sa/bar/" ; "trailing slash")]
    #[test_case("spiffe://td//ns/foo/sa/bar" ; "double slash")]
    #[test_case("spiffe://td/ns/foo/sa/" ; "empty account")]
    #[test_case("spiffe://td/ns//sa/bar" ; "empty namespace")]
    #[test_case("spiffe://td/ns/foo/sa/bar/baz" ; "one segment more")]
    #[test_case("spiffe://td/ns/foo/sa" ; "one segment less")]
    #[test_case("spiffe://td/sa/foo/ns/bar" ; "swapped")]
    #[test_case("spiffe://td/NS/foo/sa/bar" ; "segment name in upper case")]
    #[test_case("spiffe://td/ns/f%6fo/sa/bar" ; "percent escape")]
    #[test_case("spiffe://td/ns/foo/sa/bar?x=1" ; "query")]
    #[test_case("spiffe://td/ns/foo/sa/bar#x" ; "fragment")]
    #[test_case("spiffe://td/ns/foo/sa/../bar" ; "dots")]
    #[test_case("spiffe://td/ns/foo/sa/." ; "dot account")]
    #[test_case("spiffe://td/ns/foo/sa/.." ; "dot dot account")]
    #[test_case("spiffe://td/ns/fo.o/sa/bar" ; "namespace is no subdomain")]
    #[test_case("spiffe://td/ns/-foo/sa/bar" ; "dash first")]
    #[test_case("spiffe://td/ns/foo-/sa/bar" ; "dash last")]
    #[test_case("spiffe://td/ns/foo/sa/b..r" ; "empty part of an account")]
    #[test_case("spiffe://td/ns/foo/sa/b.-r" ; "part of an account begins with a dash")]
    #[test_case("spiffe://td/ns/foo/sa/Bar" ; "account in upper case")]
    #[test_case("spiffe://td/ns/foo/sa/b_r" ; "underscore in account")]
    #[test_case(" spiffe://td/ns/foo/sa/bar" ; "leading space")]
    #[test_case("spiffe://td/ns/foo/sa/bar\n" ; "line end")]
    #[test_case("spiffe://td/ns/foo/sa/bar\0" ; "zero byte")]
    #[test_case("spiffe://td/ns/fóo/sa/bar" ; "not ascii")]
    #[test_case("https://td/ns/foo/sa/bar" ; "other scheme")]
    fn refuses(text: &str) {
        assert!(text.parse::<SpiffeId>().is_err());
    }

    #[test]
    fn lengths_are_bounded_at_the_exact_place() {
        let td = |n: usize| "t".repeat(n).parse::<TrustDomain>();
        assert!(td(255).is_ok());
        assert!(matches!(td(256), Err(SpiffeIdError::TrustDomain(_))));
        assert!(matches!(td(0), Err(SpiffeIdError::TrustDomain(_))));
        let td = td(255).unwrap();
        assert!(SpiffeId::new(&td, &"n".repeat(63), &"s".repeat(253)).is_ok());
        assert!(matches!(
            SpiffeId::new(&td, &"n".repeat(64), "s"),
            Err(SpiffeIdError::Namespace(_))
        ));
        assert!(matches!(
            SpiffeId::new(&td, "n", &"s".repeat(254)),
            Err(SpiffeIdError::ServiceAccount(_))
        ));
        let long = format!("spiffe://td/ns/foo/sa/{}", "s".repeat(3000));
        assert_eq!(long.parse::<SpiffeId>(), Err(SpiffeIdError::TooLong(3022)));
    }

    #[test]
    fn a_refusal_quotes_only_a_part_of_a_long_text() {
        let error = format!("spiffe://td/ns/foo/{}", "é".repeat(900))
            .parse::<SpiffeId>()
            .unwrap_err();
        assert!(error.to_string().len() < 400, "{error}");
    }

    proptest! {
        #[test]
        fn round_trip(
            td in "[a-z0-9._-]{1,255}",
            ns in "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?",
            sa in "[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?(\\.[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?){0,5}",
        ) {
            let id = SpiffeId::new(&td.parse().unwrap(), &ns, &sa).unwrap();
            let again: SpiffeId = id.to_string().parse().unwrap();
            prop_assert_eq!(&again, &id);
            prop_assert_eq!(again.as_str(), id.as_str());
            prop_assert_eq!(again.trust_domain().as_str(), td);
            prop_assert_eq!(again.namespace(), ns);
            prop_assert_eq!(again.service_account(), sa);
        }

        #[test]
        fn what_parses_is_its_own_text(text in "(spiffe://)?[a-zA-Z0-9/%._?#-]{0,60}") {
            if let Ok(id) = text.parse::<SpiffeId>() {
                prop_assert_eq!(id.as_str(), text);
            }
        }
    }
}
