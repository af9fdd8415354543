//! Objects from their creation to their end: cancelled, left behind, swept. What the fall of a component makes of them is
//! `outage`'s.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, ensure};
use ensign_pki::{Clock, SystemClock};
use ensign_ra::janitor::Janitor;
use ensign_testbed::cluster::instant_signer::{Answer, Behaviour, InstantSigner, Serves};
use ensign_testbed::cluster::{Access, Cluster, unique};
use ensign_testbed::wait::{self, PATIENCE};
use ensign_testkit::{Gate, TestCa};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt as _};
use serde_json::json;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::replica::{FOR_EVER, Installation, Replica, Wish, cert_manager_signer_with, csr_signer};
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
    _task: JoinSet<anyhow::Result<()>>,
}

fn sweep(replica: &Replica) -> Sweeping {
    let janitor = Janitor::new(replica.backends.clone(), Arc::clone(&replica.host.clock));
    let mut task = JoinSet::new();
    task.spawn(janitor.run(CancellationToken::new()));
    Sweeping { _task: task }
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
        .requests_by(&scene.installation.account.username)
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
    let sweeping = sweep(&now);
    // One of later does.
    let clock = Arc::new(Later(Duration::from_mins(7)));
    let later = Replica::start_with_clock(&bed, &scene.installation, clock).await?;
    later
        .open(&csr_signer("foo", &scene.name, &scene.ca.root_pem()))
        .await?;
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

    let later_sweeping = sweep(&later);
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
    drop((sweeping, later_sweeping));
    csrs.delete(&kept_name, &DeleteParams::default()).await?;
    csrs.delete(&stranger.name_any(), &DeleteParams::default()).await?;
    bed.finish().await
}

#[tokio::test]
async fn certificate_requests_are_swept_too() -> Result {
    let bed = Cluster::shared().await?;
    InstantSigner::install_kind(&bed).await?;
    let namespace = bed.namespace("foo").await?;
    let installation = Installation::new(&bed, &[], Some(&namespace)).await?;
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
    let _sweeping = sweep(&later);
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
    let _sweeping = sweep(&later);
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
