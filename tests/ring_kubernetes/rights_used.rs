//! `deploy/optional/rbac.yaml` against the RA itself: it makes a request for each right that it has, and none that it has no right to.
//!
//! The audit log of the API server tells. Together with `rights` (each request fails without its right) it follows that
//! something of the RA fails without any one of them, and that whoever grants more fails here. Two runs come to all modes: one
//! as istiod's RA, one as istio-csr.

use anyhow::{Context as _, ensure};
use ensign_testbed::{
    cluster::{Access, Cluster, ClusterOptions, Manifests, Request, Requests, Right},
    wait::{self, PATIENCE},
};
use k8s_openapi::api::{
    certificates::v1beta1::ClusterTrustBundle,
    core::v1::{ConfigMap, Secret},
};
use kube::{
    Api, Client,
    api::{ApiResource, DeleteParams, DynamicObject, GroupVersionKind, Patch, PatchParams},
};
use serde_json::{Value, json};

use crate::{
    istio::{self, ISTIO_SYSTEM},
    program::{OWN, Ra, workload},
};

type Result<T = ()> = anyhow::Result<T>;

const SIGNER: &str = "clusterissuers.cert-manager.io/istio-system";
const BUNDLE: &str = "istio.io:istiod-ca:root-cert";
const ROOT_CERT: &str = "istio-ca-root-cert";
/// No request has one of these verbs: the API server or cert-manager asks for the right while it serves another.
const ASKED_FOR_BY_OTHERS: [&str; 3] = ["approve", "attest", "reference"];

/// The file beside Istio's configuration: another signer may be used as well, with roots in a ConfigMap.
const POLICY: &str = "
apiVersion: ensign.mesh/v1
signers:
- name: istio-system
  kubernetesCsr: {signerName: clusterissuers.cert-manager.io/istio-system}
  roots: {mesh: true}
- name: foo
  kubernetesCsr: {signerName: clusterissuers.cert-manager.io/foo}
  roots: {configMap: {namespace: ensign-system, name: ensign-ra-signer-roots, key: foo.pem}}
rules:
- {namespace: '*', serviceAccounts: ['*'], signers: [istio-system], default: istio-system}
";

/// As istiod's RA, with everything that goes with it.
const AS_ISTIOD: [(&str, &str); 7] = [
    ("--external-ca", "ISTIOD_RA_KUBERNETES_API"),
    ("--cert-signer-domain", "clusterissuers.cert-manager.io"),
    (
        "--pilot-cert-provider",
        "k8s.io/clusterissuers.cert-manager.io/istio-system",
    ),
    ("--authn", "informer"),
    ("--remote-clusters", ""),
    ("--cluster-trust-bundle", BUNDLE),
    ("--serving-ca-secret", "ensign-ra-serving"),
];
/// As istio-csr, likewise.
const AS_ISTIO_CSR: [(&str, &str); 6] = [
    ("--issuer-name", "istio-ca"),
    ("--runtime-issuance-config-map-name", "ensign-ra-issuer"),
    ("--runtime-issuance-config-map-namespace", OWN),
    ("--istiod-cert-enabled", "true"),
    ("--serving-from", "cert-manager"),
    ("--serving-root-overlap", "1s"),
];

