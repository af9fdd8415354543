//! Pods come and go by the hundred, and all of a node's at once: nothing of them is left on it.

use anyhow::{Context, ensure};
use ensign_testbed::page::{Page, Shell};
use ensign_testbed::wait::{PATIENCE, until};
use ensign_testkit::metrics::Metrics;
use futures::future::try_join_all;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use kube::api::{DeleteParams, ListParams};
use serde_json::{Value, json};

use crate::alone::{Alone, PLACE};
use crate::pod::condition;
use crate::workload::Workload;

const PODS: u32 = 100;
/// At a time: a node takes 110, and one of them is the agent's.
const BATCH: u32 = 50;

/// The allocator's own noise was at most half of this. An Envoy that is connected takes three times as much
/// (docs/performance.md).
const BYTES_PER_POD: u64 = 16 * 1024;

/// What the agent has when there is no pod.
#[derive(Debug, PartialEq, Eq)]
struct Rest {
    series: Vec<String>,
    descriptors: usize,
    state: Vec<String>,
}

#[tokio::test(flavor = "multi_thread")]
async fn hundreds_of_pods_and_a_drain_leave_nothing_behind() -> anyhow::Result<()> {
    let alone = Alone::start().await?;
    let place = alone.cluster.namespace("foo").await?;
    let agent = alone.agent_ready().await?;

    churn(&alone, &place, "first").await?;
    let (rest, memory) = rest(&alone).await?;
    churn(&alone, &place, "second").await?;
    let (rest_again, memory_again) = self::rest(&alone).await?;
    ensure!(
        rest == rest_again,
        "after a hundred pods:\n{rest:#?}\nafter two hundred:\n{rest_again:#?}"
    );
    let most = memory + u64::from(PODS) * BYTES_PER_POD;
    ensure!(
        memory_again <= most,
        "a hundred pods more made {memory} bytes {memory_again}"
    );
    let issued = alone.issued(&place);
    ensure!(
        issued == usize::try_from(2 * PODS)?,
        "{issued} certificates for {} pods",
        2 * PODS
    );

    drain(&alone, &place, &agent).await?;
    alone.finish().await
}

/// A hundred pods come, are served, and go.
async fn churn(alone: &Alone, place: &str, word: &str) -> anyhow::Result<()> {
    for batch in 0..PODS / BATCH {
        let name = |number| format!("{word}-{batch}-{number:03}");
        let workload = |name: &str| {
            let workload = Workload::new(place, name).subscribing();
            workload.attributes(json!({ "signer": "foo" }))
        };
        for number in 0..BATCH {
            alone.make(&workload(&name(number))).await?;
        }
        all_served(alone, place, BATCH).await?;
        let volumes = alone.metrics().await?.sum("ensign_agent_csi_volumes", &[]);
        ensure!(volumes == Some(f64::from(BATCH)), "{volumes:?} volumes of {BATCH} pods");
        let pods = alone.pods(place);
        let gone = DeleteParams::default();
        try_join_all((0..BATCH).map(async |number| pods.delete(&name(number), &gone).await.map(drop))).await?;
        all_gone(alone, place).await?;
    }
    Ok(())
}

/// Waits until so many pods run and each has got both secrets.
async fn all_served(alone: &Alone, place: &str, count: u32) -> anyhow::Result<Vec<Pod>> {
    let (pods, wanted) = (alone.pods(place), usize::try_from(count)?);
    until(&format!("{count} pods to be served"), PATIENCE * 4, async || {
        let list = pods.list(&ListParams::default()).await?.items;
        let running = list.iter().filter(|pod| condition(pod, "Ready")).count();
        ensure!(
            running == wanted && list.len() == wanted,
            "{running} of {} run",
            list.len()
        );
        for pod in &list {
            let log = alone.log(place, &pod.name_any());
            let both = ["default arrived", "ROOTCA arrived"]
                .iter()
                .all(|word| log.contains(word));
            ensure!(both, "{}: {log}", pod.name_any());
        }
        Ok(list)
    })
    .await
    .with_context(|| alone.log(PLACE, "ensign-agent"))
}

