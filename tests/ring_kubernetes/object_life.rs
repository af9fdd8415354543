//! Objects from their creation to their end: cancelled, left behind, swept; and what the fall of a component makes of them.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, ensure};
use ensign_pki::{Clock, SystemClock};
use ensign_ra::janitor::Janitor;
use ensign_ra::signer::{Running, SignerError};
use ensign_testbed::cluster::instant_signer::{Answer, Behaviour, InstantSigner, Serves};
use ensign_testbed::cluster::{Access, Cluster, ClusterOptions, Component, IssuerRef, unique};
use ensign_testbed::wait::{self, PATIENCE};
use ensign_testkit::{Gate, TestCa};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt as _};
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::replica::{FOR_EVER, Installation, Replica, Wish, cert_manager_signer_with, csr_signer, csr_signer_with};
use crate::scene::Scene;

type Result = anyhow::Result<()>;

/// So much later than it is.
#[derive(Debug)]
struct Later(Duration);

impl Clock for Later {
    fn now(&self) -> SystemTime {
        SystemClock.now() + self.0
    }
}

/// A janitor at work until it is dropped.
struct Sweeping {
    leader: watch::Sender<bool>,
    _task: JoinSet<anyhow::Result<()>>,
}

fn sweep(replica: &Replica, leads: bool) -> Sweeping {
    let (leader, leads) = watch::channel(leads);
    let janitor = Janitor::new(replica.backends.clone(), Arc::clone(&replica.host.clock), leads);
    let mut task = JoinSet::new();
    task.spawn(janitor.run(CancellationToken::new()));
    Sweeping { leader, _task: task }
}

#[tokio::test]
async fn a_request_that_is_cancelled_before_it_began_or_comes_too_late_creates_nothing() -> Result {
    let bed = Cluster::shared().await?;
    let scene = Scene::new(&bed).await?;
    let foo = scene.open().await?;
    Wish::new("foo", "warm-up").certificate(&foo).await?;
    scene.replica.settled().await;
    let mark = bed.audit().mark().await?;
    // The caller is gone before its turn came.
    drop(foo.signer().sign(Wish::new("foo", "app").issuance(&foo, FOR_EVER)));
    // Its time was over when its turn came.
    let late = Wish::new("foo", "app").issuance(&foo, Duration::ZERO);
    ensure!(foo.signer().sign(late).await.is_err());
    let requests = bed
        .audit()
        .requests_by(&scene.installation.username)
        .since(mark)
        .await?;
    assert_eq!(
        requests.count("create", "certificatesigningrequests"),
        0,
        "{requests:?}"
    );
    bed.finish().await
}

#[tokio::test]
async fn what_a_cancelled_request_leaves_is_swept_after_its_end_and_not_before() -> Result {
    let bed = Cluster::shared().await?;
    let scene = Scene::new(&bed).await?;
    scene.signer.script().set_default(Behaviour::Silent);
    let foo = scene.open().await?;
    let asking = tokio::spawn({
        let foo = Arc::clone(&foo);
        async move { Wish::new("foo", "app").certificate(&foo).await }
    });
    scene.signer.saw(1).await?;
    asking.abort();

    // Objects that must outlive every pass: a stranger's with our label, and one of ours that is kept.
    let csrs = Api::<CertificateSigningRequest>::all(bed.admin());
    let mut stranger = scene.installation.csrs(&bed).await?.pop().context("none")?;
    stranger.metadata = kube::api::ObjectMeta {
        name: Some(unique("stranger")),
        labels: stranger.metadata.labels,
        annotations: stranger.metadata.annotations,
        ..kube::api::ObjectMeta::default()
    };
    stranger.status = None;
    let stranger = csrs.create(&PostParams::default(), &stranger).await?;
    let kept = Wish::new("foo", "kept").issuance(&foo, Duration::from_secs(1));
    let kept_name = Installation::object(&kept);
    ensure!(foo.signer().sign(kept).await.is_err());
    let keep = json!({ "metadata": { "annotations": { "ensign.mesh/expires-at": "never" } } });
    csrs.patch(&kept_name, &PatchParams::default(), &Patch::Merge(&keep))
        .await?;

    // A replica of now sees nothing past its end, however often it looks.
    let now = Replica::start(&bed, &scene.installation).await?;
    now.open(&csr_signer("foo", &scene.name, &scene.ca.root_pem())).await?;
    let sweeping = sweep(&now, true);
    // One of later that does not lead does nothing.
    let clock = Arc::new(Later(Duration::from_mins(7)));
    let later = Replica::start_with_clock(&bed, &scene.installation, clock).await?;
    later
        .open(&csr_signer("foo", &scene.name, &scene.ca.root_pem()))
        .await?;
    let follower = sweep(&later, false);
    wait::until("both to know all objects", PATIENCE, async || {
        ensure!(
            now.metrics()
                .contains("watch_synced{watch=\"certificatesigningrequests\"} 1")
        );
        ensure!(
            later
                .metrics()
                .contains("watch_synced{watch=\"certificatesigningrequests\"} 1")
        );
        Ok(())
    })
    .await?;
    assert_eq!(scene.installation.csrs(&bed).await?.len(), 3);

    // Becoming the leader wakes it.
    follower.leader.send(true)?;
    wait::until("the sweep", PATIENCE, async || {
        let mut left: Vec<_> = scene
            .installation
            .csrs(&bed)
            .await?
            .iter()
            .map(kube::ResourceExt::name_any)
            .collect();
        left.sort();
        let mut expected = vec![kept_name.clone(), stranger.name_any()];
        expected.sort();
        ensure!(left == expected, "{left:?}");
        Ok(())
    })
    .await?;
    assert_eq!(later.metric("object_removals_total{outcome=\"swept\"}"), 1);
    assert_eq!(now.metric("object_removals_total{outcome=\"swept\"}"), 0);
    drop(sweeping);
    csrs.delete(&kept_name, &DeleteParams::default()).await?;
    csrs.delete(&stranger.name_any(), &DeleteParams::default()).await?;
    bed.finish().await
}

