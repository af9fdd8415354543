//! The commands of an operator against a real API server: from a cluster without anything of ours to a certificate, with a
//! real RA and a real agent behind the pods that our manifests make. Kubelet's part is played by the test.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context as _, ensure};
use ensign_proto::csi::v1::node_client::NodeClient;
use ensign_testbed::{
    cluster::{Cluster, ClusterOptions, Manifests, TokenOf},
    folder::Folder,
    operator::{Operator, codes, request_id},
    process::{Program, Spec, own_binary},
    wait::{PATIENCE, until},
};
use ensign_testkit::csi;
use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod};
use kube::{
    Api, ResourceExt as _,
    api::{ListParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::{
    port_forward::Kubelet,
    program::{OWN, Ra, SERVER},
};

type Result<T = ()> = anyhow::Result<T>;

const NODE: &str = "node-1";
const PLACE: &str = "ensign-node";

/// The request is named as the RA's log names it.
async fn refused_by_the_ra(bed: &Cluster, folder: &Folder, ra: &Ra) -> Result {
    let operator = Operator::new(bed);
    let greedy = pod(bed, "web-1", json!({ "signer": "bar" }), "Running").await?;
    publish(bed, folder, &greedy, &json!({ "signer": "bar" })).await??;
    let (code, findings) = operator.explained("foo", "web-1", &["ra_refused"]).await?;
    assert_eq!(code, 1);
    let cause = findings[0]["cause"].as_str().unwrap_or_default();
    let id = request_id(&findings[0]).unwrap_or_default();
    assert!(cause.contains("permission_denied") && id.len() == 16, "{cause}");
    let logged = ra.program.log().lines();
    assert!(
        logged
            .iter()
            .any(|line| line.contains(id) && line.contains("request refused")),
        "{id}"
    );
    Ok(())
}

/// Its own words come through kubelet's event.
async fn refused_by_the_agent(bed: &Cluster, folder: &Folder) -> Result {
    let operator = Operator::new(bed);
    let mistaken = pod(bed, "web-2", json!({ "sginer": "foo" }), "Pending").await?;
    let refusal = publish(bed, folder, &mistaken, &json!({ "sginer": "foo" })).await?;
    failed_mount(bed, &mistaken, refusal.expect_err("an unknown attribute").message()).await?;
    let (_, findings) = operator.explained("foo", "web-2", &["mount_refused"]).await?;
    assert!(
        findings[0]["cause"]
            .as_str()
            .is_some_and(|cause| cause.contains("\"sginer\" is unknown"))
    );
    assert_eq!(findings[0]["fix"], "correct volumeAttributes in the pod");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_learns_what_is_missing_and_then_until_when_and_from_whom() -> Result {
    let options = ClusterOptions {
        cert_manager: false,
        scheduler: true,
        ..ClusterOptions::default()
    };
    let bed = Cluster::start(options).await?;
    let operator = Operator::new(&bed);
    let kubelet = Kubelet::start().await?;
    node(&bed, kubelet.address).await?;
    for namespace in ["foo", "istio-system"] {
        bed.namespace_named(namespace).await?;
    }
    bed.service_account("foo", "web").await?;

    // Nothing of ours is there.
    assert_eq!(operator.explain("foo", "nobody").await?.0, 2);
    bed.pod("foo", "bare", "web", NODE).await?;
    let (code, findings) = operator.explain("foo", "bare").await?;
    assert_eq!((code, codes(&findings)), (1, vec!["no_volume"]));
    let good = pod(&bed, "web-0", json!({ "signer": "foo" }), "Running").await?;
    let (code, findings) = operator.explain("foo", "web-0").await?;
    assert_eq!((code, codes(&findings)), (1, vec!["no_csidriver", "no_agent"]));
    let (code, findings) = operator.findings(&["preflight", "--cluster"]).await?;
    assert_eq!(
        (code, codes(&findings)),
        (1, vec!["no_daemonset", "no_csidriver", "no_ra"])
    );

    // Our manifests, on a node on which nothing runs yet.
    let folder = Folder::new()?;
    let agent_pod = install(&bed, &folder).await?;
    let (code, findings) = operator.explain("foo", "web-0").await?;
    assert_eq!(
        (code, codes(&findings)),
        (1, vec!["not_registered", "agent_silent"]),
        "{findings:#?}"
    );
    let silent = findings[1]["cause"].as_str().unwrap_or_default();
    assert!(
        silent.contains("nothing listens on port 9403"),
        "kubelet's own words: {silent}"
    );
    let (code, findings) = operator.findings(&["preflight", "--cluster"]).await?;
    let seen = codes(&findings);
    assert!(
        code == 1 && seen.contains(&"agents_not_ready") && seen.contains(&"no_endpoints"),
        "{findings:#?}"
    );

    // What runs behind the pods.
    let kubeconfig = std::fs::read_to_string(bed.admin_kubeconfig())?;
    let (ca, root) = (folder.join("serving"), folder.join("root.pem"));
    let settings = [("--serving-ca-dir", text(&ca)), ("--serving-root-file", text(&root))];
    let settings: Vec<_> = settings.iter().map(|(flag, value)| (*flag, value.as_str())).collect();
    let ra = Ra::start(&kubeconfig, Some(&policy(&folder)), &settings).await?;
    ra.ready().await?;
    let (agent, status) = agent(&folder, ra.address("grpc")?).await?;
    kubelet.lead(&agent_pod, 9403, status);
    ready(&bed, PLACE, &agent_pod, "10.1.0.1").await?;
    register(&bed).await?;
    let (code, findings) = operator.explained("foo", "web-0", &["not_published"]).await?;
    assert_eq!(code, 1, "{findings:#?}");

    publish(&bed, &folder, &good, &json!({ "signer": "foo" })).await??;
    // Nobody is connected: the volume names its signer, so the certificate is there before Envoy.
    let (code, findings) = operator.explained("foo", "web-0", &["certificate", "no_envoy"]).await?;
    assert_eq!(code, 0, "{findings:#?}");
    let cause = findings[0]["cause"].as_str().unwrap_or_default();
    assert!(
        cause.contains("spiffe://cluster.local/ns/foo/sa/web from signer foo until 20"),
        "{cause}"
    );
    let (_, page, _) = operator.run(&["explain", "web-0", "-n", "foo"]).await?;
    assert!(page.starts_with("pod foo/web-0\n\nok      certificate\n"), "{page}");

    refused_by_the_ra(&bed, &folder, &ra).await?;
    refused_by_the_agent(&bed, &folder).await?;

    // The cluster as a whole, with a certificate of each signer that the account may use.
    let ra_pod = replica(&bed).await?;
    kubelet.lead(&ra_pod, 6443, ra.address("grpc")?);
    let asked = ["preflight", "--cluster", "--service-account=foo/web"];
    let all = [
        "agents",
        "csidriver",
        "service",
        "roots",
        "signer",
        "signer",
        "signer_not_allowed",
    ];
    let findings = until("a cluster that is ready", PATIENCE, async || {
        let (code, findings) = operator.findings(&asked).await?;
        ensure!(code == 0 && codes(&findings) == all, "{code} {findings:#?}");
        Ok(findings)
    })
    .await?;
    assert!(
        findings[6]["cause"]
            .as_str()
            .is_some_and(|cause| cause.contains("signer bar")),
        "{findings:#?}"
    );

    by_istios_configuration(&bed).await?;

    drop(agent);
    ra.finish().await?;
    folder.discard();
    bed.finish().await
}

/// The RA is told to follow the mesh configuration beside its file: the signers of that are asked, too, once it can be read.
async fn by_istios_configuration(bed: &Cluster) -> Result {
    let operator = Operator::new(bed);
    let maps = Api::<ConfigMap>::namespaced(bed.admin(), OWN);
    let settings = json!({ "data": {
        "EXTERNAL_CA": "ISTIOD_RA_KUBERNETES_API", "CERT_SIGNER_DOMAIN": "clusterissuers.cert-manager.io",
    } });
    maps.patch("ensign-ra", &PatchParams::default(), &Patch::Merge(&settings))
        .await?;
    let asked = ["preflight", "--cluster", "--service-account=foo/web"];
    let (code, findings) = operator.findings(&asked).await?;
    let told = findings.last().context("no findings")?;
    assert_eq!(
        (code, told["code"].as_str()),
        (2, Some("signers_unknown")),
        "{findings:#?}"
    );
    assert!(
        told["cause"]
            .as_str()
            .is_some_and(|cause| cause.contains("istio-system/istio")),
        "{told}"
    );
    let (code, findings) = operator.findings(&[&asked[..], &["--signer=foo"]].concat()).await?;
    assert_eq!((code, codes(&findings).last()), (0, Some(&"signer")), "{findings:#?}");

    let mesh =
        "caCertificates:\n- certSigners: [clusterissuers.cert-manager.io/foo, clusterissuers.cert-manager.io/baz]\n";
    let map = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "istio", "namespace": "istio-system" },
        "data": { "mesh": mesh },
    });
    bed.apply_yaml(&map.to_string()).await?;
    let (code, findings) = operator.findings(&asked).await?;
    // The default, foo, bar, and baz, which the RA that runs here does not know.
    let last = &codes(&findings)[4..];
    assert_eq!(
        (code, last),
        (0, &["signer", "signer", "signer_not_allowed", "signer_not_allowed"][..]),
        "{findings:#?}"
    );
    assert!(
        findings[7]["cause"]
            .as_str()
            .is_some_and(|cause| cause.contains("signer baz")),
        "{findings:#?}"
    );
    Ok(())
}

