//! The RA's settings: flags and their environment variables, declared once, checked all at once.
//!
//! [`Args`] is what an operator types, as text; [`Config`] is what the program runs with. Nothing else of the RA reads
//! the environment. Settings are paths, addresses and bounds, never secrets: keys and tokens live in the files named.
//! docs/ra-configuration.md lists them all.

mod distribution;
mod istio_csr;
mod istiod;
mod kubernetes;
mod leader;
mod limits;
mod listen;
mod log;
mod mesh;
mod serving;
mod serving_tls;
mod tokens;
mod values;
mod without_effect;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::{FromArgMatches, Parser};
use ensign_daemon::GoDuration;
use ensign_daemon::logging::LogConfig;
use ensign_daemon::settings::{self, Checker, Problems};
use ensign_pki::TrustDomain;

pub use distribution::RootsConfig;
pub use istio_csr::RefusedFlag;
pub use istiod::{IstiodSettings, IstiodSigner};
pub use kubernetes::KubernetesConfig;
pub use leader::LeaderConfig;
pub use listen::ListenConfig;
pub use mesh::IstioConfig;

use self::distribution::DistributionArgs;
use self::istio_csr::{Beside, IstioCsrArgs};
use self::istiod::IstiodArgs;
use self::kubernetes::KubernetesArgs;
use self::leader::LeaderArgs;
use self::limits::LimitsArgs;
use self::listen::ListenArgs;
use self::log::LogArgs;
use self::mesh::MeshArgs;
use self::serving::ServingArgs;
use self::serving_tls::ServingTlsArgs;
use self::tokens::TokenArgs;
use self::values::{duration, positive};
use self::without_effect::WithoutEffectArgs;
use crate::authn::AuthnConfig;
use crate::in_use::{self, InUse};
use crate::limits::LimitsConfig;
use crate::serving::{ServingSource, TlsProfile};

/// Registration authority of Ensign: authenticates workloads, applies the operator's policy, has certificates signed.
#[derive(Debug, Clone, Parser)]
#[command(name = "ensign-ra", version)]
pub struct Args {
    /// Policy: signers, and who may use which (YAML, watched); may be left out where Istio's configuration is followed
    #[arg(long, env = "ENSIGN_RA_POLICY_FILE", value_name = "PATH")]
    policy_file: Option<String>,
    #[command(flatten)]
    mesh: MeshArgs,
    #[command(flatten)]
    istio_csr: IstioCsrArgs,
    #[command(flatten)]
    kubernetes: KubernetesArgs,
    #[command(flatten)]
    tokens: TokenArgs,
    #[command(flatten)]
    listen: ListenArgs,
    #[command(flatten)]
    serving: ServingArgs,
    #[command(flatten)]
    serving_tls: ServingTlsArgs,
    #[command(flatten)]
    leader: LeaderArgs,
    #[command(flatten)]
    distribution: DistributionArgs,
    #[command(flatten)]
    istiod: IstiodArgs,
    #[command(flatten)]
    limits: LimitsArgs,
    /// How long a request may take from its arrival, all queues included, unless its signer has a deadline; a client's own shorter one counts
    #[arg(
        long,
        env = "ENSIGN_RA_SIGNER_TIMEOUT",
        default_value = "45s",
        value_name = "DURATION"
    )]
    signer_timeout: String,
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
    #[command(flatten)]
    log: LogArgs,
    #[command(flatten)]
    without_effect: WithoutEffectArgs,
    /// Print the settings in effect and exit
    #[arg(long)]
    print_config: bool,
    /// Print the policy file that istio-csr's flags amount to and exit
    #[arg(long)]
    print_policy: bool,
}

/// What the RA runs with.
#[derive(Debug, Clone)]
pub struct Config {
    /// Path of the policy. Without it the policy is the next one, or comes from Istio's configuration.
    pub policy_file: Option<PathBuf>,
    /// The policy that istio-csr's flags amount to, as the text of a policy file.
    pub policy_text: Option<Arc<str>>,
    /// Istio's configuration, if the policy follows it.
    pub istio: Option<IstioConfig>,
    /// The trust domain, if the settings say one.
    pub trust_domain: Option<TrustDomain>,
    /// Our place in a cluster, if there is one.
    pub kubernetes: Option<KubernetesConfig>,
    /// Who is let in.
    pub authn: AuthnConfig,
    /// What is let in at once.
    pub limits: LimitsConfig,
    /// How long a request may take, from its arrival to its answer.
    pub signer_timeout: Duration,
    /// Where each server listens.
    pub listen: ListenConfig,
    /// Where the serving certificate comes from.
    pub serving: ServingSource,
    /// What its listener speaks.
    pub tls: TlsProfile,
    /// Where the replicas elect their leader.
    pub leader: LeaderConfig,
    /// Which namespaces get the roots of the control plane.
    pub roots: RootsConfig,
    /// istiod's certificate, if that is our business.
    pub istiod: Option<IstiodSettings>,
    /// How long requests in flight may take when stopping.
    pub drain_timeout: Duration,
    /// Where the bound addresses are written.
    pub addresses_file: Option<PathBuf>,
    /// How to log.
    pub log: LogConfig,
    /// What was set and does nothing, in the words of the log.
    pub without_effect: Vec<String>,
}

