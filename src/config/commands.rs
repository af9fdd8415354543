//! The commands of people beside running the agent: their flags, and what they amount to.

use std::net::SocketAddr;
use std::path::PathBuf;

use ensign_daemon::settings::Problems;

use super::{Args, Config, check};

/// One command, its flags checked.
#[derive(Debug)]
pub enum Command {
    /// Print what the agent of this machine says.
    Status {
        /// Where it says it.
        address: SocketAddr,
        /// As JSON.
        json: bool,
    },
    /// Explain a pod.
    Explain {
        /// Which cluster.
        login: Login,
        /// Its namespace; none is the context's.
        namespace: Option<String>,
        /// Its name.
        pod: String,
        /// Where the agents are.
        agent_namespace: Option<String>,
        /// As JSON.
        json: bool,
    },
    /// Check this machine for an agent of these settings.
    PreflightLocal {
        /// The settings.
        config: Box<Config>,
        /// As JSON.
        json: bool,
    },
    /// Check a cluster.
    PreflightCluster {
        /// Which.
        login: Login,
        /// Where the agents are.
        agent_namespace: Option<String>,
        /// Where the RA is.
        ra_namespace: Option<String>,
        /// `NAMESPACE/NAME` of the account for which signers are asked.
        service_account: Option<String>,
        /// Which signers; none are all.
        signers: Vec<String>,
        /// As JSON.
        json: bool,
    },
}

/// Which cluster, and as whom.
#[derive(Clone, Debug, clap::Args)]
pub struct Login {
    /// Kubeconfig file; without it those of KUBECONFIG, else ~/.kube/config.
    #[arg(long, value_name = "PATH")]
    pub kubeconfig: Option<PathBuf>,

    /// Context of the kubeconfig; without it the current one.
    #[arg(long, value_name = "NAME")]
    pub context: Option<String>,
}

/// The commands as they are typed.
#[derive(Clone, Debug, clap::Subcommand)]
pub(super) enum Line {
    /// Print the certificates of this node, as its running agent tells them.
    #[command(after_help = STATUS_CODES)]
    Status(StatusLine),
    /// Say why a pod has no certificate and what to do about it, or until when it has one.
    #[command(after_help = CODES)]
    Explain(ExplainLine),
    /// Check what an agent needs, on this machine or in a cluster.
    #[command(after_help = CODES)]
    Preflight(Box<PreflightLine>),
}

#[derive(Clone, Debug, clap::Args)]
pub(super) struct StatusLine {
    /// Where the agent serves its status.
    #[arg(
        long,
        env = "ENSIGN_STATUS_ADDR",
        value_name = "IP:PORT",
        default_value = "127.0.0.1:9403"
    )]
    status_addr: SocketAddr,

    /// Form of what is printed.
    #[arg(short, long, value_name = "FORM", default_value = "text")]
    output: Form,
}

#[derive(Clone, Debug, clap::Args)]
pub(super) struct ExplainLine {
    /// The pod's name.
    pod: String,

    /// The pod's namespace; without it the context's.
    #[arg(short, long, value_name = "NAME")]
    namespace: Option<String>,

    #[command(flatten)]
    login: Login,

    /// Namespace of the agents; without it all are looked through.
    #[arg(long, value_name = "NAME")]
    agent_namespace: Option<String>,

    /// Form of what is printed.
    #[arg(short, long, value_name = "FORM", default_value = "text")]
    output: Form,
}

#[derive(Clone, Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("where").required(true).args(["local", "cluster"]))]
pub(super) struct PreflightLine {
    /// Check this machine, as an agent with these settings does when it starts.
    #[arg(long)]
    local: bool,

    /// Check the cluster of a kubeconfig.
    #[arg(long)]
    cluster: bool,

    /// Form of what is printed.
    #[arg(short, long, value_name = "FORM", default_value = "text")]
    output: Form,

    #[command(flatten, next_help_heading = "With --cluster")]
    cluster_line: ClusterLine,

    #[command(flatten, next_help_heading = "With --local: the agent's settings")]
    settings: Args,
}

#[derive(Clone, Debug, clap::Args)]
struct ClusterLine {
    #[command(flatten)]
    login: Login,

    /// Namespace of the agents; without it all are looked through.
    #[arg(long, value_name = "NAME")]
    agent_namespace: Option<String>,

    /// Namespace of the RA; without it all are looked through.
    #[arg(long, value_name = "NAME")]
    ra_namespace: Option<String>,

    /// Have each signer issue a certificate for this account, and throw it away.
    #[arg(long, value_name = "NAMESPACE/NAME")]
    service_account: Option<String>,

    /// Signer to ask, instead of the default one and all of the policy file; may be repeated.
    #[arg(long = "signer", value_name = "NAME", requires = "service_account")]
    signers: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Form {
    /// For people.
    Text,
    /// For scripts.
    Json,
}

// === impl Line ===

impl Line {
    /// What it amounts to; settings are checked where they count.
    pub(super) fn read(self, command: &clap::Command, matches: &clap::ArgMatches) -> Result<Command, Problems> {
        Ok(match self {
            Self::Status(line) => Command::Status {
                address: line.status_addr,
                json: line.output == Form::Json,
            },
            Self::Explain(line) => Command::Explain {
                login: line.login,
                namespace: line.namespace,
                pod: line.pod,
                agent_namespace: line.agent_namespace,
                json: line.output == Form::Json,
            },
            Self::Preflight(line) => line.read(command, matches)?,
        })
    }
}

impl PreflightLine {
    fn read(self, command: &clap::Command, matches: &clap::ArgMatches) -> Result<Command, Problems> {
        let json = self.output == Form::Json;
        if self.cluster {
            let line = self.cluster_line;
            return Ok(Command::PreflightCluster {
                login: line.login,
                agent_namespace: line.agent_namespace,
                ra_namespace: line.ra_namespace,
                service_account: line.service_account,
                signers: line.signers,
                json,
            });
        }
        // The agent's flags are its own here.
        let own = command.find_subcommand(PREFLIGHT).unwrap_or(command);
        let given = matches.subcommand_matches(PREFLIGHT).unwrap_or(matches);
        let config = Box::new(check(own, given, self.settings)?);
        Ok(Command::PreflightLocal { config, json })
    }
}

const PREFLIGHT: &str = "preflight";
const CODES: &str = "Exit codes: 0 all is well, 1 something is wrong (it is named with its cause and fix), 2 something could not be looked at.";
const STATUS_CODES: &str =
    "Exit codes: 0 the agent is ready and no certificate fails, 1 it is not or one does, 2 no agent answered.";
