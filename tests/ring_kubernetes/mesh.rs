//! Istio's configuration as it comes, changes, breaks and goes: the mesh ConfigMap and ProxyConfig objects of a real API
//! server, read with the rights of deploy/optional/rbac.yaml for it and no others.
//!
//! In clusters of their own: a CRD is there for all who share a cluster, and `istio-system` is one name.

use ensign_pki::Bundle;
use ensign_ra::{
    kubernetes::{ClusterSource, KubernetesMetrics, connect},
    mesh::{KubernetesSigner, Mesh, MeshFeed, MeshMetrics, MeshSource, follow},
};
use ensign_testbed::{
    cluster::{Cluster, ClusterOptions, Component, Places},
    http,
    process::{Program, Spec, own_binary},
    wait::{PATIENCE, until, until_true},
};
use ensign_testkit::{
    TestCa,
    tokens::{self, TokenMint},
};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams},
};
use prometheus_client::registry::Registry;
use serde_json::json;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

type Result = anyhow::Result<()>;

const NAMESPACE: &str = "istio-system";
const DOMAIN: &str = "clusterissuers.cert-manager.io";
/// Of the RA's account, in the cluster's folder.
const KUBECONFIG: &str = "ra.kubeconfig";

/// Somebody who follows Istio's configuration.
struct Reader {
    feed: MeshFeed,
    registry: Registry,
    stop: CancellationToken,
    work: JoinHandle<anyhow::Result<()>>,
}

impl Reader {
    async fn start(bed: &Cluster) -> anyhow::Result<Self> {
        let path = bed.folder().join(KUBECONFIG);
        let mut registry = Registry::default();
        let kubernetes = KubernetesMetrics::register(&mut registry);
        let source = ClusterSource::Kubeconfig { path, context: None };
        let source = MeshSource {
            cluster: connect(&source, &kubernetes).await?,
            namespace: NAMESPACE.to_owned(),
            config_map: "istio".to_owned(),
            metrics: MeshMetrics::register(&mut registry),
            kubernetes,
        };
        let stop = CancellationToken::new();
        let (feed, work) = follow(source, stop.clone());
        Ok(Self {
            feed,
            registry,
            stop,
            work: tokio::spawn(work),
        })
    }

    fn metric(&self, line: &str) -> anyhow::Result<bool> {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry)?;
        Ok(text.lines().any(|shown| shown == line))
    }

    async fn shows(&self, line: &str) -> Result {
        until_true(line, PATIENCE, async || self.metric(line)).await
    }

    /// Waits until what is known has this.
    async fn knows(&self, what: &str, holds: impl Fn(&Mesh) -> bool) -> Result {
        until_true(what, PATIENCE, async || {
            Ok(self.feed.borrow().as_deref().is_some_and(&holds))
        })
        .await
    }

    async fn has_default(&self, namespace: &str, expected: Option<&str>) -> Result {
        let what = format!("the default of {namespace} to be {expected:?}");
        self.knows(&what, |mesh| {
            mesh.default_signer(namespace).map(|default| default.signer) == expected
        })
        .await
    }

    fn has_roots(&self, signer: &str, cas: &[&TestCa]) -> bool {
        self.feed
            .borrow()
            .as_deref()
            .is_some_and(|mesh| has_roots(mesh, signer, cas))
    }

    async fn stop(self) -> Result {
        self.stop.cancel();
        self.work.await?
    }
}

fn has_roots(mesh: &Mesh, signer: &str, cas: &[&TestCa]) -> bool {
    let full: KubernetesSigner = format!("{DOMAIN}/{signer}").parse().expect("a signer");
    let trust_domain = "cluster.local".parse().expect("a trust domain");
    let roots = mesh.roots(&full, &trust_domain).expect("few roots");
    let expected: String = cas.iter().map(|ca| ca.root_pem()).collect();
    roots == Bundle::parse_pem(&expected).ok()
}

/// A cluster without cert-manager, in which the RA may read Istio's configuration.
async fn bed() -> anyhow::Result<Cluster> {
    let bed = Cluster::start(ClusterOptions {
        cert_manager: false,
        ..ClusterOptions::default()
    })
    .await?;
    bed.namespace_named(NAMESPACE).await?;
    let own = bed.namespace("ensign").await?;
    let places = Places {
        istio: NAMESPACE.to_owned(),
        ..Places::in_one(&own)
    };
    let account = places.grant(&bed, &["istio-config"]).await?;
    std::fs::write(bed.folder().join(KUBECONFIG), account.kubeconfig)?;
    Ok(bed)
}