#[tokio::test]
async fn without_a_kubeconfig_it_says_how_to_name_one() -> Result {
    let output = Command::new(own_binary("ensign-agent")?)
        .args(["explain", "x", "--kubeconfig", "/nonexistent/kubeconfig"])
        .env_clear()
        .output()
        .await?;
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.contains("--kubeconfig or KUBECONFIG") && said.contains("/nonexistent"),
        "{said}"
    );
    Ok(())
}

/// A node that the scheduler takes and whose kubelet is the test's.
async fn node(bed: &Cluster, kubelet: SocketAddr) -> Result {
    bed.node(NODE).await?;
    let nodes = Api::<Node>::all(bed.admin());
    let patch = json!({ "metadata": { "labels": { "kubernetes.io/os": "linux" } }, "spec": { "taints": null } });
    nodes
        .patch(NODE, &PatchParams::default(), &Patch::Merge(&patch))
        .await?;
    let room = json!({ "cpu": "4", "memory": "8Gi", "pods": "10" });
    let status = json!({ "status": {
        "capacity": room, "allocatable": room, "conditions": [{ "type": "Ready", "status": "True" }],
        "addresses": [{ "type": "InternalIP", "address": kubelet.ip() }],
        "daemonEndpoints": { "kubeletEndpoint": { "Port": kubelet.port() } },
    } });
    nodes
        .patch_status(NODE, &PatchParams::default(), &Patch::Merge(&status))
        .await?;
    Ok(())
}

