//! Pods of the injector's shape with our template merged onto them, on real kubelets: what pilot-agent meets at its first look.

use anyhow::{Context, ensure};
use ensign_testbed::injection::{FOLDER, Kind, Written, merge, pod_of, without_empty_dir};
use ensign_testbed::node::GUEST;
use ensign_testbed::site::NODES;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::PostParams;
use serde_json::{Value, json};

use crate::mesh::Mesh;
use crate::pod;

#[tokio::test(flavor = "multi_thread")]
async fn each_kind_of_proxy_finds_the_socket_at_its_first_look_and_cannot_remove_it() -> anyhow::Result<()> {
    let mesh = Mesh::join().await?;
    let place = mesh.namespace_with("injected", "foo").await?;
    let pods = mesh.pods(&place);
    let mut names = Vec::new();
    for (number, kind) in Kind::ALL.into_iter().enumerate() {
        for written in [Written::Null, Written::Empty] {
            let node = NODES[number % NODES.len()];
            let base = kind.base(written);
            let name = format!("{kind:?}-{written:?}").to_lowercase();
            let merged = merge(&base, &kind.template()?).await?;
            create(&pods, node, &name, pod_of(&merged)).await?;
            names.push(name);
            // The line that takes Istio's own volume away is what does it.
            if written == Written::Empty {
                let two = merge(&base, &without_empty_dir(kind.template()?)).await?;
                let refused = create(&pods, node, "two-sources", pod_of(&two)).await;
                let refused = format!("{:#}", refused.err().context("two sources in one volume")?);
                ensure!(refused.contains("may not specify more than 1 volume type"), "{refused}");
            }
        }
    }
    // Without the template there is Istio's volume, and nobody in it.
    let alone = Kind::Sidecar.base(Written::Empty);
    create(&pods, NODES[0], "untouched", pod_of(&alone)).await?;

    for name in &names {
        pod::running(&pods, name).await.with_context(|| mesh.agents_tell())?;
        let said = mesh.probed(&place, name).await?;
        ensure!(
            said.contains("probe answered") && said.contains("socket cannot be removed") && said.contains("read-only"),
            "{name}: {said}"
        );
    }
    pod::running(&pods, "untouched").await?;
    let said = mesh.probed(&place, "untouched").await?;
    ensure!(said.contains("probe failed"), "{said}");
    mesh.finish().await
}

/// With pilot-agent's look in the place of Istio's proxy, and somebody who waits in that of the application.
async fn create(pods: &Api<Pod>, node: &str, name: &str, spec: &Value) -> anyhow::Result<()> {
    let mut spec = spec.clone();
    spec["nodeName"] = json!(node);
    spec["automountServiceAccountToken"] = json!(false);
    spec["terminationGracePeriodSeconds"] = json!(1);
    for list in ["initContainers", "containers"] {
        for container in spec[list].as_array_mut().into_iter().flatten() {
            let looks = container["name"] == "istio-proxy";
            let args = looks.then(|| vec!["probe".to_owned(), format!("{FOLDER}/ensign.sock")]);
            container["args"] = json!(args.unwrap_or_default());
            container["image"] = json!(GUEST);
            container["imagePullPolicy"] = json!("Never");
        }
    }
    let pod = serde_json::from_value(json!({ "metadata": { "name": name }, "spec": spec }))?;
    pods.create(&PostParams::default(), &pod).await?;
    Ok(())
}
