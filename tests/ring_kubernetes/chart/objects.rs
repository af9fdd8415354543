//! The rendered objects in a real API server: accepted, changed from one set of values to the next, admitted where Pod
//! Security is strict, and no right more than the plain manifests give for the same use.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, ensure};
use ensign_testbed::{
    cluster::{Access, Cluster, ClusterOptions, Manifests},
    helm,
};
use k8s_openapi::api::{core::v1::Pod, storage::v1::CSIDriver};
use kube::{
    Api, ResourceExt as _,
    api::{ApiResource, DynamicObject, PostParams},
};
use serde_json::{Value, json};
use test_case::test_case;

use super::{NODE, OWN, Result, sets};

/// Kinds of operators that are not here; their fields are looked at alone.
const ELSEWHERE: [&str; 3] = ["ServiceMonitor", "PodMonitor", "SecurityContextConstraints"];

/// One installation after the other over the same objects, as `helm upgrade` would do it: what cannot be changed must not
/// depend on a value.
#[tokio::test]
async fn the_objects_of_each_set_replace_those_of_the_last() -> Result {
    let bed = Cluster::start(ClusterOptions {
        cert_manager: false,
        ..ClusterOptions::default()
    })
    .await?;
    for namespace in [OWN, NODE, "istio-system", "mesh-system", "requests"] {
        bed.namespace_named(namespace).await?;
    }
    for (set, values) in sets::all() {
        let objects = helm::template(OWN, &values).await?;
        for object in objects.objects() {
            if ELSEWHERE.contains(&kind(object)) {
                continue;
            }
            let one = Manifests::parse(&serde_json::to_string(object)?)?;
            let what = || format!("{set}: {} {}", kind(object), object.name_any());
            one.apply(&bed).await.with_context(what)?;
            if object.annotations().contains_key("helm.sh/hook") {
                one.delete(&bed).await.with_context(what)?;
            }
        }
    }
    // The last set to name them.
    let driver = Api::<CSIDriver>::all(bed.admin()).get("csi.ensign.mesh").await?;
    let requests = driver.spec.token_requests.unwrap_or_default();
    assert_eq!(requests.len(), 1);
    assert_eq!(requests[0].expiration_seconds, Some(43_200));
    bed.finish().await
}

#[tokio::test]
async fn the_pods_are_admitted_where_they_run() -> Result {
    let bed = Cluster::start(ClusterOptions {
        cert_manager: false,
        ..ClusterOptions::default()
    })
    .await?;
    let strict = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": {
        "name": OWN, "labels": { "pod-security.kubernetes.io/enforce": "restricted" },
    } });
    bed.apply_yaml(&strict.to_string()).await?;
    let objects = helm::template(OWN, &json!({})).await?;
    let namespace = objects.object("Namespace", NODE)?;
    bed.apply_yaml(&serde_json::to_string(namespace)?).await?;
    let mut admitted = BTreeSet::new();
    for object in objects.objects() {
        if ["Deployment", "DaemonSet", "Job"].contains(&kind(object)) {
            let place = object.namespace().context("no namespace")?;
            let account = object.data["spec"]["template"]["spec"]["serviceAccountName"].as_str();
            bed.service_account(&place, account.context("no account")?).await?;
            dry_run(&bed, &place, &object.data["spec"]["template"])
                .await
                .with_context(|| object.name_any())?;
            admitted.insert(object.name_any());
        }
    }
    assert_eq!(admitted.len(), 3, "{admitted:?}");
    // The agent needs its exception: nowhere else would it run.
    let agent = objects.object("DaemonSet", "ensign-agent")?;
    bed.service_account(OWN, "ensign-agent").await?;
    let error = dry_run(&bed, OWN, &agent.data["spec"]["template"])
        .await
        .expect_err("admitted");
    assert!(format!("{error:#}").contains("hostPath"), "{error:#}");
    bed.finish().await
}