#[tokio::test(flavor = "multi_thread")]
async fn the_ra_uses_each_right_and_asks_for_nothing_else() -> Result {
    let bed = Cluster::start(ClusterOptions::default()).await?;
    let ca = bed.cluster_issuer("istio-system").await?;
    istio::proxy_config_crd(&bed).await?;
    let pem: String = ca.root_pem().lines().map(|line| format!("    {line}\n")).collect();
    let mesh = format!(
        "caCertificates:\n- pem: |\n{pem}  certSigners:\n  - {SIGNER}\ndefaultConfig:\n  proxyMetadata:\n    ISTIO_META_CERT_SIGNER: istio-system\n"
    );
    istio::mesh_config(&bed, &mesh).await?;
    bed.issuer(ISTIO_SYSTEM, "istio-ca").await?;
    let other = bed.issuer(ISTIO_SYSTEM, "other-ca").await?;
    let kubeconfig = istio::ra_kubeconfig(&bed).await?;
    let foo = bed.namespace("foo").await?;
    let (token, id) = workload(&bed, &foo, "sleep").await?;
    let mark = bed.audit().mark().await?;

    let ra = Ra::start(&kubeconfig, Some(POLICY), &AS_ISTIOD).await?;
    ra.ready().await?;
    certificate(&bed, &ra, &foo, &token, &id).await?;
    // What somebody changes is put right.
    let config_maps = Api::<ConfigMap>::namespaced(bed.admin(), &foo);
    change(&config_maps, ROOT_CERT, &json!({ "data": { "root-cert.pem": "none" } })).await?;
    let secrets = Api::<Secret>::namespaced(bed.admin(), ISTIO_SYSTEM);
    change(&secrets, "istiod-tls", &json!({ "stringData": { "ca.crt": "none" } })).await?;
    let bundles = Api::<ClusterTrustBundle>::all(bed.admin());
    change(
        &bundles,
        BUNDLE,
        &json!({ "spec": { "trustBundle": other.root_pem() } }),
    )
    .await?;
    let used = until_used(&bed, mark, |right| !of_the_other_run(right)).await?;
    ra.finish().await?;
    ensure!(used.count("create", "tokenreviews") == 0, "a review beside informers");

    // The pair of the other run is kept in the same Secret.
    let own = Api::<Secret>::namespaced(bed.admin(), OWN);
    own.delete("ensign-ra-serving", &DeleteParams::default()).await?;
    let ra = Ra::start(&kubeconfig, None, &AS_ISTIO_CSR).await?;
    ra.ready().await?;
    certificate(&bed, &ra, &foo, &token, &id).await?;
    let certificates = of_cert_manager(bed.admin(), "Certificate");
    change(
        &certificates,
        "istiod-dynamic",
        &json!({ "spec": { "duration": "2h" } }),
    )
    .await?;
    // Another issuer: another pair of the RA's own, and another root among those that are remembered.
    let runtime = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "ensign-ra-issuer", "namespace": OWN },
        "data": { "issuer-name": "other-ca", "issuer-kind": "Issuer", "issuer-group": "cert-manager.io" },
    });
    bed.apply_yaml(&runtime.to_string()).await?;
    let used = until_used(&bed, mark, |_| true).await?;
    ra.finish().await?;

    let refused = used.filter(|request| request.code == 403);
    ensure!(
        refused.0.is_empty(),
        "it asks for what deploy/optional/rbac.yaml does not grant:\n{refused:?}"
    );
    bed.finish().await
}

/// Waits until a right of this choice that no request needs is none.
async fn until_used(
    bed: &Access,
    mark: ensign_testbed::cluster::Mark,
    chosen: impl Fn(&Right) -> bool,
) -> Result<Requests> {
    let rights = Manifests::read("optional/rbac.yaml")?.rights()?;
    let user = rights.first().context("no rights")?.account.username();
    wait::until("the RA to use each of its rights", PATIENCE, async || {
        let requests = bed.audit().requests_by(&user).since(mark).await?;
        let unused = unused(rights.iter().filter(|right| chosen(right)), &requests);
        ensure!(unused.is_empty(), "nothing uses {unused:#?}");
        Ok(requests)
    })
    .await
}

/// What only an istio-csr needs.
fn of_the_other_run(right: &Right) -> bool {
    let modes = ["cert-manager", "issuers", "runtime-issuer", "istiod-certificate"];
    let reviews = right.resource == "tokenreviews";
    // A CA is written once, a pair with each renewal; a first root is new, a second one is added.
    let again = right.verb == "patch" && ["serving-secret", "root-cert"].contains(&right.mode.as_str());
    reviews || again || modes.contains(&right.mode.as_str())
}

