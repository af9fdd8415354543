//! A test's place in the site that all tests of the ring share, with our installation in it; what RA, agents and pods say.

use std::net::{IpAddr, SocketAddr};
use std::ops::Deref;
use std::path::PathBuf;

use anyhow::{Context, ensure};
use ensign_testbed::node::NodeAccess;
use ensign_testbed::site::{SharedSite, Site};
use ensign_testbed::wait::{PATIENCE, until};
use ensign_testkit::FakeEnvoy;
use ensign_testkit::metrics::Metrics;
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::Api;
use kube::api::ListParams;
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::install::{self, AGENTS, RA};

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
        let name = self.site.namespace(word).await?;
        let strict = json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": { "name": name, "labels": { "pod-security.kubernetes.io/enforce": "restricted" } },
        });
        self.site.apply_yaml(&strict.to_string()).await?;
        install::proxy_config(&self.site, &name, signer).await?;
        self.namespaces.lock().push(name.clone());
        Ok(name)
    }

    /// One in which pods may use folders of their nodes.
    pub(crate) async fn namespace_for_hosts(&self, word: &str) -> anyhow::Result<String> {
        let name = self.site.namespace(word).await?;
        self.namespaces.lock().push(name.clone());
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

    /// What a pod's event of this reason says, as `kubectl describe pod` shows it.
    pub(crate) async fn event(&self, namespace: &str, pod: &str, reason: &str) -> anyhow::Result<String> {
        let events = Api::<Event>::namespaced(self.site.admin(), namespace);
        until(&format!("an event {reason} of {pod}"), PATIENCE, async || {
            let all = events.list(&ListParams::default()).await?.items;
            let mut found = all.into_iter().filter(|event| {
                event.involved_object.name.as_deref() == Some(pod) && event.reason.as_deref() == Some(reason)
            });
            found.next().and_then(|event| event.message).context("none yet")
        })
        .await
    }

    /// All that the containers of pods whose names begin like this printed, on all nodes.
    pub(crate) fn log(&self, namespace: &str, pod: &str) -> String {
        let mut text = String::new();
        for node in self.site.nodes() {
            for folder in entries(node.path("/var/log/pods")) {
                let name = folder.file_name().map(|name| name.to_string_lossy().into_owned());
                if !name.is_some_and(|name| name.starts_with(&format!("{namespace}_{pod}"))) {
                    continue;
                }
                for file in entries(folder).flat_map(entries) {
                    text.push_str(&std::fs::read_to_string(file).unwrap_or_default());
                }
            }
        }
        text
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
        let uid = pod.metadata.uid.as_deref().context("a pod has a uid")?;
        let path = format!("/var/lib/kubelet/pods/{uid}/volumes/kubernetes.io~csi/identity/mount");
        Ok(self.node_of(pod)?.path(&path))
    }

    /// An Envoy on the pod's socket: it is the same file, whoever connects.
    pub(crate) async fn envoy(&self, pod: &Pod) -> anyhow::Result<FakeEnvoy> {
        let folder = std::fs::File::open(self.mount(pod)?)?;
        let through = format!("/proc/self/fd/{}/ensign.sock", std::os::fd::AsRawFd::as_raw_fd(&folder));
        until("the pod's socket to answer", PATIENCE, async || {
            FakeEnvoy::connect(&through).await
        })
        .await
    }

    /// How many certificates the RA gave to workloads of a namespace, by what its replicas logged.
    pub(crate) fn issued(&self, namespace: &str) -> usize {
        let log = self.log(RA, "ensign-ra");
        // The container runtime writes time, stream and a tag before each line.
        let lines = log.lines().filter_map(|line| line.splitn(4, ' ').nth(3));
        let events = lines.filter_map(|line| serde_json::from_str::<Value>(line).ok());
        events
            .filter(|event| event["message"] == "certificate issued" && event["namespace"] == namespace)
            .count()
    }
}

impl Deref for Mesh {
    type Target = SharedSite;

    fn deref(&self) -> &SharedSite {
        &self.site
    }
}

/// Whether a condition of a pod is true.
pub(crate) fn condition(pod: &Pod, name: &str) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.is_some_and(|all| all.iter().any(|one| one.type_ == name && one.status == "True"))
}

/// A port of a pod.
pub(crate) fn address(pod: &Pod, port: u16) -> anyhow::Result<SocketAddr> {
    let ip = pod.status.as_ref().and_then(|status| status.pod_ip.as_deref());
    let ip: IpAddr = ip.context("the pod has no address")?.parse()?;
    Ok(SocketAddr::new(ip, port))
}

/// Nothing where there is no folder.
fn entries(folder: PathBuf) -> impl Iterator<Item = PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path())
}