#[tokio::test]
async fn the_rights_are_those_of_the_plain_manifests_for_the_same_use() -> Result {
    let modes = [
        "base",
        "cert-manager",
        "issuers",
        "root-cert",
        "istiod-certificate",
        "serving-secret",
    ];
    let plain: BTreeSet<_> = Manifests::read("rbac.yaml")?.rights()?.into_iter().collect();
    let of_modes = Manifests::read("optional/rbac.yaml")?.of_modes(&modes)?.rights()?;
    assert_eq!(plain, of_modes.into_iter().collect());
    let rendered = helm::template(OWN, &json!({})).await?.rights()?;
    let (check, rendered): (Vec<_>, Vec<_>) = rendered
        .into_iter()
        .partition(|right| right.role == "ensign-uninstall-check");
    let check: Vec<_> = check.iter().map(ToString::to_string).collect();
    assert_eq!(check, ["list pods (ClusterRole ensign-uninstall-check, mode )"]);
    assert_eq!(rendered.into_iter().collect::<BTreeSet<_>>(), plain);
    Ok(())
}

/// A rule whose list of names is empty would be for every object: istiod's chart lets it approve for every signer so.
#[test_case(json!({}); "modes alone")]
#[test_case(json!({ "ra": { "existingConfigMap": "mine" } }); "settings that the chart does not know")]
#[tokio::test]
async fn without_names_there_is_no_right_to_all(mut values: Value) -> Result {
    values["rbac"] = json!({ "modes": ["kubernetes-csr"], "signers": [] });
    let rights = helm::template(OWN, &values).await?.rights()?;
    assert!(rights.iter().any(|right| right.mode == "kubernetes-csr"));
    let approving: Vec<_> = rights
        .iter()
        .filter(|right| right.resource == "signers" || right.resource.ends_with("/approval"))
        .map(ToString::to_string)
        .collect();
    assert!(approving.is_empty(), "{approving:?}");
    Ok(())
}

