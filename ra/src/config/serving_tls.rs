//! What the TLS listener speaks, in istio-csr's words.

use clap::Args;
use ensign_daemon::settings::Checker;

use crate::serving::TlsProfile;

#[derive(Debug, Clone, Args)]
pub(super) struct ServingTlsArgs {
    /// As in istio-csr: the cipher suites of TLS 1.2, by their IANA names; unset: all that are safe
    #[arg(
        long,
        env = "ENSIGN_RA_SERVING_TLS_CIPHER_SUITES",
        value_name = "LIST",
        value_delimiter = ','
    )]
    serving_tls_cipher_suites: Vec<String>,
    /// As in istio-csr: the least version of TLS, `VersionTLS12` or `VersionTLS13`; unset: the former
    #[arg(
        long,
        env = "ENSIGN_RA_SERVING_TLS_MIN_VERSION",
        default_value = "",
        value_name = "VERSION"
    )]
    serving_tls_min_version: String,
    /// As in istio-csr: the key exchange groups, such as `X25519` or `P-256`; unset: all that are safe
    #[arg(
        long,
        env = "ENSIGN_RA_SERVING_TLS_CURVE_PREFERENCES",
        value_name = "LIST",
        value_delimiter = ','
    )]
    serving_tls_curve_preferences: Vec<String>,
}

impl ServingTlsArgs {
    pub(super) fn check(&self, c: &mut Checker<'_>) -> Option<TlsProfile> {
        let suites = words(&self.serving_tls_cipher_suites);
        let curves = words(&self.serving_tls_curve_preferences);
        let profile = c.check(
            "serving_tls_cipher_suites",
            &suites.join(","),
            "names of cipher suites",
            TlsProfile::default().with_cipher_suites(suites.iter().copied()),
        );
        // Each mistake is told, also beside another.
        let profile = c
            .check(
                "serving_tls_curve_preferences",
                &curves.join(","),
                "names of curves",
                profile.clone().unwrap_or_default().with_curves(curves.iter().copied()),
            )
            .filter(|_| profile.is_some());
        let version = &self.serving_tls_min_version;
        c.check(
            "serving_tls_min_version",
            version,
            "VersionTLS12 or VersionTLS13",
            profile.clone().unwrap_or_default().from_version(version),
        )
        .filter(|_| profile.is_some())
    }
}

/// An empty setting holds nothing; an empty word in a list is a mistake.
fn words(seen: &[String]) -> Vec<&str> {
    match seen {
        [only] if only.is_empty() => Vec::new(),
        all => all.iter().map(String::as_str).collect(),
    }
}
