//! Both ways to a certificate, made by hand: the Kubernetes CSR API, and cert-manager's CertificateRequest.

use anyhow::{Context, ensure};
use ensign_testbed::cluster::{
    Access, Cluster, IssuerRef,
    instant_signer::{InstantSigner, Serves},
    issued, unique,
};
use ensign_testkit::TestCa;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, Client, ResourceExt as _,
    api::{DynamicObject, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::json;

use super::Workload;

#[tokio::test]
async fn an_approved_csr_is_signed_by_the_issuer_that_its_signer_names() -> anyhow::Result<()> {
    let bed = Cluster::shared().await?;
    let workload = Workload::new();
    let issuer = IssuerRef::Cluster(unique("foo"));
    let ca = TestCa::new("foo");
    bed.issue_with(&issuer, &ca).await?;
    let request = bed
        .signing_request(&bed.admin(), &issuer.signer_name(), &workload.csr_pem)
        .await?;
    bed.approve(&bed.admin(), &request).await?;
    let chain = bed.signed(&request.name_any()).await?;
    assert_eq!(workload.judge(&chain, &ca), "accepted");
    bed.finish().await
}

#[tokio::test]
async fn issuers_of_a_namespace_sign_through_both_apis() -> anyhow::Result<()> {
    let bed = Cluster::shared().await?;
    let namespace = bed.namespace("issuer").await?;
    let ca = bed.issuer(&namespace, "ca").await?;
    let workload = Workload::new();
    let issuer = IssuerRef::Namespaced(namespace.clone(), "ca".to_owned());

    let request = bed
        .certificate_request(&bed.admin(), &namespace, &issuer.reference(), &workload.csr_pem)
        .await?;
    let request = bed.issued(&request).await?;
    let chain = issued(&request).context("no certificate")?;
    assert_eq!(workload.judge(&chain, &ca), "accepted");

    let request = bed
        .signing_request(&bed.admin(), &issuer.signer_name(), &workload.csr_pem)
        .await?;
    bed.approve(&bed.admin(), &request).await?;
    let chain = bed.signed(&request.name_any()).await?;
    assert_eq!(workload.judge(&chain, &ca), "accepted");
    bed.finish().await
}

#[tokio::test]
async fn a_certificate_request_names_its_maker_for_good() -> anyhow::Result<()> {
    let bed = Cluster::shared().await?;
    let workload = Workload::new();
    let issuer = IssuerRef::Cluster(unique("maker"));
    bed.issue_with(&issuer, &TestCa::root_only("maker")).await?;
    let (namespace, client) = requester(&bed).await?;
    let request = bed
        .certificate_request(&client, &namespace, &issuer.reference(), &workload.csr_pem)
        .await?;
    assert_eq!(
        request.data["spec"]["username"],
        user(&namespace),
        "stamped by the webhook"
    );
    bed.issued(&request).await?;

    let requests = bed.certificate_requests(&client, &namespace);
    for change in [
        json!({ "username": "somebody" }),
        json!({ "isCA": true }),
        json!({ "issuerRef": { "name": "other" } }),
    ] {
        let patch = Patch::Merge(json!({ "spec": change }));
        let answer = requests
            .patch(&request.name_any(), &PatchParams::default(), &patch)
            .await;
        refused(answer, "cannot change spec after creation")?;
    }
    bed.finish().await
}

#[tokio::test]
async fn only_who_may_approves_a_certificate_request() -> anyhow::Result<()> {
    let bed = Cluster::shared().await?;
    InstantSigner::install_kind(&bed).await?;
    let (namespace, client) = requester(&bed).await?;
    // cert-manager approves what it may sign itself; this it leaves alone.
    let issuer = Serves::external_issuer("none").reference();
    let request = bed
        .certificate_request(&client, &namespace, &issuer, &Workload::new().csr_pem)
        .await?;
    let approval = json!({ "status": { "conditions": [
        { "type": "Approved", "status": "True", "reason": "Forged", "message": "by its maker" },
    ] } });
    let approve = async |client: &Client| {
        bed.certificate_requests(client, &namespace)
            .patch_status(&request.name_any(), &PatchParams::default(), &Patch::Merge(&approval))
            .await
    };
    refused(
        approve(&client).await,
        "does not have permissions to set approved/denied conditions",
    )?;
    approve(&bed.admin()).await.context("the administrator may")?;
    bed.finish().await
}

#[tokio::test]
async fn the_api_server_says_which_version_it_is() -> anyhow::Result<()> {
    let bed = Cluster::shared().await?;
    let version = bed.admin().apiserver_version().await?;
    assert_eq!(
        (
            version.git_version.as_str(),
            version.major.as_str(),
            version.minor.as_str()
        ),
        ("v1.34.4", "1", "34")
    );
    bed.finish().await
}

#[tokio::test]
async fn the_audit_log_counts_requests_by_user_verb_and_resource() -> anyhow::Result<()> {
    let bed = Cluster::shared().await?;
    let (namespace, client) = requester(&bed).await?;
    let maps = Api::<ConfigMap>::namespaced(client.clone(), &namespace);
    let mark = bed.audit().mark().await?;
    for number in 0..3 {
        let map = serde_json::from_value(json!({ "metadata": { "name": format!("map-{number}") } }))?;
        maps.create(&PostParams::default(), &map).await?;
    }
    maps.get("map-0").await?;
    ensure!(maps.get("none").await.is_err());
    ensure!(
        Api::<ConfigMap>::all(client)
            .list(&ListParams::default())
            .await
            .is_err(),
        "of all namespaces: forbidden"
    );
    Api::<ConfigMap>::namespaced(bed.admin(), &namespace)
        .get("map-1")
        .await?;

    let requests = bed.audit().requests_by(&user(&namespace)).since(mark).await?;
    assert_eq!(requests.count("create", "configmaps"), 3, "{requests:?}");
    assert_eq!(requests.count("get", "configmaps"), 2, "{requests:?}");
    assert_eq!(requests.count("list", "configmaps"), 1, "{requests:?}");
    assert_eq!(requests.0.len(), 6, "{requests:?}");
    let codes = |wanted: u16| requests.filter(|request| request.code == wanted).0.len();
    assert_eq!(
        (codes(201), codes(200), codes(404), codes(403)),
        (3, 1, 1, 1),
        "{requests:?}"
    );
    let later = bed.audit().mark().await?;
    assert_eq!(
        bed.audit().requests_by(&user(&namespace)).since(later).await?.0.len(),
        0
    );
    bed.finish().await
}

/// A namespace with an account that may make requests and write their status, and approve nothing.
async fn requester(bed: &Access) -> anyhow::Result<(String, Client)> {
    let namespace = bed.namespace("requester").await?;
    bed.service_account(&namespace, "maker").await?;
    bed.apply_yaml(&format!(
        "
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {{ name: maker, namespace: {namespace} }}
rules:
- apiGroups: [cert-manager.io]
  resources: [certificaterequests, certificaterequests/status]
  verbs: [get, create, patch]
- apiGroups: ['']
  resources: [configmaps]
  verbs: [get, create]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {{ name: maker, namespace: {namespace} }}
roleRef: {{ apiGroup: rbac.authorization.k8s.io, kind: Role, name: maker }}
subjects:
- {{ kind: ServiceAccount, name: maker, namespace: {namespace} }}
"
    ))
    .await?;
    let kubeconfig = bed.kubeconfig_of_service_account(&namespace, "maker").await?;
    let client = bed.client(&kubeconfig).await?;
    Ok((namespace, client))
}

fn user(namespace: &str) -> String {
    format!("system:serviceaccount:{namespace}:maker")
}

fn refused(answer: kube::Result<DynamicObject>, why: &str) -> anyhow::Result<()> {
    let error = answer.err().context("it was let through")?.to_string();
    ensure!(error.contains(why), "refused for another reason: {error}");
    Ok(())
}
