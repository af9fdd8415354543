//! `make demo`: the end-to-end story with narration, on this machine, with real Envoys.
//!
//! Ends by itself, with a code other than 0 if any claim did not hold. Ctrl-C ends it early and leaves nothing behind: no
//! process, no file.

use std::{process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context;
use clap::Parser;
use ensign_testbed::{
    folder::Folder,
    scenario::{self, Mesh},
    story::Story,
    world::{World, WorldSpec},
};
use tokio::signal::unix::{SignalKind, signal};

/// When certificates of the second part are due: late enough for an agent to come back first.
const DUE: Duration = Duration::from_secs(30);

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
    // Listened to from the start: a signal that comes before would leave the first folder behind.
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let folders = [Arc::new(Folder::new()?), Arc::new(Folder::new()?)];
    tokio::select! {
        // Ctrl-C reaches our children too; that they end is then no failure of the story.
        biased;
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        told = story(args, &folders) => {
            // If it failed, the reader wants the logs of the world that failed, not an empty folder.
            for folder in folders.iter().filter(|folder| folder.is_empty()) {
                folder.discard();
            }
            return told;
        }
    }
    // Whoever stops it does not want to read logs; by now every process is dead and reaped.
    for folder in &folders {
        folder.discard();
    }
    anyhow::bail!("stopped; nothing is left behind")
}

async fn story(args: &Args, [quick, slow]: &[Arc<Folder>; 2]) -> anyhow::Result<usize> {
    let mut story = Story::default();
    rotation_and_policy(args, Arc::clone(quick), &mut story).await?;
    failures(Arc::clone(slow), &mut story).await?;
    Ok(story.claims())
}

/// Certificates are renewed without pause: signers, rotation under load, policy.
async fn rotation_and_policy(args: &Args, folder: Arc<Folder>, story: &mut Story) -> anyhow::Result<()> {
    story.chapter("One node: our RA with the signers foo and bar, our agent with three workloads");
    let spec = WorldSpec::foo_and_bar(&scenario::WORKLOADS).rotating_every("500ms");
    let mut world = World::start_in(folder, spec).await?;
    introduce(&mut world, story)?;
    story.tell("certificates live for an hour, and are renewed about every half second to give us something to watch");

    let mesh = Mesh::start(&world, story).await?;
    scenario::apart::signers_are_kept_apart(&world, &mesh, story).await?;
    scenario::rotation::rotation_under_load(&world, &mesh, args.rotations, story).await?;
    story.chapter("The operator's policy decides who may use which signer");
    scenario::policy::a_forbidden_wish_waits_and_harms_nobody(&mut world, &mesh, story).await?;
    scenario::policy::a_policy_that_forbids_the_signer_withdraws_nothing(&mut world, &mesh, story).await?;
    drop(mesh);
    world.finish().await
}

/// Certificates are due so late that something can fail in between: the agent, then the RA.
async fn failures(folder: Arc<Folder>, story: &mut Story) -> anyhow::Result<()> {
    story.chapter("The same once more, with certificates that are due after half a minute, because now parts fail");
    let spec = WorldSpec::foo_and_bar(&scenario::WORKLOADS).renewing_after(DUE);
    let mut world = World::start_in(folder, spec).await?;
    introduce(&mut world, story)?;
    let mesh = Mesh::start(&world, &mut Story::silent()).await?;
    scenario::restart::agent_is_killed_and_comes_back(&mut world, &mesh, story).await?;
    scenario::outage::ra_is_away_when_renewals_are_due(&mut world, &mesh, story).await?;
    drop(mesh);
    world.finish().await
}

fn introduce(world: &mut World, story: &mut Story) -> anyhow::Result<()> {
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
    Ok(())
}
