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
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{ListParams, PostParams};
use serde_json::{Value, json};

use crate::pod::{self, address, condition};
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
        let pods = self.pods(PLACE);
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
        Ok(address(&self.agent_ready().await?, 0)?.ip())
    }

    /// Makes a pod of the guest with a volume of ours, as strict as Pod Security knows.
    pub(crate) async fn create(&self, namespace: &str, name: &str, attributes: Value) -> anyhow::Result<Pod> {
        let pods = self.pods(namespace);
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
        let pod = pod::running(&self.pods(namespace), name).await;
        pod.with_context(|| format!("the agent's log:\n{}", self.log(PLACE, "ensign-agent")))
    }

    /// What a pod's event of this reason says.
    pub(crate) async fn event(&self, namespace: &str, pod: &str, reason: &str) -> anyhow::Result<String> {
        pod::event(&Api::namespaced(self.cluster.admin(), namespace), pod, reason).await
    }

    /// Deletes a pod and waits until kubelet has let go of it.
    pub(crate) async fn delete(&self, namespace: &str, name: &str) -> anyhow::Result<()> {
        pod::delete(&self.pods(namespace), name).await
    }

    /// All that the containers of pods of this name printed.
    pub(crate) fn log(&self, namespace: &str, pod: &str) -> String {
        pod::printed(self.node.path("/var/log/pods"), namespace, pod)
    }

    /// What the pod's volume is mounted from.
    pub(crate) fn mount(&self, pod: &Pod) -> anyhow::Result<PathBuf> {
        Ok(self.node.path(&pod::volume(pod)?))
    }

    /// An Envoy on the pod's socket.
    pub(crate) async fn envoy(&self, pod: &Pod) -> anyhow::Result<FakeEnvoy> {
        pod::envoy(&self.mount(pod)?).await
    }

    /// How many certificates the RA gave to workloads of a namespace.
    pub(crate) fn issued(&self, namespace: &str) -> usize {
        pod::issued(self.ra.log().lines().iter().map(String::as_str), namespace)
    }

    fn pods(&self, namespace: &str) -> Api<Pod> {
        Api::namespaced(self.cluster.admin(), namespace)
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