#[tokio::test]
async fn certificate_requests_are_swept_too() -> Result {
    let bed = Cluster::shared().await?;
    InstantSigner::install_kind(&bed).await?;
    let namespace = bed.namespace("foo").await?;
    let installation = Installation::new(&bed, &[], &[&namespace]).await?;
    let replica = Replica::start(&bed, &installation).await?;
    let ca = TestCa::root_only("foo");
    let reference = Serves::external_issuer("nobody").reference();
    let issuer = serde_json::from_value::<kube::api::DynamicObject>(json!({ "metadata": {}, "issuer": reference }))?;
    let text = |field: &str| issuer.data["issuer"][field].as_str().unwrap_or_default().to_owned();
    let issuer = ensign_ra::policy::IssuerRef {
        name: text("name"),
        kind: text("kind"),
        group: text("group"),
    };
    let spec = cert_manager_signer_with("foo", &namespace, Some(issuer), &ca.root_pem(), |_| {});
    let foo = replica.open(&spec).await?;
    let impatient = Wish::new("foo", "app").issuance(&foo, Duration::from_secs(2));
    ensure!(foo.signer().sign(impatient).await.is_err());
    assert_eq!(installation.certificate_requests(&bed, &namespace).await?.len(), 1);
    let clock = Arc::new(Later(Duration::from_mins(7)));
    let later = Replica::start_with_clock(&bed, &installation, clock).await?;
    later.open(&spec).await?;
    let _sweeping = sweep(&later, true);
    wait::until("the sweep", PATIENCE, async || {
        let left = installation.certificate_requests(&bed, &namespace).await?;
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    })
    .await?;
    bed.finish().await
}

/// A replica that is dropped is one that was killed: its tasks end where they are.
#[tokio::test]
async fn a_replica_that_dies_in_a_burst_leaves_nothing_after_the_end() -> Result {
    let bed = Cluster::shared().await?;
    let scene = Scene::new(&bed).await?;
    let gate = Gate::new();
    scene.signer.script().set_default(Answer::default().after(&gate).into());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    let wishes: Vec<_> = (0..40)
        .map(|number| Wish::new("foo", &format!("app-{number}")))
        .collect();
    let (installation, name, roots) = (scene.installation.clone(), scene.name.clone(), scene.ca.root_pem());
    let folder = bed.folder().to_owned();
    let dying = wishes.clone();
    runtime.spawn(async move {
        let access = Access::open(&folder).await?;
        let replica = Replica::start(&access, &installation).await?;
        let foo = replica.open(&csr_signer("foo", &name, &roots)).await?;
        futures::future::join_all(dying.iter().map(|wish| wish.certificate(&foo))).await;
        anyhow::Ok(())
    });
    scene.signer.saw(20).await?;
    // In the middle of whatever it does.
    runtime.shutdown_background();
    gate.open();
    // The clients come back, to another replica; some objects are signed, some not approved, some not there.
    let foo = scene.open().await?;
    futures::future::try_join_all(wishes.iter().map(|wish| wish.certificate(&foo))).await?;
    scene.replica.settled().await;
    let clock = Arc::new(Later(Duration::from_mins(7)));
    let later = Replica::start_with_clock(&bed, &scene.installation, clock).await?;
    later
        .open(&csr_signer("foo", &scene.name, &scene.ca.root_pem()))
        .await?;
    let _sweeping = sweep(&later, true);
    wait::until("the sweep", PATIENCE, async || {
        let left = scene.installation.csrs(&bed).await?;
        ensure!(left.is_empty(), "{} left", left.len());
        Ok(())
    })
    .await?;
    // No wish cost more than one object: the second replica went on with the first one's.
    assert_eq!(scene.signer.seen().len(), 40);
    bed.finish().await
}

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
    let installation = Installation::new(&bed, &[&issuer.signer_name()], &[]).await?;
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
    let installation = Installation::new(&bed, &[&issuer.signer_name()], &[]).await?;
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
    let installation = Installation::new(&bed, &[signer_name], &["default"]).await?;
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
