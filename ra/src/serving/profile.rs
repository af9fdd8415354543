//! What the TLS listener speaks: from which version on, which cipher suites of TLS 1.2, which key exchange groups.
//!
//! istio-csr has a setting for each (`--serving-tls-…`), with Kubernetes' and Go's words for the values, which are understood
//! here. Promises that nothing below TLS 1.2 is spoken, and that a word that means nothing here is refused with those that do.
//! As in Go (`crypto/tls`, `Config.CipherSuites`) a choice of suites is one for TLS 1.2: those of TLS 1.3 are all safe and
//! stay. A list says which, not in which order: the client's order counts among them.

use std::sync::Arc;

use ensign_pki::crypto;
use rustls::crypto::CryptoProvider;
use rustls::{
    ConfigBuilder, NamedGroup, ServerConfig, SupportedCipherSuite, SupportedProtocolVersion, WantsVerifier, version,
};
use thiserror::Error;

/// What is spoken.
#[derive(Clone, Debug)]
pub struct TlsProfile {
    provider: Arc<CryptoProvider>,
    versions: &'static [&'static SupportedProtocolVersion],
}

/// A word that means nothing here.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum TlsProfileError {
    /// A cipher suite that is unknown, unsafe, or not of this build.
    #[error("there is no cipher suite {name:?} here; TLS 1.2 has {known}")]
    CipherSuite {
        /// As it was written.
        name: String,
        /// Those that there are.
        known: String,
    },
    /// A version that is unknown or too old.
    #[error("nothing but VersionTLS12 and VersionTLS13 is spoken")]
    Version,
    /// A group that is unknown or not of this build.
    #[error("there is no curve {name:?} here; there are {known}")]
    Curve {
        /// As it was written.
        name: String,
        /// Those that there are.
        known: String,
    },
}

// === impl TlsProfile ===

impl TlsProfile {
    /// With only these suites of TLS 1.2, by their IANA names; all without any.
    pub fn with_cipher_suites<'a>(self, names: impl IntoIterator<Item = &'a str>) -> Result<Self, TlsProfileError> {
        let mut chosen = Vec::new();
        for name in names {
            let name = name.trim();
            let suites = &self.provider.cipher_suites;
            let found = suites.iter().find(|suite| iana_name(suite) == full_name(name));
            chosen.push(found.copied().ok_or_else(|| TlsProfileError::CipherSuite {
                name: name.to_owned(),
                known: known(suites.iter().filter(|suite| suite.tls13().is_none()).map(iana_name)),
            })?);
        }
        if chosen.is_empty() {
            return Ok(self);
        }
        Ok(self.changed(|provider| {
            provider
                .cipher_suites
                .retain(|suite| suite.tls13().is_some() || chosen.contains(suite));
        }))
    }

    /// From this version on, in Go's word for it; the least that is safe without one.
    pub fn from_version(self, name: &str) -> Result<Self, TlsProfileError> {
        let versions = match name {
            "" | "VersionTLS12" => BOTH,
            "VersionTLS13" => NEWEST,
            _ => return Err(TlsProfileError::Version),
        };
        Ok(Self { versions, ..self })
    }

    /// With only these groups, by their names or numbers; all without any.
    pub fn with_curves<'a>(self, names: impl IntoIterator<Item = &'a str>) -> Result<Self, TlsProfileError> {
        let mut chosen = Vec::new();
        for name in names {
            let name = name.trim();
            let groups = self.provider.kx_groups.iter().map(|group| group.name());
            let found = groups.clone().find(|group| is_called(*group, name));
            chosen.push(found.ok_or_else(|| TlsProfileError::Curve {
                name: name.to_owned(),
                known: known(groups.map(curve_name)),
            })?);
        }
        if chosen.is_empty() {
            return Ok(self);
        }
        Ok(self.changed(|provider| provider.kx_groups.retain(|group| chosen.contains(&group.name()))))
    }

    /// The beginning of settings for a listener.
    pub(super) fn server(&self) -> Result<ConfigBuilder<ServerConfig, WantsVerifier>, rustls::Error> {
        ServerConfig::builder_with_provider(Arc::clone(&self.provider)).with_protocol_versions(self.versions)
    }

    fn changed(self, change: impl FnOnce(&mut CryptoProvider)) -> Self {
        let mut provider = CryptoProvider::clone(&self.provider);
        change(&mut provider);
        Self {
            provider: Arc::new(provider),
            ..self
        }
    }
}

impl Default for TlsProfile {
    fn default() -> Self {
        Self {
            provider: crypto::provider(),
            versions: BOTH,
        }
    }
}

fn known(names: impl Iterator<Item = String>) -> String {
    names.collect::<Vec<_>>().join(", ")
}

/// rustls writes `TLS13_` where IANA has `TLS_`.
fn iana_name(suite: &SupportedCipherSuite) -> String {
    format!("{:?}", suite.suite()).replacen("TLS13_", "TLS_", 1)
}

