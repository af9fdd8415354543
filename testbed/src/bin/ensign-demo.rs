//! `make demo`: the end-to-end story with narration, on this machine, with real Envoys.
//!
//! Ends by itself, with a code other than 0 if any claim did not hold. Ctrl-C ends it early and leaves nothing behind: no
//! process, no file.

use std::{process::ExitCode, sync::Arc};

use anyhow::Context;
use clap::Parser;
use ensign_testbed::{
    folder::Folder,
    scenario::{self, Mesh},
    story::Story,
    world::{World, WorldSpec},
};
use tokio::signal::unix::{SignalKind, signal};

/// Real Envoys speak mTLS with certificates that our RA issued for keys that our agent made.
#[derive(Debug, Parser)]
struct Args {
    /// Renewals on each side under load
    #[arg(long, default_value_t = 100)]
    rotations: usize,
}

#[tokio::main]
#[expect(clippy::print_stderr, reason = "a person reads how it ended")]
async fn main() -> ExitCode {
    let args = Args::parse();
    match run(&args).await {
        Ok(claims) => {
            Story::default().chapter(&format!("All {claims} claims held. Nothing is left behind."));
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("\n ✗ {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: &Args) -> anyhow::Result<usize> {
    let folder = Arc::new(Folder::new()?);
    let mut stop = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    tokio::select! {
        told = story(args, Arc::clone(&folder)) => return told,
        _ = tokio::signal::ctrl_c() => {}
        _ = stop.recv() => {}
    }
    // Whoever stops it does not want to read logs; by now every process is dead and reaped.
    folder.discard();
    anyhow::bail!("stopped; nothing is left behind")
}

async fn story(args: &Args, folder: Arc<Folder>) -> anyhow::Result<usize> {
    let mut story = Story::default();
    story.chapter("One node: our RA with the signers foo and bar, our agent with three workloads");
    let spec = WorldSpec::foo_and_bar(&scenario::WORKLOADS).rotating_every("500ms");
    let mut world = World::start_in(folder, spec).await?;
    story.tell(&format!(
        "RA: process {}, {}",
        world.ra().pid()?,
        world.ra_address("grpc")?
    ));
    story.tell(&format!(
        "agent: process {}, one socket for each workload",
        world.agent().pid()?
    ));
    story.tell(&format!(
        "its page, while this runs: http://{}/status",
        world.agent_address("status")?
    ));
    story.tell("certificates live for an hour, and are renewed about every half second to give us something to watch");

    let mesh = Mesh::start(&world, &mut story).await?;
    scenario::apart::signers_are_kept_apart(&world, &mesh, &mut story).await?;
    scenario::rotation::rotation_under_load(&world, &mesh, args.rotations, &mut story).await?;

    drop(mesh);
    world.finish().await?;
    Ok(story.claims())
}
