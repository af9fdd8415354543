//! One release owns the driver, and cannot be uninstalled under the pods that use it: Helm itself against a real API server.
//!
//! No kubelet runs the Job that refuses; this test does what kubelet would do with it, with the Job's own account.

use std::{process::Stdio, time::Duration};

use anyhow::{Context as _, bail, ensure};
use ensign_testbed::{
    cluster::{Access, Cluster, ClusterOptions},
    folder::Folder,
    helm::Helm,
    process::own_binary,
    wait::{PATIENCE, until},
};
use k8s_openapi::api::{
    apps::v1::DaemonSet,
    core::v1::{Namespace, Pod},
    rbac::v1::ClusterRole,
    storage::v1::CSIDriver,
};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use serde_json::json;
use tokio::{process::Command, sync::Mutex};

use super::{NODE, OWN, Result};

const CHECK: &str = "ensign-uninstall-check";
const DRIVER: &str = "csi.ensign.mesh";

#[tokio::test(flavor = "multi_thread")]
async fn an_uninstallation_is_refused_while_pods_use_the_driver() -> Result {
    let bed = Cluster::start(ClusterOptions {
        cert_manager: false,
        ..ClusterOptions::default()
    })
    .await?;
    // Where the rights of the defaults are.
    for namespace in [OWN, "istio-system", "other"] {
        bed.namespace_named(namespace).await?;
    }
    let helm = Helm::of(&bed)?;
    let notes = helm.apply("install", OWN, &json!({})).await?;
    ensure!(
        notes.contains("Pod Security `privileged` is needed there, for hostPath alone"),
        "{notes}"
    );
    let error = helm
        .run(&["install", "second", &chart(), "--namespace", "other"])
        .await
        .expect_err("two releases own the driver");
    ensure!(format!("{error:#}").contains("invalid ownership metadata"), "{error:#}");
    helm.apply(
        "upgrade",
        OWN,
        &json!({ "agent": { "csi": { "tokenExpirationSeconds": 600 } } }),
    )
    .await?;

    let foo = bed.namespace("foo").await?;
    user(&bed, &foo).await?;
    let (outcome, said) = with_kubelet(&bed, helm.run(&["uninstall", "ensign", "--namespace", OWN])).await?;
    let error = format!("{:#}", outcome.expect_err("uninstalled"));
    ensure!(error.contains(&format!("job {CHECK} failed")), "{error}");
    ensure!(
        said.contains(&format!("1 pod uses {DRIVER}: {foo}/user; ")) && said.contains("--no-hooks"),
        "{said}"
    );
    Api::<DaemonSet>::namespaced(bed.admin(), NODE)
        .get("ensign-agent")
        .await?;
    Api::<CSIDriver>::all(bed.admin()).get(DRIVER).await?;
    // The right that the check had went with it.
    ensure!(
        Api::<ClusterRole>::all(bed.admin()).get_opt(CHECK).await?.is_none(),
        "{CHECK} is left"
    );

    // Helm wants it rolled back before it goes on with it.
    let short = json!({ "agent": { "csi": { "tokenExpirationSeconds": 1200 } } });
    let error = helm.apply("upgrade", OWN, &short).await.expect_err("upgraded");
    ensure!(format!("{error:#}").contains("has no deployed releases"), "{error:#}");
    helm.run(&["rollback", "ensign", "2", "--namespace", OWN]).await?;
    helm.apply("upgrade", OWN, &short).await?;

    bed.delete_pod(&foo, "user").await?;
    let (outcome, said) = with_kubelet(&bed, helm.run(&["uninstall", "ensign", "--namespace", OWN])).await?;
    outcome.with_context(|| said)?;
    gone(&bed).await?;

    // By force.
    until("the agent's namespace to be gone", PATIENCE, async || {
        let namespace = Api::<Namespace>::all(bed.admin()).get_opt(NODE).await?;
        ensure!(namespace.is_none(), "it is there");
        Ok(())
    })
    .await?;
    helm.apply("install", OWN, &json!({})).await?;
    user(&bed, &foo).await?;
    helm.run(&["uninstall", "ensign", "--namespace", OWN, "--no-hooks"])
        .await?;
    gone(&bed).await?;
    helm.discard();
    bed.finish().await
}

fn chart() -> String {
    ensign_testbed::helm::chart().display().to_string()
}

/// A pod with a volume of ours.
async fn user(bed: &Access, namespace: &str) -> Result {
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "user", "namespace": namespace },
        "spec": {
            "containers": [{ "name": "main", "image": "none" }],
            "volumes": [{ "name": "socket", "csi": { "driver": DRIVER, "readOnly": true } }],
        },
    });
    bed.apply_yaml(&pod.to_string()).await.map(drop)
}

async fn gone(bed: &Access) -> Result {
    until("the release's objects to be gone", PATIENCE, async || {
        let driver = Api::<CSIDriver>::all(bed.admin()).get_opt(DRIVER).await?;
        let agent = Api::<DaemonSet>::namespaced(bed.admin(), NODE)
            .get_opt("ensign-agent")
            .await?;
        ensure!(driver.is_none() && agent.is_none(), "they are there");
        Ok(())
    })
    .await
}

/// What becomes of `work` while the check's pods are run, and what the last of them said.
async fn with_kubelet<T>(bed: &Access, work: impl Future<Output = T>) -> Result<(T, String)> {
    let said = Mutex::new(String::new());
    let outcome = tokio::select! {
        outcome = work => outcome,
        stopped = kubelet(bed, &said) => bail!("nobody runs the check's pods any more: {stopped:?}"),
    };
    Ok((outcome, said.into_inner()))
}

async fn kubelet(bed: &Access, said: &Mutex<String>) -> Result {
    loop {
        if let Some(text) = run_one(bed).await? {
            *said.lock().await = text;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn run_one(bed: &Access) -> Result<Option<String>> {
    let pods = Api::<Pod>::namespaced(bed.admin(), OWN);
    let label = format!("app.kubernetes.io/name={CHECK}");
    let found = pods.list(&ListParams::default().labels(&label)).await?.items;
    let waiting = |pod: &&Pod| {
        let status = pod.status.as_ref();
        status.and_then(|status| status.phase.as_deref()) == Some("Pending")
            && pod.metadata.deletion_timestamp.is_none()
    };
    let Some(pod) = found.iter().find(waiting) else {
        // Nobody else takes away what is deleted.
        for pod in found.iter().filter(|pod| pod.metadata.deletion_timestamp.is_some()) {
            drop(
                pods.delete(&pod.name_any(), &DeleteParams::default().grace_period(0))
                    .await,
            );
        }
        return Ok(None);
    };
    let container = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.containers.first())
        .context("no container")?;
    let folder = Folder::new()?;
    let account = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.service_account_name.clone())
        .context("no account")?;
    let kubeconfig = folder.write("kubeconfig", bed.kubeconfig_of_service_account(OWN, &account).await?)?;
    let mut command = Command::new(own_binary("ensign-ra")?);
    command
        .args(container.args.iter().flatten())
        .env("KUBECONFIG", kubeconfig);
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output().await?;
    folder.discard();
    let phase = if output.status.success() { "Succeeded" } else { "Failed" };
    let status = json!({ "status": { "phase": phase } });
    pods.patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Merge(&status))
        .await?;
    Ok(Some(String::from_utf8_lossy(&output.stderr).into_owned()))
}