fn indented(pem: &str, by: usize) -> String {
    pem.lines().map(|line| format!("{:by$}{line}\n", "")).collect()
}

/// The block of Istio's page on custom CAs, for these signers; with certificates indented as they have to be.
fn mesh(default: &str, signers: &[(&str, &TestCa)]) -> String {
    let mut text =
        format!("defaultConfig:\n  proxyMetadata:\n    ISTIO_META_CERT_SIGNER: {default}\ncaCertificates:\n");
    for (name, ca) in signers {
        let pem = indented(&ca.root_pem(), 4);
        text.push_str(&format!("- pem: |\n{pem}  certSigners:\n  - {DOMAIN}/{name}\n"));
    }
    text
}

async fn write(bed: &Cluster, key: &str, text: &str) -> Result {
    let object = json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "istio", "namespace": NAMESPACE},
        "data": {key: text, "meshNetworks": "networks: {}"},
    });
    Api::<ConfigMap>::namespaced(bed.admin(), NAMESPACE)
        .patch("istio", &PatchParams::apply("istioctl").force(), &Patch::Apply(object))
        .await?;
    Ok(())
}

async fn proxy_config(bed: &Cluster, namespace: &str, name: &str, spec: &str) -> Result {
    bed.apply_yaml(&format!(
        "apiVersion: networking.istio.io/v1beta1\nkind: ProxyConfig\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {spec}\n"
    ))
    .await?;
    Ok(())
}

