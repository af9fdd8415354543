//! Roots of a signer in objects of a real API server: what comes, changes, breaks and goes, as the RA's account with the
//! rights of deploy/optional/rbac.yaml.

use std::time::Duration;

use anyhow::ensure;
use ensign_pki::{SystemClock, crypto};
use ensign_ra::kubernetes::{self, ClusterSource, KubernetesMetrics};
use ensign_ra::policy::RootsSpec;
use ensign_ra::signer::Host;
use ensign_ra::trust::{self, NoRoots, OpenRootsError, Roots, Trust};
use ensign_testbed::cluster::{Access, Cluster, ClusterOptions, Places, unique};
use ensign_testbed::wait::{PATIENCE, until};
use ensign_testkit::TestCa;
use k8s_openapi::api::certificates::v1beta1::ClusterTrustBundle;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::json;

type Result<T = ()> = anyhow::Result<T>;

/// The ConfigMap that the RA may follow.
const NAME: &str = "ensign-ra-signer-roots";

/// Waits until the signer has these roots.
async fn has(trust: &Trust, pem: &str) -> Result {
    let wanted = Roots::parse(pem)?;
    until("the roots", PATIENCE, async || {
        let roots = trust.current()?;
        ensure!(*roots == wanted, "{} other roots", roots.bundle().len());
        Ok(())
    })
    .await
}

/// Waits until it has none, for this reason.
async fn lacks(trust: &Trust, reason: &str) -> Result<NoRoots> {
    until(reason, PATIENCE, async || match trust.current() {
        Err(none) if none.reason() == reason => Ok(none),
        Err(none) => anyhow::bail!("{none}"),
        Ok(roots) => anyhow::bail!("{} roots", roots.bundle().len()),
    })
    .await
}

async fn host(bed: &Access, kubeconfig: &str) -> Result<Host> {
    crypto::install_default();
    let path = bed.folder().join(format!("{}.kubeconfig", unique("roots")));
    std::fs::write(&path, kubeconfig)?;
    let source = ClusterSource::Kubeconfig { path, context: None };
    Ok(Host {
        cluster: Some(kubernetes::connect(&source, &KubernetesMetrics::default()).await?),
        ..Host::alone(SystemClock::shared())
    })
}

async fn open(host: &Host, spec: &RootsSpec) -> std::result::Result<Trust, OpenRootsError> {
    trust::open(&"foo".parse().unwrap(), spec, host, &host.stop).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_config_map_is_followed_and_its_end_takes_the_roots_away() -> Result {
    let bed = Cluster::shared().await?;
    let namespace = bed.namespace("roots").await?;
    let account = Places::in_one(&namespace).grant(&bed, &["signer-roots"]).await?;
    let host = host(&bed, &account.kubeconfig).await?;
    let spec = RootsSpec::ConfigMap {
        namespace: namespace.clone(),
        name: NAME.to_owned(),
        key: "ca.pem".to_owned(),
    };
    let trust = open(&host, &spec).await?;
    let none = lacks(&trust, "roots_gone").await?;
    let text = none.to_string();
    assert!(
        text.contains("ca.pem") && text.contains(&format!("{namespace}/{NAME}")),
        "{text}"
    );

    let (first, second) = (
        TestCa::root_only("first").root_pem(),
        TestCa::root_only("second").root_pem(),
    );
    let put = async |key: &str, pem: &str| {
        let object = json!({"apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": NAME, "namespace": namespace}, "data": {key: pem}});
        bed.apply_yaml(&object.to_string()).await.map(drop)
    };
    put("ca.pem", &format!("{first}{second}")).await?;
    has(&trust, &format!("{first}{second}")).await?;
    put("ca.pem", &second).await?;
    has(&trust, &second).await?;
    // Damage keeps what was good. That it came can only be seen by what comes after it, so it is given a moment.
    put(
        "ca.pem",
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    )
    .await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    has(&trust, &second).await?;
    put("ca.pem", "").await?;
    lacks(&trust, "roots_empty").await?;
    put("other.pem", &second).await?;
    let objects = Api::<ConfigMap>::namespaced(bed.admin(), &namespace);
    let patch = json!({"data": {"ca.pem": null}});
    objects
        .patch(NAME, &PatchParams::default(), &Patch::Merge(patch))
        .await?;
    lacks(&trust, "roots_gone").await?;
    put("ca.pem", &first).await?;
    has(&trust, &first).await?;
    objects.delete(NAME, &DeleteParams::default()).await?;
    lacks(&trust, "roots_gone").await?;
    host.stop.cancel();
    bed.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_trust_bundle_is_followed_and_an_api_without_them_says_so() -> Result {
    let bed = Cluster::shared().await?;
    let name = unique("bundle");
    // Every service account may read bundles.
    let namespace = bed.namespace("roots").await?;
    let account = Places::in_one(&namespace).grant(&bed, &["base"]).await?;
    let allowed = host(&bed, &account.kubeconfig).await?;
    let trust = open(&allowed, &RootsSpec::ClusterTrustBundle { name: name.clone() }).await?;
    lacks(&trust, "roots_gone").await?;
    let root = TestCa::root_only("bundle").root_pem();
    let object = json!({"apiVersion": "certificates.k8s.io/v1beta1", "kind": "ClusterTrustBundle",
        "metadata": {"name": name}, "spec": {"trustBundle": root}});
    bed.apply_yaml(&object.to_string()).await?;
    has(&trust, &root).await?;
    Api::<ClusterTrustBundle>::all(bed.admin())
        .delete(&name, &DeleteParams::default())
        .await?;
    lacks(&trust, "roots_gone").await?;
    bed.finish().await?;

    let without = Cluster::start(ClusterOptions {
        cert_manager: false,
        api_server_flags: vec!["--runtime-config=certificates.k8s.io/v1beta1=false".to_owned()],
        ..ClusterOptions::default()
    })
    .await?;
    let unserved = host(&without, &std::fs::read_to_string(without.admin_kubeconfig())?).await?;
    let error = open(&unserved, &RootsSpec::ClusterTrustBundle { name })
        .await
        .unwrap_err();
    let text = format!("{:#}", anyhow::Error::from(error));
    assert!(
        text.contains("does not serve clustertrustbundles") && text.contains("--runtime-config"),
        "{text}"
    );
    without.finish().await
}
