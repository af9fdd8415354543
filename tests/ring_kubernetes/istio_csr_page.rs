//! istio-csr's page, "How does istio-csr work": one issuer of cert-manager for the RA, istiod and the workloads, set up with
//! istio-csr's own flags; with the root pinned, as the page recommends, and with the root discovered.
//!
//! The Envoys run outside of pods, on sockets of the agent's `fixed` source, with real tokens bound to pods. They ask for
//! signers of their own, which istio-csr does not read.

use std::sync::Arc;

use anyhow::{Context as _, ensure};
use ensign_pki::Bundle;
use ensign_testbed::cluster::{Access, Cluster, ClusterOptions, IssuerRef};
use ensign_testbed::envoy::EnvoySpec;
use ensign_testbed::folder::Folder;
use ensign_testbed::http;
use ensign_testbed::scenario::apart::{one_request_works, request_is_refused_for_the_root};
use ensign_testbed::scenario::{self, Mesh};
use ensign_testbed::story::Story;
use ensign_testbed::wait::{self, PATIENCE};
use ensign_testbed::world::{ClusterPlace, World, WorldSpec};
use ensign_testkit::TestCa;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, ListParams};
use test_case::test_case;

use crate::istio::ISTIO_SYSTEM;
use crate::istio_custom_ca;
use crate::istiod_tls::{istiod_tls_for, root_cert};
use crate::program::OWN;

type Result<T = ()> = anyhow::Result<T>;

/// How the RA knows the root of its issuer.
#[derive(Clone, Copy, PartialEq)]
enum Root {
    Pinned,
    Discovered,
}

/// The page's flags where they are not the defaults.
const FLAGS: [(&str, &str); 7] = [
    ("--issuer-name", "istio-ca"),
    ("--issuer-kind", "Issuer"),
    ("--issuer-group", "cert-manager.io"),
    ("--certificate-namespace", ISTIO_SYSTEM),
    ("--max-client-certificate-duration", "1h"),
    ("--istiod-cert-enabled", "true"),
    ("--leader-election-namespace", OWN),
];
/// Where it is served from is the one thing that must be said beside them.
const SERVING: [(&str, &str); 3] = [
    ("--serving-from", "cert-manager"),
    ("--serving-certificate-duration", "1h"),
    ("--own-namespace", OWN),
];

#[test_case(Root::Pinned; "pinned")]
#[test_case(Root::Discovered; "discovered")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_issuer_of_cert_manager_for_the_whole_mesh(root: Root) -> Result {
    let bed = Cluster::start(ClusterOptions::default()).await?;
    let mut story = Story::default();
    story.chapter("An issuer, then the RA in istio-csr's place");
    bed.namespace_named(ISTIO_SYSTEM).await?;
    let ca = bed.issuer(ISTIO_SYSTEM, "istio-ca").await?;
    let folder = Arc::new(Folder::new()?);
    let mut world = World::start_in(Arc::clone(&folder), spec(&bed, &folder, root).await?).await?;

    // What every pod mounts before it asks for anything, and what istiod is served with.
    let roots = root_cert(&bed, "foo", &[&ca.root_pem()]).await?;
    ensure!(
        Bundle::parse_pem(&roots)? == Bundle::parse_pem(&ca.root_pem())?,
        "more roots: {roots}"
    );
    world.give_root(&roots)?;
    istiod_tls_for(&bed, &roots, &["istiod.istio-system.svc"]).await?;

    let mesh = Mesh::start(&world, &mut story).await?;
    story.chapter("All workloads have one CA, whatever signer they ask for");
    one_request_works(&world, &mesh.sleep, "httpbin", &mut story).await?;
    one_request_works(&world, &mesh.sleep, "ratings", &mut story).await?;
    one_request_works(&world, &mesh.ratings, "httpbin", &mut story).await?;
    a_stranger_is_refused(&world, &mut story).await?;
    nothing_is_left(&bed).await?;

    let discovered = metric(&world, "ensign_ra_roots_discovered{signer=\"istio-ca\"}").await?;
    let warned = world.ra().log().lines();
    let warned = warned
        .iter()
        .any(|line| line.contains("WARN") && line.contains("discover"));
    let expected = root == Root::Discovered;
    assert_eq!((discovered, warned), (Some(f64::from(u8::from(expected))), expected));

    another_ca_behind_the_issuer(&bed, &world, &ca, root).await?;
    drop(mesh);
    world.finish().await?;
    bed.finish().await
}

