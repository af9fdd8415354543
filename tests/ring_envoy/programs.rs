//! Both programs as processes, without a real Envoy: how they end, and what a thousand workloads leave behind.

use std::{fs, time::Duration};

use anyhow::{Context, ensure};
use ensign_testbed::{
    wait::{self, PATIENCE},
    world::{Workload, World, WorldSpec},
};
use ensign_testkit::{FakeEnvoy, fake_envoy::StalledEnvoy};
use rustix::process::Signal;

/// Workloads that come and go in one round, and rounds: a thousand in all.
const AT_ONCE: usize = 50;
const ROUNDS: usize = 20;

/// What the agent's memory may grow by while 750 workloads come and go, after 250 have. One entry with its key,
/// certificate, bundle, socket and series costs some 50 kB, so a leak of a tenth of it shows.
const GROWTH_KB: u64 = 3_500;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signal_ends_both_programs_well_and_their_sockets_go() -> anyhow::Result<()> {
    let mut world = World::start(WorldSpec::foo_and_bar(&[("foo", "httpbin")])).await?;
    let socket = world.socket("httpbin");
    let envoy = FakeEnvoy::connect(&socket).await?.with_cert_signer("foo");
    let mut stream = envoy.subscribe(&["default"]).await;
    stream.next_secret(PATIENCE).await;

    let status = world.agent().terminate().await?;
    ensure!(status.success(), "the agent ended with {status}");
    ensure!(fs::symlink_metadata(&socket).is_err(), "its socket is left");
    let status = world.ra().terminate().await?;
    ensure!(status.success(), "the RA ended with {status}");
    world.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_signal_ends_the_agent_at_once() -> anyhow::Result<()> {
    let mut world = World::start(WorldSpec::foo_and_bar(&[("foo", "httpbin")])).await?;
    let socket = world.socket("httpbin");
    let node = FakeEnvoy::connect(&socket).await?.with_cert_signer("foo").node();
    // A peer that does not read keeps the drain waiting.
    let _stalled = StalledEnvoy::connect(&socket, &node, &["default", "ROOTCA"]).await?;
    let agent = world.agent();
    // Two signals that are there at the same time, so that the second cannot come after the drain.
    agent.signal(Signal::STOP)?;
    agent.signal(Signal::TERM)?;
    agent.signal(Signal::INT)?;
    agent.signal(Signal::CONT)?;
    let status = agent.ended(PATIENCE).await?;
    ensure!(!status.success(), "ended with {status}");
    let log = agent.log().tail();
    ensure!(log.contains("second signal"), "its last lines:\n{log}");
    world.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_workloads_leave_no_memory_and_no_descriptor() -> anyhow::Result<()> {
    let mut world = World::start(WorldSpec::foo_and_bar(&[("foo", "stays")])).await?;
    let pid = world.agent().pid()?;
    let mut early = None;
    for round in 0..ROUNDS {
        let stays = world.spec_mut().workloads[0].clone();
        let names: Vec<String> = (0..AT_ONCE).map(|n| format!("w{round}-{n}")).collect();
        world.spec_mut().workloads.extend(names.iter().map(|name| Workload {
            name: name.clone(),
            ..stays.clone()
        }));
        world.write_workloads()?;
        for name in &names {
            let envoy = wait::until(name, PATIENCE, async || FakeEnvoy::connect(world.socket(name)).await).await?;
            let mut stream = envoy.with_cert_signer("foo").subscribe(&["default"]).await;
            stream.next_secret(PATIENCE).await;
        }
        world.spec_mut().workloads.truncate(1);
        world.write_workloads()?;
        wait::until("the sockets to go", PATIENCE, async || {
            for name in &names {
                ensure!(fs::symlink_metadata(world.socket(name)).is_err(), "{name} is there");
            }
            Ok(())
        })
        .await?;
        if round == ROUNDS / 4 - 1 {
            early = Some((resident_kb(pid)?, settled(pid, None).await?));
        }
    }
    let (memory, descriptors) = early.context("no early look")?;
    settled(pid, Some(descriptors)).await?;
    let grown = resident_kb(pid)?.saturating_sub(memory);
    ensure!(grown < GROWTH_KB, "the agent grew by {grown} kB from {memory} kB");
    world.finish().await
}

/// Descriptors of a process, once they are no more than `most`.
async fn settled(pid: u32, most: Option<usize>) -> anyhow::Result<usize> {
    wait::until("descriptors to be closed", Duration::from_secs(30), async || {
        let open = fs::read_dir(format!("/proc/{pid}/fd"))?.count();
        ensure!(most.is_none_or(|most| open <= most), "{open} open, expected {most:?}");
        Ok(open)
    })
    .await
}

/// Resident memory of a process.
fn resident_kb(pid: u32) -> anyhow::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .context("no VmRSS")?;
    let number = line.split_whitespace().nth(1).context("no figure")?;
    Ok(number.parse()?)
}
