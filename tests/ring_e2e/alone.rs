//! A cluster of a test's own with one node, our manifests in it, and the RA as a process beside it: for tests that take the
//! control plane or the RA away, or count every volume of the agent.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use anyhow::{Context, ensure};
use ensign_testbed::cluster::{Cluster, ClusterOptions};
use ensign_testbed::folder::Folder;
use ensign_testbed::node::{Images, Network, Node, Relay};
use ensign_testbed::process::{Program, Spec, own_binary};
use ensign_testbed::wait::{PATIENCE, until};
use ensign_testkit::FakeEnvoy;
use ensign_testkit::metrics::Metrics;
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::Api;
use kube::api::{DeleteParams, ListParams, PostParams};
use serde_json::{Value, json};

use crate::mesh::condition;
use crate::workload::Workload;

/// Where the agents run.
pub(crate) const PLACE: &str = "ensign-node";

pub(crate) struct Alone {
    pub(crate) cluster: Cluster,
    pub(crate) node: Node,
    pub(crate) ra: Program,
    _relay: Relay,
    _network: Network,
    folder: Folder,
}

impl Alone {
    /// Starts everything and waits until the agent is ready, that is until kubelet has taken its driver up.
    pub(crate) async fn start() -> anyhow::Result<Self> {
        let cluster = Cluster::start(ClusterOptions {
            cert_manager: false,
            scheduler: true,
            ..ClusterOptions::default()
        })
        .await?;
        let folder = Folder::new()?;
        let images = Images::make(&folder.join("images")).await?;
        let network = Network::start(&cluster).await?;
        let node = Node::start(&cluster, &network, 0, "node1", &images, &folder.join("node1")).await?;
        let jwks = http::Request::get("/openid/v1/jwks").body(Vec::new())?;
        folder.write("jwks.json", cluster.admin().request_text(jwks).await?)?;
        folder.write("policy.yaml", policy(&folder).to_string())?;
        let mut ra = Program::start(authority(&folder)?, folder.path())?;
        let addresses = ra.addresses(&folder.join("ra.addresses")).await?;
        let relay = network
            .relay(*addresses.get("grpc").context("the RA has no gRPC port")?)
            .await?;

        cluster.namespace_named(PLACE).await?;
        let root = std::fs::read_to_string(folder.join("ra-root.pem"))?;
        let settings = json!({ "CA_ADDR": relay.address().to_string(), "ISTIOD_SAN": "localhost" });
        for (name, data) in [
            ("ensign-agent", settings),
            ("istio-ca-root-cert", json!({ "root-cert.pem": root })),
        ] {
            let map = json!({
                "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name, "namespace": PLACE }, "data": data,
            });
            cluster.apply_yaml(&map.to_string()).await?;
        }
        cluster.apply_yaml(include_str!("../../deploy/csidriver.yaml")).await?;
        cluster.apply_yaml(include_str!("../../deploy/daemonset.yaml")).await?;
        let alone = Self {
            cluster,
            node,
            ra,
            _relay: relay,
            _network: network,
            folder,
        };
        alone.agent_ready().await?;
        Ok(alone)
    }

    pub(crate) async fn finish(self) -> anyhow::Result<()> {
        self.node.finish().await?;
        self.cluster.finish().await?;
        drop(self.ra);
        self.folder.discard();
        Ok(())
    }

    /// The agent's pod, once it is ready.
    pub(crate) async fn agent_ready(&self) -> anyhow::Result<Pod> {
        let pods = Api::<Pod>::namespaced(self.cluster.admin(), PLACE);
        let agent = until("the agent to be ready", PATIENCE * 2, async || {
            let list = pods.list(&ListParams::default()).await?;
            let pod = list.items.into_iter().next().context("no pod yet")?;
            ensure!(condition(&pod, "Ready"), "its status is {:?}", pod.status);
            Ok(pod)
        });
        agent.await.with_context(|| {
            format!(
                "its log:\n{}\nkubelet's last lines:\n{}",
                self.log(PLACE, "ensign-agent"),
                self.node.tail("kubelet")
            )
        })
    }

    /// The agent's series.
    pub(crate) async fn metrics(&self) -> anyhow::Result<Metrics> {
        Metrics::scrape(SocketAddr::new(self.agent_address().await?, 9402)).await
    }

    /// The address of the agent's pod.
    pub(crate) async fn agent_address(&self) -> anyhow::Result<IpAddr> {
        let pod = self.agent_ready().await?;
        let ip = pod
            .status
            .and_then(|status| status.pod_ip)
            .context("the agent has no address")?;
        Ok(ip.parse()?)
    }

    /// Makes a pod of the guest with a volume of ours, as strict as Pod Security knows.
    pub(crate) async fn create(&self, namespace: &str, name: &str, attributes: Value) -> anyhow::Result<Pod> {
        let pods = Api::<Pod>::namespaced(self.cluster.admin(), namespace);
        let pod = Workload::new(namespace, name).attributes(attributes).object();
        Ok(pods
            .create(&PostParams::default(), &serde_json::from_value(pod)?)
            .await?)
    }