/// Rights that no request needs, with the name that it should be for.
fn unused<'a>(rights: impl Iterator<Item = &'a Right>, requests: &Requests) -> Vec<String> {
    let mut found = Vec::new();
    for right in rights {
        if ASKED_FOR_BY_OTHERS.contains(&right.verb.as_str()) {
            continue;
        }
        for name in right.each_name() {
            if !requests.0.iter().any(|request| needs(request, right, name)) {
                found.push(format!("{right}, on {name:?}"));
            }
        }
    }
    found
}

/// Whether a request was served because of this right. Who makes an object of a known name applies it: a patch that needs
/// the right to create it as well, and says so by its status.
fn needs(request: &Request, right: &Right, name: Option<&str>) -> bool {
    let target = match request.subresource.as_str() {
        "" => request.resource.clone(),
        subresource => format!("{}/{subresource}", request.resource),
    };
    let here = right
        .namespace
        .as_deref()
        .is_none_or(|there| there == request.namespace);
    let it = name.is_none_or(|name| name == request.name);
    let does = match (right.verb.as_str(), name) {
        ("create", Some(_)) => request.verb == "patch" && request.code == 201,
        ("patch", _) => request.verb == "patch" && request.code == 200,
        (verb, _) => request.verb == verb && request.code < 300,
    };
    target == right.resource && here && it && does
}

/// Gets one, under the root that the namespace was given.
async fn certificate(bed: &Access, ra: &Ra, namespace: &str, token: &str, id: &str) -> Result {
    wait::until("a certificate", PATIENCE, async || {
        let object = Api::<ConfigMap>::namespaced(bed.admin(), namespace)
            .get(ROOT_CERT)
            .await?;
        let roots = object.data.and_then(|mut data| data.remove("root-cert.pem"));
        ra.certificate(&roots.context("no roots")?, token, id).await.map(drop)
    })
    .await
}

/// Changes an object as soon as it is there.
async fn change<K>(objects: &Api<K>, name: &str, change: &Value) -> Result
where
    K: Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    wait::until(&format!("{name} to be there"), PATIENCE, async || {
        let patch = Patch::Merge(change);
        objects.patch(name, &PatchParams::default(), &patch).await.map(drop)?;
        Ok(())
    })
    .await
}

fn of_cert_manager(client: Client, kind: &str) -> Api<DynamicObject> {
    let kind = GroupVersionKind::gvk("cert-manager.io", "v1", kind);
    Api::namespaced_with(client, ISTIO_SYSTEM, &ApiResource::from_gvk(&kind))
}

#[test]
fn a_right_that_nothing_uses_is_found() -> Result {
    let grant = |verbs: &str| {
        Manifests::parse(&format!(
            r#"
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {{name: r, namespace: ns, labels: {{ensign.mesh/mode: base}}}}
rules:
- {{apiGroups: [""], resources: [configmaps], resourceNames: [a, b], verbs: [{verbs}]}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {{name: r, namespace: ns, labels: {{ensign.mesh/mode: base}}}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: Role, name: r}}
subjects: [{{kind: ServiceAccount, name: ra, namespace: ns}}]
"#
        ))?
        .rights()
    };
    let request = |verb: &str, name: &str, code: u16| Request {
        user: "system:serviceaccount:ns:ra".to_owned(),
        verb: verb.to_owned(),
        resource: "configmaps".to_owned(),
        subresource: String::new(),
        namespace: "ns".to_owned(),
        name: name.to_owned(),
        code,
        uri: String::new(),
        stage: "ResponseComplete".to_owned(),
        received: String::new(),
        user_agent: String::new(),
    };
    let requests = Requests(vec![
        request("list", "a", 200),
        request("list", "b", 200),
        request("patch", "a", 201),
        request("patch", "b", 201),
        request("watch", "a", 200),
        request("get", "a", 403),
    ]);
    let found = |verbs: &str| anyhow::Ok(unused(grant(verbs)?.iter(), &requests).len());
    assert_eq!(found("list, create")?, 0);
    assert_eq!(found("list, get")?, 2, "what was refused is not used");
    assert_eq!(found("watch")?, 1, "one of two names");
    assert_eq!(found("patch")?, 2, "a patch that creates needs the right to create");
    Ok(())
}
