//! The mesh's promise, between pods of two nodes: workloads of one signer talk, workloads of two do not.
//!
//! Every Envoy is in a pod, on the socket that kubelet mounted. Peers are found by their Services' names (CoreDNS) and reached
//! by their cluster IPs (kube-proxy); so is the RA, by the agents. Which of the ways to name a signer counts before which is
//! `choice`'s.

use anyhow::{Context, ensure};
use ensign_testbed::envoy::EnvoySpec;
use ensign_testbed::envoy::{Admin, PEER_URI};
use ensign_testbed::http::{Answer, get};
use ensign_testbed::wait::{PATIENCE, until};
use serde_json::json;

use crate::asked;
use crate::mesh::Mesh;
use crate::workload::{Proxy, Workload, id};

#[tokio::test(flavor = "multi_thread")]
async fn pods_of_one_signer_talk_between_nodes_and_pods_of_two_do_not() -> anyhow::Result<()> {
    let mesh = Mesh::join().await?;
    let foo = mesh.namespace_with("foo", "foo").await?;
    let bar = mesh.namespace_with("bar", "bar").await?;
    let host = |name: &str, namespace: &str| format!("{name}.{namespace}.svc.cluster.local");

    // By the volume's attribute; by the RA's default for the namespace; by the proxy's metadata.
    let httpbin = Workload::new(&foo, "httpbin")
        .on("node2")
        .attributes(json!({ "signer": "foo" }));
    let ratings = Workload::new(&bar, "ratings").on("node1");
    let sleep = Workload::new(&foo, "sleep").on("node1");
    let httpbin = mesh.proxy(httpbin, EnvoySpec::serving).await?;
    let ratings = mesh
        .proxy(ratings, |envoy| {
            let envoy = envoy.serving();
            envoy.calling_by_name("httpbin", &host("httpbin", &foo), 80, &id(&foo))
        })
        .await?;
    let sleep = mesh
        .proxy(sleep, |envoy| {
            let envoy = envoy.signer("foo");
            let envoy = envoy.calling_by_name("httpbin", &host("httpbin", &foo), 80, &id(&foo));
            envoy.calling_by_name("ratings", &host("ratings", &bar), 80, &id(&bar))
        })
        .await?;
    ensure!(
        mesh.node_of(&sleep.pod)?.name() != mesh.node_of(&httpbin.pod)?.name(),
        "both are on one node"
    );

    let answer = answered(&sleep, 0).await?;
    ensure!(
        answer.status.is_success(),
        "sleep → httpbin: {} {}",
        answer.status,
        answer.body
    );
    let seen = answer
        .headers
        .get(PEER_URI)
        .context("httpbin saw no client certificate")?;
    ensure!(seen.to_str()? == sleep.id, "httpbin saw {seen:?}, not {}", sleep.id);
    by_cluster_ip(&sleep.admin, "httpbin").await?;

    refused_for_the_root(&sleep, 1, "ratings").await?;
    refused_for_the_root(&ratings, 0, "httpbin").await?;

    // Neither agent spoke to the API server since there is one.
    asked::nothing(&mesh).await?;
    asked::would_be_seen(&mesh, mesh.node_of(&sleep.pod)?).await?;
    mesh.finish().await
}

/// The answer, once DNS has told the peer's address and kube-proxy knows the way.
pub(crate) async fn answered(client: &Proxy, upstream: u16) -> anyhow::Result<Answer> {
    until("the way to the peer", PATIENCE, async || {
        let answer = client.call(upstream).await?;
        let unreached = answer.body.contains("no healthy upstream") || answer.body.contains("Connection refused");
        ensure!(!unreached, "{} {}", answer.status, answer.body);
        Ok(answer)
    })
    .await
}

/// The client pins the peer's real id, so a refusal for the name would prove nothing.
async fn refused_for_the_root(client: &Proxy, upstream: u16, peer: &str) -> anyhow::Result<()> {
    let answer = answered(client, upstream).await?;
    ensure!(
        !answer.status.is_success() && answer.body.contains("CERTIFICATE_VERIFY_FAILED"),
        "a call of {peer} was answered with {}: {}",
        answer.status,
        answer.body
    );
    let stats = client.admin.stats().await?;
    let count = |what: &str| stats.get(&format!("cluster.{peer}.ssl.{what}"));
    ensure!(
        count("fail_verify_error") > 0 && count("fail_verify_san") == 0,
        "not for the root: {:?}",
        stats.matching(".ssl.fail")
    );
    Ok(())
}

/// The name led to the Service, not to a pod.
async fn by_cluster_ip(admin: &Admin, upstream: &str) -> anyhow::Result<()> {
    let clusters = get(admin.address(), "/clusters").await?;
    let prefix = format!("{upstream}::10.96.");
    ensure!(clusters.lines().any(|line| line.starts_with(&prefix)), "{clusters}");
    Ok(())
}
