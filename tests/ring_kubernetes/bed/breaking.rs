//! Components of a cluster of one's own: killed, stopped, paused, started again, or told to be otherwise.

use std::pin::pin;

use anyhow::{Context, ensure};
use ensign_testbed::cluster::{Cluster, ClusterOptions, Component, IssuerRef, issued};
use futures::TryStreamExt as _;
use k8s_openapi::api::{
    certificates::v1::CertificateSigningRequest,
    core::v1::{ConfigMap, Namespace},
};
use kube::{
    Api, ResourceExt as _,
    api::{ListParams, WatchEvent, WatchParams},
};

use super::{Workload, processes_of};

#[tokio::test]
async fn components_die_and_come_back_where_they_were_with_what_they_knew() -> anyhow::Result<()> {
    let bed = Cluster::start(ClusterOptions::default()).await?;
    let ca = bed.cluster_issuer("foo").await?;
    let issuer = IssuerRef::Cluster("foo".to_owned());
    let all = [
        Component::Etcd,
        Component::ApiServer,
        Component::ControllerManager,
        Component::CertManager,
        Component::CertManagerWebhook,
    ];
    for component in all {
        bed.kill(component).await?;
    }
    ensure!(bed.restart(Component::Scheduler).is_err(), "it has none");
    for component in all {
        bed.restart(component)?;
    }
    bed.ready().await?;

    let workload = Workload::new();
    let request = ensign_testbed::wait::until("the webhook to be back", ensign_testbed::wait::PATIENCE, async || {
        let made = bed
            .certificate_request(&bed.admin(), "default", &issuer.reference(), &workload.csr_pem)
            .await;
        made.context("it is away")
    })
    .await?;
    // The controllers may have given up while the API server was away; in a cluster the kubelet starts them again.
    for component in [Component::ControllerManager, Component::CertManager] {
        bed.stop(component).await.ok();
        bed.restart(component)?;
    }
    let chain = issued(&bed.issued(&request).await?).context("no certificate")?;
    assert_eq!(workload.judge(&chain, &ca), "accepted");
    // A new namespace gets its default account from the controller manager.
    bed.namespace("after").await?;

    let folder = bed.folder().to_owned();
    ensure!(!processes_of(&folder).is_empty(), "they are found by their folder");
    bed.finish().await?;
    assert_eq!(processes_of(&folder), Vec::<String>::new());
    ensure!(!folder.exists(), "its files are gone");
    Ok(())
}

#[tokio::test]
async fn an_api_server_that_pauses_answers_later_and_one_that_stops_ends_its_watches() -> anyhow::Result<()> {
    let options = ClusterOptions {
        cert_manager: false,
        watch_cache: false,
        api_server_flags: vec!["--max-requests-inflight=50".to_owned()],
        ..ClusterOptions::default()
    };
    let bed = Cluster::start(options).await?;
    let maps = Api::<ConfigMap>::all(bed.admin());
    maps.list(&ListParams::default()).await?;
    bed.pause(Component::ApiServer).await?;
    let asked = tokio::spawn(async move { maps.list(&ListParams::default()).await });
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    ensure!(!asked.is_finished(), "answered while it was paused");
    bed.resume(Component::ApiServer)?;
    asked.await??;
    ensure!(
        bed.log(Component::CertManager).is_err(),
        "a cluster without cert-manager"
    );
    ensure!(Api::<Namespace>::all(bed.admin()).get("cert-manager").await.is_err());

    let maps = Api::<ConfigMap>::all(bed.admin());
    let now = maps
        .list(&ListParams::default())
        .await?
        .metadata
        .resource_version
        .context("no version")?;
    let watch = maps.watch(&WatchParams::default(), &now).await?;
    let ended = watch.try_for_each(async |_| Ok(()));
    let (ended, stopped) = tokio::join!(ended, bed.stop(Component::ApiServer));
    stopped?;
    // A kill breaks the connection; this is an end as of a server that has had enough.
    ended.context("the watch broke")?;
    bed.restart(Component::ApiServer)?;
    bed.ready().await?;
    bed.finish().await
}

#[tokio::test]
async fn a_watch_from_before_a_compaction_is_told_that_it_is_gone() -> anyhow::Result<()> {
    let options = ClusterOptions {
        cert_manager: false,
        watch_cache: false,
        ..ClusterOptions::default()
    };
    let bed = Cluster::start(options).await?;
    let maps = Api::<ConfigMap>::all(bed.admin());
    let before = maps
        .list(&ListParams::default())
        .await?
        .metadata
        .resource_version
        .context("no version")?;
    bed.namespace("later").await?;
    bed.compact().await?;
    let mut events = pin!(maps.watch(&WatchParams::default(), &before).await?);
    let event = events.try_next().await?.context("the watch just ended")?;
    let WatchEvent::Error(status) = event else {
        anyhow::bail!("not an error: {event:?}");
    };
    assert_eq!(status.code, 410, "{status:?}");
    bed.finish().await
}

#[tokio::test]
async fn without_the_feature_gate_an_approved_csr_waits_for_ever() -> anyhow::Result<()> {
    let options = ClusterOptions {
        csr_controllers: false,
        ..ClusterOptions::default()
    };
    let bed = Cluster::start(options).await?;
    bed.cluster_issuer("foo").await?;
    let issuer = IssuerRef::Cluster("foo".to_owned());
    let workload = Workload::new();
    let csr = bed
        .signing_request(&bed.admin(), &issuer.signer_name(), &workload.csr_pem)
        .await?;
    bed.approve(&bed.admin(), &csr).await?;
    // The other API's controllers work meanwhile.
    let request = bed
        .certificate_request(&bed.admin(), "default", &issuer.reference(), &workload.csr_pem)
        .await?;
    bed.issued(&request).await?;
    let log = bed.log(Component::CertManager)?.lines().join("\n");
    ensure!(log.contains(r#""controller left out" logger="cert-manager.controller" controller="certificatesigningrequests-issuer-ca""#), "{log}");
    let csr = Api::<CertificateSigningRequest>::all(bed.admin())
        .get(&csr.name_any())
        .await?;
    let status = csr.status.context("no status")?;
    ensure!(status.certificate.is_none(), "somebody signed it");
    bed.finish().await
}

#[tokio::test]
async fn a_cluster_that_cannot_start_says_why_and_leaves_no_process() -> anyhow::Result<()> {
    let options = ClusterOptions {
        api_server_flags: vec!["--no-such-flag".to_owned()],
        ..ClusterOptions::default()
    };
    let folder = std::sync::Arc::new(ensign_testbed::folder::Folder::new()?);
    let error = Cluster::start_in(std::sync::Arc::clone(&folder), options)
        .await
        .err()
        .context("it started")?;
    let text = format!("{error:#}");
    ensure!(
        text.contains("kube-apiserver has ended") && text.contains("unknown flag: --no-such-flag"),
        "{text}"
    );
    assert_eq!(processes_of(folder.path()), Vec::<String>::new());
    folder.discard();
    Ok(())
}
