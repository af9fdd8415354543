//! A cluster of a test's own with one node or two, our manifests in it, and the RA as a process beside it: for tests that take
//! the control plane or the RA away, or count every volume of the agent.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, ensure};
use ensign_testbed::cluster::{Cluster, ClusterOptions};
use ensign_testbed::envoy::EnvoySpec;
use ensign_testbed::folder::Folder;
use ensign_testbed::node::{Images, Network, Node, NodeAccess, Relay};
use ensign_testbed::process::{Program, Spec, own_binary};
use ensign_testbed::wait::{PATIENCE, until};
use ensign_testkit::FakeEnvoy;
use ensign_testkit::metrics::Metrics;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{ListParams, PostParams};
use serde_json::{Value, json};

use crate::pod::{self, address, condition};
use crate::workload::{Proxy, SOCKET, Workload};

/// Where the agents run.
pub(crate) const PLACE: &str = "ensign-node";

/// How deploy/csidriver.yaml says how long tokens live.
const TOKENS: &str = "expirationSeconds: 43200";

pub(crate) struct Alone {
    pub(crate) cluster: Cluster,
    pub(crate) node: Node,
    /// Only with [`Wish::second`].
    pub(crate) second: Option<Node>,
    pub(crate) ra: Program,
    _relay: Relay,
    _network: Network,
    folder: Folder,
}

/// What is to be otherwise than usual.
#[derive(Default)]
pub(crate) struct Wish {
    /// A second node, `node2`.
    pub(crate) second: bool,
    /// More settings of the agents, by their variables.
    pub(crate) settings: BTreeMap<&'static str, &'static str>,
    /// For how long kubelet asks tokens for, in seconds.
    pub(crate) tokens: Option<u32>,
}

// === impl Alone ===

impl Alone {
    /// Starts everything and waits until the agent is ready, that is until kubelet has taken its driver up.
    pub(crate) async fn start() -> anyhow::Result<Self> {
        Self::start_with(Wish::default()).await
    }

    /// The same, but for what is wished.
    pub(crate) async fn start_with(wish: Wish) -> anyhow::Result<Self> {
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
        let second = if wish.second {
            Some(Node::start(&cluster, &network, 1, "node2", &images, &folder.join("node2")).await?)
        } else {
            None
        };
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
        let mut settings = json!({ "CA_ADDR": relay.address().to_string(), "ISTIOD_SAN": "localhost" });
        for (variable, value) in wish.settings {
            settings[variable] = json!(value);
        }
        for (name, data) in [
            ("ensign-agent", settings),
            ("istio-ca-root-cert", json!({ "root-cert.pem": root })),
        ] {
            let map = json!({
                "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name, "namespace": PLACE }, "data": data,
            });
            cluster.apply_yaml(&map.to_string()).await?;
        }
        let mut driver = include_str!("../../deploy/csidriver.yaml").to_owned();
        if let Some(seconds) = wish.tokens {
            driver = driver.replace(TOKENS, &format!("expirationSeconds: {seconds}"));
        }
        cluster.apply_yaml(&driver).await?;
        cluster.apply_yaml(include_str!("../../deploy/daemonset.yaml")).await?;
        let alone = Self {
            cluster,
            node,
            second,
            ra,
            _relay: relay,
            _network: network,
            folder,
        };
        for node in alone.nodes() {
            alone.agent_on(node).await?;
        }
        Ok(alone)
    }

    pub(crate) async fn finish(self) -> anyhow::Result<()> {
        self.node.finish().await?;
        if let Some(second) = self.second {
            second.finish().await?;
        }
        self.cluster.finish().await?;
        drop(self.ra);
        self.folder.discard();
        Ok(())
    }

