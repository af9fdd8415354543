//! A whole cluster: control plane, cert-manager, two nodes, kube-proxy on each, CoreDNS in a pod.
//!
//! It is as strict as clusters are: where a namespace says nothing Pod Security enforces `baseline`, and what looks like Istio's
//! injector injects into pods of namespaces that ask for it.
//!
//! All that a pod can see is as in production: it reaches every other pod by its address, Services by cluster IP and name,
//! the API server as `kubernetes.default.svc`. What makes that so is here; nodes are `node`'s, the rest is `cluster`'s.

use std::{ops::Deref, path::PathBuf, sync::Arc};

use anyhow::{Context, ensure};
use futures::future::try_join_all;
use k8s_openapi::api::apps::v1::Deployment;
use kube::Api;
use serde_json::json;
use tokio::try_join;

use crate::{
    cluster::{Access, Cluster, ClusterOptions, Injector, SharedCluster},
    folder::Folder,
    node::{COREDNS, Images, Network, Node, NodeAccess},
    wait::{self, PATIENCE},
};

/// The names of the nodes.
pub const NODES: [&str; 2] = ["node1", "node2"];

/// A folder of the cluster's, with one for each node.
const FOLDER: &str = "nodes";

/// CoreDNS with its rights, as its own manifests for Kubernetes have it.
const DNS: &str = include_str!("dns.yaml");

/// A running site of one's own.
pub struct Site {
    // In the order in which they end.
    nodes: Vec<Node>,
    _injector: Injector,
    _network: Network,
    cluster: Cluster,
}

/// A place in a site that others use, too: keep to namespaces of your own, and leave nothing broken.
pub struct SharedSite {
    nodes: Vec<NodeAccess>,
    shared: SharedCluster,
}

// === impl Site ===

impl Site {
    /// The site of this test run. Starts it if nobody has.
    pub async fn shared() -> anyhow::Result<SharedSite> {
        let shared = Cluster::shared_with_nodes().await?;
        let folder = |name| shared.folder().join(FOLDER).join(name);
        let nodes = NODES.map(|name| NodeAccess::open(&folder(name)));
        Ok(SharedSite {
            nodes: nodes.into_iter().collect::<anyhow::Result<_>>()?,
            shared,
        })
    }

    /// Starts one with these nodes (of [`NODES`]), with its files in a folder that the caller holds, too. Call it from the test's
    /// own task: the programs end with the thread that started them.
    pub async fn start_in(folder: Arc<Folder>, nodes: &[&str]) -> anyhow::Result<Self> {
        let options = ClusterOptions {
            scheduler: true,
            pod_security: "baseline",
            ..ClusterOptions::default()
        };
        let images = folder.join("images");
        let (cluster, images) = try_join!(Cluster::start_in(Arc::clone(&folder), options), Images::make(&images))?;
        let network = Network::start(&cluster).await?;
        endpoints_of_the_api_server(&cluster, &network).await?;
        cluster.apply_yaml(&DNS.replace("COREDNS", COREDNS)).await?;
        let nodes = nodes.iter().enumerate().map(async |(index, name)| {
            let folder = folder.join(FOLDER).join(name);
            Node::start(&cluster, &network, index, name, &images, &folder).await
        });
        let nodes = try_join_all(nodes).await?;
        let site = Self {
            nodes,
            _injector: Injector::start(&cluster).await?,
            _network: network,
            cluster,
        };
        site.names_resolve().await?;
        Ok(site)
    }

    /// Its control plane, whose components may be killed and started again.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// Its nodes.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Ends it. Its logs stay until somebody discards the folder.
    pub async fn end(self) -> anyhow::Result<()> {
        for node in self.nodes {
            node.finish().await?;
        }
        Ok(())
    }

    async fn names_resolve(&self) -> anyhow::Result<()> {
        let deployments = Api::<Deployment>::namespaced(self.cluster.admin(), "kube-system");
        wait::until("CoreDNS to be ready", PATIENCE * 2, async || {
            let status = deployments.get("coredns").await?.status.unwrap_or_default();
            ensure!(status.ready_replicas == Some(1), "its status is {status:?}");
            Ok(())
        })
        .await
        .with_context(|| {
            let tails = self
                .nodes
                .iter()
                .map(|node| format!("{}:\n{}\n", node.name(), node.tail("kubelet")));
            format!("kubelets' last lines:\n{}", tails.collect::<String>())
        })
    }
}

impl Deref for Site {
    type Target = Access;

    fn deref(&self) -> &Access {
        &self.cluster
    }
}

// === impl SharedSite ===

impl SharedSite {
    /// The nodes.
    pub fn nodes(&self) -> &[NodeAccess] {
        &self.nodes
    }

    /// A node by its name.
    pub fn node(&self, name: &str) -> anyhow::Result<&NodeAccess> {
        let found = self.nodes.iter().find(|node| node.name() == name);
        found.with_context(|| format!("there is no node {name}"))
    }

    /// The folder with its logs.
    pub fn folder(&self) -> PathBuf {
        self.shared.folder().to_owned()
    }

    /// Leaves. Without it the logs are kept, for whoever reads why the test failed.
    pub async fn finish(self) -> anyhow::Result<()> {
        self.shared.finish().await
    }
}

impl Deref for SharedSite {
    type Target = Access;

    fn deref(&self) -> &Access {
        &self.shared
    }
}

/// What the API server would write itself, if its address were not a loopback's: where the Service `kubernetes` leads.
async fn endpoints_of_the_api_server(cluster: &Access, network: &Network) -> anyhow::Result<()> {
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": "kubernetes", "namespace": "default",
            "labels": { "kubernetes.io/service-name": "kubernetes" },
        },
        "addressType": "IPv4",
        "ports": [{ "name": "https", "port": network.api().port(), "protocol": "TCP" }],
        "endpoints": [{ "addresses": [network.api().ip().to_string()], "conditions": { "ready": true } }],
    });
    cluster.apply_yaml(&slice.to_string()).await.map(drop)
}
