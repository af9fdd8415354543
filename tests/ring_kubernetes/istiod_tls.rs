//! istiod's certificate from a Kubernetes signer, as in Istio's task "Custom CA Integration": `PILOT_CERT_PROVIDER` names the
//! signer, the RA makes the Secret, and the namespaces get its root.

use anyhow::{Context as _, ensure};
use ensign_pki::{Bundle, Certificate, Chain, ServerNames, SystemClock, verify_server};
use ensign_testbed::{
    cluster::{Access, Cluster, ClusterOptions, IssuerRef},
    wait::{PATIENCE, until, until_true},
};
use ensign_testkit::TestCa;
use k8s_openapi::api::{
    certificates::v1::CertificateSigningRequest,
    coordination::v1::Lease,
    core::v1::{ConfigMap, Secret},
};
use kube::{
    Api,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use serde_json::json;

use crate::{
    istio::{self, ISTIO_SYSTEM},
    program::{OWN, Ra, workload},
};

type Result<T = ()> = anyhow::Result<T>;

const SIGNER: &str = "clusterissuers.cert-manager.io/istio-system";
const SETTINGS: [(&str, &str); 6] = [
    ("--external-ca", "ISTIOD_RA_KUBERNETES_API"),
    ("--cert-signer-domain", "clusterissuers.cert-manager.io"),
    (
        "--pilot-cert-provider",
        "k8s.io/clusterissuers.cert-manager.io/istio-system",
    ),
    ("--istiod-cert-istio-revisions", "default,canary"),
    ("--serving-ca-secret", "ensign-ra-serving"),
    ("--log-level", "info,ensign_ra=debug"),
];

fn secrets(bed: &Access) -> Api<Secret> {
    Api::namespaced(bed.admin(), ISTIO_SYSTEM)
}

async fn mesh(bed: &Access, roots: &str) -> Result {
    let pem: String = roots.lines().map(|line| format!("    {line}\n")).collect();
    let text = format!(
        "trustDomain: cluster.local\ndefaultConfig:\n  proxyMetadata:\n    ISTIO_META_CERT_SIGNER: istio-system\ncaCertificates:\n- pem: |\n{pem}  certSigners:\n  - {SIGNER}\n"
    );
    istio::mesh_config(bed, &text).await
}

/// Waits for a Secret with a pair for both revisions under this root; gives its leaf.
async fn istiod_tls(bed: &Access, root: &str) -> Result<Certificate> {
    istiod_tls_for(
        bed,
        root,
        &["istiod.istio-system.svc", "istiod-canary.istio-system.svc"],
    )
    .await
}

/// The same for these names.
pub(crate) async fn istiod_tls_for(bed: &Access, root: &str, dns: &[&str]) -> Result<Certificate> {
    let dns: Vec<String> = dns.iter().map(|&name| name.to_owned()).collect();
    let roots = Bundle::parse_pem(root)?;
    until("istiod-tls under the root", PATIENCE, async || {
        let secret = secrets(bed).get("istiod-tls").await?;
        ensure!(
            secret.type_.as_deref() == Some("kubernetes.io/tls"),
            "it is {:?}",
            secret.type_
        );
        let data = secret.data.context("no data")?;
        let text = |key: &str| {
            anyhow::Ok(String::from_utf8(
                data.get(key).with_context(|| format!("no {key}"))?.0.clone(),
            )?)
        };
        let key = ensign_pki::PrivateKey::from_pem(&text("tls.key")?)?;
        let chain = Chain::from_certificates(Certificate::parse_all(&text("tls.crt")?)?)?;
        let id = "spiffe://cluster.local/ns/istio-system/sa/istiod-service-account".parse()?;
        let names = ServerNames {
            dns: &dns,
            id: Some(&id),
            ..ServerNames::default()
        };
        verify_server(&chain, &roots, names, &key.spki_der(), SystemClock::shared().now())?;
        ensure!(
            Bundle::parse_pem(&text("ca.crt")?)?.contains_all(&roots),
            "ca.crt lacks the root"
        );
        Ok(chain.leaf().clone())
    })
    .await
}

/// Waits until a namespace's ConfigMap holds these roots among others; gives all of them.
pub(crate) async fn root_cert(bed: &Access, namespace: &str, wanted: &[&str]) -> Result<String> {
    until("istio-ca-root-cert", PATIENCE, async || {
        let object = Api::<ConfigMap>::namespaced(bed.admin(), namespace)
            .get("istio-ca-root-cert")
            .await?;
        let pem = object
            .data
            .and_then(|mut data| data.remove("root-cert.pem"))
            .context("no root-cert.pem")?;
        let held = Bundle::parse_pem(&pem)?;
        for root in wanted {
            ensure!(
                held.contains_all(&Bundle::parse_pem(root)?),
                "a root is missing among {}",
                held.len()
            );
        }
        Ok(pem)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn istiod_gets_its_secret_and_the_namespaces_its_root() -> Result {
    let bed = Cluster::start(ClusterOptions::default()).await?;
    let ca = bed.cluster_issuer("istio-system").await?;
    mesh(&bed, &ca.root_pem()).await?;
    let kubeconfig = istio::ra_kubeconfig(&bed).await?;
    let mut ra = Ra::start(&kubeconfig, None, &SETTINGS).await?;
    ra.ready().await?;
    let first = istiod_tls(&bed, &ca.root_pem()).await?;
    let foo = bed.namespace("foo").await?;
    let roots = root_cert(&bed, &foo, &[&ca.root_pem()]).await?;
    ensure!(
        roots.matches("BEGIN").count() == 2,
        "the RA's own and istiod's root, nothing else"
    );
    ra.handshake(&roots).await?;
    let requests = Api::<CertificateSigningRequest>::all(bed.admin());
    until_true("its request to be gone", PATIENCE, async || {
        Ok(requests.list(&ListParams::default()).await?.items.is_empty())
    })
    .await?;

    // A restart finds it good, and asks for nothing.
    ra.kill_and_restart().await?;
    ra.ready().await?;
    until("the leader to have looked", PATIENCE, async || {
        ensure!(
            ra.metric("ensign_ra_istiod_certificate_good").await? == Some(1.0),
            "not yet"
        );
        Ok(())
    })
    .await?;
    assert_eq!(istiod_tls(&bed, &ca.root_pem()).await?, first);

    // Deleted by somebody: made again.
    secrets(&bed).delete("istiod-tls", &DeleteParams::default()).await?;
    let second = istiod_tls(&bed, &ca.root_pem()).await?;
    assert_ne!(second, first);

    // The signer has another root, and so has the mesh configuration: both roots first, then a new pair.
    let next = TestCa::root_only("next");
    bed.issue_with(&IssuerRef::Cluster("istio-system".to_owned()), &next)
        .await?;
    mesh(&bed, &format!("{}{}", ca.root_pem(), next.root_pem())).await?;
    root_cert(&bed, &foo, &[&ca.root_pem(), &next.root_pem()]).await?;
    assert_eq!(
        istiod_tls(&bed, &ca.root_pem()).await?,
        second,
        "still good, so still there"
    );
    mesh(&bed, &next.root_pem()).await?;
    let third = istiod_tls(&bed, &next.root_pem()).await?;
    assert_ne!(third, second, "its root was taken out, so it is issued anew");
    let after = root_cert(&bed, &foo, &[&ca.root_pem(), &next.root_pem()]).await?;
    ensure!(
        after.matches("BEGIN").count() == 3,
        "the old root stays with the clients until it expires"
    );
    ra.finish().await?;
    bed.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_of_somebody_else_is_left_alone_and_a_lost_signer_deletes_nothing() -> Result {
    let bed = Cluster::start(ClusterOptions::default()).await?;
    let ca = bed.cluster_issuer("istio-system").await?;
    mesh(&bed, &ca.root_pem()).await?;
    let kubeconfig = istio::ra_kubeconfig(&bed).await?;
    let foreign = json!({"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
        "metadata": {"name": "istiod-tls", "namespace": ISTIO_SYSTEM}, "stringData": {"tls.crt": "theirs", "tls.key": "theirs"}});
    bed.apply_yaml(&foreign.to_string()).await?;
    let ra = Ra::start(&kubeconfig, None, &SETTINGS).await?;
    until("it to be said", PATIENCE, async || {
        let failures = ra
            .metric("ensign_ra_istiod_certificate_failures_total{reason=\"foreign\"}")
            .await?;
        ensure!(failures.is_some_and(|count| count > 0.0), "not yet");
        Ok(())
    })
    .await?;
    let secret = secrets(&bed).get("istiod-tls").await?;
    assert_eq!(secret.data.unwrap()["tls.crt"].0, b"theirs");
    secrets(&bed).delete("istiod-tls", &DeleteParams::default()).await?;
    let made = istiod_tls(&bed, &ca.root_pem()).await?;

    // The signer vanishes from the mesh configuration.
    istio::mesh_config(&bed, "trustDomain: cluster.local\n").await?;
    ra.program
        .log()
        .wait("the loss to be told", |line| {
            line.contains("istiod's certificate is not renewed")
        })
        .await?;
    assert_eq!(istiod_tls(&bed, &ca.root_pem()).await?, made);
    ra.finish().await?;
    bed.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_loses_the_lead_signs_on_and_stays_ready() -> Result {
    let bed = Cluster::start(ClusterOptions::default()).await?;
    let ca = bed.cluster_issuer("istio-system").await?;
    mesh(&bed, &ca.root_pem()).await?;
    let kubeconfig = istio::ra_kubeconfig(&bed).await?;
    let ra = Ra::start(&kubeconfig, None, &SETTINGS).await?;
    ra.ready().await?;
    let foo = bed.namespace("foo").await?;
    let roots = root_cert(&bed, &foo, &[&ca.root_pem()]).await?;
    assert_eq!(ra.metric("ensign_ra_leader").await?, Some(1.0));
    let (token, id) = workload(&bed, &foo, "sleep").await?;
    ra.certificate(&roots, &token, &id).await?;

    let lease = json!({"spec": {"holderIdentity": "somebody-else", "leaseDurationSeconds": 3600}});
    Api::<Lease>::namespaced(bed.admin(), OWN)
        .patch("ensign-ra", &PatchParams::default(), &Patch::Merge(lease))
        .await?;
    until_true("the lead to be lost", PATIENCE, async || {
        Ok(ra.metric("ensign_ra_leader").await? == Some(0.0))
    })
    .await?;
    ra.certificate(&roots, &token, &id).await?;
    assert_eq!(ra.readiness().await?.0, 200);
    // Nobody distributes, and nobody takes anything away.
    let late = bed.namespace("late").await?;
    tokio::time::sleep(std::time::Duration::from_secs(5)).await;
    assert!(
        Api::<ConfigMap>::namespaced(bed.admin(), &late)
            .get_opt("istio-ca-root-cert")
            .await?
            .is_none()
    );
    assert_eq!(root_cert(&bed, &foo, &[&ca.root_pem()]).await?, roots);

    // Given back, by whoever held it.
    let lease = json!({"spec": {"holderIdentity": ""}});
    Api::<Lease>::namespaced(bed.admin(), OWN)
        .patch("ensign-ra", &PatchParams::default(), &Patch::Merge(lease))
        .await?;
    root_cert(&bed, &late, &[&ca.root_pem()]).await?;
    ra.finish().await?;
    bed.finish().await
}
