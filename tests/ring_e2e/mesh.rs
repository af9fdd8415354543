//! A test's place in the site that all tests of the ring share, with our installation in it; what RA, agents and pods say.

use std::ops::Deref;
use std::path::PathBuf;

use anyhow::{Context, ensure};
use ensign_testbed::node::NodeAccess;
use ensign_testbed::site::{SharedSite, Site};
use ensign_testbed::wait::{PATIENCE, until};
use ensign_testkit::FakeEnvoy;
use ensign_testkit::metrics::Metrics;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::ListParams;
use parking_lot::Mutex;
use serde_json::json;

use crate::install::{self, AGENTS, RA};
use crate::pod::{self, address, condition};

pub(crate) struct Mesh {
    site: SharedSite,
    /// Those that were made for this test.
    namespaces: Mutex<Vec<String>>,
}

// === impl Mesh ===

impl Mesh {
    /// Joins the site; the first test makes it. The agents of both nodes are ready.
    pub(crate) async fn join() -> anyhow::Result<Self> {
        let site = Site::shared().await?;
        install::once(&site).await?;
        install::agents_ready(&site).await?;
        Ok(Self {
            site,
            namespaces: Mutex::default(),
        })
    }

    /// Leaves, and takes its namespaces away; say it at the end of a test that went well.
    pub(crate) async fn finish(self) -> anyhow::Result<()> {
        let namespaces = std::mem::take(&mut *self.namespaces.lock());
        for name in namespaces {
            self.site.delete_namespace(&name).await?;
        }
        self.site.finish().await
    }

    /// A namespace of the test's own in which Pod Security is `restricted`, and this signer the default.
    pub(crate) async fn namespace_with(&self, word: &str, signer: &str) -> anyhow::Result<String> {
        let name = self.namespace_of_level(word, "restricted").await?;
        install::proxy_config(&self.site, &name, signer).await?;
        Ok(name)
    }

    /// One in which pods may use folders of their nodes.
    pub(crate) async fn namespace_for_hosts(&self, word: &str) -> anyhow::Result<String> {
        self.namespace_of_level(word, "privileged").await
    }

    async fn namespace_of_level(&self, word: &str, level: &str) -> anyhow::Result<String> {
        let name = self.site.namespace(word).await?;
        self.namespaces.lock().push(name.clone());
        let labelled = json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": { "name": name, "labels": { "pod-security.kubernetes.io/enforce": level } },
        });
        self.site.apply_yaml(&labelled.to_string()).await?;
        Ok(name)
    }

    /// The node that a pod is on.
    pub(crate) fn node_of(&self, pod: &Pod) -> anyhow::Result<&NodeAccess> {
        let name = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
        self.site.node(name.context("the pod has no node")?)
    }

    /// The agent's pod on a node, once it is ready.
    pub(crate) async fn agent(&self, node: &str) -> anyhow::Result<Pod> {
        let pods = Api::<Pod>::namespaced(self.site.admin(), AGENTS);
        let there = ListParams::default().fields(&format!("spec.nodeName={node}"));
        let agent = until("the agent to be ready", PATIENCE * 2, async || {
            let mut list = pods.list(&there).await?.items;
            list.retain(|pod| pod.metadata.deletion_timestamp.is_none());
            let [pod] = list.as_slice() else {
                anyhow::bail!("there are {} pods", list.len());
            };
            ensure!(condition(pod, "Ready"), "its status is {:?}", pod.status);
            Ok(pod.clone())
        });
        agent.await.with_context(|| self.agents_tell())
    }

    /// The series of a node's agent.
    pub(crate) async fn metrics(&self, node: &str) -> anyhow::Result<Metrics> {
        Metrics::scrape(address(&self.agent(node).await?, 9402)?).await
    }

    /// What a pod's event of this reason says.
    pub(crate) async fn event(&self, namespace: &str, pod: &str, reason: &str) -> anyhow::Result<String> {
        pod::event(&Api::namespaced(self.site.admin(), namespace), pod, reason).await
    }

    /// All that the containers of pods whose names begin like this printed, on all nodes.
    pub(crate) fn log(&self, namespace: &str, pod: &str) -> String {
        let nodes = self.site.nodes().iter();
        nodes
            .map(|node| pod::printed(node.path("/var/log/pods"), namespace, pod))
            .collect()
    }

    /// What a pod's `guest probe` printed about its look at the socket.
    pub(crate) async fn probed(&self, namespace: &str, pod: &str) -> anyhow::Result<String> {
        until("the probe", PATIENCE, async || {
            let log = self.log(namespace, pod);
            // Removing the socket is the last that it tries.
            ensure!(log.contains("probe failed") || log.contains("socket "), "{log}");
            Ok(log)
        })
        .await
    }

    /// For error texts.
    pub(crate) fn agents_tell(&self) -> String {
        let kubelets = self.site.nodes().iter().map(|node| node.tail("kubelet"));
        format!(
            "the agents' logs:\n{}\nkubelets' last lines:\n{}",
            self.log(AGENTS, "ensign-agent"),
            kubelets.collect::<Vec<_>>().join("\n\n")
        )
    }

    /// What the pod's volume is mounted from, as the machine sees it.
    pub(crate) fn mount(&self, pod: &Pod) -> anyhow::Result<PathBuf> {
        Ok(self.node_of(pod)?.path(&pod::volume(pod)?))
    }

    /// An Envoy on the pod's socket.
    pub(crate) async fn envoy(&self, pod: &Pod) -> anyhow::Result<FakeEnvoy> {
        pod::envoy(&self.mount(pod)?).await
    }

    /// How many certificates the RA gave to workloads of a namespace, by what its replicas logged.
    pub(crate) fn issued(&self, namespace: &str) -> usize {
        let log = self.log(RA, "ensign-ra");
        // The container runtime writes time, stream and a tag before each line.
        pod::issued(log.lines().filter_map(|line| line.splitn(4, ' ').nth(3)), namespace)
    }
}

impl Deref for Mesh {
    type Target = SharedSite;

    fn deref(&self) -> &SharedSite {
        &self.site
    }
}
