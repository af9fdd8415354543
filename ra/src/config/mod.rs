//! The RA's settings: flags and their environment variables, declared once, checked all at once.
//!
//! [`Args`] is what an operator types, as text; [`Config`] is what the program runs with. Nothing else of the RA reads
//! the environment. Settings are paths, addresses and bounds, never secrets: keys and tokens live in the files named.
//! docs/ra-configuration.md lists them all.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{FromArgMatches, Parser};
use ensign_daemon::GoDuration;
use ensign_daemon::logging::{LogConfig, LogFormat};
use ensign_daemon::settings::{self, Checker, Problems};

use crate::authn::{AuthnConfig, Expectations};
use crate::limits::LimitsConfig;
use crate::serving::ServingSource;

/// Registration authority of Ensign: authenticates workloads, applies the operator's policy, has certificates signed.
#[derive(Debug, Clone, Parser)]
#[command(name = "ensign-ra", version)]
pub struct Args {
    /// Policy: signers, and who may use which (YAML, watched)
    #[arg(long, env = "ENSIGN_RA_POLICY_FILE", value_name = "PATH")]
    policy_file: Option<String>,
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
    /// Where certificates are requested (gRPC over TLS)
    #[arg(
        long,
        env = "ENSIGN_RA_GRPC_ADDR",
        default_value = "0.0.0.0:6443",
        value_name = "ADDR"
    )]
    grpc_addr: String,
    /// Where /healthz and /readyz answer
    #[arg(
        long,
        env = "ENSIGN_RA_READYZ_ADDR",
        default_value = "0.0.0.0:6060",
        value_name = "ADDR"
    )]
    readyz_addr: String,
    /// Where /metrics answers
    #[arg(
        long,
        env = "ENSIGN_RA_METRICS_ADDR",
        default_value = "0.0.0.0:9402",
        value_name = "ADDR"
    )]
    metrics_addr: String,
    /// Serving certificate chain, from elsewhere (PEM, watched); with --serving-key-file
    #[arg(long, env = "ENSIGN_RA_SERVING_CERT_FILE", value_name = "PATH")]
    serving_cert_file: Option<String>,
    /// Key of the serving certificate (PEM, watched)
    #[arg(long, env = "ENSIGN_RA_SERVING_KEY_FILE", value_name = "PATH")]
    serving_key_file: Option<String>,
    /// Instead of a certificate from elsewhere: folder of a CA for the serving certificate alone, made if empty
    #[arg(long, env = "ENSIGN_RA_SERVING_CA_DIR", value_name = "DIR")]
    serving_ca_dir: Option<String>,
    /// Names in the serving certificate that this CA issues
    #[arg(
        long,
        env = "ENSIGN_RA_SERVING_DNS_NAMES",
        default_value = "istiod.istio-system.svc,ensign-ra.istio-system.svc,localhost",
        value_name = "LIST"
    )]
    serving_dns_names: String,
    /// Where the root of that CA is written for clients (their CA_ROOT_CA)
    #[arg(long, env = "ENSIGN_RA_SERVING_ROOT_FILE", value_name = "PATH")]
    serving_root_file: Option<String>,
    /// Requests worked on at once
    #[arg(long, env = "ENSIGN_RA_MAX_IN_FLIGHT", default_value = "256", value_name = "N")]
    max_in_flight: String,
    /// Requests that may wait for their turn; one more is turned away
    #[arg(long, env = "ENSIGN_RA_MAX_QUEUED", default_value = "4096", value_name = "N")]
    max_queued: String,
    /// Longest wait for a turn
    #[arg(
        long,
        env = "ENSIGN_RA_QUEUE_TIMEOUT",
        default_value = "10s",
        value_name = "DURATION"
    )]
    queue_timeout: String,
    /// Requests of one service account worked on at once
    #[arg(
        long,
        env = "ENSIGN_RA_MAX_IN_FLIGHT_PER_CALLER",
        default_value = "64",
        value_name = "N"
    )]
    max_in_flight_per_caller: String,
    /// Size of the largest request
    #[arg(long, env = "ENSIGN_RA_MAX_MESSAGE_BYTES", default_value = "65536", value_name = "N")]
    max_message_bytes: String,
    /// Connections at once; later ones wait to be accepted
    #[arg(long, env = "ENSIGN_RA_MAX_CONNECTIONS", default_value = "10000", value_name = "N")]
    max_connections: String,
    /// Longest wait for a signer; a client's own shorter deadline counts
    #[arg(
        long,
        env = "ENSIGN_RA_SIGNER_TIMEOUT",
        default_value = "45s",
        value_name = "DURATION"
    )]
    signer_timeout: String,
    /// A connection is asked to go after this time, idle or not; clients open another, perhaps to another replica
    #[arg(
        long,
        env = "ENSIGN_RA_MAX_CONNECTION_AGE",
        default_value = "30m",
        value_name = "DURATION"
    )]
    max_connection_age: String,
    /// Time for requests in flight to finish when stopping
    #[arg(
        long,
        env = "ENSIGN_RA_DRAIN_TIMEOUT",
        default_value = "15s",
        value_name = "DURATION"
    )]
    drain_timeout: String,
    /// Write the bound addresses here as JSON, once all are bound
    #[arg(long, env = "ENSIGN_RA_ADDRESSES_FILE", value_name = "PATH")]
    addresses_file: Option<String>,
    /// `text` or `json`
    #[arg(long, env = "ENSIGN_RA_LOG_FORMAT", default_value = "text", value_name = "FORMAT")]
    log_format: String,
    /// Level, or `level,target=level`
    #[arg(long, env = "ENSIGN_RA_LOG_LEVEL", default_value = "info", value_name = "FILTER")]
    log_level: String,
    /// Print the settings in effect and exit
    #[arg(long)]
    print_config: bool,
}

