//! Istio's task "Custom CA Integration using Kubernetes CSR", step by step: three ClusterIssuers, the mesh configuration,
//! a ProxyConfig for each namespace; workloads of one signer talk, workloads of two do not.
//!
//! The Envoys run outside of pods, on sockets of the agent's `fixed` source, with real tokens bound to pods. What the task
//! has istiod do (put ISTIO_META_CERT_SIGNER into the proxy) one half of the workloads shows; the other half names no
//! signer and leaves the choice to the RA, which reads the ProxyConfig itself.

use std::collections::BTreeMap;

use anyhow::{Context as _, ensure};
use ensign_testbed::cluster::{Access, CERT_MANAGER_NAMESPACE, Cluster, ClusterOptions, TokenOf};
use ensign_testbed::envoy::EnvoySpec;
use ensign_testbed::scenario::apart::{one_request_works, request_is_refused_for_the_root};
use ensign_testbed::scenario::{self, Mesh};
use ensign_testbed::story::Story;
use ensign_testbed::wait::{self, PATIENCE};
use ensign_testbed::world::{ClusterPlace, Workload, World, WorldSpec};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::ListParams;

use crate::istio;

const DOMAIN: &str = "clusterissuers.cert-manager.io";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workloads_of_one_cert_signer_talk_and_workloads_of_two_do_not() -> anyhow::Result<()> {
    let bed = Cluster::start(ClusterOptions::default()).await?;
    let mut story = Story::default();
    for issuer in ["istio-system", "foo", "bar"] {
        bed.cluster_issuer(issuer).await?;
    }
    istio::mesh_config(&bed, &mesh_config(&bed).await?).await?;
    istio::proxy_config_crd(&bed).await?;
    for namespace in ["foo", "bar"] {
        bed.namespace_named(namespace).await?;
        istio::proxy_config(&bed, namespace, &format!("{namespace}pc"), namespace).await?;
    }

    let mut workloads = scenario::WORKLOADS.to_vec();
    workloads.push(("foo", "silent"));
    let mut spec = WorldSpec::foo_and_bar(&workloads);
    spec.rules.clear();
    spec.ra_env = BTreeMap::from(
        [
            ("CERT_SIGNER_DOMAIN", DOMAIN),
            ("EXTERNAL_CA", "ISTIOD_RA_KUBERNETES_API"),
            (
                "PILOT_CERT_PROVIDER",
                "k8s.io/clusterissuers.cert-manager.io/istio-system",
            ),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned())),
    );
    spec.cluster = Some(place(&bed, &spec.workloads).await?);
    let world = World::start(spec).await?;

    let mesh = Mesh::start(&world, &mut story).await?;
    story.chapter("The signer of each namespace comes from its ProxyConfig");
    one_request_works(&world, &mesh.sleep, "httpbin", &mut story).await?;
    request_is_refused_for_the_root(&world, &mesh.sleep, &mesh.ratings, &mut story).await?;
    request_is_refused_for_the_root(&world, &mesh.ratings, &mesh.httpbin, &mut story).await?;

    let silent = EnvoySpec::new("silent", "foo", "silent", world.socket("silent"));
    let silent = silent
        .calling("httpbin", mesh.httpbin.inbound()?, &world.id("httpbin")?)
        .calling("ratings", mesh.ratings.inbound()?, &world.id("ratings")?);
    let silent = world.start_envoy(silent).await?;
    silent.ready().await?;
    one_request_works(&world, &silent, "httpbin", &mut story).await?;
    request_is_refused_for_the_root(&world, &silent, &mesh.ratings, &mut story).await?;

    nothing_is_left(&bed).await?;
    drop((silent, mesh));
    world.finish().await?;
    bed.finish().await
}

/// The task's `meshConfig`, its roots exported as the task does.
async fn mesh_config(bed: &Access) -> anyhow::Result<String> {
    let mut text = String::from(
        "trustDomain: cluster.local\ndefaultConfig:\n  proxyMetadata:\n    ISTIO_META_CERT_SIGNER: istio-system\ncaCertificates:\n",
    );
    for issuer in ["istio-system", "foo", "bar"] {
        let root = root_of(bed, issuer).await?;
        let pem: String = root.lines().map(|line| format!("    {line}\n")).collect();
        text.push_str(&format!("- pem: |\n{pem}  certSigners:\n  - {DOMAIN}/{issuer}\n"));
    }
    Ok(text)
}

/// As the task's `kubectl get secret … -o jsonpath='{.data.ca\.crt}'`.
async fn root_of(bed: &Access, issuer: &str) -> anyhow::Result<String> {
    let secrets = Api::<Secret>::namespaced(bed.admin(), CERT_MANAGER_NAMESPACE);
    let secret = secrets.get(&format!("{issuer}-ca")).await?;
    let root = secret
        .data
        .and_then(|mut data| data.remove("ca.crt"))
        .context("no ca.crt")?;
    Ok(String::from_utf8(root.0)?)
}

/// An account, a pod and its token for each workload, and the RA's own account.
pub(crate) async fn place(bed: &Access, workloads: &[Workload]) -> anyhow::Result<ClusterPlace> {
    let mut tokens = BTreeMap::new();
    for workload in workloads {
        let (namespace, name) = (&workload.namespace, &workload.name);
        bed.service_account(namespace, name).await?;
        let pod = bed.pod(namespace, name, name, "node-1").await?;
        tokens.insert(name.clone(), bed.token(&TokenOf::new(namespace, name).pod(&pod)).await?);
    }
    Ok(ClusterPlace {
        kubeconfig: istio::ra_kubeconfig(bed).await?,
        tokens,
        ..ClusterPlace::default()
    })
}

/// I8: no object outlives the certificate that it was made for.
async fn nothing_is_left(bed: &Access) -> anyhow::Result<()> {
    let requests = Api::<CertificateSigningRequest>::all(bed.admin());
    wait::until("every CertificateSigningRequest to be gone", PATIENCE, async || {
        let left = requests.list(&ListParams::default()).await?.items;
        ensure!(left.is_empty(), "{} left", left.len());
        Ok(())
    })
    .await
}
