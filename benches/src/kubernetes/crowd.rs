//! Ten thousand pods as a large mesh has them, for the memory of an RA that follows them all.
//!
//! Nobody runs them, and nothing in the cluster minds. Each is as large as an injected pod is for the API server (some
//! 8 kB of JSON): a sidecar with its variables and mounts, annotations, managed fields.

use anyhow::Context;
use ensign_testbed::cluster::Cluster;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::PostParams;
use serde_json::{Value, json};

/// Makes so many pods, of ten to an account and fifty accounts to a namespace.
pub(super) async fn gather(cluster: &Cluster, count: usize) -> anyhow::Result<()> {
    let accounts = count.div_ceil(PODS_PER_ACCOUNT);
    for namespace in 0..accounts.div_ceil(ACCOUNTS_PER_NAMESPACE) {
        cluster.namespace_named(&name_of_namespace(namespace)).await?;
    }
    let made = (0..accounts).map(async |number| {
        let namespace = name_of_namespace(number / ACCOUNTS_PER_NAMESPACE);
        cluster.service_account(&namespace, &name_of_account(number)).await
    });
    let made: Vec<_> = stream::iter(made).buffer_unordered(AT_ONCE).try_collect().await?;
    anyhow::ensure!(made.len() == accounts, "{} of {accounts} accounts", made.len());
    let made = (0..count).map(async |number| {
        let account = number / PODS_PER_ACCOUNT;
        let namespace = name_of_namespace(account / ACCOUNTS_PER_NAMESPACE);
        let pod: Pod = serde_json::from_value(pod(number, &name_of_account(account)))?;
        let pods = Api::<Pod>::namespaced(cluster.admin(), &namespace);
        let made = pods.create(&PostParams::default(), &pod).await;
        made.map(drop).with_context(|| format!("cannot make pod {number}"))
    });
    stream::iter(made).buffer_unordered(AT_ONCE).try_collect().await
}

fn name_of_namespace(number: usize) -> String {
    format!("crowd-{number}")
}

fn name_of_account(number: usize) -> String {
    format!("service-{number}")
}

fn pod(number: usize, account: &str) -> Value {
    let variable =
        |number: usize| json!({ "name": format!("SIDECAR_SETTING_{number}"), "value": "as long as most are" });
    let container = |name: &str, variables: usize| {
        json!({
            "name": name,
            "image": "none.invalid/mesh/image@sha256:0000000000000000000000000000000000000000000000000000000000000000",
            "args": ["proxy", "sidecar", "--domain", "$(POD_NAMESPACE).svc.cluster.local", "--concurrency", "2"],
            "env": (0..variables).map(variable).collect::<Vec<_>>(),
            "ports": [{ "containerPort": 15090, "name": "metrics" }],
            "resources": { "requests": { "cpu": "100m", "memory": "128Mi" }, "limits": { "cpu": "2", "memory": "1Gi" } },
            "readinessProbe": { "httpGet": { "path": "/healthz/ready", "port": 15021 } },
            "volumeMounts": [
                { "name": "tmp", "mountPath": "/tmp" },
                { "name": "identity", "mountPath": "/var/run/secrets/workload-spiffe-uds" },
            ],
        })
    };
    json!({
        "metadata": {
            "name": format!("{account}-6d4cf56db6-{number:05}"),
            "labels": {
                "app": account, "pod-template-hash": "6d4cf56db6", "version": "v1",
                "service.istio.io/canonical-name": account, "service.istio.io/canonical-revision": "v1",
            },
            "annotations": {
                "sidecar.istio.io/status": "{\"initContainers\":[\"istio-init\"],\"containers\":[\"istio-proxy\"]}",
                "prometheus.io/path": "/stats/prometheus", "prometheus.io/port": "15020", "prometheus.io/scrape": "true",
                "kubectl.kubernetes.io/default-container": "app",
            },
        },
        "spec": {
            "serviceAccountName": account,
            "nodeName": format!("node-{}", number % NODES),
            "containers": [container("app", 10), container("istio-proxy", 30)],
            "volumes": [{ "name": "tmp", "emptyDir": {} }, { "name": "identity", "emptyDir": {} }],
            "tolerations": [{ "operator": "Exists" }],
        },
    })
}

const PODS_PER_ACCOUNT: usize = 10;
const ACCOUNTS_PER_NAMESPACE: usize = 50;
const NODES: usize = 100;
/// Requests to the API server at once.
const AT_ONCE: usize = 64;