/// Waits until there is neither a pod nor a folder of one.
async fn all_gone(alone: &Alone, place: &str) -> anyhow::Result<()> {
    let pods = alone.pods(place);
    until("all pods to be gone", PATIENCE * 4, async || {
        let left = pods.list(&ListParams::default()).await?.items.len();
        ensure!(left == 0, "{left} are there");
        let folders = std::fs::read_dir(alone.node.path("/var/lib/kubelet/pods"))?.count();
        ensure!(
            folders == 1,
            "kubelet has {folders} folders; one is the agent's own pod's"
        );
        Ok(())
    })
    .await
    .with_context(|| alone.log(PLACE, "ensign-agent"))
}

/// Nothing of any pod is left in the agent; what it has all the same, and its memory in bytes.
async fn rest(alone: &Alone) -> anyhow::Result<(Rest, u64)> {
    let status = alone.status(&alone.agent_ready().await?).await?;
    ensure!(status["workloads"] == json!([]), "{status:#}");
    let metrics = alone.metrics().await?;
    for name in [
        "ensign_agent_csi_volumes",
        "ensign_agent_entries",
        "ensign_agent_adopted",
    ] {
        let count = metrics.sum(name, &[]);
        ensure!(count == Some(0.0), "{name} is {count:?}");
    }
    let certificates = metrics.sum("istio_agent_cert_expiry_seconds", &[]);
    ensure!(certificates.is_none(), "there are series of certificates");
    let [agent] = alone.node.processes("ensign-agent").await?[..] else {
        anyhow::bail!("there is not one agent on the node");
    };
    let lines = async |command: &[&str]| {
        let text = alone.node.run(command).await?;
        anyhow::Ok(text.lines().map(str::to_owned).collect::<Vec<_>>())
    };
    let memory = lines(&["grep", "RssAnon", &format!("/proc/{agent}/status")])
        .await?
        .concat();
    let kilobytes: u64 = memory.split_whitespace().nth(1).context("no RssAnon")?.parse()?;
    let state = lines(&["ls", "-A", "/run/ensign"]).await?;
    ensure!(
        !state.iter().any(|name| name == "csi.json"),
        "a state of no volume: {state:?}"
    );
    let rest = Rest {
        series: series(&metrics),
        descriptors: lines(&["ls", &format!("/proc/{agent}/fd")]).await?.len(),
        state,
    };
    Ok((rest, kilobytes * 1024))
}

/// Names and labels.
fn series(metrics: &Metrics) -> Vec<String> {
    let samples = metrics.samples().iter();
    samples
        .map(|sample| format!("{}{:?}", sample.name, sample.labels))
        .collect()
}

/// As docs/operate.md does it: who has a volume of ours goes, the agent stays, and the node's next pods are served.
async fn drain(alone: &Alone, place: &str, agent: &Pod) -> anyhow::Result<()> {
    let page = Page::parse(include_str!("../../docs/operate.md"));
    let [drain, uncordon] = page.blocks("Drain a node")?;
    let shell = Shell::new(&alone.cluster)?;
    let mut template = Workload::new(place, "web")
        .subscribing()
        .attributes(json!({ "signer": "foo" }))
        .object();
    template["spec"]["nodeName"] = Value::Null;
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "web", "namespace": place },
        "spec": { "replicas": 2, "selector": { "matchLabels": { "app": "web" } }, "template": template },
    });
    alone.cluster.apply_yaml(&deployment.to_string()).await?;
    let before = all_served(alone, place, 2).await?;

    shell.run(drain).await?;
    let pods = alone.pods(place);
    let list = pods.list(&ListParams::default()).await?.items;
    let names = |pods: &[Pod]| pods.iter().map(Pod::name_any).collect::<Vec<_>>();
    ensure!(
        list.iter()
            .all(|pod| !names(&before).contains(&pod.name_any()) && !condition(pod, "PodScheduled")),
        "after the drain there are {:?}, before it there were {:?}",
        names(&list),
        names(&before)
    );
    until("kubelet's folders of them to go", PATIENCE, async || {
        let folders = std::fs::read_dir(alone.node.path("/var/lib/kubelet/pods"))?.count();
        ensure!(folders == 1, "it has {folders}; one is the agent's own pod's");
        Ok(())
    })
    .await?;
    rest(alone).await?;
    let still = alone.agent_ready().await?;
    ensure!(still.uid() == agent.uid(), "the agent was evicted");

    shell.run(uncordon).await?;
    all_served(alone, place, 2).await?;
    shell.finish();
    Ok(())
}
