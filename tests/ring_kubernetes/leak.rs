//! I1 where the RA has keys of its own: in the Secrets that it makes. Everything it logs and answers is searched for them.

use anyhow::{Context as _, ensure};
use ensign_testbed::{
    cluster::{Access, Cluster, ClusterOptions},
    wait::{PATIENCE, until},
};
use ensign_testkit::leak::{Search, Secrets};
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, api::DeleteParams};

use crate::{
    istio::{self, ISTIO_SYSTEM},
    program::{OWN, Ra, workload},
};

type Result<T = ()> = anyhow::Result<T>;

const SERVING: &str = "ensign-ra-serving";
const SIGNER: &str = "clusterissuers.cert-manager.io/istio-system";

/// The text below one key of a Secret, as soon as it is there.
async fn text_of(bed: &Access, namespace: &str, secret: &str, key: &str) -> Result<String> {
    let secrets = Api::<Secret>::namespaced(bed.admin(), namespace);
    until(secret, PATIENCE, async || {
        let data = secrets.get(secret).await?.data.context("no data")?;
        let value = data.get(key).with_context(|| format!("no {key}"))?;
        Ok(String::from_utf8(value.0.clone())?)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_ra_keeps_in_secrets_is_in_no_log_and_in_no_answer() -> Result {
    let bed = Cluster::start(ClusterOptions::default()).await?;
    let ca = bed.cluster_issuer("istio-system").await?;
    let pem: String = ca.root_pem().lines().map(|line| format!("    {line}\n")).collect();
    let mesh = format!(
        "trustDomain: cluster.local\ndefaultConfig:\n  proxyMetadata:\n    ISTIO_META_CERT_SIGNER: istio-system\ncaCertificates:\n- pem: |\n{pem}  certSigners:\n  - {SIGNER}\n"
    );
    istio::mesh_config(&bed, &mesh).await?;
    let kubeconfig = istio::ra_kubeconfig(&bed).await?;
    let settings = [
        ("--external-ca", "ISTIOD_RA_KUBERNETES_API"),
        ("--cert-signer-domain", "clusterissuers.cert-manager.io"),
        (
            "--pilot-cert-provider",
            "k8s.io/clusterissuers.cert-manager.io/istio-system",
        ),
        ("--serving-ca-secret", SERVING),
        ("--log-level", "trace"),
    ];
    let ra = Ra::start(&kubeconfig, None, &settings).await?;
    ra.ready().await?;

    let mut secrets = Secrets::default();
    let parsed: serde_json::Value = serde_json::from_str(&kubeconfig)?;
    let own = parsed
        .pointer("/users/0/user/token")
        .and_then(serde_json::Value::as_str);
    secrets.token("the RA's own token", own.context("no token in the kubeconfig")?);
    secrets.key(
        "the serving CA's key",
        &text_of(&bed, OWN, SERVING, "ca-key.pem").await?,
    );
    secrets.key(
        "istiod's key",
        &text_of(&bed, ISTIO_SYSTEM, "istiod-tls", "tls.key").await?,
    );
    // Made once more, so that a read of the old one and a write of the new one are in the log.
    Api::<Secret>::namespaced(bed.admin(), ISTIO_SYSTEM)
        .delete("istiod-tls", &DeleteParams::default())
        .await?;
    let key = text_of(&bed, ISTIO_SYSTEM, "istiod-tls", "tls.key").await?;
    secrets.key("istiod's second key", &key);
    let roots = text_of(&bed, OWN, SERVING, "ca-cert.pem").await?;
    let namespace = bed.namespace("foo").await?;
    let (token, id) = workload(&bed, &namespace, "app").await?;
    secrets.token("a workload's token", &token);
    ra.certificate(&roots, &token, &id).await?;

    let log = ra.program.log().lines().join("\n");
    ensure!(log.contains("TRACE"), "everything should be logged");
    let places = [
        ("the log", log),
        ("/metrics", ra.metrics().await?),
        ("/readyz", ra.readiness().await?.1),
    ];
    let search = Search::new(&secrets);
    for secret in [&key, &token] {
        ensure!(!search.find(secret.as_bytes()).is_empty(), "what it is for is found");
    }
    for (place, text) in places {
        let finds = search.find(text.as_bytes());
        ensure!(finds.is_empty(), "{place}: {finds:#?}");
    }
    ra.finish().await?;
    bed.finish().await
}
