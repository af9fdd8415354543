//! The injection template `ensign`, merged as Istio merges: on top of what Istio's own templates made of a pod, by
//! Kubernetes' strategic merge patch (kubectl does the same one). Istio itself is not here; the pods below have the shape that
//! its templates give them, with the volume written as each version writes it.
//!
//! What comes out is created in a real API server, in a namespace where Pod Security is `restricted`.

use std::process::Stdio;

use anyhow::{Context as _, ensure};
use ensign_testbed::{
    cluster::{Cluster, deploy, kubectl},
    folder::Folder,
    helm::yaml,
};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api,
    api::{ApiResource, DynamicObject, PostParams},
};
use serde_json::{Value, json};
use test_case::test_matrix;
use tokio::process::Command;

use super::Result;

/// How a proxy comes into its pod.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Sidecar,
    NativeSidecar,
    Gateway,
    KubeGateway,
    Waypoint,
}

/// How Istio's template writes its own volume.
#[derive(Clone, Copy, Debug)]
enum Written {
    /// `emptyDir:`
    Null,
    /// `emptyDir: {}`
    Empty,
}

#[test_matrix(
    [Kind::Sidecar, Kind::NativeSidecar, Kind::Gateway, Kind::KubeGateway, Kind::Waypoint],
    [Written::Null, Written::Empty]
)]
#[tokio::test]
async fn a_pod_of_the_injector_with_our_socket_is_admitted(kind: Kind, written: Written) -> Result {
    let folder = Folder::new()?;
    let base = base(kind, written);
    let merged = merge(&folder, &base, &overlay(kind)?).await?;
    let pod = pod_of(&merged);
    let volume = volume(&pod)?;
    assert_eq!(
        volume,
        json!({ "name": "workload-socket", "csi": { "driver": "csi.ensign.mesh", "readOnly": true } })
    );
    // Nothing else was touched.
    let (before, after) = (pod_of(&base), pod.clone());
    assert_eq!(others(&before), others(&after));
    if matches!(kind, Kind::KubeGateway | Kind::Waypoint) {
        let environment = &after["containers"][0]["env"];
        let name = json!({ "name": "WORKLOAD_IDENTITY_SOCKET_FILE", "value": "ensign.sock" });
        assert!(
            environment.as_array().is_some_and(|all| all.contains(&name)),
            "{environment}"
        );
    }

    let bed = Cluster::shared().await?;
    let namespace = bed.namespace("injected").await?;
    let strict = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": {
        "name": namespace, "labels": { "pod-security.kubernetes.io/enforce": "restricted" },
    } });
    bed.apply_yaml(&strict.to_string()).await?;
    bed.service_account(&namespace, "app").await?;
    let pods = Api::<DynamicObject>::namespaced_with(bed.admin(), &namespace, &ApiResource::erase::<Pod>(&()));
    create(&pods, &pod).await?;

    // The line that takes Istio's volume away is what does it.
    if matches!(written, Written::Empty) {
        let mut without = overlay(kind)?;
        remove_empty_dir(&mut without);
        let merged = pod_of(&merge(&folder, &base, &without).await?);
        let error = create(&pods, &merged).await.expect_err("two sources in one volume");
        ensure!(
            format!("{error:#}").contains("may not specify more than 1 volume type"),
            "{error:#}"
        );
    }
    folder.discard();
    bed.finish().await
}

/// What is merged on top: the template of values.yaml for what is injected, a class's defaults for what Istio makes itself.
fn overlay(kind: Kind) -> Result<Value> {
    let read = |name: &str| Ok::<_, anyhow::Error>(std::fs::read_to_string(deploy::file(&format!("istio/{name}")))?);
    if let Kind::Sidecar | Kind::NativeSidecar | Kind::Gateway = kind {
        let values = yaml(&read("values.yaml")?)?;
        let template = values["sidecarInjectorWebhook"]["templates"]["ensign"].as_str();
        return yaml(template.context("no template")?);
    }
    let class = if kind == Kind::Waypoint {
        "istio-waypoint"
    } else {
        "istio"
    };
    for document in read("gateways.yaml")?.split("\n---\n") {
        let object = yaml(document)?;
        if object["metadata"]["labels"]["gateway.istio.io/defaults-for-class"] == class {
            return yaml(object["data"]["deployment"].as_str().context("no deployment")?);
        }
    }
    anyhow::bail!("no ConfigMap for class {class}")
}

