//! What the programs make of the settings that the chart renders: accepted, and enough to work with.

use std::{collections::BTreeMap, process::Stdio};

use anyhow::{Context as _, ensure};
use ensign_testbed::{
    cluster::{Cluster, ClusterOptions, Manifests},
    helm,
    process::own_binary,
};
use serde_json::{Value, json};
use tokio::process::Command;

use super::{NODE, OWN, Result, sets};
use crate::{
    istio::ISTIO_SYSTEM,
    program::{Ra, workload},
};

/// Both programs read their settings without starting: one that they refuse, or do not know, ends this test.
#[tokio::test]
async fn the_programs_accept_the_settings_that_are_rendered() -> Result {
    for (set, values) in sets::all() {
        let objects = helm::template(OWN, &values).await.with_context(|| set.to_owned())?;
        let mut read = 0;
        for (kind, program) in [("Deployment", "ensign-ra"), ("DaemonSet", "ensign-agent")] {
            let Some(workload) = objects.objects().iter().find(|object| is(object, kind)) else {
                continue;
            };
            let container = &workload.data["spec"]["template"]["spec"]["containers"][0];
            let environment = environment(&objects, container)?;
            let args = container["args"].as_array().cloned().unwrap_or_default();
            accepted(program, args.iter().filter_map(Value::as_str), &environment)
                .await
                .with_context(|| format!("{set}: {program} with {environment:?}"))?;
            read += 1;
        }
        ensure!(read > 0, "{set} renders neither program");
    }
    Ok(())
}

/// The default values are an istio-csr that is replaced: with an issuer, the rights that are rendered and the settings that are
/// rendered the RA becomes ready and signs.
#[tokio::test(flavor = "multi_thread")]
async fn an_ra_with_what_the_defaults_render_signs() -> Result {
    let bed = Cluster::start(ClusterOptions::default()).await?;
    for namespace in [ISTIO_SYSTEM, OWN, NODE] {
        bed.namespace_named(namespace).await?;
    }
    let ca = bed.issuer(ISTIO_SYSTEM, "istio-ca").await?;
    let objects = helm::template(OWN, &json!({})).await?;
    objects.apply(&bed).await?;
    let kubeconfig = bed.kubeconfig_of_service_account(OWN, "ensign-ra").await?;

    let settings = objects.object("ConfigMap", "ensign-ra")?.data["data"].clone();
    let mut environment: BTreeMap<String, String> = serde_json::from_value(settings)?;
    // Where it listens is this test's business.
    for ours in ["ENSIGN_RA_METRICS_PORT", "ENSIGN_RA_READINESS_PROBE_PORT"] {
        environment.remove(ours).with_context(|| format!("no {ours}"))?;
    }
    let ra = Ra::start_with(OWN, &kubeconfig, None, &[], environment).await?;
    ra.ready().await?;
    let foo = bed.namespace("foo").await?;
    let (token, id) = workload(&bed, &foo, "sleep").await?;
    ra.certificate(&ca.root_pem(), &token, &id).await?;
    ra.finish().await?;
    bed.finish().await
}

fn is(object: &kube::api::DynamicObject, kind: &str) -> bool {
    object.types.as_ref().is_some_and(|types| types.kind == kind)
}

/// What kubelet would give the container.
fn environment(objects: &Manifests, container: &Value) -> Result<BTreeMap<String, String>> {
    let mut environment = BTreeMap::new();
    for source in container["envFrom"].as_array().into_iter().flatten() {
        let name = source["configMapRef"]["name"].as_str().context("no name")?;
        let data = &objects.object("ConfigMap", name)?.data["data"];
        for (name, value) in data.as_object().context("no data")? {
            environment.insert(name.clone(), value.as_str().context("no text")?.to_owned());
        }
    }
    for variable in container["env"].as_array().into_iter().flatten() {
        let name = variable["name"].as_str().context("no name")?.to_owned();
        environment.insert(name, variable["value"].as_str().unwrap_or("of-the-pod").to_owned());
    }
    Ok(environment)
}

async fn accepted(program: &str, args: impl Iterator<Item = &str>, environment: &BTreeMap<String, String>) -> Result {
    let mut command = Command::new(own_binary(program)?);
    command.env_clear().envs(environment).args(args).arg("--print-config");
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output().await?;
    let text = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}: {text}", output.status);
    let printed = String::from_utf8(output.stdout)?;
    // A variable that no setting has would be passed over in silence.
    for name in environment.keys() {
        ensure!(printed.contains(name), "{program} knows no {name}");
    }
    Ok(())
}