/// A pod with a volume of ours.
async fn pod(bed: &Cluster, name: &str, attributes: Value, phase: &str) -> Result<Pod> {
    let pod = json!({
        "metadata": { "name": name },
        "spec": {
            "serviceAccountName": "web",
            "nodeName": NODE,
            "containers": [{
                "name": "envoy", "image": "none.invalid/envoy",
                "volumeMounts": [{ "name": "identity", "mountPath": "/identity", "readOnly": true }],
            }],
            "volumes": [{ "name": "identity", "csi": {
                "driver": "csi.ensign.mesh", "readOnly": true, "volumeAttributes": attributes,
            } }],
        },
    });
    let pods = Api::<Pod>::namespaced(bed.admin(), "foo");
    pods.create(&PostParams::default(), &serde_json::from_value(pod)?)
        .await?;
    bed.pod_phase("foo", name, phase).await
}

/// Driver, agents and RA as in `deploy/`; gives the name of the agent's pod on the node.
async fn install(bed: &Cluster, folder: &Folder) -> Result<String> {
    for file in ["csidriver.yaml", "ra.yaml", "daemonset.yaml"] {
        Manifests::read(file)?.apply(bed).await?;
    }
    let policy_file = json!({ "ENSIGN_RA_POLICY_FILE": "/etc/ensign/policy/policy.yaml" });
    for (namespace, name, data) in [
        (PLACE, "ensign-agent", json!({ "CA_ADDR": format!("{SERVER}:443") })),
        (OWN, "ensign-ra", policy_file),
        (OWN, "ensign-ra-policy", json!({ "policy.yaml": policy(folder) })),
    ] {
        let map = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name, "namespace": namespace }, "data": data,
        });
        bed.apply_yaml(&map.to_string()).await?;
    }
    placed(bed, PLACE, "app.kubernetes.io/name=ensign-agent").await
}