    /// The same, and waits until it runs.
    pub(crate) async fn pod(&self, namespace: &str, name: &str, attributes: Value) -> anyhow::Result<Pod> {
        self.create(namespace, name, attributes).await?;
        self.running(namespace, name).await
    }

    /// Waits until a pod runs.
    pub(crate) async fn running(&self, namespace: &str, name: &str) -> anyhow::Result<Pod> {
        let pods = Api::<Pod>::namespaced(self.cluster.admin(), namespace);
        until(&format!("pod {name} to run"), PATIENCE * 2, async || {
            let pod = pods.get(name).await?;
            ensure!(condition(&pod, "Ready"), "its status is {:?}", pod.status);
            Ok(pod)
        })
        .await
        .with_context(|| format!("the agent's log:\n{}", self.log(PLACE, "ensign-agent")))
    }

    /// What a pod's event of this reason says, as `kubectl describe pod` shows it.
    pub(crate) async fn event(&self, namespace: &str, pod: &str, reason: &str) -> anyhow::Result<String> {
        let events = Api::<Event>::namespaced(self.cluster.admin(), namespace);
        until(&format!("an event {reason} of {pod}"), PATIENCE, async || {
            let all = events.list(&ListParams::default()).await?.items;
            let mut found = all.into_iter().filter(|event| {
                event.involved_object.name.as_deref() == Some(pod) && event.reason.as_deref() == Some(reason)
            });
            found.next().and_then(|event| event.message).context("none yet")
        })
        .await
    }

    /// Deletes a pod and waits until kubelet has let go of it.
    pub(crate) async fn delete(&self, namespace: &str, name: &str) -> anyhow::Result<()> {
        let pods = Api::<Pod>::namespaced(self.cluster.admin(), namespace);
        pods.delete(name, &DeleteParams::default()).await?;
        until(&format!("pod {name} to be gone"), PATIENCE, async || {
            let left = pods.get_opt(name).await?;
            ensure!(left.is_none(), "it is still there");
            Ok(())
        })
        .await
    }

    /// All that the containers of pods of this name printed.
    pub(crate) fn log(&self, namespace: &str, pod: &str) -> String {
        let mut text = String::new();
        let Ok(folders) = std::fs::read_dir(self.node.path("/var/log/pods")) else {
            return text;
        };
        for folder in folders.filter_map(Result::ok) {
            let name = folder.file_name().to_string_lossy().into_owned();
            if !name.starts_with(&format!("{namespace}_{pod}")) {
                continue;
            }
            for container in std::fs::read_dir(folder.path()).into_iter().flatten().flatten() {
                for file in std::fs::read_dir(container.path()).into_iter().flatten().flatten() {
                    text.push_str(&std::fs::read_to_string(file.path()).unwrap_or_default());
                }
            }
        }
        text
    }

    /// What the pod's volume is mounted from.
    pub(crate) fn mount(&self, pod: &Pod) -> anyhow::Result<PathBuf> {
        let uid = pod.metadata.uid.as_deref().context("a pod has a uid")?;
        let path = format!("/var/lib/kubelet/pods/{uid}/volumes/kubernetes.io~csi/identity/mount");
        Ok(self.node.path(&path))
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

    /// How many certificates the RA gave to workloads of a namespace.
    pub(crate) fn issued(&self, namespace: &str) -> usize {
        let lines = self.ra.log().lines();
        let events = lines.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        events
            .filter(|event| event["message"] == "certificate issued" && event["namespace"] == namespace)
            .count()
    }
}

fn policy(folder: &Folder) -> Value {
    json!({
        "apiVersion": "ensign.mesh/v1",
        "trustDomain": "cluster.local",
        "ttl": { "default": "1h", "min": "10m", "max": "24h" },
        "backdate": "2m",
        "signers": [{ "name": "foo", "local": { "dir": folder.join("ca-foo"), "selfSigned": true } }],
        "rules": [{ "namespace": "*", "serviceAccounts": ["*"], "signers": ["foo"], "default": "foo" }],
    })
}

fn authority(folder: &Folder) -> anyhow::Result<Spec> {
    let path = |name: &str| folder.join(name).display().to_string();
    let args = [
        format!("--jwks-file={}", path("jwks.json")),
        "--token-issuer=https://kubernetes.default.svc.cluster.local".to_owned(),
        format!("--policy-file={}", path("policy.yaml")),
        format!("--serving-ca-dir={}", path("serving-ca")),
        format!("--serving-root-file={}", path("ra-root.pem")),
        "--grpc-addr=127.0.0.1:0".to_owned(),
        "--readyz-addr=127.0.0.1:0".to_owned(),
        "--metrics-addr=127.0.0.1:0".to_owned(),
        format!("--addresses-file={}", path("ra.addresses")),
        "--log-format=json".to_owned(),
    ];
    Ok(Spec {
        name: "ra".to_owned(),
        binary: own_binary("ensign-ra")?,
        args: args.to_vec(),
        env: BTreeMap::new(),
    })
}
