//! `make bench`, `make bench-node` and `make bench-kubernetes`: figures of the release build, against limits measured in the same run, into
//! docs/performance.md.
//!
//! One module for each figure; each starts the real programs through `testbed` and its clients as processes of their
//! own (this program again, in a hidden role). Raw and measured rounds alternate, and medians are quoted, because
//! machines are noisy. Ends with a code other than 0 if a stream, a secret or a certificate is missing, never because of a
//! time.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a benchmark driver reads files, clocks and its environment; nothing waits on its threads"
)]

mod authority;
mod csr;
mod envoys;
mod first_secret;
mod issue;
mod kubernetes;
mod machine;
mod node;
mod peer;
mod proc;
mod provider;
mod report;
mod scale;
mod sds;
mod stats;
mod wire;

use std::path::Path;
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};

use self::machine::Machine;
use self::report::Table;

/// Measures Ensign on this machine and writes docs/performance.md.
#[derive(Debug, Parser)]
struct Args {
    /// Only these figures; docs/performance.md is left alone
    #[arg(long, value_enum)]
    only: Vec<Figure>,
    /// Small sizes, to see that it works; docs/performance.md is left alone
    #[arg(long, env = "ENSIGN_BENCH_QUICK", value_parser = clap::builder::FalseyValueParser::new())]
    quick: bool,
    #[command(subcommand)]
    role: Option<Role>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Figure {
    Csr,
    Issue,
    FirstSecret,
    Envoys,
}

/// What is not one of the figures: those of a node and on a cluster, and client processes.
#[derive(Clone, Debug, Subcommand)]
enum Role {
    /// Measures the RA on a real Kubernetes (needs `make kubernetes`)
    Kubernetes(kubernetes::Wishes),
    /// Measures what a node's pods notice of their agent (needs Go)
    Node,
    #[command(hide = true)]
    ClientRequests,
    #[command(hide = true)]
    ClientOpens,
    #[command(hide = true)]
    ClientEnvoys,
    #[command(hide = true)]
    ClientDirect,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let done = match &args.role {
        None => measure(figures(&args)),
        Some(Role::Kubernetes(wishes)) => measure(on_kubernetes(&args, wishes)),
        Some(Role::Node) => measure(on_a_node(&args)),
        Some(Role::ClientRequests) => client(issue::client::run()),
        Some(Role::ClientOpens) => client(first_secret::client::run()),
        Some(Role::ClientEnvoys) => client(envoys::client::run()),
        Some(Role::ClientDirect) => client(kubernetes::direct::client::run()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            fail(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Clients have one thread: what is measured shall find processors.
fn client(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(work)
}

fn measure(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        tokio::select! {
            done = work => done,
            _ = tokio::signal::ctrl_c() => anyhow::bail!("stopped"),
        }
    })
}

async fn figures(args: &Args) -> anyhow::Result<()> {
    let scale = scale(args);
    let mut told = Told::begin()?;
    let wanted = |figure| args.only.is_empty() || args.only.contains(&figure);
    for figure in Figure::value_variants()
        .iter()
        .copied()
        .filter(|figure| wanted(*figure))
    {
        told.tell(&match figure {
            Figure::Csr => tokio::task::block_in_place(|| csr::run(&scale))?,
            Figure::Issue => issue::run(&scale).await?,
            Figure::FirstSecret => first_secret::run(&scale).await?,
            Figure::Envoys => envoys::run(&scale).await?,
        });
    }
    told.end("make bench", !args.quick && args.only.is_empty())
}

async fn on_kubernetes(args: &Args, wishes: &kubernetes::Wishes) -> anyhow::Result<()> {
    let mut told = Told::begin()?;
    kubernetes::run(&scale(args), wishes, |table| told.tell(&table)).await?;
    told.end("make bench-kubernetes", !args.quick && wishes.are_whole())
}

async fn on_a_node(args: &Args) -> anyhow::Result<()> {
    let mut told = Told::begin()?;
    node::run(&scale(args), |table| told.tell(&table)).await?;
    told.end("make bench-node", !args.quick)
}

fn scale(args: &Args) -> scale::Scale {
    if args.quick { scale::QUICK } else { scale::FULL }
}

/// What was told so far, and the machine as it was when it began.
struct Told {
    machine: Machine,
    sections: Vec<String>,
}

// === impl Told ===

impl Told {
    fn begin() -> anyhow::Result<Self> {
        Ok(Self {
            machine: Machine::look()?,
            sections: Vec::new(),
        })
    }

    fn tell(&mut self, table: &Table) {
        let text = table.markdown();
        say(&text);
        self.sections.push(text);
    }

    /// Says what machine it was, and keeps it all if it was the whole of it.
    fn end(mut self, command: &str, whole: bool) -> anyhow::Result<()> {
        let mut facts = Table::new("Machine", String::new(), &["what", "value"]);
        for (what, value) in self.machine.facts()? {
            facts.row([what.to_owned(), value]);
        }
        self.tell(&facts);
        self.sections.rotate_right(1);
        if whole {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/performance.md");
            report::write(&path, command, &self.sections.join("\n"))?;
        }
        Ok(())
    }
}

#[expect(clippy::print_stdout, reason = "the figures are the output of the program")]
fn say(text: &str) {
    println!("{text}");
}

#[expect(clippy::print_stderr, reason = "a person reads why it failed")]
fn fail(text: &str) {
    eprintln!("ensign-bench: {text}");
}
