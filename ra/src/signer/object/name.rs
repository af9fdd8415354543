//! Names under which a retry finds its own object.
//!
//! A name is the hash of what makes two requests the same. Where that name is taken by an object that is not ours or not
//! the same, the next number is tried; so a stranger's object costs a request and never a certificate.

use std::fmt;

use crate::signer::IdempotencyKey;

/// The names of one request, in the order in which they are tried.
#[derive(Debug, Clone)]
pub(crate) struct Names(String);

// === impl Names ===

impl Names {
    pub(crate) fn of(key: &IdempotencyKey) -> Self {
        let digits: String = key.as_str().chars().take(DIGITS).collect();
        Self(format!("{PREFIX}{digits}"))
    }

    /// The first without a number, the others with theirs.
    pub(crate) fn all(&self) -> impl Iterator<Item = String> + '_ {
        (1..=MOST).map(|number| match number {
            1 => self.0.clone(),
            number => format!("{}-{number}", self.0),
        })
    }
}

impl fmt::Display for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

const PREFIX: &str = "ensign-";
/// 160 bits: no two requests meet by chance, and a line of `kubectl get` still holds the name.
const DIGITS: usize = 40;
/// Each number is somebody else's object, or a kept one of the same key: more than this is an attack or a mistake.
pub(crate) const MOST: usize = 20;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ensign_pki::{SignerName, SpiffeId};
    use proptest::prelude::*;
    use test_case::test_case;

    use super::*;

    fn key(cluster: Option<&str>, id: &str, signer: &str, spki: &[u8], ttl: u64) -> IdempotencyKey {
        let id: SpiffeId = id.parse().unwrap();
        let signer: SignerName = signer.parse().unwrap();
        IdempotencyKey::derive(cluster, &id, &signer, spki, Duration::from_secs(ttl))
    }

    const ID: &str = "spiffe://cluster.local/ns/foo/sa/httpbin";

    #[test]
    fn the_same_request_has_the_same_names() {
        let names = || Names::of(&key(Some("a"), ID, "foo", b"key", 3600));
        let all: Vec<_> = names().all().collect();
        assert_eq!(all, names().all().collect::<Vec<_>>());
        assert_eq!(all[1], format!("{}-2", all[0]));
        assert_eq!(all.len(), MOST);
    }

    #[test_case(Some("b"), ID, "foo", b"key", 3600; "cluster")]
    #[test_case(None, ID, "foo", b"key", 3600; "no cluster")]
    #[test_case(Some("a"), "spiffe://cluster.local/ns/foo/sa/other", "foo", b"key", 3600; "identity")]
    #[test_case(Some("a"), ID, "bar", b"key", 3600; "signer")]
    #[test_case(Some("a"), ID, "foo", b"yek", 3600; "public key")]
    #[test_case(Some("a"), ID, "foo", b"key", 3601; "lifetime")]
    fn another_request_has_other_names(cluster: Option<&str>, id: &str, signer: &str, spki: &[u8], ttl: u64) {
        let one = Names::of(&key(Some("a"), ID, "foo", b"key", 3600));
        let other = Names::of(&key(cluster, id, signer, spki, ttl));
        assert_ne!(one.to_string(), other.to_string());
    }

    proptest! {
        #[test]
        fn every_name_is_one_that_kubernetes_takes(
            cluster in proptest::option::of(".*"),
            signer in "[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?",
            spki in proptest::collection::vec(any::<u8>(), 0..100),
            ttl in any::<u32>(),
        ) {
            let names = Names::of(&key(cluster.as_deref(), ID, &signer, &spki, u64::from(ttl)));
            for name in names.all() {
                prop_assert!(ensign_pki::dns_name::is_subdomain(&name), "{}", name);
            }
        }
    }
}