fn signer(name: &str) -> String {
    format!("{{environmentVariables: {{ISTIO_META_CERT_SIGNER: '{name}'}}}}")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_mesh_config_map_appears_changes_breaks_and_goes() -> Result {
    let bed = bed().await?;
    let [system, foo, bar, next] = ["system", "foo", "bar", "next"].map(TestCa::new);
    let reader = Reader::start(&bed).await?;
    reader.shows("mesh_config_failures_total 1").await?;
    assert!(reader.feed.borrow().is_none(), "nothing is known without the ConfigMap");

    // It is there, without the key that counts.
    write(&bed, "values", "{}").await?;
    reader.shows("mesh_config_failures_total 2").await?;
    assert!(reader.feed.borrow().is_none());

    let text = mesh(
        "istio-system",
        &[("istio-system", &system), ("foo", &foo), ("bar", &bar)],
    );
    write(&bed, "mesh", &text).await?;
    reader.has_default("anywhere", Some("istio-system")).await?;
    assert!(reader.metric("mesh_config_read 1")?);
    for (name, ca) in [("istio-system", &system), ("foo", &foo), ("bar", &bar)] {
        assert!(reader.has_roots(name, &[ca]), "{name}");
    }

    // Foo gets its next root beside the old one; bar goes.
    let text = mesh("foo", &[("istio-system", &system), ("foo", &foo), ("foo", &next)]);
    write(&bed, "mesh", &text).await?;
    reader
        .knows("the next root", |mesh| has_roots(mesh, "foo", &[&foo, &next]))
        .await?;
    assert!(reader.has_roots("istio-system", &[&system]) && reader.has_roots("bar", &[]));

    // Broken as on Istio's page: not indented. What was good stays.
    let failures = "mesh_config_failures_total 3";
    assert!(!reader.metric(failures)?);
    let broken = mesh("bar", &[("bar", &bar)]).replace("    -----", "-----");
    write(&bed, "mesh", &broken).await?;
    reader.shows(failures).await?;
    assert!(reader.metric("mesh_config_read 0")?);
    reader.has_default("anywhere", Some("foo")).await?;
    assert!(reader.has_roots("foo", &[&foo, &next]));

    // One entry damaged: it is counted, foo keeps what it has, the others follow.
    let damaged = mesh("foo", &[("istio-system", &next), ("foo", &foo)])
        .replace(foo.root_pem().lines().nth(1).expect("a line of base64"), "!");
    write(&bed, "mesh", &damaged).await?;
    reader
        .knows("the others", |mesh| has_roots(mesh, "istio-system", &[&next]))
        .await?;
    assert!(reader.has_roots("foo", &[&foo, &next]), "a slip takes no root away");
    reader.shows("mesh_config_notices{kind=\"bad_certificates\"} 1").await?;
    assert!(reader.metric("mesh_config_read 1")?);
    write(&bed, "mesh", &mesh("foo", &[("foo", &next)])).await?;
    reader
        .knows("the mended entry", |mesh| has_roots(mesh, "foo", &[&next]))
        .await?;
    reader.shows("mesh_config_notices{kind=\"bad_certificates\"} 0").await?;

    // Gone: what was good stays; and comes back changed.
    let config_maps = Api::<ConfigMap>::namespaced(bed.admin(), NAMESPACE);
    config_maps.delete("istio", &DeleteParams::default()).await?;
    reader.shows("mesh_config_read 0").await?;
    reader.has_default("anywhere", Some("foo")).await?;
    assert!(reader.has_roots("foo", &[&next]));
    write(&bed, "mesh", &mesh("bar", &[("bar", &bar)])).await?;
    reader.has_default("anywhere", Some("bar")).await?;
    assert!(reader.has_roots("foo", &[]) && reader.metric("mesh_config_read 1")?);
    reader.stop().await?;
    bed.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn proxy_configs_count_where_their_kind_is_installed() -> Result {
    let bed = bed().await?;
    let ca = TestCa::new("root");
    for namespace in ["foo", "bar"] {
        bed.namespace_named(namespace).await?;
    }
    write(&bed, "mesh", &mesh("istio-system", &[("istio-system", &ca)])).await?;
    let reader = Reader::start(&bed).await?;
    // No CRD: none counts, and nothing waits for one.
    reader.has_default("foo", Some("istio-system")).await?;

    // It is installed while we run.
    bed.install_proxy_config().await?;
    proxy_config(&bed, "foo", "foopc", &signer("foo")).await?;
    reader.has_default("foo", Some("foo")).await?;
    reader.has_default("bar", Some("istio-system")).await?;

    // For the whole mesh; for single workloads; a second one, which is younger by the API server's own clock.
    proxy_config(&bed, NAMESPACE, "mesh", &signer("root")).await?;
    reader.has_default("bar", Some("root")).await?;
    let workload = format!("{{selector: {{matchLabels: {{app: a}}}}, {}", &signer("workload")[1..]);
    proxy_config(&bed, "bar", "a-workload", &workload).await?;
    reader
        .shows("mesh_config_notices{kind=\"workload_proxy_config\"} 1")
        .await?;
    reader.has_default("bar", Some("root")).await?;
    until_a_second_passes(&bed, "foo", "foopc").await?;
    proxy_config(&bed, "foo", "a-second", &signer("second")).await?;
    reader
        .shows("mesh_config_notices{kind=\"second_proxy_config\"} 1")
        .await?;
    reader.has_default("foo", Some("foo")).await?;

    // It changes to "none", which hides the mesh's; then the older one goes and the younger counts.
    proxy_config(&bed, "foo", "foopc", &signer("")).await?;
    reader.has_default("foo", Some("")).await?;
    remove(&bed, "foo", "foopc").await?;
    reader.has_default("foo", Some("second")).await?;
    reader
        .shows("mesh_config_notices{kind=\"second_proxy_config\"} 0")
        .await?;

    // The kind is removed with all that is of it, and installed again.
    bed.remove_proxy_config().await?;
    reader.has_default("foo", Some("istio-system")).await?;
    reader.has_default("bar", Some("istio-system")).await?;
    bed.install_proxy_config().await?;
    proxy_config(&bed, "bar", "again", &signer("bar")).await?;
    reader.has_default("bar", Some("bar")).await?;
    reader.stop().await?;
    bed.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changes_while_the_api_server_is_away_is_not_missed() -> Result {
    let bed = bed().await?;
    let [old, new] = ["old", "new"].map(TestCa::new);
    bed.namespace_named("foo").await?;
    bed.install_proxy_config().await?;
    proxy_config(&bed, "foo", "foopc", &signer("foo")).await?;
    write(&bed, "mesh", &mesh("old", &[("foo", &old)])).await?;
    let reader = Reader::start(&bed).await?;
    // The first that is known has both: no namespace ever has the mesh's default for want of its own.
    let mut first = reader.feed.clone();
    let seen = first.wait_for(Option::is_some).await?.clone().expect("a mesh");
    assert_eq!(seen.default_signer("foo").map(|default| default.signer), Some("foo"));
    bed.kill(Component::ApiServer).await?;
    reader.shows("kubernetes_watch_synced{watch=\"mesh_config\"} 0").await?;
    assert!(reader.has_roots("foo", &[&old]), "what was known counts");
    bed.restart(Component::ApiServer)?;
    bed.ready().await?;
    until("the change to be written", PATIENCE, async || {
        write(&bed, "mesh", &mesh("new", &[("foo", &new)])).await?;
        remove(&bed, "foo", "foopc").await
    })
    .await?;
    reader
        .knows("the new root", |mesh| has_roots(mesh, "foo", &[&new]))
        .await?;
    reader.has_default("foo", Some("new")).await?;
    reader.shows("kubernetes_watch_synced{watch=\"mesh_config\"} 1").await?;
    reader.stop().await?;
    bed.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ra_runs_unready_until_there_is_a_policy_and_stays_ready_when_it_breaks() -> Result {
    let bed = bed().await?;
    let path = |name: &str| bed.folder().join(name).display().to_string();
    std::fs::write(path("jwks.json"), tokens::jwks(&[&TokenMint::es256("key")]))?;
    let flags = [
        ("--kubeconfig", path(KUBECONFIG)),
        ("--jwks-file", path("jwks.json")),
        ("--token-issuer", tokens::ISSUER.to_owned()),
        ("--serving-ca-dir", path("serving-ca")),
        ("--grpc-addr", "127.0.0.1:0".to_owned()),
        ("--readyz-addr", "127.0.0.1:0".to_owned()),
        ("--metrics-addr", "127.0.0.1:0".to_owned()),
        ("--addresses-file", path("ra.addresses")),
    ];
    // As istiod has them.
    let env = [
        ("EXTERNAL_CA", "ISTIOD_RA_KUBERNETES_API"),
        ("CERT_SIGNER_DOMAIN", DOMAIN),
    ];
    let spec = Spec {
        name: "ra".to_owned(),
        binary: own_binary("ensign-ra")?,
        args: flags
            .into_iter()
            .flat_map(|(flag, value)| [flag.to_owned(), value])
            .collect(),
        env: env
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect(),
    };
    let mut ra = Program::start(spec, bed.folder())?;
    let addresses = ra.addresses(&bed.folder().join("ra.addresses")).await?;
    let (readyz, metrics) = (addresses["readyz"], addresses["metrics"]);
    let unready = http::get(readyz, "/readyz")
        .await
        .expect_err("no policy yet")
        .to_string();
    assert!(
        unready.contains("policy") && unready.contains("mesh configuration has not been read yet"),
        "{unready}"
    );
    http::get(readyz, "/healthz").await?;
    ra.log()
        .wait("the missing ConfigMap to be named", |line| {
            line.contains("mesh configuration not read") && line.contains("--mesh-config-map")
        })
        .await?;

    write(&bed, "mesh", "trustDomain: cluster.local\n").await?;
    until("readiness", PATIENCE, async || http::get(readyz, "/readyz").await).await?;
    write(&bed, "mesh", "trustDomain: [\n").await?;
    until_true("the broken one to be shown", PATIENCE, async || {
        Ok(http::get(metrics, "/metrics")
            .await?
            .lines()
            .any(|line| line == "ensign_ra_mesh_config_read 0"))
    })
    .await?;
    http::get(readyz, "/readyz").await?;
    let shown = http::get(metrics, "/metrics").await?;
    for line in ["ensign_ra_mesh_config_in_effect 1", "ensign_ra_any_mesh_signer 0"] {
        assert!(shown.lines().any(|shown| shown == line), "{shown} lacks {line}");
    }
    let status = ra.terminate().await?;
    assert!(status.success(), "{}", ra.log().tail());
    bed.finish().await
}

async fn remove(bed: &Cluster, namespace: &str, name: &str) -> Result {
    let objects = proxy_configs(bed, namespace);
    match objects.delete(name, &DeleteParams::default()).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn proxy_configs(bed: &Cluster, namespace: &str) -> Api<kube::core::DynamicObject> {
    let kind = kube::core::GroupVersionKind::gvk("networking.istio.io", "v1beta1", "ProxyConfig");
    let resource = kube::api::ApiResource::from_gvk_with_plural(&kind, "proxyconfigs");
    Api::namespaced_with(bed.admin(), namespace, &resource)
}

/// Creation times are whole seconds: of two objects of one second the name decides, and this test is about the older.
async fn until_a_second_passes(bed: &Cluster, namespace: &str, name: &str) -> Result {
    let created = proxy_configs(bed, namespace)
        .get(name)
        .await?
        .metadata
        .creation_timestamp;
    until_true("the next second of the API server", PATIENCE, async || {
        let probe = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"generateName": "clock-"}});
        let probe: ConfigMap = serde_json::from_value(probe)?;
        let made = Api::<ConfigMap>::namespaced(bed.admin(), namespace)
            .create(&kube::api::PostParams::default(), &probe)
            .await?;
        Ok(made.metadata.creation_timestamp > created)
    })
    .await
}
