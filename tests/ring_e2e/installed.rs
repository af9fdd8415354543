//! What one `helm install --wait` has made of a strict cluster, and what it did not have to be told.

use anyhow::{Context, ensure};
use ensign_testbed::helm::Helm;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{ListParams, PostParams};
use serde_json::{Value, json};

use crate::install::{AGENTS, PAGE, RA, is_injected};
use crate::mesh::Mesh;
use crate::pod::condition;

#[tokio::test(flavor = "multi_thread")]
async fn one_helm_install_works_where_pod_security_is_strict_and_pods_are_injected() -> anyhow::Result<()> {
    let mesh = Mesh::join().await?;
    let helm = Helm::of(&mesh)?;
    let status = helm
        .run(&["status", "ensign", "--namespace", RA, "--output", "json"])
        .await?;
    let status: Value = serde_json::from_str(&status)?;
    ensure!(status["info"]["status"] == "deployed", "{}", status["info"]);

    // What Helm tells its user to type stands in the page, whose commands were typed.
    let notes = status["info"]["notes"].as_str().context("no notes")?;
    let commands: Vec<_> = notes
        .lines()
        .map(str::trim)
        .filter(|line| line.starts_with("kubectl label"))
        .collect();
    ensure!(commands.len() == 2, "{notes}");
    for command in commands {
        ensure!(
            PAGE.lines().any(|line| line == command),
            "docs/chart.md does not have: {command}"
        );
    }

    // The namespaces are injected (the installation saw it), our pods are not.
    for (namespace, wanted) in [(RA, 2), (AGENTS, 2)] {
        let pods = Api::<Pod>::namespaced(mesh.admin(), namespace);
        let pods = pods.list(&ListParams::default()).await?.items;
        let ready = pods.iter().filter(|pod| condition(pod, "Ready")).count();
        ensure!(
            ready == wanted && !pods.iter().any(is_injected),
            "{namespace} has {pods:?}"
        );
    }

    // Without the label of its namespace no agent would be, for hostPath alone.
    let place = mesh.namespace("unlabelled").await?;
    let set = Api::<DaemonSet>::namespaced(mesh.admin(), AGENTS)
        .get("ensign-agent")
        .await?;
    let template = serde_json::to_value(set.spec.context("no spec")?.template)?;
    let mut pod = json!({ "metadata": { "name": "agent" }, "spec": template["spec"] });
    pod["spec"]["serviceAccountName"] = json!("default");
    let try_out = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    let pods = Api::<Pod>::namespaced(mesh.admin(), &place);
    let refused = pods.create(&try_out, &serde_json::from_value(pod)?).await;
    let refused = refused.err().context("an agent may run anywhere")?.to_string();
    let why = refused.split_once("violates PodSecurity \"baseline:latest\": hostPath volumes (");
    let more = why.and_then(|(_, volumes)| volumes.split_once(')'));
    ensure!(more.is_some_and(|(_, more)| !more.starts_with(", ")), "{refused}");
    mesh.delete_namespace(&place).await?;
    helm.discard();
    mesh.finish().await
}