/// A pod with this label, once it is on the node.
async fn placed(bed: &Cluster, namespace: &str, label: &str) -> Result<String> {
    let pods = Api::<Pod>::namespaced(bed.admin(), namespace);
    let selected = ListParams::default()
        .labels(label)
        .fields(&format!("spec.nodeName={NODE}"));
    until(&format!("a pod of {label} on the node"), PATIENCE, async || {
        let found = pods.list(&selected).await?.items.into_iter().next();
        found.map(|pod| pod.name_any()).context("none yet")
    })
    .await
}

/// As its kubelet would say it.
async fn ready(bed: &Cluster, namespace: &str, pod: &str, address: &str) -> Result {
    let status = json!({ "status": {
        "phase": "Running", "podIP": address, "podIPs": [{ "ip": address }],
        "conditions": [{ "type": "Ready", "status": "True" }],
    } });
    let pods = Api::<Pod>::namespaced(bed.admin(), namespace);
    pods.patch_status(pod, &PatchParams::default(), &Patch::Strategic(&status))
        .await?;
    Ok(())
}

/// A replica of the RA that its Service leads to, and the roots that the RA gives to the agents.
async fn replica(bed: &Cluster) -> Result<String> {
    let pod = placed(bed, OWN, "app.kubernetes.io/name=ensign-ra").await?;
    ready(bed, OWN, &pod, "10.1.0.2").await?;
    let maps = Api::<ConfigMap>::namespaced(bed.admin(), PLACE);
    until("the roots of the agents", PATIENCE, async || {
        maps.get("istio-ca-root-cert").await.map(drop).context("not yet")
    })
    .await?;
    Ok(pod)
}

/// As kubelet does when it has taken the driver up.
async fn register(bed: &Cluster) -> Result {
    let node = Api::<Node>::all(bed.admin()).get(NODE).await?;
    let object = json!({
        "apiVersion": "storage.k8s.io/v1", "kind": "CSINode",
        "metadata": { "name": NODE, "ownerReferences": [{
            "apiVersion": "v1", "kind": "Node", "name": NODE, "uid": node.uid(),
        }] },
        "spec": { "drivers": [{ "name": "csi.ensign.mesh", "nodeID": NODE }] },
    });
    bed.apply_yaml(&object.to_string()).await.map(drop)
}

/// Kubelet's event.
async fn failed_mount(bed: &Cluster, pod: &Pod, said: &str) -> Result {
    let message =
        format!("MountVolume.SetUp failed for volume \"identity\" : rpc error: code = InvalidArgument desc = {said}");
    let event = json!({
        "apiVersion": "v1", "kind": "Event", "metadata": { "name": "mount-failed", "namespace": "foo" },
        "involvedObject": { "kind": "Pod", "namespace": "foo", "name": pod.name_any(), "uid": pod.uid() },
        "reason": "FailedMount", "message": message, "type": "Warning", "count": 1,
    });
    bed.apply_yaml(&event.to_string()).await.map(drop)
}

