//! The manifests of `deploy/` in a real API server: valid, admitted where Pod Security is `restricted`, placed, found by
//! their Service, kept by their budget.

use std::collections::BTreeMap;

use anyhow::{Context as _, ensure};
use ensign_testbed::{
    cluster::{Access, Cluster, ClusterOptions, Manifests},
    wait::{self, PATIENCE},
};
use k8s_openapi::api::{
    admissionregistration::v1::ValidatingAdmissionPolicy, core::v1::Pod, discovery::v1::EndpointSlice,
    policy::v1::PodDisruptionBudget,
};
use kube::{
    Api, ResourceExt as _,
    api::{DynamicObject, EvictParams, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

type Result = anyhow::Result<()>;

const OWN: &str = "ensign-system";
const REPLICAS: &str = "app.kubernetes.io/name=ensign-ra";
const FILES: [&str; 3] = ["ra.yaml", "rbac.yaml", "admission.yaml"];

#[tokio::test]
async fn the_replicas_are_admitted_spread_found_and_kept() -> Result {
    let bed = Cluster::start(ClusterOptions {
        scheduler: true,
        ..ClusterOptions::default()
    })
    .await?;
    for (name, zone) in [("node-1", "zone-a"), ("node-2", "zone-a"), ("node-3", "zone-b")] {
        let zone = BTreeMap::from([("topology.kubernetes.io/zone", zone)]);
        bed.schedulable_node(name, &zone).await?;
    }
    bed.namespace_named("istio-system").await?;
    for file in FILES {
        Manifests::read(file)?.apply(&bed).await?;
    }

    let pods = replicas(&bed).await?;
    for pod in &pods {
        // Nothing but what the manifest says is mounted, no second token above all.
        let volumes = pod
            .spec
            .as_ref()
            .and_then(|spec| spec.volumes.clone())
            .unwrap_or_default();
        let names: Vec<_> = volumes.iter().map(|volume| volume.name.as_str()).collect();
        assert_eq!(names, ["kube-api-access", "policy", "roots"]);
    }
    let nodes: Vec<_> = pods.iter().filter_map(node_of).collect();
    assert!(nodes.contains(&"node-3"), "both replicas are in one zone: {nodes:?}");

    // As their kubelets would say it.
    for (number, pod) in pods.iter().enumerate() {
        ready(&bed, &pod.name_any(), &format!("10.1.0.{number}")).await?;
    }
    for (service, port, name) in [
        ("ensign-ra", 6443, "tls-grpc"),
        ("ensign-ra-metrics", 9402, "http-metrics"),
    ] {
        found(&bed, service, port, name).await?;
    }
    one_may_be_evicted(&bed, &pods[0]).await?;
    bed.finish().await
}

#[tokio::test]
async fn each_line_of_the_security_context_is_needed() -> Result {
    let bed = Cluster::start(ClusterOptions {
        cert_manager: false,
        ..ClusterOptions::default()
    })
    .await?;
    Manifests::read("ra.yaml")?.apply(&bed).await?;
    let deployment = Manifests::read("ra.yaml")?.object("Deployment", "ensign-ra")?.clone();
    let template = &deployment.data["spec"]["template"];
    admitted(&bed, template).await.context("as it is")?;

    let spec = "/spec/securityContext";
    let container = "/spec/containers/0/securityContext";
    for (pointer, field) in [
        (spec, "runAsNonRoot"),
        (spec, "seccompProfile"),
        (container, "allowPrivilegeEscalation"),
        (container, "capabilities"),
    ] {
        let mut weaker = template.clone();
        let context = weaker.pointer_mut(pointer).and_then(Value::as_object_mut);
        let removed = context.context("no security context")?.remove(field);
        ensure!(removed.is_some(), "{pointer} has no {field}");
        let error = admitted(&bed, &weaker).await.expect_err(field);
        let text = format!("{error:#}");
        assert!(text.contains("violates PodSecurity \"restricted"), "{text}");
    }
    bed.finish().await
}

#[tokio::test]
async fn the_policies_pass_the_type_check_of_the_server() -> Result {
    let bed = Cluster::start(ClusterOptions::default()).await?;
    let policies = Api::<ValidatingAdmissionPolicy>::all(bed.admin());
    for object in Manifests::read("optional/admission.yaml")?.apply(&bed).await? {
        if object
            .types
            .is_none_or(|types| types.kind != "ValidatingAdmissionPolicy")
        {
            continue;
        }
        let name = object.metadata.name.unwrap_or_default();
        wait::until(&format!("the check of {name}"), PATIENCE, async || {
            let policy = policies.get(&name).await?;
            let status = policy.status.unwrap_or_default();
            ensure!(
                status.observed_generation == policy.metadata.generation,
                "not looked at yet"
            );
            let warnings = status.type_checking.and_then(|checked| checked.expression_warnings);
            assert_eq!(warnings.unwrap_or_default(), [], "{name}");
            Ok(())
        })
        .await?;
    }
    bed.finish().await
}

/// Whoever elects a leader elsewhere than where the rights are never has one: no roots, no istiod-tls.
#[test]
fn the_lease_is_where_the_rights_let_it_be() -> Result {
    let ra = Manifests::read("ra.yaml")?;
    let deployment = ra.object("Deployment", "ensign-ra")?;
    let environment = &deployment.data["spec"]["template"]["spec"]["containers"][0]["env"];
    let variable = environment.as_array().into_iter().flatten();
    let mut variable = variable.filter(|one| one["name"] == "ENSIGN_RA_LEADER_ELECTION_NAMESPACE");
    let variable = variable.next().context("ra.yaml does not say where the Lease is")?;
    let namespace = match variable["valueFrom"]["fieldRef"]["fieldPath"].as_str() {
        Some("metadata.namespace") => deployment.namespace(),
        _ => variable["value"].as_str().map(str::to_owned),
    };
    let rights = Manifests::read("rbac.yaml")?.rights()?;
    let leases: Vec<_> = rights.iter().filter(|right| right.resource == "leases").collect();
    assert!(!leases.is_empty());
    for right in leases {
        assert_eq!(right.namespace, namespace, "{right}");
        assert_eq!(right.names, ["ensign-ra", "ensign-ra-replicas"], "{right}");
        assert_eq!(
            right.account.namespace,
            deployment.namespace().unwrap_or_default(),
            "{right}"
        );
    }
    Ok(())
}

/// The two pods, once each has a node.
async fn replicas(access: &Access) -> anyhow::Result<Vec<Pod>> {
    let pods = Api::<Pod>::namespaced(access.admin(), OWN);
    wait::until("two replicas with a node each", PATIENCE, async || {
        let found = pods.list(&ListParams::default().labels(REPLICAS)).await?.items;
        ensure!(
            found.len() == 2 && found.iter().all(|pod| node_of(pod).is_some()),
            "there are {:?}",
            found
                .iter()
                .map(|pod| (pod.name_any(), node_of(pod)))
                .collect::<Vec<_>>()
        );
        Ok(found)
    })
    .await
}

fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref()
}

async fn ready(access: &Access, pod: &str, address: &str) -> Result {
    let status = json!({ "status": {
        "phase": "Running", "podIP": address, "podIPs": [{ "ip": address }],
        "conditions": [{ "type": "Ready", "status": "True" }],
    } });
    Api::<Pod>::namespaced(access.admin(), OWN)
        .patch_status(pod, &PatchParams::default(), &Patch::Strategic(&status))
        .await?;
    Ok(())
}

/// The Service leads to the port of both replicas.
async fn found(access: &Access, service: &str, port: i32, name: &str) -> Result {
    let slices = Api::<EndpointSlice>::namespaced(access.admin(), OWN);
    let selector = ListParams::default().labels(&format!("kubernetes.io/service-name={service}"));
    wait::until(&format!("the endpoints of {service}"), PATIENCE, async || {
        let found = slices.list(&selector).await?.items;
        let ports: Vec<_> = found.iter().flat_map(|slice| slice.ports.iter().flatten()).collect();
        let ready = found.iter().flat_map(|slice| &slice.endpoints);
        let ready = ready.filter(|end| end.conditions.as_ref().is_some_and(|now| now.ready == Some(true)));
        ensure!(ready.count() == 2, "not both are ready: {found:?}");
        ensure!(
            ports
                .iter()
                .any(|found| found.port == Some(port) && found.name.as_deref() == Some(name)),
            "its ports are {ports:?}"
        );
        Ok(())
    })
    .await
}

async fn one_may_be_evicted(access: &Access, replica: &Pod) -> Result {
    budget(access, 2, 1).await?;
    let pods = Api::<Pod>::namespaced(access.admin(), OWN);
    pods.evict(&replica.name_any(), &EvictParams::default()).await?;
    // Its successor has no kubelet that would make it ready.
    budget(access, 1, 0).await
}

async fn budget(access: &Access, healthy: i32, allowed: i32) -> Result {
    let budgets = Api::<PodDisruptionBudget>::namespaced(access.admin(), OWN);
    wait::until("the budget", PATIENCE, async || {
        let status = budgets.get("ensign-ra").await?.status.unwrap_or_default();
        let seen = (status.current_healthy, status.disruptions_allowed);
        ensure!(seen == (healthy, allowed), "it is {status:?}");
        Ok(())
    })
    .await
}

/// Whether a pod of this template may be made in the RA's namespace; none is.
async fn admitted(access: &Access, template: &Value) -> Result {
    let pods = Api::<DynamicObject>::namespaced_with(access.admin(), OWN, &kube::api::ApiResource::erase::<Pod>(&()));
    let mut pod = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "probe" } });
    pod["spec"] = template["spec"].clone();
    let parameters = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    pods.create(&parameters, &serde_json::from_value(pod)?).await?;
    Ok(())
}
