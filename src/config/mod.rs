//! The agent's settings: from flags and environment to the checked values that each module takes.
//!
//! `args` declares every flag with its variable, default and text, once. Here they are checked, all of them before the
//! first mistake is told, and cut into one struct per module; no module reads flags, environment or another's settings.
//! Where Istio has a setting, its variable's name and meaning are kept; docs/agent-configuration.md lists the
//! deviations from its defaults.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use clap::FromArgMatches as _;
use ensign_daemon::GoDuration;
use ensign_daemon::logging::LogConfig;
use ensign_daemon::settings::{self, Checker, Problems};

use crate::csr_client::{CaAddress, IstioCaConfig, SignerName};
use crate::rotation::{RotationConfig, Schedule};
use crate::sds;

mod args;
mod commands;
mod headers;
mod source;
pub use args::Args;
pub use commands::{Command, Login};

/// What the command line asks for.
#[derive(Debug)]
pub enum Request {
    /// Print this and stop.
    Print(String),
    /// Run the agent.
    Run(Box<Config>),
    /// Do what a person wants to know, and stop.
    Command(Box<Command>),
}

/// Every setting of the agent, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// The certificate authority.
    pub ca: IstioCaConfig,
    /// The file with the roots of the authority's own certificate.
    pub ca_roots_file: PathBuf,
    /// Pinned bundles of signers; no name means the authority's default signer.
    pub pins: Vec<(Option<SignerName>, PathBuf)>,
    /// Rotation.
    pub rotation: RotationConfig,
    /// SDS.
    pub sds: sds::Config,
    /// Source of workloads.
    pub source: crate::source::Config,
    /// Where metrics and health are served.
    pub admin_addr: SocketAddr,
    /// Where the status page is served; loopback.
    pub status_addr: SocketAddr,
    /// Where bound addresses are written.
    pub addresses_file: Option<PathBuf>,
    /// Logging.
    pub log: LogConfig,
    /// How long stopping may take.
    pub drain_timeout: Duration,
    /// Files whose next version could not be read.
    pub behind_the_fence: Vec<PathBuf>,
}

/// Keeps the certificates of one node's workloads and serves them to Envoy. With a command: looks at what is there.
#[derive(Clone, Debug, clap::Parser)]
#[command(
    name = "ensign-agent",
    version,
    max_term_width = 120,
    args_conflicts_with_subcommands = true
)]
struct CommandLine {
    #[command(flatten)]
    settings: Args,

    #[command(subcommand)]
    line: Option<commands::Line>,
}

