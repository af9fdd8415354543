//! Pods of tests: what one is, how it is made, and how it ends. Each is as strict as Pod Security knows (`restricted`), with
//! the uid of Istio's proxy and a read-only root.

use anyhow::Context;
use ensign_testbed::envoy::{Admin, EnvoySpec, Home};
use ensign_testbed::node::{ENVOY, GUEST};
use ensign_testbed::wait::{PATIENCE, until};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::PostParams;
use serde_json::{Value, json};

use crate::mesh::Mesh;
use crate::pod::{self, address};

/// Where its volume is in a pod.
pub(crate) const SOCKET: &str = "/identity/ensign.sock";

/// A pod that is to be made.
#[derive(Debug, Clone)]
pub(crate) struct Workload {
    pub(crate) namespace: String,
    pub(crate) name: String,
    node: &'static str,
    attributes: Value,
    image: &'static str,
    args: Vec<String>,
    /// Beside the one of ours.
    volumes: Vec<Value>,
    mounts: Vec<Value>,
}

/// An Envoy in a pod.
pub(crate) struct Proxy {
    pub(crate) pod: Pod,
    pub(crate) id: String,
    pub(crate) admin: Admin,
}

// === impl Workload ===

impl Workload {
    /// A small program that looks for its socket once, as its first act, and then waits. On the first node, without a signer.
    pub(crate) fn new(namespace: &str, name: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            node: "node1",
            attributes: json!({}),
            image: GUEST,
            args: vec!["probe".to_owned(), SOCKET.to_owned()],
            volumes: Vec::new(),
            mounts: Vec::new(),
        }
    }

    pub(crate) fn on(mut self, node: &'static str) -> Self {
        self.node = node;
        self
    }

    /// With attributes of its volume.
    pub(crate) fn attributes(mut self, attributes: Value) -> Self {
        self.attributes = attributes;
        self
    }

    /// With more volumes.
    pub(crate) fn with_volumes(mut self, volumes: Value) -> Self {
        self.volumes.extend(volumes.as_array().into_iter().flatten().cloned());
        self
    }

    /// And where they are in the container.
    pub(crate) fn with_mounts(mut self, mounts: Value) -> Self {
        self.mounts.extend(mounts.as_array().into_iter().flatten().cloned());
        self
    }

    /// With an SDS client instead, which asks for both secrets and accepts what comes.
    pub(crate) fn subscribing(mut self) -> Self {
        self.args = vec!["sds".to_owned(), SOCKET.to_owned()];
        self
    }

    /// With an Envoy instead.
    pub(crate) fn envoy(mut self, spec: &EnvoySpec) -> anyhow::Result<Self> {
        self.image = ENVOY;
        let config = spec.bootstrap()?.to_string();
        let flags = [
            "--disable-hot-restart",
            "--concurrency",
            "1",
            "--log-level",
            "warn",
            "--config-yaml",
            &config,
        ];
        self.args = flags.map(str::to_owned).to_vec();
        Ok(self)
    }

    /// As the API server wants it.
    pub(crate) fn object(&self) -> Value {
        let mut mounts = vec![json!({ "name": "identity", "mountPath": "/identity", "readOnly": true })];
        mounts.extend(self.mounts.iter().cloned());
        let mut volumes = vec![json!({
            "name": "identity",
            "csi": { "driver": "csi.ensign.mesh", "readOnly": true, "volumeAttributes": self.attributes },
        })];
        volumes.extend(self.volumes.iter().cloned());
        json!({
            "metadata": { "name": self.name, "labels": { "app": self.name } },
            "spec": {
                "nodeName": self.node,
                "automountServiceAccountToken": false,
                "enableServiceLinks": false,
                "terminationGracePeriodSeconds": 1,
                "securityContext": {
                    "runAsNonRoot": true, "runAsUser": 1337, "runAsGroup": 1337, "seccompProfile": { "type": "RuntimeDefault" },
                },
                "containers": [{
                    "name": "proxy",
                    "image": self.image,
                    "imagePullPolicy": "Never",
                    "args": self.args,
                    "securityContext": {
                        "allowPrivilegeEscalation": false,
                        "readOnlyRootFilesystem": true,
                        "capabilities": { "drop": ["ALL"] },
                    },
                    "volumeMounts": mounts,
                }],
                "volumes": volumes,
            },
        })
    }
}

// === impl Mesh ===

impl Mesh {
    pub(crate) fn pods(&self, namespace: &str) -> Api<Pod> {
        Api::namespaced(self.admin(), namespace)
    }

    /// Makes a pod.
    pub(crate) async fn create(&self, workload: &Workload) -> anyhow::Result<Pod> {
        let object = serde_json::from_value(workload.object())?;
        let pods = self.pods(&workload.namespace);
        Ok(pods.create(&PostParams::default(), &object).await?)
    }

    /// Makes a pod and waits until it runs.
    pub(crate) async fn start(&self, workload: &Workload) -> anyhow::Result<Pod> {
        self.create(workload).await?;
        self.running(workload).await
    }

    /// The pod, once it runs.
    pub(crate) async fn running(&self, workload: &Workload) -> anyhow::Result<Pod> {
        let pod = pod::running(&self.pods(&workload.namespace), &workload.name).await;
        pod.with_context(|| {
            format!(
                "it printed:\n{}\n{}",
                self.log(&workload.namespace, &workload.name),
                self.agents_tell()
            )
        })
    }

    /// Starts an Envoy in a pod, with a Service of the same name on port 80, and waits until it has its secrets.
    pub(crate) async fn proxy(
        &self,
        workload: Workload,
        configure: impl FnOnce(EnvoySpec) -> EnvoySpec,
    ) -> anyhow::Result<Proxy> {
        let (namespace, name) = (workload.namespace.clone(), workload.name.clone());
        let service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": { "name": name, "namespace": namespace },
            "spec": { "selector": { "app": name }, "ports": [{ "name": "https", "port": 80, "targetPort": Home::INBOUND }] },
        });
        self.apply_yaml(&service.to_string()).await?;
        let spec = configure(EnvoySpec::new(&name, &namespace, "default", SOCKET).in_a_pod());
        let pod = self.start(&workload.envoy(&spec)?).await?;
        Proxy::of(pod, &namespace)
            .await
            .with_context(|| format!("it printed:\n{}\n{}", self.log(&namespace, &name), self.agents_tell()))
    }

    /// Deletes a pod and waits until kubelet has let go of it.
    pub(crate) async fn delete(&self, namespace: &str, name: &str) -> anyhow::Result<()> {
        pod::delete(&self.pods(namespace), name).await
    }
}

// === impl Proxy ===

impl Proxy {
    /// The Envoy in a pod that runs, once it has its secrets.
    pub(crate) async fn of(pod: Pod, namespace: &str) -> anyhow::Result<Self> {
        let admin = Admin::new(address(&pod, Home::ADMIN)?);
        until("the pod's Envoy to be ready", PATIENCE, async || admin.ready().await).await?;
        Ok(Self {
            pod,
            id: id(namespace),
            admin,
        })
    }

    /// Sends a request to its upstream of this number, counted from 0.
    pub(crate) async fn call(&self, upstream: u16) -> anyhow::Result<ensign_testbed::http::Answer> {
        let port = address(&self.pod, Home::OUTBOUND + upstream)?;
        ensign_testbed::http::request(port, http::Method::GET, "/", &[]).await
    }
}

/// The identity of the default account of a namespace.
pub(crate) fn id(namespace: &str) -> String {
    format!("spiffe://cluster.local/ns/{namespace}/sa/default")
}