/// There is no OpenShift here: that the objects say what its documentation asks for is all that is known.
#[tokio::test]
async fn on_openshift_the_agent_has_its_constraints_and_the_ra_no_user_of_its_own() -> Result {
    let objects = helm::template(OWN, &json!({ "global": { "platform": "openshift" } })).await?;
    let driver = objects.object("CSIDriver", "csi.ensign.mesh")?;
    assert_eq!(
        driver.labels()["security.openshift.io/csi-ephemeral-volume-profile"],
        "restricted"
    );
    let constraints = &objects.object("SecurityContextConstraints", "ensign-agent")?.data;
    assert_eq!(
        constraints["users"],
        json!(["system:serviceaccount:ensign-node:ensign-agent"])
    );
    for field in [
        "allowPrivilegedContainer",
        "allowHostNetwork",
        "allowHostPID",
        "allowHostIPC",
        "allowHostPorts",
    ] {
        assert_eq!(constraints[field], json!(false), "{field}");
    }
    let agent = &objects.object("DaemonSet", "ensign-agent")?.data["spec"]["template"]["spec"];
    let context = &agent["containers"][0]["securityContext"];
    assert_eq!(context["seLinuxOptions"], json!({ "type": "spc_t" }));
    // What its volumes and its context ask for is allowed.
    let allowed: BTreeSet<_> = constraints["volumes"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    for volume in agent["volumes"].as_array().context("no volumes")? {
        let kinds = volume
            .as_object()
            .context("no volume")?
            .keys()
            .filter(|key| *key != "name");
        ensure!(
            kinds.clone().all(|kind| allowed.contains(kind.as_str())),
            "{volume} is not allowed"
        );
    }
    // `restricted-v2` gives a user of the namespace's range and refuses any other.
    let authority = &objects.object("Deployment", "ensign-ra")?.data["spec"]["template"]["spec"]["securityContext"];
    assert_eq!(authority["runAsUser"], Value::Null);
    assert_eq!(authority["fsGroup"], Value::Null);
    assert_eq!(authority["runAsNonRoot"], json!(true));
    Ok(())
}

/// The operator that reads them is not here: what they select is.
#[tokio::test]
async fn the_monitors_select_the_services_and_pods_that_are_rendered() -> Result {
    let values = json!({
        "app": { "metrics": { "service": { "servicemonitor": { "enabled": true } } } },
        "agent": { "podMonitor": { "enabled": true } },
    });
    let objects = helm::template(OWN, &values).await?;
    let monitor = &objects.object("ServiceMonitor", "ensign-ra")?.data["spec"];
    let service = objects.object("Service", "ensign-ra-metrics")?;
    assert!(selects(&monitor["selector"], service.labels()), "{monitor}");
    assert_eq!(
        monitor["endpoints"][0]["port"],
        service.data["spec"]["ports"][0]["name"]
    );
    assert!(!selects(
        &monitor["selector"],
        objects.object("Service", "ensign-ra")?.labels()
    ));
    assert_eq!(monitor["namespaceSelector"]["matchNames"], json!([OWN]));

    let monitor = &objects.object("PodMonitor", "ensign-agent")?.data["spec"];
    let template = &objects.object("DaemonSet", "ensign-agent")?.data["spec"]["template"];
    let labels = serde_json::from_value(template["metadata"]["labels"].clone())?;
    assert!(selects(&monitor["selector"], &labels), "{monitor}");
    let port = &template["spec"]["containers"][0]["ports"][0]["name"];
    assert_eq!(monitor["podMetricsEndpoints"][0]["port"], *port);
    assert_eq!(monitor["namespaceSelector"]["matchNames"], json!([NODE]));
    Ok(())
}

fn selects(selector: &Value, labels: &BTreeMap<String, String>) -> bool {
    let wanted = selector["matchLabels"].as_object();
    wanted.is_some_and(|wanted| {
        !wanted.is_empty()
            && wanted
                .iter()
                .all(|(name, value)| labels.get(name).is_some_and(|found| value == found))
    })
}

/// What [`sets::istio_csr`] becomes.
const OF_ISTIO_CSR: [&str; 74] = [
    "replicas: 3",
    "image: registry.example/mesh/authority:2@sha256:000",
    "imagePullPolicy: Always",
    "- name: registry\n",
    "type: NodePort",
    "port: 8443",
    "nodePort: 30443",
    "containerPort: 9500",
    "prometheus: main",
    "interval: 20s",
    "scrapeTimeout: 7s",
    "team: mesh",
    "name: the-issuer",
    "issuer-name: \"other\"",
    "issuer-kind: \"ClusterIssuer\"",
    "issuer-group: \"example.com\"",
    "containerPort: 6161",
    "path: /ready",
    "ENSIGN_RA_READINESS_PROBE_PATH: /ready",
    "ENSIGN_RA_SERVING_TLS_MIN_VERSION: VersionTLS12",
    "ENSIGN_RA_SERVING_TLS_CIPHER_SUITES: TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
    "ENSIGN_RA_SERVING_TLS_CURVE_PREFERENCES: CurveP256,X25519",
    "ENSIGN_RA_LOG_LEVEL: \"3\"",
    "--log-format=text",
    "ENSIGN_RA_METRICS_PORT: \"9500\"",
    "ENSIGN_RA_RUNTIME_ISSUANCE_CONFIG_MAP_NAME: the-issuer",
    "ENSIGN_RA_CERTIFICATE_NAMESPACE: requests",
    "ENSIGN_RA_PRESERVE_CERTIFICATE_REQUESTS: \"true\"",
    "ENSIGN_RA_CERTIFICATE_REQUEST_ADDITIONAL_ANNOTATIONS: example.com/a=1,b=2",
    "ENSIGN_RA_ISSUER_ENABLED: \"true\"",
    "ENSIGN_RA_ISSUER_NAME: ca",
    "ENSIGN_RA_ISSUER_KIND: ClusterIssuer",
    "ENSIGN_RA_ISSUER_GROUP: cert-manager.io",
    "ENSIGN_RA_TRUST_DOMAIN: example.org",
    "ENSIGN_RA_ROOT_CA_FILE: /roots/ca.pem",
    "ENSIGN_RA_SERVING_CERTIFICATE_DURATION: 2h",
    "ENSIGN_RA_SERVING_DNS_NAMES: csr.example.org,cert-manager-istio-csr.ensign-system.svc",
    "ENSIGN_RA_ISTIOD_CERT_ENABLED: \"true\"",
    "ENSIGN_RA_ISTIOD_CERT_DURATION: 3h",
    "ENSIGN_RA_ISTIOD_CERT_RENEW_BEFORE: 40m",
    "ENSIGN_RA_ISTIOD_CERT_KEY_ALGORITHM: RSA",
    "ENSIGN_RA_ISTIOD_CERT_KEY_SIZE: \"3072\"",
    "ENSIGN_RA_ISTIOD_CERT_ADDITIONAL_DNS_NAMES: istiod.example.org",
    "ENSIGN_RA_ISTIOD_CERT_ISTIO_REVISIONS: default,canary",
    "ENSIGN_RA_ISTIO_NAMESPACE: mesh-system",
    "ENSIGN_RA_CLUSTER_ID: one",
    "ENSIGN_RA_MAX_CLIENT_CERTIFICATE_DURATION: 5h",
    "CA_TRUSTED_NODE_ACCOUNTS: mesh-system/ztunnel",
    "ENSIGN_RA_GRPC_ADDR: 0.0.0.0:7443",
    "containerPort: 7443",
    "ENSIGN_RA_SERVING_CERTIFICATE_KEY_SIZE: \"384\"",
    "ENSIGN_RA_SERVING_SIGNATURE_ALGORITHM: ECDSA",
    "ENSIGN_RA_ENABLE_CLIENT_CERT_AUTHENTICATOR: \"true\"",
    "value: mesh-system",
    "ENSIGN_RA_CONFIGMAP_NAMESPACE_SELECTOR: mesh=yes",
    "ENSIGN_RA_DISABLE_KUBERNETES_CLIENT_RATE_LIMITER: \"true\"",
    "ENSIGN_RA_MAX_CONCURRENT_RECONCILES: \"4\"",
    "a: \"1\"",
    "b: \"2\"",
    "c: \"3\"",
    "d: \"4\"",
    "e: \"5\"",
    "secretName: root",
    "mountPath: /roots",
    "cpu: 7m",
    "memory: 100Mi",
    "priorityClassName: system-cluster-critical",
    "nodeAffinity: {}",
    "key: mesh",
    "topologyKey: rack",
    "disk: fast",
    "runAsUser: 1000",
    "name: extra",
    "minAvailable: 2",
];

/// Every value of istio-csr's is somewhere in the objects.
#[tokio::test]
async fn what_istio_csr_was_told_is_rendered() -> Result {
    let text = helm::template_text(OWN, &sets::istio_csr()).await?;
    for wanted in OF_ISTIO_CSR {
        assert!(text.contains(wanted), "{wanted:?} is not rendered");
    }
    // One of the two, whatever the other's default is.
    assert!(
        !text.contains("  maxUnavailable: 1\n  # A replica"),
        "the budget has both bounds"
    );
    let pinned = json!({ "ra": { "roots": { "ca.pem": "of the issuer" } } });
    let text = helm::template_text(OWN, &pinned).await?;
    assert!(text.contains("ENSIGN_RA_ROOT_CA_FILE: /etc/ensign/roots/ca.pem") && text.contains("    of the issuer\n"));
    // The alias, and a ConfigMap that has no name of its own.
    for (values, name) in [
        (json!({ "app": { "runtimeIssuanceConfigMap": "old-name" } }), "old-name"),
        (
            json!({ "app": { "runtimeConfiguration": { "create": true } } }),
            "ensign-ra-issuer",
        ),
    ] {
        let text = helm::template_text(OWN, &values).await?;
        let wanted = format!("ENSIGN_RA_RUNTIME_ISSUANCE_CONFIG_MAP_NAME: {name}\n");
        assert!(
            text.contains(&wanted) && text.contains(&format!("resourceNames: [{name}]")),
            "{wanted}"
        );
    }
    Ok(())
}

fn kind(object: &DynamicObject) -> &str {
    object.types.as_ref().map_or("", |types| types.kind.as_str())
}

async fn dry_run(access: &Access, namespace: &str, template: &Value) -> Result {
    let pods = Api::<DynamicObject>::namespaced_with(access.admin(), namespace, &ApiResource::erase::<Pod>(&()));
    let mut pod = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "probe" } });
    pod["spec"] = template["spec"].clone();
    let parameters = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    pods.create(&parameters, &serde_json::from_value(pod)?).await?;
    Ok(())
}
