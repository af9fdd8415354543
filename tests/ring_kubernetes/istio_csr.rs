//! As istio-csr: the RA's own certificate, istiod's and the workloads' from one issuer of cert-manager, roots discovered.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use ensign_pki::{Bundle, Certificate};
use ensign_testbed::{
    cluster::{Access, Cluster, ClusterOptions, Component, IssuerRef},
    wait::{PATIENCE, until, until_true},
};
use ensign_testkit::TestCa;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{
    Api, ResourceExt as _,
    api::{ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams},
};
use serde_json::{Value, json};

use crate::{
    istio::{self, ISTIO_SYSTEM},
    program::{OWN, Ra, workload},
};

type Result<T = ()> = anyhow::Result<T>;

const POLICY: &str = "
apiVersion: ensign.mesh/v1
trustDomain: cluster.local
signers:
- name: istio-ca
  certManager:
    namespace: istio-system
    issuer: {name: istio-ca, kind: Issuer}
    runtimeIssuer: {namespace: ensign-system, name: ensign-ra-issuer}
  roots: {discover: true}
rules:
- namespace: '*'
  serviceAccounts: ['*']
  signers: [istio-ca]
  default: istio-ca
";

const SETTINGS: [(&str, &str); 4] = [
    ("--serving-from", "cert-manager"),
    ("--serving-root-overlap", "2s"),
    ("--istiod-cert-enabled", "true"),
    ("--istiod-cert-key-algorithm", "ECDSA"),
];

fn issuer(name: &str) -> IssuerRef {
    IssuerRef::Namespaced(ISTIO_SYSTEM.to_owned(), name.to_owned())
}

fn of_cert_manager(bed: &Access, kind: &str) -> Api<DynamicObject> {
    let kind = GroupVersionKind::gvk("cert-manager.io", "v1", kind);
    Api::namespaced_with(bed.admin(), ISTIO_SYSTEM, &ApiResource::from_gvk(&kind))
}

async fn bed() -> Result<(Cluster, TestCa, String)> {
    let bed = Cluster::start(ClusterOptions::default()).await?;
    bed.namespace_named(ISTIO_SYSTEM).await?;
    let ca = bed.issuer(ISTIO_SYSTEM, "istio-ca").await?;
    let kubeconfig = istio::ra_kubeconfig(&bed).await?;
    Ok((bed, ca, kubeconfig))
}

/// The pair that all replicas share.
async fn kept(bed: &Access) -> Result<Certificate> {
    let secret = Api::<Secret>::namespaced(bed.admin(), OWN)
        .get("ensign-ra-serving")
        .await?;
    let data = secret.data.context("no data")?;
    ensure!(
        data.contains_key("tls.key") && data.contains_key("ca.crt"),
        "half a pair"
    );
    let chain = Certificate::parse_all(std::str::from_utf8(&data["tls.crt"].0)?)?;
    chain.into_iter().next().context("no certificate")
}

/// Waits until a namespace holds exactly these roots.
async fn holds(bed: &Access, namespace: &str, roots: &[&str]) -> Result<String> {
    let wanted = Bundle::parse_pem(&roots.concat())?;
    until("istio-ca-root-cert", PATIENCE, async || {
        let object = Api::<ConfigMap>::namespaced(bed.admin(), namespace)
            .get("istio-ca-root-cert")
            .await?;
        let pem = object
            .data
            .and_then(|mut data| data.remove("root-cert.pem"))
            .context("no root-cert.pem")?;
        ensure!(
            Bundle::parse_pem(&pem)? == wanted,
            "it holds {} roots",
            pem.matches("BEGIN").count()
        );
        Ok(pem)
    })
    .await
}

