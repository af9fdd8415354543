//! The operator's policy decides: a wish for a forbidden signer waits, and a policy that forbids a signer stops renewals
//! but takes nothing away.

use anyhow::{Context, ensure};
use serde_json::Value;

use super::Mesh;
use crate::{load::Load, story::Story, wait, world::World};

/// What the RA says to anybody whom it denies a certificate. It must tell nothing of the policy.
const OPAQUE: &str = "the caller may not have this certificate";

/// A second Envoy on the socket of `httpbin` wishes for `bar`, which foo may not use.
pub async fn a_forbidden_wish_waits_and_harms_nobody(
    world: &mut World,
    mesh: &Mesh,
    story: &mut Story,
) -> anyhow::Result<()> {
    let before = world.issued("httpbin").len();
    let mut spec = world.envoy("httpbin")?.signer("bar");
    "httpbin-wishing-bar".clone_into(&mut spec.name);
    let wishing = world.start_envoy(spec.serving()).await?;
    let refused = |line: &str| {
        line.contains("certificate not issued") && line.contains("fixed/httpbin") && line.contains("\"signer\":\"bar\"")
    };
    let line = world
        .agent()
        .log()
        .wait("that the wish for bar was refused", refused)
        .await?;
    ensure!(
        line.contains(OPAQUE),
        "the agent was told more than it may know: {line}"
    );
    ensure!(
        wishing.admin().ready().await.is_err(),
        "the Envoy that wished for bar is ready"
    );
    mesh.httpbin.ready().await?;
    world.issued_at_least("httpbin", before + 1).await?;
    story.claim(
        "an Envoy that wishes for a signer that it may not use waits, and the one beside it is renewed as before",
        &format!("its /ready fails, the RA told the agent only: {OPAQUE}"),
    );
    Ok(())
}

/// The operator takes `foo` away from namespace foo. Renewals are refused; certificates stay.
pub async fn a_policy_that_forbids_the_signer_withdraws_nothing(
    world: &mut World,
    mesh: &Mesh,
    story: &mut Story,
) -> anyhow::Result<()> {
    let load = Load::start(mesh.sleep.outbound("httpbin")?, 2);
    let (ra_mark, agent_mark) = (world.ra().log().mark(), world.agent().log().mark());
    for rule in &mut world.spec_mut().rules {
        rule.signers = vec!["bar".to_owned()];
    }
    world.write_policy()?;
    let of_foo = |line: &str| line.contains("request refused") && line.contains("\"namespace\":\"foo\"");
    let line = world
        .ra()
        .log()
        .wait_after(ra_mark, "a refused request of foo", of_foo)
        .await?;
    let refusal: Value = serde_json::from_str(&line).context("the RA's log line is no JSON")?;
    ensure!(
        refusal["code"] == "PermissionDenied",
        "refused with another code: {line}"
    );
    let not_issued = |line: &str| line.contains("certificate not issued") && line.contains("fixed/httpbin");
    let line = world
        .agent()
        .log()
        .wait_after(agent_mark, "a refused renewal of httpbin", not_issued)
        .await?;
    ensure!(
        line.contains(OPAQUE),
        "the agent was told more than it may know: {line}"
    );

    let held = world
        .issued("httpbin")
        .pop()
        .context("httpbin never had a certificate")?;
    wait::until_true("httpbin to hold its last certificate", wait::PATIENCE, async || {
        Ok(mesh
            .httpbin
            .admin()
            .leaf_serials()
            .await?
            .iter()
            .all(|serial| *serial == held))
    })
    .await?;
    wait::until_true("load afterwards", wait::PATIENCE, async || {
        let report = load.report();
        Ok(report.failed > 0 || report.server_serials.get(&held).is_some_and(|seen| *seen > 20))
    })
    .await?;
    let report = load.stop().await;
    report.check_flawless()?;
    story.claim(
        "a policy that forbids foo stops its renewals and withdraws nothing",
        &format!(
            "RA: code PermissionDenied, reason {}; httpbin serves serial {held} on, {} requests, 0 failed",
            refusal["reason"], report.ok
        ),
    );
    Ok(())
}