/// Kubernetes still knows two names without their ends (`k8s.io/component-base`, `cli/flag`).
fn full_name(name: &str) -> String {
    match name.strip_suffix("_POLY1305") {
        Some(_) => format!("{name}_SHA256"),
        None => name.to_owned(),
    }
}

/// The name in the registry of TLS, where Go's first one differs.
fn curve_name(group: NamedGroup) -> String {
    match group {
        NamedGroup::secp256r1 => "P-256".to_owned(),
        NamedGroup::secp384r1 => "P-384".to_owned(),
        other => format!("{other:?}"),
    }
}

/// `P-256` is `CurveP256`, `P256` and 23 (IANA, TLS Supported Groups) as well.
fn is_called(group: NamedGroup, name: &str) -> bool {
    let of_go = match name.strip_prefix("Curve").unwrap_or(name) {
        "P256" => "P-256",
        "P384" => "P-384",
        other => other,
    };
    curve_name(group) == of_go || name.parse() == Ok(u16::from(group))
}

const BOTH: &[&SupportedProtocolVersion] = &[&version::TLS13, &version::TLS12];
const NEWEST: &[&SupportedProtocolVersion] = &[&version::TLS13];

#[cfg(test)]
mod tests {
    use super::*;
    use test_case::test_case;

    fn suites(profile: &TlsProfile, tls13: bool) -> Vec<String> {
        let all = profile.provider.cipher_suites.iter();
        let mut names: Vec<_> = all
            .filter(|suite| suite.tls13().is_some() == tls13)
            .map(iana_name)
            .collect();
        names.sort();
        names
    }

    fn curves(profile: &TlsProfile) -> Vec<String> {
        let groups = profile.provider.kx_groups.iter();
        groups.map(|group| curve_name(group.name())).collect()
    }

    #[test]
    fn without_a_word_it_is_what_the_provider_has() {
        let profile = TlsProfile::default().with_cipher_suites([]).unwrap();
        let profile = profile.with_curves([]).unwrap().from_version("").unwrap();
        assert_eq!(profile.versions.len(), 2);
        assert_eq!(profile.provider.cipher_suites, crypto::provider().cipher_suites);
        assert_eq!(curves(&profile), curves(&TlsProfile::default()));
        profile.server().unwrap();
    }

    #[test]
    fn suites_are_chosen_for_tls_1_2_alone() {
        let chosen = [
            "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
            " TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305",
            "TLS_AES_128_GCM_SHA256",
        ];
        let profile = TlsProfile::default().with_cipher_suites(chosen).unwrap();
        assert_eq!(
            suites(&profile, false),
            [
                "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
                "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256"
            ]
        );
        assert_eq!(suites(&profile, true), suites(&TlsProfile::default(), true));
        let none_of_1_2 = TlsProfile::default().with_cipher_suites(["TLS_AES_128_GCM_SHA256"]);
        let profile = none_of_1_2.unwrap();
        assert!(suites(&profile, false).is_empty());
        profile.server().unwrap();
    }

    #[test_case("TLS_RSA_WITH_AES_128_CBC_SHA"; "an unsafe one of Go")]
    #[test_case("tls_aes_128_gcm_sha256"; "lower case")]
    #[test_case("ECDHE-ECDSA-AES128-GCM-SHA256"; "a name of OpenSSL")]
    #[test_case(""; "an empty one")]
    fn an_unknown_suite_is_refused_with_those_that_are_known(name: &str) {
        let error = TlsProfile::default()
            .with_cipher_suites([name])
            .unwrap_err()
            .to_string();
        assert!(error.contains("TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384"), "{error}");
        assert!(!error.contains("TLS_AES_"), "{error}");
    }

    #[test_case("X25519", "X25519")]
    #[test_case("29", "X25519"; "a number")]
    #[test_case("CurveP256", "P-256"; "the name of Go")]
    #[test_case(" P-256 ", "P-256"; "with blanks")]
    #[test_case("P384", "P-384"; "without a dash")]
    fn curves_have_several_names(name: &str, curve: &str) {
        let profile = TlsProfile::default().with_curves([name]).unwrap();
        assert_eq!(curves(&profile), [curve]);
        profile.server().unwrap();
    }

    #[test_case("P-521"; "one that this build lacks")]
    #[test_case("65536"; "a number beyond all")]
    #[test_case("p-256"; "lower case")]
    #[test_case(""; "an empty one")]
    fn an_unknown_curve_is_refused_with_those_that_are_known(name: &str) {
        let error = TlsProfile::default().with_curves([name]).unwrap_err().to_string();
        assert!(error.contains("X25519") && error.contains("P-256, P-384"), "{error}");
    }

    #[test_case("VersionTLS12", Ok(2))]
    #[test_case("VersionTLS13", Ok(1))]
    #[test_case("VersionTLS11", Err(TlsProfileError::Version); "too old")]
    #[test_case("1.3", Err(TlsProfileError::Version); "another word")]
    fn nothing_below_tls_1_2_is_spoken(name: &str, versions: Result<usize, TlsProfileError>) {
        let profile = TlsProfile::default().from_version(name);
        assert_eq!(profile.map(|profile| profile.versions.len()), versions);
    }
}