/// What the RA runs with.
#[derive(Debug, Clone)]
pub struct Config {
    /// Path of the policy.
    pub policy_file: PathBuf,
    /// Who is let in.
    pub authn: AuthnConfig,
    /// What is let in at once.
    pub limits: LimitsConfig,
    /// Longest wait for a signer.
    pub signer_timeout: Duration,
    /// Where each server listens.
    pub listen: ListenConfig,
    /// Where the serving certificate comes from.
    pub serving: ServingSource,
    /// How long requests in flight may take when stopping.
    pub drain_timeout: Duration,
    /// Where the bound addresses are written.
    pub addresses_file: Option<PathBuf>,
    /// How to log.
    pub log: LogConfig,
}

/// The addresses to listen on.
#[derive(Debug, Clone)]
pub struct ListenConfig {
    /// gRPC over TLS.
    pub grpc: SocketAddr,
    /// /healthz and /readyz.
    pub readyz: SocketAddr,
    /// /metrics.
    pub metrics: SocketAddr,
}

/// What the command line asks for.
#[derive(Debug)]
pub enum Command {
    /// Run with this.
    Run(Box<Config>),
    /// Print this and exit.
    Print(String),
}

/// Why the command line cannot be obeyed.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Unknown flags, and the answers to `--help` and `--version`.
    #[error(transparent)]
    Usage(#[from] clap::Error),
    /// Values that do not fit.
    #[error(transparent)]
    Problems(#[from] Problems),
}

impl Command {
    /// Reads a command line (the program's name first) and the environment.
    pub fn read<T>(line: impl IntoIterator<Item = T>) -> Result<Self, ConfigError>
    where
        T: Into<std::ffi::OsString> + Clone,
    {
        let command = settings::command::<Args>();
        let matches = command.clone().try_get_matches_from(line)?;
        let args = Args::from_arg_matches(&matches)?;
        let config = Config::check(&args, &matches, &command)?;
        if args.print_config {
            return Ok(Self::Print(settings::print(&command, &matches)));
        }
        Ok(Self::Run(Box::new(config)))
    }
}

impl Config {
    fn check(args: &Args, matches: &clap::ArgMatches, command: &clap::Command) -> Result<Self, Problems> {
        let mut checker = Checker::new(command);
        let c = &mut checker;
        c.refuse_secrets(matches);
        let policy_file = path(c, "policy_file", args.policy_file.as_deref());
        let jwks_file = path(c, "jwks_file", args.jwks_file.as_deref());
        let issuer = text(
            c,
            "token_issuer",
            args.token_issuer.as_deref(),
            "the iss claim of tokens",
        );
        let audiences = list(c, "token_audiences", &args.token_audiences);
        let cluster_id = text(c, "cluster_id", Some(&args.cluster_id), "a name");
        let clock_skew = duration(c, "clock_skew", &args.clock_skew, GoDuration::not_negative);
        let grpc = address(c, "grpc_addr", &args.grpc_addr);
        let readyz = address(c, "readyz_addr", &args.readyz_addr);
        let metrics = address(c, "metrics_addr", &args.metrics_addr);
        let serving = serving(c, args);
        let limits = limits(c, args);
        let signer_timeout = positive(c, "signer_timeout", &args.signer_timeout);
        let drain_timeout = duration(c, "drain_timeout", &args.drain_timeout, GoDuration::not_negative);
        let format: Option<LogFormat> = c.parse("log_format", &args.log_format, "text or json");
        let level = c.parse("log_level", &args.log_level, "a level or level,target=level");
        let config = (|| {
            Some(Self {
                policy_file: policy_file?,
                authn: AuthnConfig {
                    jwks_file: jwks_file?,
                    tokens: Expectations {
                        issuer: issuer?,
                        audiences: audiences?,
                        leeway: clock_skew?,
                    },
                    cluster_id: cluster_id?,
                },
                limits: limits?,
                signer_timeout: signer_timeout?,
                listen: ListenConfig {
                    grpc: grpc?,
                    readyz: readyz?,
                    metrics: metrics?,
                },
                serving: serving?,
                drain_timeout: drain_timeout?,
                addresses_file: args.addresses_file.as_ref().map(PathBuf::from),
                log: LogConfig {
                    format: format?,
                    level: level?,
                },
            })
        })();
        checker.finish(config)
    }
}

fn limits(c: &mut Checker<'_>, args: &Args) -> Option<LimitsConfig> {
    let in_flight = count(c, "max_in_flight", &args.max_in_flight, 1);
    let queued = count(c, "max_queued", &args.max_queued, 0);
    let queue_timeout = positive(c, "queue_timeout", &args.queue_timeout);
    let per_caller = count(c, "max_in_flight_per_caller", &args.max_in_flight_per_caller, 1);
    let message_bytes = count(c, "max_message_bytes", &args.max_message_bytes, 1024);
    let connections = count(c, "max_connections", &args.max_connections, 1);
    let connection_age = positive(c, "max_connection_age", &args.max_connection_age);
    Some(LimitsConfig {
        in_flight: in_flight?,
        queued: queued?,
        queue_timeout: queue_timeout?,
        per_caller: per_caller?,
        message_bytes: message_bytes?,
        connections: connections?,
        connection_age: connection_age?,
    })
}

fn serving(c: &mut Checker<'_>, args: &Args) -> Option<ServingSource> {
    const CERT: &str = "serving_cert_file";
    const KEY: &str = "serving_key_file";
    let from_ca = &args.serving_ca_dir;
    match (&args.serving_cert_file, &args.serving_key_file, from_ca) {
        (Some(cert), Some(key), None) => {
            let (cert, key) = (path(c, CERT, Some(cert)), path(c, KEY, Some(key)));
            if let Some(root) = &args.serving_root_file {
                let why = "a certificate from files brings its own root; leave this out";
                c.refuse("serving_root_file", root, "nothing beside --serving-cert-file", why);
            }
            Some(ServingSource::Files {
                certificate: cert?,
                key: key?,
            })
        }
        (None, None, Some(dir)) => {
            let dir = path(c, "serving_ca_dir", Some(dir));
            let names = list(c, "serving_dns_names", &args.serving_dns_names);
            let root_file = args.serving_root_file.as_ref().map(PathBuf::from);
            Some(ServingSource::OwnCa {
                dir: dir?,
                names: names?,
                root_file,
            })
        }
        (None, None, None) => {
            c.missing(
                "serving_ca_dir",
                "a folder, or --serving-cert-file with --serving-key-file",
            );
            None
        }
        (Some(seen), None, None) => {
            c.refuse(
                CERT,
                seen,
                "--serving-key-file beside it",
                "a certificate needs its key",
            );
            None
        }
        (None, Some(seen), None) => {
            c.refuse(
                KEY,
                seen,
                "--serving-cert-file beside it",
                "a key needs its certificate",
            );
            None
        }
        (_, _, Some(dir)) => {
            let why = "the serving certificate comes from files or from a CA of its own, not from both";
            c.refuse("serving_ca_dir", dir, "either this or --serving-cert-file", why);
            None
        }
    }
}

fn path(c: &mut Checker<'_>, id: &str, seen: Option<&str>) -> Option<PathBuf> {
    text(c, id, seen, "a path").map(PathBuf::from)
}

fn text(c: &mut Checker<'_>, id: &str, seen: Option<&str>, expected: &str) -> Option<String> {
    match seen {
        Some(text) if !text.is_empty() => Some(text.to_owned()),
        _ => {
            c.missing(id, expected);
            None
        }
    }
}

fn list(c: &mut Checker<'_>, id: &str, seen: &str) -> Option<Vec<String>> {
    let items: Vec<String> = seen
        .split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty())
        .map(str::to_owned)
        .collect();
    if items.is_empty() {
        c.refuse(id, seen, "at least one entry", "the list is empty");
        return None;
    }
    Some(items)
}

fn address(c: &mut Checker<'_>, id: &str, seen: &str) -> Option<SocketAddr> {
    c.parse(id, seen, "an IP address and a port, such as 0.0.0.0:6443 or [::]:6443")
}

fn count(c: &mut Checker<'_>, id: &str, seen: &str, least: usize) -> Option<usize> {
    let number: usize = c.parse(id, seen, "a whole number")?;
    if number < least || number > MAX_COUNT {
        c.refuse(id, seen, &format!("{least} to {MAX_COUNT}"), "out of range");
        return None;
    }
    Some(number)
}

fn positive(c: &mut Checker<'_>, id: &str, seen: &str) -> Option<Duration> {
    duration(c, id, seen, GoDuration::positive)
}

fn duration(
    c: &mut Checker<'_>,
    id: &str,
    seen: &str,
    within: fn(GoDuration) -> Result<Duration, ensign_daemon::go_duration::GoDurationError>,
) -> Option<Duration> {
    let outcome = seen.parse::<GoDuration>().and_then(within);
    c.check(id, seen, "a duration such as 10s, 5m or 24h", outcome)
}

/// Far above any sensible bound, far below what a semaphore can count.
const MAX_COUNT: usize = 1 << 28;

#[cfg(test)]
mod tests;