fn remove_empty_dir(overlay: &mut Value) {
    match overlay {
        Value::Object(fields) => {
            fields.remove("emptyDir");
            fields.values_mut().for_each(remove_empty_dir);
        }
        Value::Array(items) => items.iter_mut().for_each(remove_empty_dir),
        _ => {}
    }
}

/// Kubernetes' own merge, by the types of what it is given.
async fn merge(folder: &Folder, base: &Value, overlay: &Value) -> Result<Value> {
    let base = folder.write("base.json", base.to_string())?;
    let overlay = folder.write("overlay.json", overlay.to_string())?;
    let mut command = Command::new(kubectl()?);
    command
        .args(["patch", "--local", "--type=strategic", "-o=json", "-f"])
        .arg(base);
    command
        .arg("--patch-file")
        .arg(overlay)
        .env_clear()
        .stdin(Stdio::null());
    let output = command.kill_on_drop(true).output().await?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(serde_json::from_slice(&output.stdout)?)
}

async fn create(pods: &Api<DynamicObject>, spec: &Value) -> Result {
    let mut spec = spec.clone();
    spec["serviceAccountName"] = json!("app");
    let pod = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "generateName": "injected-" }, "spec": spec });
    pods.create(&PostParams::default(), &serde_json::from_value(pod)?)
        .await?;
    Ok(())
}

fn pod_of(object: &Value) -> Value {
    match object["spec"].get("template") {
        Some(template) => template["spec"].clone(),
        None => object["spec"].clone(),
    }
}

fn volume(pod: &Value) -> Result<Value> {
    let volumes = pod["volumes"].as_array().context("no volumes")?;
    let ours = volumes.iter().filter(|volume| volume["name"] == "workload-socket");
    let ours: Vec<_> = ours.collect();
    ensure!(ours.len() == 1, "{volumes:?}");
    Ok(ours[0].clone())
}

/// All but the volume and the name of the socket.
fn others(pod: &Value) -> Value {
    let mut pod = pod.clone();
    if let Some(volumes) = pod["volumes"].as_array_mut() {
        volumes.retain(|volume| volume["name"] != "workload-socket");
    }
    for list in ["containers", "initContainers"] {
        for container in pod[list].as_array_mut().into_iter().flatten() {
            if let Some(environment) = container["env"].as_array_mut() {
                environment.retain(|variable| variable["name"] != "WORKLOAD_IDENTITY_SOCKET_FILE");
            }
        }
    }
    pod
}

/// A pod, or a Deployment where Istio makes one, as Istio's own template leaves it.
fn base(kind: Kind, written: Written) -> Value {
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
            { "name": "workload-socket", "mountPath": "/var/run/secrets/workload-spiffe-uds" },
            { "name": "istio-token", "mountPath": "/var/run/secrets/tokens" },
            { "name": "istio-data", "mountPath": "/var/lib/istio/data" },
        ],
    });
    let workload = json!({ "name": "app", "image": "app", "securityContext": restricted });
    let (first, containers) = match kind {
        Kind::Sidecar => (json!([]), json!([workload, proxy])),
        Kind::NativeSidecar => {
            proxy["restartPolicy"] = json!("Always");
            (json!([proxy]), json!([workload]))
        }
        Kind::Gateway | Kind::KubeGateway | Kind::Waypoint => (json!([]), json!([proxy])),
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
    if let Kind::KubeGateway | Kind::Waypoint = kind {
        return json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "gateway" },
            "spec": { "selector": { "matchLabels": { "a": "b" } }, "template": { "spec": pod } },
        });
    }
    json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "app" }, "spec": pod })
}
