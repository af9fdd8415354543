//! Where a workload would run: its namespace, its account, its node and its pod.

use std::collections::BTreeMap;

use anyhow::Context;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, ServiceAccount};
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::unique;
use crate::{
    cluster::Access,
    wait::{self, PATIENCE},
};

/// On each namespace that was made here.
const LABEL: &str = "ensign.mesh/testbed";

impl Access {
    /// A namespace of the test's own, named after a word. Ready to hold pods: its default account exists.
    pub async fn namespace(&self, word: &str) -> anyhow::Result<String> {
        let name = unique(word);
        self.namespace_named(&name).await?;
        Ok(name)
    }

    /// A namespace of exactly this name, if there is none yet.
    pub async fn namespace_named(&self, name: &str) -> anyhow::Result<()> {
        let namespace = json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": { "name": name, "labels": { LABEL: word_of(name) } },
        });
        self.apply_yaml(&namespace.to_string()).await?;
        let accounts = Api::<ServiceAccount>::namespaced(self.admin(), name);
        wait::until(&format!("the default account of {name}"), PATIENCE, async || {
            accounts.get("default").await.map(drop).context("not yet")
        })
        .await
    }

    /// Deletes a namespace and what is in it; does not wait for its end.
    pub async fn delete_namespace(&self, name: &str) -> anyhow::Result<()> {
        let namespaces = Api::<Namespace>::all(self.admin());
        namespaces
            .delete(name, &DeleteParams::default())
            .await
            .with_context(|| format!("cannot delete the namespace {name}"))
            .map(drop)
    }

    /// A service account.
    pub async fn service_account(&self, namespace: &str, name: &str) -> anyhow::Result<ServiceAccount> {
        let accounts = Api::namespaced(self.admin(), namespace);
        let account = json!({ "metadata": { "name": name } });
        create(&accounts, &account, &format!("service account {namespace}/{name}")).await
    }

    /// A node without a kubelet. It stays as it is.
    pub async fn node(&self, name: &str) -> anyhow::Result<Node> {
        create(
            &Api::all(self.admin()),
            &json!({ "metadata": { "name": name } }),
            &format!("node {name}"),
        )
        .await
    }

    /// A node that the scheduler takes, with room for ten pods and these labels; still without a kubelet.
    pub async fn schedulable_node(&self, name: &str, labels: &BTreeMap<&str, &str>) -> anyhow::Result<Node> {
        self.node(name).await?;
        let nodes = Api::<Node>::all(self.admin());
        let mut all = BTreeMap::from([("kubernetes.io/hostname", name), ("kubernetes.io/os", "linux")]);
        all.extend(labels);
        // Admission taints a new node, and the controller that would take the taint away does not run here.
        let patch = json!({ "metadata": { "labels": all }, "spec": { "taints": null } });
        nodes
            .patch(name, &PatchParams::default(), &Patch::Merge(&patch))
            .await
            .with_context(|| format!("cannot label node {name}"))?;
        let room = json!({ "cpu": "4", "memory": "8Gi", "pods": "10" });
        let status = json!({ "status": {
            "capacity": room, "allocatable": room, "conditions": [{ "type": "Ready", "status": "True" }],
        } });
        nodes
            .patch_status(name, &PatchParams::default(), &Patch::Merge(&status))
            .await
            .with_context(|| format!("cannot make node {name} ready"))
    }

    /// A pod that says of itself that it runs, on a node that need not exist.
    pub async fn pod(&self, namespace: &str, name: &str, account: &str, node: &str) -> anyhow::Result<Pod> {
        self.pod_with(namespace, name, account, node, &json!({})).await
    }

    /// The same with labels, which the Service of a test may select.
    pub async fn pod_with(
        &self,
        namespace: &str,
        name: &str,
        account: &str,
        node: &str,
        labels: &Value,
    ) -> anyhow::Result<Pod> {
        let pods = Api::<Pod>::namespaced(self.admin(), namespace);
        let pod = json!({
            "metadata": { "name": name, "labels": labels },
            "spec": {
                "serviceAccountName": account,
                "nodeName": node,
                "containers": [{ "name": "workload", "image": "none.invalid/workload" }],
            },
        });
        create(&pods, &pod, &format!("pod {namespace}/{name}")).await?;
        self.pod_phase(namespace, name, "Running").await
    }

    /// Sets the phase of a pod, as its kubelet would.
    pub async fn pod_phase(&self, namespace: &str, name: &str, phase: &str) -> anyhow::Result<Pod> {
        let pods = Api::<Pod>::namespaced(self.admin(), namespace);
        let status = json!({ "status": { "phase": phase } });
        pods.patch_status(name, &PatchParams::default(), &Patch::Merge(&status))
            .await
            .with_context(|| format!("cannot set the phase of pod {namespace}/{name}"))
    }

    /// Deletes a pod at once: without a kubelet nobody would confirm its end.
    pub async fn delete_pod(&self, namespace: &str, name: &str) -> anyhow::Result<()> {
        let pods = Api::<Pod>::namespaced(self.admin(), namespace);
        pods.delete(name, &DeleteParams::default().grace_period(0))
            .await
            .with_context(|| format!("cannot delete pod {namespace}/{name}"))
            .map(drop)
    }
}

async fn create<T>(api: &Api<T>, object: &Value, what: &str) -> anyhow::Result<T>
where
    T: kube::Resource + serde::Serialize + DeserializeOwned + Clone + std::fmt::Debug,
{
    let object = serde_json::from_value(object.clone()).with_context(|| format!("not a {what}"))?;
    api.create(&PostParams::default(), &object)
        .await
        .with_context(|| format!("cannot make the {what}"))
}

/// The word that a unique name was made from.
fn word_of(name: &str) -> &str {
    name.rsplit_once('-').map_or(name, |(word, _)| word)
}
