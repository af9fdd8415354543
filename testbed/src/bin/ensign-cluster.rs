//! The process that holds a cluster: `make cluster` for a person, and the shared cluster of a test run.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use clap::{Parser, Subcommand};
use ensign_testbed::{
    cluster::{self, Offer},
    story::Story,
};

/// A real Kubernetes with cert-manager, our RA and workloads on this machine; with no command, one with a shell in it.
#[derive(Debug, Parser)]
struct Args {
    /// Tells several clusters of one checkout apart
    #[arg(long, default_value = "cluster")]
    name: String,
    /// Start a shell also without a terminal: it reads its commands from standard input, and the cluster ends with it
    #[arg(long)]
    shell: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// End the cluster that was started in this checkout
    Down,
    /// Hold a cluster for all tests of a run (they start it themselves)
    #[command(hide = true)]
    Shared {
        /// Where its users meet
        folder: PathBuf,
        /// Seconds without a user after which it ends
        idle: u64,
        /// With nodes
        #[arg(long)]
        nodes: bool,
    },
}

#[tokio::main]
#[expect(clippy::print_stderr, reason = "a person reads why it failed")]
async fn main() -> ExitCode {
    let mut story = Story::default();
    let args = Args::parse();
    let ended = match args.command {
        None => {
            let offer = if args.shell {
                Offer::Shell
            } else {
                Offer::for_terminals()
            };
            cluster::session(&args.name, offer, &mut story).await
        }
        Some(Command::Down) => cluster::down(&args.name, &mut story).await,
        Some(Command::Shared { folder, idle, nodes }) => {
            cluster::supervise(folder, Duration::from_secs(idle), nodes).await
        }
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ensign-cluster: {error:#}");
            ExitCode::FAILURE
        }
    }
}