/// Waits until istiod's Certificate is ready and of this issuer.
async fn istiod_certificate(bed: &Access, issuer: &str) -> Result<Value> {
    until("istiod-dynamic to be ready", PATIENCE, async || {
        let object = of_cert_manager(bed, "Certificate").get("istiod-dynamic").await?;
        let conditions = object.data["status"]["conditions"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let ready = conditions
            .iter()
            .any(|one| one["type"] == "Ready" && one["status"] == "True");
        ensure!(
            ready && object.data["spec"]["issuerRef"]["name"] == issuer,
            "it is {}",
            object.data["spec"]["issuerRef"]
        );
        Ok(object.data["spec"].clone())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn one_issuer_serves_the_ra_istiod_and_the_workloads() -> Result {
    let (bed, ca, kubeconfig) = bed().await?;
    let first = Ra::start(&kubeconfig, Some(POLICY), &SETTINGS).await?;
    let second = Ra::start(&kubeconfig, Some(POLICY), &SETTINGS).await?;
    first.ready().await?;
    second.ready().await?;
    // One pair for both replicas, and nothing left of the requests.
    until_true("both to show the kept pair", PATIENCE, async || {
        let kept = kept(&bed).await?;
        let shown = [
            first.handshake(&ca.root_pem()).await?,
            second.handshake(&ca.root_pem()).await?,
        ];
        Ok(shown.iter().all(|shown| shown == kept.der()))
    })
    .await?;
    let requests = of_cert_manager(&bed, "CertificateRequest");
    until_true("the RA's requests to be gone", PATIENCE, async || {
        let left = requests
            .list(&ListParams::default().labels("ensign.mesh/installation"))
            .await?
            .items;
        Ok(left.is_empty())
    })
    .await?;
    assert_eq!(
        first.metric("ensign_ra_roots_discovered{signer=\"istio-ca\"}").await?,
        Some(1.0)
    );

    let spec = istiod_certificate(&bed, "istio-ca").await?;
    let expected = json!({
        "commonName": "istiod.istio-system.svc",
        "dnsNames": ["istiod.istio-system.svc"],
        "uris": ["spiffe://cluster.local/ns/istio-system/sa/istiod-service-account"],
        "secretName": "istiod-tls", "duration": "1h0m0s", "renewBefore": "30m0s", "revisionHistoryLimit": 1,
        "privateKey": {"rotationPolicy": "Always", "algorithm": "ECDSA", "size": 256},
        "issuerRef": {"name": "istio-ca", "kind": "Issuer", "group": "cert-manager.io"},
    });
    assert_eq!(spec, expected);
    until("cert-manager's Secret", PATIENCE, async || {
        Ok(Api::<Secret>::namespaced(bed.admin(), ISTIO_SYSTEM)
            .get("istiod-tls")
            .await?)
    })
    .await?;

    let foo = bed.namespace("foo").await?;
    let roots = holds(&bed, &foo, &[&ca.root_pem()]).await?;
    let (token, id) = workload(&bed, &foo, "sleep").await?;
    let reply = first.certificate(&roots, &token, &id).await?;
    assert_eq!(reply.len(), 2);
    second.certificate(&roots, &token, &id).await?;

    // Tampered with: put right.
    of_cert_manager(&bed, "Certificate")
        .delete("istiod-dynamic", &DeleteParams::default())
        .await?;
    istiod_certificate(&bed, "istio-ca").await?;
    first.finish().await?;
    second.finish().await?;
    bed.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_while_cert_manager_is_down_still_serves() -> Result {
    let (bed, ca, kubeconfig) = bed().await?;
    let mut ra = Ra::start(&kubeconfig, Some(POLICY), &SETTINGS).await?;
    ra.ready().await?;
    let before = ra.handshake(&ca.root_pem()).await?;
    bed.kill(Component::CertManager).await?;
    ra.kill_and_restart().await?;
    ra.ready().await?;
    assert_eq!(ra.handshake(&ca.root_pem()).await?, before);
    // The discovered roots came with it, so signing only waits for cert-manager.
    assert_eq!(
        ra.metric("ensign_ra_roots_discovered{signer=\"istio-ca\"}").await?,
        Some(1.0)
    );
    bed.restart(Component::CertManager)?;
    let foo = bed.namespace("foo").await?;
    let (token, id) = workload(&bed, &foo, "sleep").await?;
    until("a workload's certificate", PATIENCE, async || {
        ra.certificate(&ca.root_pem(), &token, &id).await
    })
    .await?;

    // Without the Secret a pair is asked for, so that there is one to keep.
    Api::<Secret>::namespaced(bed.admin(), OWN)
        .delete("ensign-ra-serving", &DeleteParams::default())
        .await?;
    until("the Secret to be there again", PATIENCE, async || kept(&bed).await).await?;
    ra.finish().await?;
    bed.finish().await
}

/// Whether a public key is on secp384r1 (RFC 5480).
fn holds_p384(spki_der: &[u8]) -> bool {
    let curve = [0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22];
    spki_der.windows(curve.len()).any(|part| part == curve)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_expires_closes_the_gate_until_it_is_renewed() -> Result {
    let (bed, ca, kubeconfig) = bed().await?;
    let more = [
        ("--serving-certificate-duration", "40s"),
        ("--serving-certificate-key-size", "384"),
    ];
    let short = [&SETTINGS[..], &more].concat();
    let ra = Ra::start(&kubeconfig, Some(POLICY), &short).await?;
    ra.ready().await?;
    let first = ra.handshake(&ca.root_pem()).await?;
    let shown = Certificate::parse_der(&first)?;
    ensure!(holds_p384(shown.spki_der()), "a key of another curve");
    until_true("a renewal", PATIENCE, async || {
        Ok(ra.handshake(&ca.root_pem()).await? != first)
    })
    .await?;
    bed.kill(Component::CertManager).await?;
    until("the gate to shut", PATIENCE, async || {
        let (status, text) = ra.readiness().await?;
        ensure!(
            status == 503 && text.contains("the serving certificate expired"),
            "{status} {text}"
        );
        Ok(())
    })
    .await?;
    bed.restart(Component::CertManager)?;
    ra.ready().await?;
    ra.handshake(&ca.root_pem()).await?;
    ra.finish().await?;
    bed.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn another_issuer_and_another_root_join_what_was_there() -> Result {
    let (bed, ca, kubeconfig) = bed().await?;
    let ra = Ra::start(&kubeconfig, Some(POLICY), &SETTINGS).await?;
    ra.ready().await?;
    let foo = bed.namespace("foo").await?;
    let (token, id) = workload(&bed, &foo, "sleep").await?;
    let roots = holds(&bed, &foo, &[&ca.root_pem()]).await?;
    ra.certificate(&roots, &token, &id).await?;

    // The same issuer has another CA: what it signs for a workload makes the RA ask again, long before a renewal.
    let next = TestCa::root_only("next");
    bed.issue_with(&issuer("istio-ca"), &next).await?;
    tokio::time::sleep(Duration::from_secs(20)).await;
    let reply = until("a certificate under the next root", PATIENCE, async || {
        ra.certificate(&format!("{roots}{}", next.root_pem()), &token, &id)
            .await
    })
    .await?;
    let last = reply.last().context("no roots")?;
    assert_eq!(
        Bundle::parse_pem(last)?,
        Bundle::parse_pem(&format!("{}{}", ca.root_pem(), next.root_pem()))?
    );
    holds(&bed, &foo, &[&ca.root_pem(), &next.root_pem()]).await?;

    // Another issuer, named at run time.
    let other = bed.issuer(ISTIO_SYSTEM, "other-ca").await?;
    let runtime = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "ensign-ra-issuer", "namespace": OWN},
        "data": {"issuer-name": "other-ca", "issuer-kind": "Issuer", "issuer-group": "cert-manager.io"}});
    bed.apply_yaml(&runtime.to_string()).await?;
    istiod_certificate(&bed, "other-ca").await?;
    let all = [ca.root_pem(), next.root_pem(), other.root_pem()];
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    holds(&bed, &foo, &all).await?;
    until("the certificate of the other issuer", PATIENCE, async || {
        ra.handshake(&other.root_pem()).await
    })
    .await?;
    // And back.
    Api::<ConfigMap>::namespaced(bed.admin(), OWN)
        .delete("ensign-ra-issuer", &DeleteParams::default())
        .await?;
    istiod_certificate(&bed, "istio-ca").await?;
    until("the certificate of the first issuer", PATIENCE, async || {
        ra.handshake(&next.root_pem()).await
    })
    .await?;
    ra.finish().await?;
    bed.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn ready_while_no_issuer_is_configured() -> Result {
    let (bed, ca, kubeconfig) = bed().await?;
    let policy = POLICY.replace("    issuer: {name: istio-ca, kind: Issuer}\n", "");
    let ra = Ra::start(&kubeconfig, Some(&policy), &SETTINGS).await?;
    ra.ready().await?;
    assert!(ra.handshake(&ca.root_pem()).await.is_err(), "there is nothing to show");
    let runtime = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "ensign-ra-issuer", "namespace": OWN},
        "data": {"issuer-name": "istio-ca", "issuer-kind": "Issuer", "issuer-group": "cert-manager.io"}});
    bed.apply_yaml(&runtime.to_string()).await?;
    until("the serving certificate", PATIENCE, async || {
        ra.handshake(&ca.root_pem()).await
    })
    .await?;
    istiod_certificate(&bed, "istio-ca").await?;
    let certificate = of_cert_manager(&bed, "Certificate").get("istiod-dynamic").await?;
    assert_eq!(certificate.managed_fields()[0].manager.as_deref(), Some("ensign-ra"));
    ra.finish().await?;
    bed.finish().await
}
