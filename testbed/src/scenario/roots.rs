//! The root of a signer is replaced under load, across two nodes.
//!
//! In order (both roots to everybody, then the new CA, then the old root goes) no request fails. Out of order requests
//! must fail: that control run shows that the harness can see what the ordered run claims to avoid.

use std::collections::BTreeSet;

use anyhow::{Context, ensure};
use rustix::process::Signal;

use crate::{
    envoy::Envoy,
    load::Load,
    serial,
    story::Story,
    wait::{self, PATIENCE},
    world::{Signer, World, WorldSpec},
};

/// The file of foo's roots, once it is not just its CA's own.
const ROOTS: &str = "roots-foo.pem";

/// The same, but both CAs are the operator's, and their roots have one subject.
pub fn two_nodes_and_twin_roots() -> WorldSpec {
    let mut spec = two_nodes();
    for signer in &mut spec.signers {
        if signer.name.starts_with("foo") {
            *signer = signer.clone().plugged_in("One root");
        }
    }
    spec
}

/// Two Envoys of foo, each on a node of its own.
#[derive(Debug)]
pub struct Pair {
    /// Serves; on the first node.
    pub httpbin: Envoy,
    /// Calls it; on the second node.
    pub sleep: Envoy,
}

/// The world of these scenarios: quick renewals, and a second CA that exists but signs for nobody yet.
pub fn two_nodes() -> WorldSpec {
    let mut spec = WorldSpec::foo_and_bar(&[("foo", "httpbin"), ("foo", "sleep")])
        .on_node(1, "sleep")
        .rotating_every("1s");
    spec.signers.push(Signer::new("foo-next", "ca-foo-next"));
    spec
}

// === impl Pair ===

impl Pair {
    /// Starts both and waits for their certificates.
    pub async fn start(world: &World) -> anyhow::Result<Self> {
        let httpbin = world.start_envoy(world.envoy("httpbin")?.serving()).await?;
        let sleep = world
            .envoy("sleep")?
            .calling("httpbin", httpbin.inbound()?, &world.id("httpbin")?);
        let sleep = world.start_envoy(sleep).await?;
        httpbin.ready().await?;
        sleep.ready().await?;
        Ok(Self { httpbin, sleep })
    }

    async fn trusts(&self, roots: &BTreeSet<String>) -> anyhow::Result<()> {
        for envoy in [&self.httpbin, &self.sleep] {
            wait::until(&format!("{} to trust {roots:?}", envoy.name()), PATIENCE, async || {
                for entry in envoy.admin().certificates().await? {
                    let trusted: BTreeSet<String> = entry.roots.into_iter().collect();
                    ensure!(trusted == *roots, "it trusts {trusted:?}");
                }
                Ok(())
            })
            .await?;
        }
        Ok(())
    }
}

/// Adds root 2, switches the CA, drops root 1, each step once everybody has taken the one before.
pub async fn ordered_root_rotation_fails_no_request(
    world: &mut World,
    pair: &Pair,
    story: &mut Story,
) -> anyhow::Result<()> {
    story.chapter("The root of foo is replaced under load, in order");
    let [(old, old_serial), (new, new_serial)] = [root(world, "ca-foo")?, root(world, "ca-foo-next")?];
    let load = Load::start(pair.sleep.outbound("httpbin")?, 2);

    world.folder().write(ROOTS, format!("{old}{new}"))?;
    foo(world)?.roots = Some(ROOTS.to_owned());
    world.write_policy()?;
    pair.trusts(&BTreeSet::from([old_serial.clone(), new_serial.clone()]))
        .await?;
    story.claim(
        "both roots reached both nodes",
        &format!("/certs of both Envoys: {old_serial}, {new_serial}"),
    );

    switch_ca(world)?;
    // The third from now was asked for after the reload, whatever was on its way.
    for workload in ["httpbin", "sleep"] {
        world
            .issued_at_least(workload, world.issued(workload).len() + 3)
            .await?;
    }

    world.folder().write(ROOTS, &new)?;
    pair.trusts(&BTreeSet::from([new_serial.clone()])).await?;
    let seen = load.report().ok;
    wait::until_true("load afterwards", PATIENCE, async || {
        let report = load.report();
        Ok(report.failed > 0 || report.ok > seen + 50)
    })
    .await?;
    let report = load.stop().await;
    report.check_flawless()?;
    story.claim(
        "the old root is gone, and no request failed",
        &format!(
            "/certs of both Envoys: {new_serial}; {} requests on connections of their own, 0 failed",
            report.ok
        ),
    );
    Ok(())
}

/// Switches CA and root at once while the second node cannot follow: requests fail, and heal once it can.
pub async fn an_unordered_switch_is_seen_to_fail(
    world: &mut World,
    pair: &Pair,
    story: &mut Story,
) -> anyhow::Result<()> {
    story.chapter("Control: the root of foo is replaced at once, and the harness sees requests fail");
    let (_, new_serial) = root(world, "ca-foo-next")?;
    let load = Load::start(pair.sleep.outbound("httpbin")?, 2);
    wait::until_true("load", PATIENCE, async || Ok(load.report().ok > 20)).await?;
    world.agent_on(1).signal(Signal::STOP)?;
    switch_ca(world)?;
    wait::until_true("failed requests", PATIENCE, async || Ok(load.report().failed > 0)).await?;
    let report = load.stop().await;
    story.claim(
        "requests failed, as they must",
        &format!(
            "{} of {}; the first: {}",
            report.failed,
            report.ok + report.failed,
            report.first_failure.unwrap_or_default()
        ),
    );

    world.agent_on(1).signal(Signal::CONT)?;
    pair.trusts(&BTreeSet::from([new_serial])).await?;
    world.issued_at_least("sleep", world.issued("sleep").len() + 2).await?;
    let load = Load::start(pair.sleep.outbound("httpbin")?, 2);
    wait::until_true("load afterwards", PATIENCE, async || {
        Ok(load.report().ok + load.report().failed > 20)
    })
    .await?;
    load.stop().await.check_flawless()
}

fn switch_ca(world: &mut World) -> anyhow::Result<()> {
    world.spec_mut().signers.retain(|signer| signer.name != "foo-next");
    "ca-foo-next".clone_into(&mut foo(world)?.ca);
    world.write_policy()
}

fn foo(world: &mut World) -> anyhow::Result<&mut Signer> {
    world
        .spec_mut()
        .signers
        .iter_mut()
        .find(|signer| signer.name == "foo")
        .context("no signer foo")
}

/// The root of a CA, as PEM and by serial.
fn root(world: &World, ca: &str) -> anyhow::Result<(String, String)> {
    let path = world.folder().join(ca).join("root-cert.pem");
    let pem = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let serial = serial::of_pem(&pem)?;
    Ok((pem, serial))
}
