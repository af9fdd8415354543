//! The API server or cert-manager falls, forgets or lacks something while requests are under way: who waited is served, and
//! who cannot be is told why.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use ensign_ra::signer::{Running, SignerError};
use ensign_testbed::cluster::instant_signer::Answer;
use ensign_testbed::cluster::{Cluster, ClusterOptions, Component, IssuerRef};
use ensign_testbed::wait::{self, PATIENCE};
use ensign_testkit::{Gate, TestCa};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::{Api, ResourceExt as _};
use serde_json::json;
use tokio::task::JoinSet;

use crate::replica::{Installation, Replica, Wish, cert_manager_signer_with, csr_signer, csr_signer_with};
use crate::scene::Scene;

type Result = anyhow::Result<()>;

/// What asks a number of things at once, and what came of it.
fn burst(running: &Arc<Running>, count: usize) -> JoinSet<anyhow::Result<()>> {
    let mut asking = JoinSet::new();
    for number in 0..count {
        let running = Arc::clone(running);
        asking.spawn(async move {
            let wish = Wish::new("foo", &format!("app-{number}"));
            wish.certificate(&running).await.map(drop)
        });
    }
    asking
}

#[tokio::test]
async fn an_api_server_that_is_killed_in_a_burst_fails_nobody() -> Result {
    let bed = Cluster::start(ClusterOptions::default()).await?;
    let scene = Scene::new(&bed).await?;
    let spec = csr_signer_with("foo", &scene.name, &scene.ca.root_pem(), |csr| {
        csr.request.deadline = Duration::from_mins(3);
    });
    let foo = scene.replica.open(&spec).await?;
    let mut asking = burst(&foo, 500);
    scene.signer.saw(100).await?;
    bed.kill(Component::ApiServer).await?;
    bed.restart(Component::ApiServer)?;
    bed.ready().await?;
    while let Some(answer) = asking.join_next().await {
        answer??;
    }
    scene.replica.settled().await;
    let left = scene.installation.csrs(&bed).await?;
    // A delete whose answer was lost may have been given up; nothing else may be there.
    ensure!(
        left.len() as u64 == scene.replica.metric("object_removals_total{outcome=\"failed\"}"),
        "{left:?}"
    );
    bed.finish().await
}

#[tokio::test]
async fn a_watch_that_is_too_old_begins_anew_and_loses_nobody() -> Result {
    let bed = Cluster::start(ClusterOptions::default()).await?;
    let scene = Scene::new(&bed).await?;
    let foo = scene.open().await?;
    let gate = Gate::new();
    for _ in 0..3 {
        scene.signer.script().push(Answer::default().after(&gate).into());
    }
    let mut asking = burst(&foo, 3);
    scene.signer.saw(3).await?;
    // What is written since our watch saw something is older than all that the new server will remember.
    let maps = Api::<ConfigMap>::namespaced(bed.admin(), "default");
    for number in 0..20 {
        let map =
            json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": format!("filler-{number}") } });
        maps.create(&PostParams::default(), &serde_json::from_value(map)?)
            .await?;
    }
    bed.kill(Component::ApiServer).await?;
    bed.restart(Component::ApiServer)?;
    bed.ready().await?;
    // One is deleted by somebody while nobody may be looking.
    let gone = scene.installation.csrs(&bed).await?.pop().context("none")?;
    Api::<CertificateSigningRequest>::all(bed.admin())
        .delete(&gone.name_any(), &DeleteParams::default())
        .await?;
    gate.open();
    let (mut served, mut lost) = (0, 0);
    while let Some(answer) = asking.join_next().await {
        match answer? {
            Ok(()) => served += 1,
            Err(error) => {
                assert_eq!(error.downcast::<SignerError>()?.reason(), "gone");
                lost += 1;
            }
        }
    }
    assert_eq!((served, lost), (2, 1));
    let series = "kubernetes_watch_errors_total{watch=\"certificatesigningrequests\",trouble=\"gone\"}";
    ensure!(scene.replica.metric(series) > 0, "no 410: {}", scene.replica.metrics());
    bed.finish().await
}

/// With a watch cache the server forgets by its restart; without one, etcd does by its compaction.
#[tokio::test]
async fn a_watch_whose_past_is_compacted_away_begins_anew() -> Result {
    let bed = Cluster::start(ClusterOptions {
        watch_cache: false,
        ..ClusterOptions::default()
    })
    .await?;
    let scene = Scene::new(&bed).await?;
    let foo = scene.open().await?;
    let gate = Gate::new();
    scene.signer.script().push(Answer::default().after(&gate).into());
    let mut asking = burst(&foo, 1);
    scene.signer.saw(1).await?;
    bed.namespace("later").await?;
    bed.compact().await?;
    bed.kill(Component::ApiServer).await?;
    bed.restart(Component::ApiServer)?;
    bed.ready().await?;
    let series = "kubernetes_watch_errors_total{watch=\"certificatesigningrequests\",trouble=\"gone\"}";
    wait::until("a 410", PATIENCE, async || {
        ensure!(scene.replica.metric(series) > 0, "none: {}", scene.replica.metrics());
        Ok(())
    })
    .await?;
    gate.open();
    asking.join_next().await.context("nobody asks")???;
    scene.nothing_is_left(&bed).await?;
    bed.finish().await
}