fn policy(folder: &Folder) -> String {
    let signer = |name: &str| json!({ "name": name, "local": { "dir": folder.join(name), "selfSigned": true } });
    json!({
        "apiVersion": "ensign.mesh/v1",
        "trustDomain": "cluster.local",
        "signers": [signer("foo"), signer("bar")],
        "rules": [{ "namespace": "foo", "serviceAccounts": ["*"], "signers": ["foo"], "default": "foo" }],
    })
    .to_string()
}

/// The agent as a process, with kubelet's folders; gives the address of its status.
async fn agent(folder: &Folder, ra: SocketAddr) -> Result<(Program, SocketAddr)> {
    for inner in ["pods", "plugins/csi.ensign.mesh", "plugins_registry"] {
        std::fs::create_dir_all(folder.join("kubelet").join(inner))?;
    }
    // Fenced in, it makes nothing new beside kubelet's folders.
    std::fs::create_dir_all(folder.join("own/state"))?;
    let path = |name: &str| text(&folder.join(name));
    let args = [
        "--source=csi".to_owned(),
        format!("--node-name={NODE}"),
        format!("--kubelet-dir={}", path("kubelet")),
        format!("--state-dir={}", path("own/state")),
        format!("--ca-addr=localhost:{}", ra.port()),
        format!("--istiod-san={SERVER}"),
        format!("--ca-root-ca={}", path("root.pem")),
        "--admin-addr=127.0.0.1:0".to_owned(),
        "--status-addr=127.0.0.1:0".to_owned(),
        format!("--addresses-file={}", path("own/addresses")),
    ];
    let spec = Spec {
        name: "agent".to_owned(),
        binary: own_binary("ensign-agent")?,
        args: args.to_vec(),
        env: BTreeMap::new(),
    };
    let mut program = Program::start(spec, folder.path())?;
    let addresses = program.addresses(&folder.join("own/addresses")).await?;
    let status = *addresses.get("status").context("no address of the status")?;
    // What kubelet does first of all; without it the agent is not ready, and says so.
    let driver = csi::dial(&folder.join("kubelet/plugins_registry/csi.ensign.mesh-reg.sock")).await?;
    let mut registration = ensign_proto::pluginregistration::registration_client::RegistrationClient::new(driver);
    let registered = ensign_proto::pluginregistration::RegistrationStatus {
        plugin_registered: true,
        error: String::new(),
    };
    registration.notify_registration_status(registered).await?;
    Ok((program, status))
}

/// NodePublishVolume, with a real token of the pod.
async fn publish(
    bed: &Cluster,
    folder: &Folder,
    pod: &Pod,
    attributes: &Value,
) -> Result<std::result::Result<(), tonic::Status>> {
    let (name, uid) = (pod.name_any(), pod.uid().context("a pod has a uid")?);
    let token = bed.token(&TokenOf::new("foo", "web").pod(pod)).await?;
    let inner = format!("kubelet/pods/{uid}/volumes/kubernetes.io~csi/identity/mount");
    let target = folder.join(&inner);
    std::fs::create_dir_all(target.parent().context("a folder around it")?)?;
    let published = csi::Published {
        namespace: "foo",
        pod: &name,
        uid: &uid,
        account: "web",
        target: &target,
        attributes: serde_json::from_value(attributes.clone())?,
    };
    let request = published.request(Some(csi::tokens(&token, "2099-01-01T00:00:00Z")));
    let driver = csi::dial(&folder.join("kubelet/plugins/csi.ensign.mesh/csi.sock")).await?;
    Ok(NodeClient::new(driver).node_publish_volume(request).await.map(drop))
}

fn text(path: &Path) -> String {
    path.display().to_string()
}