/// Workloads, their places in the cluster, and the RA's flags.
async fn spec(bed: &Access, folder: &Folder, root: Root) -> Result<WorldSpec> {
    for namespace in ["foo", "bar"] {
        bed.namespace_named(namespace).await?;
    }
    let mut workloads = scenario::WORKLOADS.to_vec();
    workloads.push(("foo", "late"));
    let mut spec = WorldSpec::foo_and_bar(&workloads);
    spec.rules.clear();
    let flags = |flags: &[(&str, &str)]| -> Vec<String> {
        flags
            .iter()
            .flat_map(|(flag, value)| [(*flag).to_owned(), (*value).to_owned()])
            .collect()
    };
    spec.ra = flags(&FLAGS);
    if root == Root::Pinned {
        // As the guide: `kubectl get secret istio-ca -o jsonpath='{.data.ca\.crt}'`, into a file that the RA mounts.
        let secret = Api::<Secret>::namespaced(bed.admin(), ISTIO_SYSTEM)
            .get("istio-ca-ca")
            .await?;
        let pem = secret
            .data
            .and_then(|mut data| data.remove("ca.crt"))
            .context("no ca.crt")?;
        let path = folder.write("ca.pem", pem.0)?;
        spec.ra
            .extend(flags(&[("--root-ca-file", &path.display().to_string())]));
    }
    let place = istio_custom_ca::place(bed, &spec.workloads).await?;
    spec.cluster = Some(ClusterPlace {
        serving: flags(&SERVING),
        ..place
    });
    Ok(spec)
}

/// Somebody with a certificate of another root, whose name is the one that is called.
async fn a_stranger_is_refused(world: &World, story: &mut Story) -> Result {
    story.chapter("A certificate of another root is refused");
    let elsewhere = World::start(WorldSpec::foo_and_bar(&[("foo", "stranger")])).await?;
    let stranger = elsewhere.start_envoy(elsewhere.envoy("stranger")?.serving()).await?;
    stranger.ready().await?;
    // Another Envoy of the workload `sleep`.
    let caller = EnvoySpec {
        name: "caller".to_owned(),
        ..world.envoy("sleep")?
    };
    let caller = caller.calling("stranger", stranger.inbound()?, &elsewhere.id("stranger")?);
    let caller = world.start_envoy(caller).await?;
    caller.ready().await?;
    request_is_refused_for_the_root(&elsewhere, &caller, &stranger, story).await?;
    drop((caller, stranger));
    elsewhere.finish().await
}

/// Who holds a certificate is not harmed. Who asks for one gets nothing under a root that the operator did not name, and
/// gets one where the operator named none.
async fn another_ca_behind_the_issuer(bed: &Access, world: &World, ca: &TestCa, root: Root) -> Result {
    let next = TestCa::root_only("next");
    let issuer = IssuerRef::Namespaced(ISTIO_SYSTEM.to_owned(), "istio-ca".to_owned());
    bed.issue_with(&issuer, &next).await?;
    let late = world.start_envoy(world.envoy("late")?.serving()).await?;
    match root {
        Root::Pinned => {
            wait::until("the other CA to be noticed", PATIENCE, async || {
                let refused = "ensign_ra_requests_total{code=\"internal\",reason=\"incomplete_chain\"}";
                let refused = metric(world, refused).await?;
                ensure!(refused.is_some_and(|count| count > 0.0), "not yet");
                Ok(())
            })
            .await?;
            ensure!(
                late.admin().ready().await.is_err(),
                "ready with a certificate of another root"
            );
            root_cert(bed, "foo", &[&ca.root_pem()]).await?;
        }
        Root::Discovered => {
            late.ready().await?;
            root_cert(bed, "foo", &[&ca.root_pem(), &next.root_pem()]).await?;
        }
    }
    Ok(())
}

async fn metric(world: &World, series: &str) -> Result<Option<f64>> {
    let page = http::get(world.ra_address("metrics")?, "/metrics").await?;
    let value = page
        .lines()
        .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    Ok(value.map(str::parse).transpose()?)
}

/// I8, for CertificateRequests of the RA; cert-manager keeps its own of istiod's Certificate.
async fn nothing_is_left(bed: &Access) -> Result {
    let kind = GroupVersionKind::gvk("cert-manager.io", "v1", "CertificateRequest");
    let requests = Api::<DynamicObject>::namespaced_with(bed.admin(), ISTIO_SYSTEM, &ApiResource::from_gvk(&kind));
    let ours = ListParams::default().labels("ensign.mesh/installation");
    wait::until("the RA's requests to be gone", PATIENCE, async || {
        let left = requests.list(&ours).await?.items;
        ensure!(left.is_empty(), "{} left", left.len());
        Ok(())
    })
    .await
}