/// Why the settings are no settings.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// An unknown flag, or a request for help or version; clap knows how to tell.
    #[error(transparent)]
    Flags(#[from] clap::Error),
    /// Wrong values, all of them.
    #[error(transparent)]
    Values(#[from] Problems),
}

/// Reads flags (the first one is the program's name) and the environment.
pub fn load<I, T>(args: I) -> Result<Request, ConfigError>
where
    I: IntoIterator<Item = T>,
    T: Into<OsString> + Clone,
{
    let command = settings::command::<CommandLine>();
    let matches = command.clone().try_get_matches_from(args)?;
    let CommandLine { settings: args, line } = CommandLine::from_arg_matches(&matches)?;
    if let Some(line) = line {
        return Ok(Request::Command(Box::new(line.read(&command, &matches)?)));
    }
    let print = args.print_config;
    let config = check(&command, &matches, args)?;
    if print {
        Ok(Request::Print(settings::print(&command, &matches)))
    } else {
        Ok(Request::Run(Box::new(config)))
    }
}

/// All values, or all mistakes.
fn check(command: &clap::Command, matches: &clap::ArgMatches, args: Args) -> Result<Config, Problems> {
    let mut checker = Checker::new(command);
    let c = &mut checker;
    c.refuse_secrets(matches);
    // Every check runs before any `?`: an operator sees all mistakes at once.
    let trust_domain = c.parse(
        "trust_domain",
        &args.trust_domain,
        "a trust domain such as cluster.local",
    );
    let key_type = source::key_type(c, &args);
    let drain_timeout = positive(c, "drain_timeout", &args.drain_timeout);
    let ca = ca(c, &args);
    let ca_roots_file = ca_roots_file(c, &args.ca_root_ca);
    let rotation = rotation(c, &args);
    let sds = sds(c, &args, drain_timeout);
    let pins = pins(c, &args.pinned_bundles);
    let source = source::of(c, &args, trust_domain, key_type);
    let admin_addr = c.parse("admin_addr", &args.admin_addr, "IP:PORT");
    let status_addr = status_addr(c, &args.status_addr);
    let log = log(c, &args);
    let behind_the_fence = match &source {
        Some(crate::source::Config::Csi(csi)) => behind_the_fence(c, &csi.kubelet_dir, &args),
        Some(crate::source::Config::Fixed(_)) | None => Vec::new(),
    };
    let config = (|| {
        Some(Config {
            ca: ca?,
            ca_roots_file: ca_roots_file?,
            pins,
            rotation: rotation?,
            sds: sds?,
            source: source?,
            admin_addr: admin_addr?,
            status_addr: status_addr?,
            addresses_file: args.addresses_file.map(PathBuf::from),
            log: log?,
            drain_timeout: drain_timeout?,
            behind_the_fence,
        })
    })();
    checker.finish(config)
}

fn ca(c: &mut Checker<'_>, args: &Args) -> Option<IstioCaConfig> {
    let address: Option<CaAddress> = c.parse("ca_addr", &args.ca_addr, "host:port of a TLS port");
    let server_name = set(args.istiod_san.as_deref());
    let server_name = match server_name.map(|name| (name, rustls_pki_types::ServerName::try_from(name.to_owned()))) {
        None => Some(None),
        Some((name, outcome)) => c
            .check("istiod_san", name, "a DNS name or an IP address", outcome)
            .map(|_| Some(name.to_owned())),
    };
    let printable = !args.cluster_id.is_empty() && args.cluster_id.bytes().all(|byte| byte.is_ascii_graphic());
    if !printable {
        c.refuse(
            "cluster_id",
            &args.cluster_id,
            "printable ASCII without spaces",
            "it is sent as a header",
        );
    }
    let deadline = positive(c, "request_deadline", &args.request_deadline);
    let headers = headers::checked(c, headers::of_environment());
    Some(IstioCaConfig {
        address: address?,
        server_name: server_name?,
        cluster_id: printable.then(|| args.cluster_id.clone())?,
        headers: headers?,
        deadline: deadline?,
    })
}

fn ca_roots_file(c: &mut Checker<'_>, text: &str) -> Option<PathBuf> {
    match text {
        "" => c.missing("ca_root_ca", "the path of a PEM file"),
        "SYSTEM" => c.refuse(
            "ca_root_ca",
            text,
            "the path of a PEM file",
            "any public CA could then pose as the mesh's authority; name the file with its root",
        ),
        path => return Some(PathBuf::from(path)),
    }
    None
}

fn rotation(c: &mut Checker<'_>, args: &Args) -> Option<RotationConfig> {
    let ttl = positive(c, "secret_ttl", &args.secret_ttl);
    let ratio: Option<f64> = c.parse("ratio", &args.ratio, "a number above 0 and at most 1");
    let jitter: Option<f64> = c.parse("jitter", &args.jitter, "a number above 0 and below 1");
    let schedule = ratio.zip(jitter).and_then(|(ratio, jitter)| {
        // One half at a time, so that the mistake names the right one.
        let half = Schedule::default();
        let good_ratio = c.check("ratio", &args.ratio, "above 0, at most 1", Schedule::new(ratio, 0.1));
        let good_jitter = c.check("jitter", &args.jitter, "above 0, below 1", Schedule::new(0.5, jitter));
        good_ratio
            .zip(good_jitter)
            .map(|_| Schedule::new(ratio, jitter).unwrap_or(half))
    });
    let fetch_floor = not_negative(c, "fetch_floor", &args.fetch_floor);
    let adoption_window = not_negative(c, "adoption_window", &args.adoption_window);
    let max_in_flight = at_least_one(c, "max_in_flight", &args.max_in_flight);
    let request_deadline = args
        .request_deadline
        .parse::<GoDuration>()
        .ok()
        .and_then(|d| d.positive().ok());
    let default_signer = optional(
        c,
        "cert_signer",
        args.cert_signer.as_deref(),
        "the name of a signer, or nothing",
    );
    Some(RotationConfig {
        ttl: ttl?,
        schedule: schedule?,
        fetch_floor: fetch_floor?,
        max_in_flight: max_in_flight?,
        request_deadline: request_deadline?,
        default_signer: default_signer?,
        adoption_window: adoption_window?,
        ..RotationConfig::default()
    })
}

fn sds(c: &mut Checker<'_>, args: &Args, drain_timeout: Option<Duration>) -> Option<sds::Config> {
    let root_wait = not_negative(c, "root_wait", &args.root_wait);
    let shared = c.parse("shared_connections", &args.shared_connections, "a number");
    // Streams end a little before the process must, so that their connections end in order too.
    Some(sds::Config {
        root_wait: root_wait?,
        drain_timeout: drain_timeout?.mul_f64(0.8),
        shared: sds::Amounts::of_envoys(shared?),
        ..sds::Config::default()
    })
}

fn pins(c: &mut Checker<'_>, pins: &[String]) -> Vec<(Option<SignerName>, PathBuf)> {
    const EXPECTED: &str = "SIGNER=PATH (`=PATH` for the authority's default signer)";
    let mut good = Vec::with_capacity(pins.len());
    for pin in pins.iter().filter(|pin| !pin.is_empty()) {
        let Some((signer, path)) = pin.split_once('=').filter(|(_, path)| !path.is_empty()) else {
            c.refuse("pinned_bundles", pin, EXPECTED, "there is no path in it");
            continue;
        };
        let Some(signer) = optional(c, "pinned_bundles", Some(signer), EXPECTED) else {
            continue;
        };
        if good.iter().any(|(other, _)| *other == signer) {
            c.refuse("pinned_bundles", pin, EXPECTED, "this signer is pinned twice");
        }
        good.push((signer, PathBuf::from(path)));
    }
    good
}

/// The fence gives out whole folders beside the way to kubelet's `pods`, and files on the way only as they are at the start: a new one
/// there cannot be made, and one that is renamed over cannot be read. Gives the files of the second kind.
fn behind_the_fence(c: &mut Checker<'_>, kubelet_dir: &Path, args: &Args) -> Vec<PathBuf> {
    let pods = kubelet_dir.join("pods");
    let on_the_way = |file: &str| {
        let folder = Path::new(file).parent().filter(|folder| folder.is_absolute());
        folder.is_some_and(|folder| pods.starts_with(folder))
    };
    if let Some(file) = args.addresses_file.as_deref().filter(|file| on_the_way(file)) {
        let why = "the fence around the files of pods keeps new files from there (docs/security.md)";
        c.refuse(
            "addresses_file",
            file,
            "a file in a folder that kubelet's folder is not in",
            why,
        );
    }
    let pins = args
        .pinned_bundles
        .iter()
        .filter_map(|pin| Some(pin.split_once('=')?.1));
    let read = pins.chain([args.ca_root_ca.as_str()]);
    read.filter(|file| on_the_way(file)).map(PathBuf::from).collect()
}

fn status_addr(c: &mut Checker<'_>, text: &str) -> Option<SocketAddr> {
    let address: SocketAddr = c.parse("status_addr", text, "a loopback IP:PORT")?;
    if address.ip().is_loopback() {
        return Some(address);
    }
    let why = "the status names every workload of the node; reach it through the node, or kubectl port-forward";
    c.refuse("status_addr", text, "a loopback address such as 127.0.0.1:9403", why);
    None
}

fn log(c: &mut Checker<'_>, args: &Args) -> Option<LogConfig> {
    let format = c.parse("log_format", &args.log_format, "text or json");
    let level = c.parse("log_level", &args.log_level, "a log filter");
    Some(LogConfig {
        format: format?,
        level: level?,
    })
}

fn positive(c: &mut Checker<'_>, id: &str, text: &str) -> Option<Duration> {
    let duration: GoDuration = c.parse(id, text, A_DURATION)?;
    c.check(id, text, A_DURATION, duration.positive())
}

fn not_negative(c: &mut Checker<'_>, id: &str, text: &str) -> Option<Duration> {
    let duration: GoDuration = c.parse(id, text, A_DURATION)?;
    c.check(id, text, A_DURATION, duration.not_negative())
}

fn at_least_one(c: &mut Checker<'_>, id: &str, text: &str) -> Option<usize> {
    let number: usize = c.parse(id, text, "a number above 0")?;
    if number == 0 {
        c.refuse(id, text, "a number above 0", "nothing could ever be requested");
        return None;
    }
    Some(number)
}

/// `Some(None)` if it is not set, which an empty text means too.
#[expect(clippy::option_option, reason = "the outer one says whether there was a mistake")]
fn optional<T>(c: &mut Checker<'_>, id: &str, text: Option<&str>, expected: &str) -> Option<Option<T>>
where
    T: FromStr<Err: std::error::Error + 'static>,
{
    match set(text) {
        None => Some(None),
        Some(text) => c.parse(id, text, expected).map(Some),
    }
}

/// Manifests set variables to nothing in order to unset them.
fn set(text: Option<&str>) -> Option<&str> {
    text.filter(|text| !text.is_empty())
}

const A_DURATION: &str = "a duration in Go's syntax such as 10s or 24h";

#[cfg(test)]
mod tests;