/// What the command line asks for.
#[derive(Debug)]
pub enum Command {
    /// Run with this.
    Run(Box<Config>),
    /// Print this and exit.
    Print(String),
    /// Say whether the agent's driver is in use, and exit.
    InUse(InUse),
}

/// Why the command line cannot be obeyed.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A flag of istio-csr that we do not have.
    #[error(transparent)]
    Refused(#[from] RefusedFlag),
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
        let line: Vec<std::ffi::OsString> = line.into_iter().map(Into::into).collect();
        if line.get(1).is_some_and(|word| word == in_use::COMMAND) {
            return Ok(Self::InUse(InUse::try_parse_from(line.iter().skip(1))?));
        }
        let command = settings::command::<Args>();
        let matches = command
            .clone()
            .try_get_matches_from(line)
            .map_err(|error| match RefusedFlag::of(&error) {
                Some(refused) => ConfigError::Refused(refused),
                None => ConfigError::Usage(error),
            })?;
        let args = Args::from_arg_matches(&matches)?;
        let config = Config::check(&args, &matches, &command)?;
        if let Some(policy) = config.policy_text.as_deref().filter(|_| args.print_policy) {
            return Ok(Self::Print(policy.trim_end().to_owned()));
        }
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
        let policy_file = args.policy_file.as_deref().filter(|path| !path.is_empty());
        let kubernetes = args.kubernetes.check(c, args.tokens.has_jwks_file());
        // A cluster whose settings are wrong counts as one: that mistake was noted already.
        let has_kubernetes = !matches!(kubernetes, Ok(None));
        let has_policy = policy_file.is_some() || IstioCsrArgs::are_used(matches);
        let mesh = args.mesh.check(c, has_policy, has_kubernetes);
        let beside = Beside {
            policy_file: policy_file.is_some(),
            istio: mesh.as_ref().is_some_and(|mesh| mesh.istio.is_some()),
            kubernetes: has_kubernetes,
            trust_domain: mesh.as_ref().and_then(|mesh| mesh.trust_domain.as_ref()),
        };
        let policy_text = args.istio_csr.check(c, matches, beside);
        if args.print_policy && policy_text.as_ref().is_ok_and(Option::is_none) {
            let why = "only these flags amount to a policy";
            c.refuse("print_policy", "true", "istio-csr's flags, such as --issuer-name", why);
        }
        let authn = args.tokens.check(c, has_kubernetes);
        let listen = args.listen.check(c, matches);
        let serving = args.serving.check(c);
        let tls = args.serving_tls.check(c);
        let leader = args.leader.check(c);
        let roots = args.distribution.check(c);
        let istio_namespace = kubernetes
            .as_ref()
            .ok()
            .and_then(|config| Some(config.as_ref()?.istio_namespace.clone()));
        // Mistakes of the cluster's settings were noted already.
        let istio_namespace = istio_namespace.or_else(|| has_kubernetes.then(|| "istio-system".to_owned()));
        let provider = mesh.as_ref().and_then(|mesh| mesh.istiod_signer.as_ref());
        let istiod = args.istiod.check(c, istio_namespace.as_deref(), provider);
        let limits = args.limits.check(c);
        let signer_timeout = positive(c, "signer_timeout", &args.signer_timeout);
        let drain_timeout = duration(c, "drain_timeout", &args.drain_timeout, GoDuration::not_negative);
        let log = args.log.check(c);
        let without_effect = args.without_effect.check(c);
        let config = (|| {
            let mesh = mesh?;
            Some(Self {
                policy_file: policy_file.map(PathBuf::from),
                policy_text: policy_text.ok()?,
                istio: mesh.istio,
                trust_domain: mesh.trust_domain,
                kubernetes: kubernetes.ok()?,
                authn: authn?,
                limits: limits?,
                signer_timeout: signer_timeout?,
                listen: listen?,
                serving: serving?,
                tls: tls?,
                leader: leader?,
                roots: roots?,
                istiod: istiod.ok()?,
                drain_timeout: drain_timeout?,
                addresses_file: args.addresses_file.as_ref().map(PathBuf::from),
                log: log?,
                without_effect,
            })
        })();
        checker.finish(config)
    }
}

#[cfg(test)]
mod tests;
