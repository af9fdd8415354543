//! How callers prove who they are, and who may ask for others.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;
use ensign_daemon::GoDuration;
use ensign_daemon::settings::Checker;

use super::values::{count, duration, list, path, positive, text};
use crate::authn::{AuthnConfig, CacheConfig, Expectations, Mode};

#[derive(Debug, Clone, Args)]
pub(super) struct TokenArgs {
    /// How tokens are judged: `jwks-file`, `token-review` or `informer`; unset: `jwks-file` with --jwks-file, else `token-review`
    #[arg(long, env = "ENSIGN_RA_AUTHN", value_name = "MODE")]
    authn: Option<String>,
    /// Public keys that tokens are checked with (JWKS, watched); for `jwks-file`
    #[arg(long, env = "ENSIGN_RA_JWKS_FILE", value_name = "PATH")]
    jwks_file: Option<String>,
    /// Issuer of tokens, exactly as in their `iss` claim; needed for `jwks-file`, the API server's own word for `informer`
    #[arg(long, env = "ENSIGN_RA_TOKEN_ISSUER", value_name = "URL")]
    token_issuer: Option<String>,
    /// Audiences of which a token must have one, separated by commas
    #[arg(long, env = "TOKEN_AUDIENCES", default_value = "istio-ca", value_name = "LIST")]
    token_audiences: String,
    /// How long a token that was reviewed is believed without asking again; never longer than it lives
    #[arg(
        long,
        env = "ENSIGN_RA_TOKEN_CACHE_TTL",
        default_value = "10s",
        value_name = "DURATION"
    )]
    token_cache_ttl: String,
    /// How long a token that was refused in a review is refused without asking again
    #[arg(
        long,
        env = "ENSIGN_RA_TOKEN_CACHE_NEGATIVE_TTL",
        default_value = "5s",
        value_name = "DURATION"
    )]
    token_cache_negative_ttl: String,
    /// How many reviews are remembered
    #[arg(
        long,
        env = "ENSIGN_RA_TOKEN_CACHE_ENTRIES",
        default_value = "10000",
        value_name = "N"
    )]
    token_cache_entries: String,
    /// Longest wait for an API server that is away or busy to judge a token; a client's own shorter deadline counts
    #[arg(
        long,
        env = "ENSIGN_RA_AUTHN_TIMEOUT",
        default_value = "20s",
        value_name = "DURATION"
    )]
    authn_timeout: String,
    /// Name of this cluster, as clients send it in `clusterid`
    #[arg(
        long,
        env = "ENSIGN_RA_CLUSTER_ID",
        default_value = "Kubernetes",
        value_name = "NAME"
    )]
    cluster_id: String,
    /// Other names of clusters: ALIAS=NAME, separated by commas
    #[arg(long, env = "ENSIGN_RA_CLUSTER_ALIASES", value_name = "LIST")]
    cluster_aliases: Option<String>,
    /// Take tokens of remote clusters too, by Istio's remote secrets in the control plane's namespace
    #[arg(
        long,
        env = "ENSIGN_RA_REMOTE_CLUSTERS",
        default_value = "false",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        value_name = "BOOL"
    )]
    remote_clusters: String,
    /// Take certificates of our signers as credentials too: for renewal with the same signer
    #[arg(
        long,
        env = "ENSIGN_RA_ENABLE_CLIENT_CERT_AUTHENTICATOR",
        default_value = "false",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        value_name = "BOOL"
    )]
    enable_client_cert_authenticator: String,
    /// Accounts that may ask for the pods on their node (ztunnel): NAMESPACE/SERVICEACCOUNT, separated by commas
    #[arg(long, env = "CA_TRUSTED_NODE_ACCOUNTS", value_name = "LIST", value_delimiter = ',')]
    ca_trusted_node_accounts: Vec<String>,
    /// How far clocks may be apart when the times of a token are checked
    #[arg(long, env = "ENSIGN_RA_CLOCK_SKEW", default_value = "10s", value_name = "DURATION")]
    clock_skew: String,
}

impl TokenArgs {
    pub(super) fn has_jwks_file(&self) -> bool {
        self.jwks_file.as_deref().is_some_and(|path| !path.is_empty())
    }

