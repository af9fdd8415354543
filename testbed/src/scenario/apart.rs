//! Signers are kept apart: workloads of one signer talk, workloads of two do not.
//!
//! A refusal counts only if it is for the root: the client pins the peer's real id, so a refusal for the name would prove
//! nothing.

use anyhow::{bail, ensure};
use http::Method;

use super::Mesh;
use crate::{
    envoy::Envoy,
    load::Load,
    story::Story,
    wait::{self, PATIENCE},
    world::World,
};

/// foo → foo works and both see each other's real certificate; foo → bar and bar → foo are refused.
pub async fn signers_are_kept_apart(world: &World, mesh: &Mesh, story: &mut Story) -> anyhow::Result<()> {
    story.chapter("Workloads of one signer talk, workloads of two do not");
    one_request_works(world, &mesh.sleep, "httpbin", story).await?;
    request_is_refused_for_the_root(world, &mesh.sleep, &mesh.ratings, story).await?;
    request_is_refused_for_the_root(world, &mesh.ratings, &mesh.httpbin, story).await
}

/// Some requests of `client` to `server` succeed, and the certificates seen on the wire are those that were issued.
pub async fn one_request_works(world: &World, client: &Envoy, server: &str, story: &mut Story) -> anyhow::Result<()> {
    let load = Load::start(client.outbound(server)?, 1);
    wait::until_true("a few requests", PATIENCE, async || {
        Ok(load.report().ok + load.report().failed >= 5)
    })
    .await?;
    let report = load.stop().await;
    report.check_flawless()?;
    let id = world.id(client.name())?;
    ensure!(
        report.client_ids.keys().eq([&id]),
        "{server} saw {:?} instead of {id}",
        report.client_ids
    );
    for (workload, seen) in [
        (client.name(), &report.client_serials),
        (server, &report.server_serials),
    ] {
        let issued = world.issued(workload);
        if let Some(stray) = seen.keys().find(|serial| !issued.contains(*serial)) {
            bail!("{workload} showed serial {stray}, which was never issued to it: {issued:?}");
        }
    }
    story.claim(
        &format!(
            "{} → {server}: mTLS works, and each sees the other's real identity",
            client.name()
        ),
        &format!(
            "{} requests with status 200; {server} saw {id}, serial {}; {} saw serial {}",
            report.ok,
            list(report.client_serials.keys()),
            client.name(),
            list(report.server_serials.keys()),
        ),
    );
    Ok(())
}

/// `client` pins the real id of `server`, and refuses its certificate because of the root.
pub async fn request_is_refused_for_the_root(
    world: &World,
    client: &Envoy,
    server: &Envoy,
    story: &mut Story,
) -> anyhow::Result<()> {
    let (from, to) = (client.name(), server.name());
    let error = format!("cluster.{to}.ssl.fail_verify_error");
    let san = format!("cluster.{to}.ssl.fail_verify_san");
    let before = client.admin().stats().await?;
    let id = world.id(to)?;
    let loaded = server.admin().certificates().await?;
    ensure!(
        loaded.iter().any(|entry| entry.uris == [id.clone()]),
        "{to} does not have the id {id}, which {from} pins"
    );

    let answer = crate::http::request(client.outbound(to)?, Method::GET, "/", &[]).await?;
    ensure!(
        !answer.status.is_success(),
        "{from} → {to} answered {}: signers are not kept apart",
        answer.status
    );
    ensure!(
        answer.body.contains("CERTIFICATE_VERIFY_FAILED"),
        "{from} → {to} failed for another reason: {}",
        answer.body.trim()
    );
    let after = client.admin().stats().await?;
    let refused = after.get(&error) - before.get(&error);
    ensure!(
        refused > 0,
        "{from} → {to} failed, but not for the root: {:?}",
        after.matching(&format!("cluster.{to}.ssl."))
    );
    ensure!(
        after.get(&san) == 0,
        "{from} → {to} failed for the name: {:?}",
        after.matching(&san)
    );
    story.claim(
        &format!("{from} → {to}: refused for the signer, although the name is right ({id})"),
        &format!("status {}; {error} +{refused}, {san} 0", answer.status.as_u16()),
    );
    Ok(())
}

fn list<'a>(serials: impl Iterator<Item = &'a String>) -> String {
    serials.map(String::as_str).collect::<Vec<_>>().join(" ")
}