#[tokio::test]
async fn a_watch_that_the_server_closes_goes_on_where_it_was() -> Result {
    // Without a watch cache a version stays good, so a closed watch can go on.
    let options = ClusterOptions {
        watch_cache: false,
        // Else a server that stops waits a minute for its watches to end by themselves.
        api_server_flags: vec!["--shutdown-watch-termination-grace-period=1s".to_owned()],
        ..ClusterOptions::default()
    };
    let bed = Cluster::start(options).await?;
    let scene = Scene::new(&bed).await?;
    let foo = scene.open().await?;
    let gate = Gate::new();
    scene.signer.script().push(Answer::default().after(&gate).into());
    let mut asking = burst(&foo, 1);
    scene.signer.saw(1).await?;
    let lists = || {
        scene
            .replica
            .metric("kubernetes_requests_total{verb=\"list\",resource=\"certificatesigningrequests\",code=\"200\"}")
    };
    assert_eq!(lists(), 1);
    bed.stop(Component::ApiServer).await?;
    bed.restart(Component::ApiServer)?;
    bed.ready().await?;
    gate.open();
    let answer = asking.join_next().await.context("nobody asks")??;
    answer.with_context(|| format!("{:?}\n{}", scene.signer.failures(), scene.replica.metrics()))?;
    assert_eq!(lists(), 1, "it went on without another list");
    bed.finish().await
}

#[tokio::test]
async fn cert_manager_stopped_and_started_serves_who_waited() -> Result {
    let bed = Cluster::start(ClusterOptions::default()).await?;
    let ca = bed.cluster_issuer("foo").await?;
    let issuer = IssuerRef::Cluster("foo".to_owned());
    let installation = Installation::new(&bed, &[&issuer.signer_name()], None).await?;
    let replica = Replica::start(&bed, &installation).await?;
    let spec = csr_signer("foo", &issuer.signer_name(), &ca.root_pem());
    let foo = replica.open(&spec).await?;
    bed.stop(Component::CertManager).await?;
    let mut asking = burst(&foo, 5);
    wait::until("all to wait", PATIENCE, async || {
        ensure!(installation.csrs(&bed).await?.len() == 5);
        Ok(())
    })
    .await?;
    bed.restart(Component::CertManager)?;
    while let Some(answer) = asking.join_next().await {
        answer??;
    }
    replica.settled().await;
    assert!(installation.csrs(&bed).await?.is_empty());
    bed.finish().await
}

#[tokio::test]
async fn cert_manager_without_its_feature_gate_is_named() -> Result {
    let options = ClusterOptions {
        csr_controllers: false,
        ..ClusterOptions::default()
    };
    let bed = Cluster::start(options).await?;
    let ca = bed.cluster_issuer("foo").await?;
    let issuer = IssuerRef::Cluster("foo".to_owned());
    let installation = Installation::new(&bed, &[&issuer.signer_name()], None).await?;
    let replica = Replica::start(&bed, &installation).await?;
    let spec = csr_signer_with("foo", &issuer.signer_name(), &ca.root_pem(), |csr| {
        csr.request.deadline = Duration::from_secs(3);
    });
    let foo = replica.open(&spec).await?;
    let error = Wish::new("foo", "app").ask(&foo).await.err().context("a certificate")?;
    assert_eq!(error.reason(), "not_issued");
    ensure!(
        error
            .to_string()
            .contains("ExperimentalCertificateSigningRequestControllers"),
        "{error}"
    );
    bed.finish().await
}

#[tokio::test]
async fn without_cert_managers_kinds_its_signers_say_so() -> Result {
    let options = ClusterOptions {
        cert_manager: false,
        ..ClusterOptions::default()
    };
    let bed = Cluster::start(options).await?;
    let ca = TestCa::root_only("foo");
    let signer_name = "clusterissuers.cert-manager.io/foo";
    let installation = Installation::new(&bed, &[signer_name], Some("default")).await?;
    let replica = Replica::start(&bed, &installation).await?;
    let issuer = ensign_ra::policy::IssuerRef {
        name: "foo".to_owned(),
        kind: "ClusterIssuer".to_owned(),
        group: "cert-manager.io".to_owned(),
    };
    for (spec, expected) in [
        (
            csr_signer("foo", signer_name, &ca.root_pem()),
            "the server knows no clusterissuers.cert-manager.io",
        ),
        (
            cert_manager_signer_with("foo", "default", Some(issuer), &ca.root_pem(), |_| {}),
            "the server knows no certificaterequests.cert-manager.io",
        ),
    ] {
        let foo = replica.open(&spec).await?;
        let error = Wish::new("foo", "app").ask(&foo).await.err().context("a certificate")?;
        assert_eq!(error.code(), tonic::Code::Unavailable);
        ensure!(error.to_string().contains(expected), "{error}");
    }
    let all = Api::<CertificateSigningRequest>::all(bed.admin());
    assert!(all.list(&ListParams::default()).await?.items.is_empty());
    bed.finish().await
}
