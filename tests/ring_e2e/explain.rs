//! `ensign-agent explain`, `status` and the other commands that docs/operate.md tells people, against a real kubelet: what it
//! reports of a mount, and its way into the agent's own network (port-forward, exec).

use anyhow::{Context, ensure};
use ensign_testbed::operator::{Operator, codes, request_id};
use ensign_testbed::page::{Page, Shell};
use ensign_testbed::wait::{PATIENCE, until};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use kube::api::{DeleteParams, PostParams};
use serde_json::{Value, json};

use crate::agents::{Holder, agents, change, name, rolled_out};
use crate::alone::{Alone, PLACE};
use crate::workload::Workload;

/// Where a test has its pods. The page has them there, too.
const HERE: &str = "foo";
/// What the agent needs to trust the authority.
const ROOTS: &str = "istio-ca-root-cert";

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_is_explained_by_its_kubelet_and_its_agent() -> anyhow::Result<()> {
    let alone = Alone::start().await?;
    alone.cluster.namespace_named(HERE).await?;
    let operator = Operator::new(&alone.cluster);

    let holder = Holder::start(&alone, HERE, "httpbin").await?;
    let (code, findings) = operator
        .explained(HERE, "httpbin", &["certificate", "no_envoy"])
        .await?;
    ensure!(code == 0, "{findings:#?}");
    let envoy = holder.connect().await?;
    let stream = envoy.subscribe_holding(&["default"], &holder.held).await;
    operator.explained(HERE, "httpbin", &["certificate"]).await?;
    commands_of_the_page(&alone).await?;
    drop((envoy, stream));
    refused(&alone, &operator).await?;

    // The agent of the node goes. What it left with kubelet stays: the driver is registered until another takes its place.
    gone(&alone).await?;
    operator.explained(HERE, "httpbin", &["no_agent"]).await?;

    // Back, without the roots of its authority.
    let maps = Api::<ConfigMap>::namespaced(alone.cluster.admin(), PLACE);
    let roots = maps.get(ROOTS).await?;
    maps.delete(ROOTS, &DeleteParams::default()).await?;
    change(&alone, nowhere(&Value::Null)).await?;
    let (code, findings) = operator.explained(HERE, "httpbin", &["no_roots"]).await?;
    ensure!(code == 1, "{findings:#?}");
    let mut again = ConfigMap::default();
    (again.metadata.name, again.data) = (roots.metadata.name, roots.data);
    maps.create(&PostParams::default(), &again).await?;
    operator
        .explained(HERE, "httpbin", &["certificate", "no_envoy"])
        .await?;
    alone.delete(HERE, "httpbin").await?;
    unregistered(&alone, &operator).await?;
    alone.finish().await
}

/// The agent runs and looks for kubelet where this one is not, as with a wrong `agent.kubeletDir`. Without a volume the agent before it took
/// the driver away when it went.
async fn unregistered(alone: &Alone, operator: &Operator<'_>) -> anyhow::Result<()> {
    gone(alone).await?;
    let registry = |path: &str| {
        let place = json!({ "path": path, "type": "DirectoryOrCreate" });
        let mut template = nowhere(&Value::Null);
        template["spec"]["volumes"] = json!([{ "name": "registry", "hostPath": place }]);
        template
    };
    change(alone, registry("/run/elsewhere/plugins_registry")).await?;
    until("the agent that nobody finds to run", PATIENCE, async || {
        let agents = agents(alone).await?;
        let phase = agents.first().and_then(|agent| agent.status.as_ref()?.phase.as_deref());
        ensure!(phase == Some("Running"), "{agents:?}");
        Ok(())
    })
    .await?;
    alone.create(HERE, "late", json!({ "signer": "foo" })).await?;
    alone.event(HERE, "late", "FailedMount").await?;
    let (code, findings) = operator
        .explained(HERE, "late", &["not_registered", "agent_not_ready"])
        .await?;
    ensure!(
        code == 1 && findings[0].to_string().contains("agent.kubeletDir"),
        "{findings:#?}"
    );
    change(alone, registry("/var/lib/kubelet/plugins_registry")).await?;
    alone.running(HERE, "late").await?;
    let (code, findings) = operator.explained(HERE, "late", &["certificate", "no_envoy"]).await?;
    ensure!(code == 0, "{findings:#?}");
    Ok(())
}

