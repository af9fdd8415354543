//! Pods of the shape that Istio's injector gives them, and our template merged onto them as Istio merges: on top of what its own
//! templates made of a pod, by Kubernetes' strategic merge patch (kubectl does the same one). Istio itself is not here.

use std::process::Stdio;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::{
    cluster::{deploy, kubectl},
    folder::Folder,
    helm::yaml,
};

/// The folder in which pilot-agent looks for a socket: `security.WorkloadIdentityPath` of Istio.
pub const FOLDER: &str = "/var/run/secrets/workload-spiffe-uds";

/// How a proxy comes into its pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Injected as a container.
    Sidecar,
    /// Injected as an init container that stays.
    NativeSidecar,
    /// Injected into a pod that has nothing else.
    Gateway,
    /// Made by istiod for a Gateway object.
    KubeGateway,
    /// The same for a waypoint.
    Waypoint,
}

/// How Istio's template writes its own volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// `emptyDir:`
    Null,
    /// `emptyDir: {}`
    Empty,
}

// === impl Kind ===

impl Kind {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Sidecar,
        Self::NativeSidecar,
        Self::Gateway,
        Self::KubeGateway,
        Self::Waypoint,
    ];

    /// A pod, or a Deployment where Istio makes one, as Istio's own template leaves it.
    pub fn base(self, written: Written) -> Value {
        let restricted = json!({
            "allowPrivilegeEscalation": false, "privileged": false, "readOnlyRootFilesystem": true,
            "runAsNonRoot": true, "runAsUser": 1337, "runAsGroup": 1337, "capabilities": { "drop": ["ALL"] },
            "seccompProfile": { "type": "RuntimeDefault" },
        });
        let mut proxy = json!({
            "name": "istio-proxy", "image": "proxyv2", "args": ["proxy", "sidecar"],
            "env": [{ "name": "PILOT_CERT_PROVIDER", "value": "istiod" }, { "name": "CA_ADDR", "value": "istiod.istio-system.svc:15012" }],
            "securityContext": restricted.clone(),
            "volumeMounts": [
                { "name": "workload-socket", "mountPath": FOLDER },
                { "name": "istio-token", "mountPath": "/var/run/secrets/tokens" },
                { "name": "istio-data", "mountPath": "/var/lib/istio/data" },
            ],
        });
        let workload = json!({ "name": "app", "image": "app", "securityContext": restricted });
        let (first, containers) = match self {
            Self::Sidecar => (json!([]), json!([workload, proxy])),
            Self::NativeSidecar => {
                proxy["restartPolicy"] = json!("Always");
                (json!([proxy]), json!([workload]))
            }
            Self::Gateway | Self::KubeGateway | Self::Waypoint => (json!([]), json!([proxy])),
        };
        let mut socket = json!({ "name": "workload-socket" });
        socket["emptyDir"] = match written {
            Written::Null => Value::Null,
            Written::Empty => json!({}),
        };
        let pod = json!({
            "initContainers": first, "containers": containers,
            "volumes": [
                socket,
                { "name": "istio-data", "emptyDir": {} },
                { "name": "istio-token", "projected": { "sources": [
                    { "serviceAccountToken": { "path": "istio-token", "expirationSeconds": 43200, "audience": "istio-ca" } },
                ] } },
            ],
        });
        if let Self::KubeGateway | Self::Waypoint = self {
            return json!({
                "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "gateway" },
                "spec": { "selector": { "matchLabels": { "a": "b" } }, "template": { "spec": pod } },
            });
        }
        json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "app" }, "spec": pod })
    }

    /// What is merged on top: the template of deploy/istio/values.yaml for what is injected, a class's defaults for what Istio
    /// makes itself.
    pub fn template(self) -> anyhow::Result<Value> {
        let read = |name: &str| {
            let path = deploy::file(&format!("istio/{name}"));
            std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
        };
        let class = match self {
            Self::Sidecar | Self::NativeSidecar | Self::Gateway => {
                let values = yaml(&read("values.yaml")?)?;
                let template = values["sidecarInjectorWebhook"]["templates"]["ensign"].as_str();
                return yaml(template.context("no template")?);
            }
            Self::KubeGateway => "istio",
            Self::Waypoint => "istio-waypoint",
        };
        for document in read("gateways.yaml")?.split("\n---\n") {
            let object = yaml(document)?;
            if object["metadata"]["labels"]["gateway.istio.io/defaults-for-class"] == class {
                return yaml(object["data"]["deployment"].as_str().context("no deployment")?);
            }
        }
        anyhow::bail!("no ConfigMap for class {class}")
    }
}

/// Takes the line away that takes Istio's own volume away.
pub fn without_empty_dir(mut template: Value) -> Value {
    fn remove(value: &mut Value) {
        match value {
            Value::Object(fields) => {
                fields.remove("emptyDir");
                fields.values_mut().for_each(remove);
            }
            Value::Array(items) => items.iter_mut().for_each(remove),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    remove(&mut template);
    template
}

/// Kubernetes' own merge, by the types of what it is given.
pub async fn merge(base: &Value, template: &Value) -> anyhow::Result<Value> {
    let folder = Folder::new()?;
    let base = folder.write("base.json", base.to_string())?;
    let template = folder.write("template.json", template.to_string())?;
    let mut command = Command::new(kubectl()?);
    command
        .args(["patch", "--local", "--type=strategic", "-o=json", "-f"])
        .arg(base);
    command
        .arg("--patch-file")
        .arg(template)
        .env_clear()
        .stdin(Stdio::null());
    let output = command
        .kill_on_drop(true)
        .output()
        .await
        .context("cannot run kubectl")?;
    folder.discard();
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).context("kubectl printed no JSON")
}

/// A pod's specification, whichever object has it.
pub fn pod_of(object: &Value) -> &Value {
    match object["spec"].get("template") {
        Some(template) => &template["spec"],
        None => &object["spec"],
    }
}
