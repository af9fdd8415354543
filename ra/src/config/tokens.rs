//! How callers prove who they are.

use clap::Args;
use ensign_daemon::GoDuration;
use ensign_daemon::settings::Checker;

use super::values::{duration, list, path, text};
use crate::authn::{AuthnConfig, Expectations};

#[derive(Debug, Clone, Args)]
pub(super) struct TokenArgs {
    /// Public keys that tokens are checked with (JWKS, watched)
    #[arg(long, env = "ENSIGN_RA_JWKS_FILE", value_name = "PATH")]
    jwks_file: Option<String>,
    /// Issuer of tokens, exactly as in their `iss` claim
    #[arg(long, env = "ENSIGN_RA_TOKEN_ISSUER", value_name = "URL")]
    token_issuer: Option<String>,
    /// Audiences of which a token must have one, separated by commas
    #[arg(long, env = "TOKEN_AUDIENCES", default_value = "istio-ca", value_name = "LIST")]
    token_audiences: String,
    /// Name of this cluster, as clients send it in `clusterid`
    #[arg(
        long,
        env = "ENSIGN_RA_CLUSTER_ID",
        default_value = "Kubernetes",
        value_name = "NAME"
    )]
    cluster_id: String,
    /// How far clocks may be apart when the times of a token are checked
    #[arg(long, env = "ENSIGN_RA_CLOCK_SKEW", default_value = "10s", value_name = "DURATION")]
    clock_skew: String,
}

impl TokenArgs {
    pub(super) fn has_jwks_file(&self) -> bool {
        self.jwks_file.as_deref().is_some_and(|path| !path.is_empty())
    }

    pub(super) fn check(&self, c: &mut Checker<'_>) -> Option<AuthnConfig> {
        let jwks_file = path(c, "jwks_file", self.jwks_file.as_deref());
        let issuer = text(
            c,
            "token_issuer",
            self.token_issuer.as_deref(),
            "the iss claim of tokens",
        );
        let audiences = list(c, "token_audiences", &self.token_audiences);
        let cluster_id = text(c, "cluster_id", Some(&self.cluster_id), "a name");
        let leeway = duration(c, "clock_skew", &self.clock_skew, GoDuration::not_negative);
        Some(AuthnConfig {
            jwks_file: jwks_file?,
            tokens: Expectations {
                issuer: issuer?,
                audiences: audiences?,
                leeway: leeway?,
            },
            cluster_id: cluster_id?,
        })
    }
}