/// The agents run on no node, or on all again.
fn nowhere(value: &Value) -> Value {
    json!({ "spec": { "nodeSelector": { "ensign.mesh/nowhere": value } } })
}

async fn gone(alone: &Alone) -> anyhow::Result<()> {
    change(alone, nowhere(&json!("true"))).await?;
    until("the agent to go", PATIENCE, async || {
        ensure!(agents(alone).await?.is_empty(), "it is there");
        Ok(())
    })
    .await
}

/// By the RA, by the agent, and by kubelet itself.
async fn refused(alone: &Alone, operator: &Operator<'_>) -> anyhow::Result<()> {
    alone.pod(HERE, "greedy", json!({ "signer": "bar" })).await?;
    let (_, findings) = operator.explained(HERE, "greedy", &["ra_refused"]).await?;
    let id = request_id(&findings[0]).context("no request is named")?;
    let log = alone.ra.log().lines();
    let logged = log
        .iter()
        .any(|line| line.contains(id) && line.contains("request refused"));
    ensure!(logged, "the RA's log has no {id}");

    alone.create(HERE, "mistaken", json!({ "sginer": "foo" })).await?;
    let (_, findings) = operator.explained(HERE, "mistaken", &["mount_refused"]).await?;
    ensure!(findings[0].to_string().contains("sginer"), "{findings:#?}");

    let missing = json!([{ "name": "missing", "configMap": { "name": "missing" } }]);
    let workload = Workload::new(HERE, "waits").with_volumes(missing);
    let mount = json!([{ "name": "missing", "mountPath": "/missing", "readOnly": true }]);
    alone.make(&workload.with_mounts(mount)).await?;
    let (_, findings) = until("kubelet's own trouble to be told", PATIENCE, async || {
        let (code, findings) = operator.explain(HERE, "waits").await?;
        ensure!(codes(&findings).contains(&"mount_error"), "{findings:#?}");
        Ok((code, findings))
    })
    .await?;
    let told = findings.iter().find(|finding| finding["code"] == "mount_error");
    ensure!(
        told.is_some_and(|finding| finding.to_string().contains("missing")),
        "{findings:#?}"
    );
    for pod in ["greedy", "mistaken", "waits"] {
        alone.delete(HERE, pod).await?;
    }
    Ok(())
}

/// Each as a person types it.
async fn commands_of_the_page(alone: &Alone) -> anyhow::Result<()> {
    let page = Page::parse(include_str!("../../docs/operate.md"));
    let sections = ["Look at a node", "Upgrade", "Drain a node"];
    ensure!(page.sections() == sections, "{:?}", page.sections());
    let shell = Shell::new(&alone.cluster)?;
    let [explain, agent] = page.blocks("Look at a node")?;
    let said = shell.run(explain).await?;
    ensure!(said.contains("ok      certificate"), "{said}");
    let said = shell.run(agent).await?;
    for part in [
        "active",
        "ensign_agent_csi_volumes 1\n",
        "istio_agent_cert_expiry_seconds{",
        "\"message\":\"volume published\"",
    ] {
        ensure!(said.contains(part), "no {part} in:\n{said}");
    }

    let before: Vec<_> = agents(alone).await?.iter().map(name).collect();
    let [upgrade] = page.blocks("Upgrade")?;
    let said = shell.run(upgrade).await?;
    ensure!(said.contains("successfully rolled out"), "{said}");
    rolled_out(alone, &before).await?;
    shell.finish();
    Ok(())
}
