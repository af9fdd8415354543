//! The injection template `ensign`, merged as Istio merges onto pods of the shape that its templates give them, with the volume
//! written as each version writes it (`testbed::injection`).
//!
//! What comes out is created in a real API server, in a namespace where Pod Security is `restricted`. That it runs, too, is seen by
//! ring `e2e`.

use anyhow::{Context as _, ensure};
use ensign_testbed::{
    cluster::Cluster,
    injection::{Kind, Written, merge, pod_of, without_empty_dir},
};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api,
    api::{ApiResource, DynamicObject, PostParams},
};
use serde_json::{Value, json};
use test_case::test_matrix;

use super::Result;

#[test_matrix(
    [Kind::Sidecar, Kind::NativeSidecar, Kind::Gateway, Kind::KubeGateway, Kind::Waypoint],
    [Written::Null, Written::Empty]
)]
#[tokio::test]
async fn a_pod_of_the_injector_with_our_socket_is_admitted(kind: Kind, written: Written) -> Result {
    let base = kind.base(written);
    let merged = merge(&base, &kind.template()?).await?;
    let pod = pod_of(&merged);
    assert_eq!(
        volume(pod)?,
        json!({ "name": "workload-socket", "csi": { "driver": "csi.ensign.mesh", "readOnly": true } })
    );
    // Nothing else was touched.
    assert_eq!(others(pod_of(&base)), others(pod));
    if matches!(kind, Kind::KubeGateway | Kind::Waypoint) {
        let environment = &pod["containers"][0]["env"];
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
    create(&pods, pod).await?;

    // The line that takes Istio's volume away is what does it.
    if matches!(written, Written::Empty) {
        let merged = merge(&base, &without_empty_dir(kind.template()?)).await?;
        let error = create(&pods, pod_of(&merged))
            .await
            .expect_err("two sources in one volume");
        ensure!(
            format!("{error:#}").contains("may not specify more than 1 volume type"),
            "{error:#}"
        );
    }
    bed.finish().await
}

async fn create(pods: &Api<DynamicObject>, spec: &Value) -> Result {
    let mut spec = spec.clone();
    spec["serviceAccountName"] = json!("app");
    let pod = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "generateName": "injected-" }, "spec": spec });
    pods.create(&PostParams::default(), &serde_json::from_value(pod)?)
        .await?;
    Ok(())
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