    /// `kubernetes`: whether there is an API server.
    pub(super) fn check(&self, c: &mut Checker<'_>, kubernetes: bool) -> Option<AuthnConfig> {
        let mode = self.mode(c);
        let audiences = list(c, "token_audiences", &self.token_audiences);
        let good = duration(c, "token_cache_ttl", &self.token_cache_ttl, GoDuration::not_negative);
        let bad = duration(
            c,
            "token_cache_negative_ttl",
            &self.token_cache_negative_ttl,
            GoDuration::not_negative,
        );
        let entries = count(c, "token_cache_entries", &self.token_cache_entries, 2);
        let patience = positive(c, "authn_timeout", &self.authn_timeout);
        let cluster_id = text(c, "cluster_id", Some(&self.cluster_id), "a name");
        let cluster_aliases = self.aliases(c);
        let remote_clusters = boolean(c, "remote_clusters", &self.remote_clusters);
        let client_certificates = boolean(
            c,
            "enable_client_cert_authenticator",
            &self.enable_client_cert_authenticator,
        );
        let trusted = c.parse(
            "ca_trusted_node_accounts",
            &self.trusted(),
            "NAMESPACE/SERVICEACCOUNT entries, separated by commas",
        );
        let leeway = duration(c, "clock_skew", &self.clock_skew, GoDuration::not_negative);
        let config = AuthnConfig {
            mode: mode?,
            tokens: Expectations {
                audiences: audiences?,
                leeway: leeway?,
            },
            cluster_id: cluster_id?,
            cluster_aliases: cluster_aliases?,
            cache: CacheConfig {
                good: good?,
                bad: bad?,
                entries: entries?,
            },
            patience: patience?,
            remote_clusters: remote_clusters?,
            client_certificates: client_certificates?,
            trusted_node_accounts: trusted?,
        };
        self.check_kubernetes(c, &config, kubernetes).then_some(config)
    }

    fn trusted(&self) -> String {
        self.ca_trusted_node_accounts.join(",")
    }

    fn mode(&self, c: &mut Checker<'_>) -> Option<Mode> {
        const JWKS: &str = "jwks_file";
        const ISSUER: &str = "token_issuer";
        let issuer = self.token_issuer.clone().filter(|issuer| !issuer.is_empty());
        let said = self.authn.as_deref().filter(|mode| !mode.is_empty());
        let mode = said.unwrap_or(if self.has_jwks_file() {
            "jwks-file"
        } else {
            "token-review"
        });
        let file = self.jwks_file.as_deref().filter(|path| !path.is_empty());
        if let Some(file) = file.filter(|_| mode != "jwks-file") {
            c.refuse(JWKS, file, "nothing, or --authn=jwks-file", "this mode has other keys");
            return None;
        }
        match mode {
            "jwks-file" => {
                let path: Option<PathBuf> = path(c, JWKS, file);
                let issuer = text(c, ISSUER, issuer.as_deref(), "the iss claim of tokens");
                Some(Mode::JwksFile {
                    path: path?,
                    issuer: issuer?,
                })
            }
            "token-review" => match issuer {
                Some(issuer) => {
                    c.refuse(
                        ISSUER,
                        &issuer,
                        "nothing",
                        "the API server knows whose tokens it reviews",
                    );
                    None
                }
                None => Some(Mode::TokenReview),
            },
            "informer" => Some(Mode::Informer { issuer }),
            other => {
                let why = "there is no such way to judge a token";
                c.refuse("authn", other, "jwks-file, token-review or informer", why);
                None
            }
        }
    }

    fn aliases(&self, c: &mut Checker<'_>) -> Option<BTreeMap<String, String>> {
        const ID: &str = "cluster_aliases";
        let seen = self.cluster_aliases.as_deref().unwrap_or_default();
        let mut aliases = BTreeMap::new();
        for entry in seen.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
            let Some((alias, name)) = entry.split_once('=').filter(|(a, n)| !a.is_empty() && !n.is_empty()) else {
                c.refuse(
                    ID,
                    seen,
                    "ALIAS=NAME entries, separated by commas",
                    "an entry is of another form",
                );
                return None;
            };
            if alias == self.cluster_id {
                let why = "this cluster's own name stands for itself";
                c.refuse(ID, seen, "aliases that are not --cluster-id", why);
                return None;
            }
            if aliases.insert(alias.to_owned(), name.to_owned()).is_some() {
                c.refuse(ID, seen, "each alias once", "an alias occurs twice");
                return None;
            }
        }
        Some(aliases)
    }

    /// Says of each setting that needs an API server that there is none.
    fn check_kubernetes(&self, c: &mut Checker<'_>, config: &AuthnConfig, kubernetes: bool) -> bool {
        let why = "there is no API server; name one with --kubernetes or --kubeconfig";
        let mut whole = true;
        let mut needs = |c: &mut Checker<'_>, id: &str, seen: &str, expected: &str| {
            c.refuse(id, seen, expected, why);
            whole = false;
        };
        if !kubernetes {
            match config.mode {
                Mode::JwksFile { .. } => {}
                Mode::TokenReview => needs(c, "authn", "token-review", "jwks-file"),
                Mode::Informer { .. } => needs(c, "authn", "informer", "jwks-file"),
            }
            if config.remote_clusters {
                needs(c, "remote_clusters", &self.remote_clusters, "false");
            }
            if !config.trusted_node_accounts.is_empty() {
                needs(c, "ca_trusted_node_accounts", &self.trusted(), "nothing");
            }
        } else if config.remote_clusters && matches!(config.mode, Mode::JwksFile { .. }) {
            let why = "one file of keys is for one cluster";
            c.refuse(
                "remote_clusters",
                &self.remote_clusters,
                "false, or another --authn",
                why,
            );
            whole = false;
        }
        whole
    }
}

fn boolean(c: &mut Checker<'_>, id: &str, seen: &str) -> Option<bool> {
    c.parse(id, seen, "true or false")
}