    /// The nodes.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = &NodeAccess> {
        [&self.node].into_iter().chain(&self.second).map(|node| &**node)
    }

    /// The node that a pod is on.
    pub(crate) fn node_of(&self, pod: &Pod) -> anyhow::Result<&NodeAccess> {
        let name = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
        let found = self.nodes().find(|node| Some(node.name()) == name);
        found.with_context(|| format!("there is no node {name:?}"))
    }

    /// The agent's pod of the first node, once it is ready.
    pub(crate) async fn agent_ready(&self) -> anyhow::Result<Pod> {
        self.agent_on(&self.node).await
    }

    /// The agent's pod of a node, once it is ready.
    pub(crate) async fn agent_on(&self, node: &NodeAccess) -> anyhow::Result<Pod> {
        let pods = self.pods(PLACE);
        let there = ListParams::default().fields(&format!("spec.nodeName={}", node.name()));
        let agent = until("the agent to be ready", PATIENCE * 2, async || {
            let list = pods.list(&there).await?;
            let pod = list.items.into_iter().next().context("no pod yet")?;
            ensure!(condition(&pod, "Ready"), "its status is {:?}", pod.status);
            Ok(pod)
        });
        agent.await.with_context(|| {
            format!(
                "its log:\n{}\nkubelet's last lines:\n{}",
                pod::printed(node.path("/var/log/pods"), PLACE, "ensign-agent"),
                node.tail("kubelet")
            )
        })
    }

    /// The root of a signer, as it is in the RA's folder.
    pub(crate) fn root_of(&self, signer: &str) -> anyhow::Result<String> {
        let path = self.folder.join(&format!("ca-{signer}")).join("root-cert.pem");
        std::fs::read_to_string(&path).with_context(|| format!("no {}", path.display()))
    }

    /// The series of the first node's agent.
    pub(crate) async fn metrics(&self) -> anyhow::Result<Metrics> {
        Metrics::scrape(address(&self.agent_ready().await?, 9402)?).await
    }

    /// What an agent tells people on its node, by its own command in its own container.
    pub(crate) async fn status(&self, agent: &Pod) -> anyhow::Result<Value> {
        let (node, container) = (self.node_of(agent)?, pod::container(agent)?);
        let command = ["/ensign-agent", "status", "-o", "json"];
        // A certificate that fails is a failure of the command, too.
        let said = node.try_run_in(&container, &command).await?;
        serde_json::from_str(&said.out).with_context(|| format!("{said:?}"))
    }

    /// Makes a pod of the guest with a volume of ours, as strict as Pod Security knows.
    pub(crate) async fn create(&self, namespace: &str, name: &str, attributes: Value) -> anyhow::Result<Pod> {
        self.make(&Workload::new(namespace, name).attributes(attributes)).await
    }

    /// Makes a pod of any kind.
    pub(crate) async fn make(&self, workload: &Workload) -> anyhow::Result<Pod> {
        let object = serde_json::from_value(workload.object())?;
        let pods = self.pods(&workload.namespace);
        Ok(pods.create(&PostParams::default(), &object).await?)
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

    /// Starts an Envoy in a pod and waits until it has its secrets.
    pub(crate) async fn proxy(
        &self,
        workload: Workload,
        configure: impl FnOnce(EnvoySpec) -> EnvoySpec,
    ) -> anyhow::Result<Proxy> {
        let (namespace, name) = (workload.namespace.clone(), workload.name.clone());
        let spec = configure(EnvoySpec::new(&name, &namespace, "default", SOCKET).in_a_pod());
        self.make(&workload.envoy(&spec)?).await?;
        let pod = self.running(&namespace, &name).await?;
        Proxy::of(pod, &namespace)
            .await
            .with_context(|| format!("it printed:\n{}", self.log(&namespace, &name)))
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
        let nodes = self.nodes();
        nodes
            .map(|node| pod::printed(node.path("/var/log/pods"), namespace, pod))
            .collect()
    }

    /// What the pod's volume is mounted from.
    pub(crate) fn mount(&self, pod: &Pod) -> anyhow::Result<PathBuf> {
        Ok(self.node_of(pod)?.path(&pod::volume(pod)?))
    }

    /// An Envoy on the pod's socket.
    pub(crate) async fn envoy(&self, pod: &Pod) -> anyhow::Result<FakeEnvoy> {
        pod::envoy(&self.mount(pod)?).await
    }

    /// How many certificates the RA gave to workloads of a namespace.
    pub(crate) fn issued(&self, namespace: &str) -> usize {
        pod::issued(self.ra.log().lines().iter().map(String::as_str), namespace)
    }

    pub(crate) fn pods(&self, namespace: &str) -> Api<Pod> {
        Api::namespaced(self.cluster.admin(), namespace)
    }
}

/// Whom everybody may ask; the first is the default.
pub(crate) const SIGNERS: [&str; 4] = ["foo", "second", "third", "fourth"];

fn policy(folder: &Folder) -> Value {
    let signers = SIGNERS.map(
        |name| json!({ "name": name, "local": { "dir": folder.join(&format!("ca-{name}")), "selfSigned": true } }),
    );
    json!({
        "apiVersion": "ensign.mesh/v1",
        "trustDomain": "cluster.local",
        "ttl": { "default": "1h", "min": "10m", "max": "24h" },
        "backdate": "2m",
        "signers": signers,
        "rules": [{ "namespace": "*", "serviceAccounts": ["*"], "signers": SIGNERS, "default": SIGNERS[0] }],
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
