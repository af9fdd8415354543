//! Signer kubernetes-csr on the real API server: with the real cert-manager, and with a signer that misbehaves.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use ensign_ra::signer::{Running, SignerError};
use ensign_testbed::cluster::instant_signer::{Answer, Behaviour, InstantSigner, Order, Serves};
use ensign_testbed::cluster::{Access, Cluster, IssuerRef, unique};
use ensign_testbed::wait::{self, PATIENCE};
use ensign_testkit::{Fault, Gate, TestCa};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt as _};
use serde_json::json;

use crate::replica::{FOR_EVER, Installation, Replica, Wish, csr_signer, csr_signer_with};

type Result = anyhow::Result<()>;

/// A signer of a test's own, and a replica that uses it.
struct Scene {
    name: String,
    ca: TestCa,
    signer: InstantSigner,
    installation: Installation,
    replica: Replica,
}

impl Scene {
    async fn new(access: &Access) -> anyhow::Result<Self> {
        let name = format!("example.com/{}", unique("foo"));
        let ca = TestCa::with_intermediates("foo", 1);
        let signer = InstantSigner::start(access, Serves::SignerName(name.clone()), &ca).await?;
        let installation = Installation::new(access, &[&name], &[]).await?;
        let replica = Replica::start(access, &installation).await?;
        Ok(Self {
            name,
            ca,
            signer,
            installation,
            replica,
        })
    }

    async fn open(&self) -> anyhow::Result<Arc<Running>> {
        let spec = csr_signer("foo", &self.name, &self.ca.root_pem());
        self.replica.open(&spec).await
    }

    /// With little patience of the signer's.
    async fn open_impatient(&self, approve: bool) -> anyhow::Result<Arc<Running>> {
        let spec = csr_signer_with("foo", &self.name, &self.ca.root_pem(), |csr| {
            csr.approve = approve;
            csr.request.deadline = Duration::from_secs(2);
        });
        self.replica.open(&spec).await
    }

    /// The one object that is there.
    async fn object(&self, access: &Access) -> anyhow::Result<CertificateSigningRequest> {
        let mut there = self.installation.csrs(access).await?;
        ensure!(there.len() == 1, "{} objects, expected one", there.len());
        there.pop().context("none")
    }

    async fn nothing_is_left(&self, access: &Access) -> Result {
        self.replica.settled().await;
        let left = self.installation.csrs(access).await?;
        ensure!(left.is_empty(), "left behind: {left:?}");
        Ok(())
    }
}

#[tokio::test]
async fn cert_manager_signs_for_three_requests_and_no_read() -> Result {
    let bed = Cluster::shared().await?;
    let issuer = IssuerRef::Cluster(unique("foo"));
    let ca = TestCa::root_only("foo");
    bed.issue_with(&issuer, &ca).await?;
    let signer_name = issuer.signer_name();
    let installation = Installation::new(&bed, &[&signer_name], &[]).await?;
    let replica = Replica::start(&bed, &installation).await?;
    let foo = replica.open(&csr_signer("foo", &signer_name, &ca.root_pem())).await?;
    // The watches stand before we begin to count.
    Wish::new("foo", "warm-up").certificate(&foo).await?;
    replica.settled().await;
    let mark = bed.audit().mark().await?;
    for number in 0..5 {
        let reply = Wish::new("foo", &format!("app-{number}")).certificate(&foo).await?;
        assert_eq!(reply.elements.len(), 2);
        assert_eq!(reply.lifetime.change(), None);
    }
    replica.settled().await;
    let requests = bed.audit().requests_by(&installation.username).since(mark).await?;
    assert_eq!(
        requests.count("create", "certificatesigningrequests"),
        5,
        "{requests:?}"
    );
    assert_eq!(requests.count("update", "certificatesigningrequests/approval"), 5);
    assert_eq!(requests.count("delete", "certificatesigningrequests"), 5);
    assert_eq!(requests.0.len(), 15, "{requests:?}");
    assert!(installation.csrs(&bed).await?.is_empty());
    bed.finish().await
}

#[tokio::test]
async fn an_issuer_of_a_namespace_signs_too() -> Result {
    let bed = Cluster::shared().await?;
    let namespace = bed.namespace("foo").await?;
    let ca = bed.issuer(&namespace, "ca").await?;
    let signer_name = format!("issuers.cert-manager.io/{namespace}.ca");
    let installation = Installation::new(&bed, &[&signer_name], &[&namespace]).await?;
    let replica = Replica::start(&bed, &installation).await?;
    let foo = replica.open(&csr_signer("foo", &signer_name, &ca.root_pem())).await?;
    Wish::new(&namespace, "app").certificate(&foo).await?;
    replica.settled().await;
    assert!(installation.csrs(&bed).await?.is_empty());
    bed.finish().await
}

#[tokio::test]
async fn the_object_says_for_whom_it_is_and_when_it_ends() -> Result {
    let bed = Cluster::shared().await?;
    let scene = Scene::new(&bed).await?;
    scene.signer.script().push(Behaviour::Silent);
    let foo = scene.open().await?;
    let wish = Wish::new("foo", "httpbin");
    let issuance = wish.issuance(&foo, FOR_EVER);
    let (name, request_id) = (Installation::object(&issuance), issuance.request_id.to_string());
    let asking = tokio::spawn({
        let foo = Arc::clone(&foo);
        async move { foo.signer().sign(issuance).await }
    });
    scene.signer.saw(1).await?;
    let object = wait::until("the approval", PATIENCE, async || {
        let object = scene.object(&bed).await?;
        ensure!(object.status.as_ref().is_some_and(|status| status.conditions.is_some()));
        Ok(object)
    })
    .await?;
    asking.abort();
    assert_eq!(object.name_any(), name);
    assert_eq!(object.spec.signer_name, scene.name);
    assert_eq!(object.spec.username.as_deref(), Some(&*scene.installation.username));
    assert_eq!(object.spec.expiration_seconds, Some(3600));
    assert_eq!(
        object.spec.usages.as_deref().context("usages")?,
        ["digital signature", "key encipherment", "server auth", "client auth"]
    );
    assert_eq!(object.spec.request.0, wish.csr.to_pem().as_bytes());
    let annotations = object.annotations();
    let said = |key: &str| annotations.get(&format!("ensign.mesh/{key}")).map(String::as_str);
    assert_eq!(said("identity"), Some("spiffe://cluster.local/ns/foo/sa/httpbin"));
    assert_eq!(said("namespace"), Some("foo"));
    assert_eq!(said("service-account"), Some("httpbin"));
    assert_eq!(said("pod"), Some("httpbin-0"));
    assert_eq!(said("pod-uid"), Some("5e8a4b5c"));
    assert_eq!(said("node"), Some("node-1"));
    assert_eq!(said("cluster"), Some("Kubernetes"));
    assert_eq!(said("request-id"), Some(&*request_id));
    let made = object.metadata.creation_timestamp.as_ref().context("no time")?.0;
    let end: k8s_openapi::jiff::Timestamp = said("expires-at").context("no end")?.parse()?;
    // Its deadline of a minute and its window of five, as two clocks see them.
    let life = (end - made).get_seconds();
    ensure!((350..=370).contains(&life), "it ends {life} s after it was made");
    bed.finish().await
}

/// What becomes of a request, as a word, and what its text must name.
async fn outcome(wish: &Wish, running: &Running) -> (String, String) {
    match wish.ask(running).await {
        Err(error) => (error.reason().to_owned(), error.to_string()),
        Ok(issued) => {
            let reply = wish.judge(running, &issued);
            issued.receipt.settle();
            match reply {
                Ok(_) => ("issued".to_owned(), String::new()),
                Err(error) => {
                    let answer = error.downcast::<ensign_ra::reply::AnswerError>().expect("an answer");
                    (answer.reason.to_owned(), answer.why)
                }
            }
        }
    }
}

#[tokio::test]
async fn each_way_to_fail_has_its_reason_and_leaves_nothing() -> Result {
    let bed = Cluster::shared().await?;
    let scene = Scene::new(&bed).await?;
    let foo = scene.open().await?;
    let wrong = |fault| Behaviour::from(Answer::default().wrong(fault));
    let foreign = TestCa::root_only("foreign");
    for (behaviour, reason, named) in [
        (
            Behaviour::Fail("no more serials".to_owned()),
            "failed",
            "no more serials",
        ),
        (Behaviour::Delete, "gone", "somebody deleted"),
        (wrong(Fault::OtherKey), "wrong_key", ""),
        (wrong(Fault::OtherSan), "wrong_san", "spiffe://"),
        (wrong(Fault::ExtraSan), "wrong_san", ""),
        (wrong(Fault::CaLeaf), "ca_leaf", ""),
        (wrong(Fault::MissingServerAuth), "missing_eku", ""),
        (wrong(Fault::MissingClientAuth), "missing_eku", ""),
        (wrong(Fault::Expired), "expired", ""),
        (wrong(Fault::NotYetValid), "not_yet_valid", ""),
        (wrong(Fault::MissingIntermediate), "incomplete_chain", ""),
        (Answer::default().by(&foreign).into(), "incomplete_chain", ""),
        (
            Answer::default().by(&foreign).order(Order::WithRoot).into(),
            "foreign_root",
            "",
        ),
        (Behaviour::sign(), "issued", ""),
    ] {
        scene.signer.script().push(behaviour.clone());
        let seen = outcome(&Wish::new("foo", "app"), &foo).await;
        assert_eq!(seen.0, reason, "{behaviour:?}: {}", seen.1);
        ensure!(seen.1.contains(named), "{behaviour:?}: {}", seen.1);
        scene.nothing_is_left(&bed).await?;
    }
    assert_eq!(scene.replica.metric("object_removals_total{outcome=\"deleted\"}"), 13);
    bed.finish().await
}

#[tokio::test]
async fn an_intermediate_among_the_roots_is_enough() -> Result {
    let bed = Cluster::shared().await?;
    let scene = Scene::new(&bed).await?;
    let roots = scene.ca.intermediate_pems().concat() + &scene.ca.root_pem();
    let foo = scene.replica.open(&csr_signer("foo", &scene.name, &roots)).await?;
    let leaf_only = Answer::default().wrong(Fault::MissingIntermediate);
    scene.signer.script().push(leaf_only.into());
    let reply = Wish::new("foo", "app").certificate(&foo).await?;
    assert_eq!(reply.elements.len(), 2);
    bed.finish().await
}

#[tokio::test]
async fn never_approved_and_never_issued_are_told_apart_and_stay_for_a_retry() -> Result {
    let bed = Cluster::shared().await?;
    let scene = Scene::new(&bed).await?;
    scene.signer.script().push(Behaviour::Silent);
    scene.signer.script().push(Behaviour::Silent);
    for (approve, reason, code, named) in [
        (
            true,
            "not_issued",
            tonic::Code::DeadlineExceeded,
            "see whether a signer of",
        ),
        (false, "not_approved", tonic::Code::DeadlineExceeded, "approve is false"),
    ] {
        let foo = scene.open_impatient(approve).await?;
        let error = Wish::new("foo", "app").ask(&foo).await.err().context("a certificate")?;
        assert_eq!((error.reason(), error.code()), (reason, code));
        ensure!(error.to_string().contains(named), "{error}");
    }
    assert_eq!(scene.installation.csrs(&bed).await?.len(), 2);
    bed.finish().await
}

#[tokio::test]
async fn another_approves_and_we_write_nothing() -> Result {
    let bed = Cluster::shared().await?;
    let scene = Scene::new(&bed).await?;
    let spec = csr_signer_with("foo", &scene.name, &scene.ca.root_pem(), |csr| csr.approve = false);
    let foo = scene.replica.open(&spec).await?;
    let mark = bed.audit().mark().await?;
    let wish = Wish::new("foo", "app");
    let asking = tokio::spawn({
        let (wish, foo) = (wish.clone(), Arc::clone(&foo));
        async move { wish.certificate(&foo).await }
    });
    scene.signer.saw(1).await?;
    bed.approve(&bed.admin(), &scene.object(&bed).await?).await?;
    asking.await??;
    scene.nothing_is_left(&bed).await?;
    let requests = bed
        .audit()
        .requests_by(&scene.installation.username)
        .since(mark)
        .await?;
    assert_eq!(
        requests.count("update", "certificatesigningrequests/approval"),
        0,
        "{requests:?}"
    );
    assert_eq!(requests.count("create", "certificatesigningrequests"), 1);
    assert_eq!(requests.count("delete", "certificatesigningrequests"), 1);
    bed.finish().await
}

#[tokio::test]
async fn a_denial_by_another_is_one_about_the_caller() -> Result {
    let bed = Cluster::shared().await?;
    let scene = Scene::new(&bed).await?;
    scene
        .signer
        .script()
        .push(Behaviour::Deny("not in office hours".to_owned()));
    let spec = csr_signer_with("foo", &scene.name, &scene.ca.root_pem(), |csr| csr.approve = false);
    let foo = scene.replica.open(&spec).await?;
    let error = Wish::new("foo", "app").ask(&foo).await.err().context("a certificate")?;
    assert_eq!(
        (error.reason(), error.code()),
        ("approval_denied", tonic::Code::PermissionDenied)
    );
    ensure!(error.to_string().contains("not in office hours"), "{error}");
    scene.nothing_is_left(&bed).await?;
    bed.finish().await
}

/// What the API server itself says to approvals that come too late: the ground on which the engine stands.
#[tokio::test]
async fn a_late_approval_is_a_conflict_and_one_over_a_denial_is_invalid() -> Result {
    let bed = Cluster::shared().await?;
    let scene = Scene::new(&bed).await?;
    scene.signer.script().set_default(Behaviour::Silent);
    let csr_pem = Wish::new("foo", "app").csr.to_pem();
    let csrs = Api::<CertificateSigningRequest>::all(bed.admin());
    let code = |answer: kube::Result<CertificateSigningRequest>| match answer {
        Err(kube::Error::Api(status)) => Ok(status.code),
        other => bail!("{other:?}"),
    };

    let made = bed.signing_request(&bed.admin(), &scene.name, &csr_pem).await?;
    let label = json!({ "metadata": { "labels": { "a": "b" } } });
    let labelled = csrs
        .patch(&made.name_any(), &PatchParams::default(), &Patch::Merge(&label))
        .await?;
    assert_eq!(
        code(bed.approve(&bed.admin(), &made).await)?,
        409,
        "somebody labelled it"
    );
    bed.approve(&bed.admin(), &labelled).await?;

    let made = bed.signing_request(&bed.admin(), &scene.name, &csr_pem).await?;
    let mut denied = made.clone();
    denied.status.get_or_insert_default().conditions = Some(vec![serde_json::from_value(
        json!({ "type": "Denied", "status": "True", "reason": "No", "message": "no" }),
    )?]);
    let denied = csrs
        .replace_subresource("approval", &made.name_any(), &PostParams::default(), &denied)
        .await?;
    assert_eq!(
        code(bed.approve(&bed.admin(), &made).await)?,
        409,
        "it is denied, and we do not know"
    );
    assert_eq!(
        code(bed.approve(&bed.admin(), &denied).await)?,
        422,
        "it is denied, and we know"
    );
    bed.finish().await
}

#[tokio::test]
async fn who_writes_to_a_request_before_its_approval_disturbs_nothing() -> Result {
    let bed = Cluster::shared().await?;
    let scene = Scene::new(&bed).await?;
    let foo = scene.open().await?;
    // Somebody who labels whatever appears, as fast as he can.
    let meddler = tokio::spawn({
        let (client, name) = (bed.admin(), scene.installation.name.clone());
        async move {
            meddle(
                client,
                name,
                &json!({ "metadata": { "labels": { "seen": "true" } } }),
                "",
            )
            .await
        }
    });
    let conflicts = || {
        scene
            .replica
            .metric("object_events_total{signer=\"foo\",event=\"approval_conflict\"}")
    };
    wait::until("a conflict", PATIENCE, async || {
        let wishes: Vec<_> = (0..10).map(|_| Wish::new("foo", "app")).collect();
        futures::future::try_join_all(wishes.iter().map(|wish| wish.certificate(&foo))).await?;
        ensure!(conflicts() > 0, "none yet");
        Ok(())
    })
    .await?;
    scene.nothing_is_left(&bed).await?;
    meddler.abort();
    bed.finish().await
}

#[tokio::test]
async fn a_denial_that_comes_before_our_approval_wins_and_one_that_comes_after_loses() -> Result {
    let bed = Cluster::shared().await?;
    let scene = Scene::new(&bed).await?;
    let foo = scene.open().await?;
    let denial = json!({ "status": { "conditions": [
        { "type": "Denied", "status": "True", "reason": "Office", "message": "closed" },
    ] } });
    let meddler = tokio::spawn({
        let (client, name) = (bed.admin(), scene.installation.name.clone());
        async move { meddle(client, name, &denial, "approval").await }
    });
    let mut denied = 0;
    wait::until("a denial that was first", PATIENCE, async || {
        let wishes: Vec<_> = (0..10).map(|_| Wish::new("foo", "app")).collect();
        let asked = futures::future::join_all(wishes.iter().map(|wish| wish.certificate(&foo))).await;
        for error in asked.into_iter().filter_map(std::result::Result::err) {
            let error = error.downcast::<SignerError>()?;
            assert_eq!(error.code(), tonic::Code::PermissionDenied, "{error}");
            ensure!(error.to_string().contains("Office: closed"), "{error}");
            denied += 1;
        }
        ensure!(denied > 0, "none yet");
        Ok(())
    })
    .await?;
    meddler.abort();
    scene.nothing_is_left(&bed).await?;
    bed.finish().await
}

/// Patches each CSR of an installation as soon as it is there, once.
async fn meddle(client: kube::Client, installation: String, patch: &serde_json::Value, subresource: &str) -> Result {
    use futures::TryStreamExt as _;
    use kube::runtime::{WatchStreamExt as _, watcher};
    let csrs = Api::<CertificateSigningRequest>::all(client);
    let config = watcher::Config::default().labels(&format!("ensign.mesh/installation={installation}"));
    let mut seen = std::collections::HashSet::new();
    let mut objects = std::pin::pin!(watcher(csrs.clone(), config).applied_objects());
    while let Some(object) = objects.try_next().await? {
        if !seen.insert(object.uid()) {
            continue;
        }
        let (name, params, patch) = (object.name_any(), PatchParams::default(), Patch::Merge(patch));
        // Too late is no failure.
        _ = match subresource {
            "" => csrs.patch(&name, &params, &patch).await,
            subresource => csrs.patch_subresource(subresource, &name, &params, &patch).await,
        };
    }
    Ok(())
}

#[tokio::test]
async fn a_retry_at_another_replica_finds_the_first_ones_object() -> Result {
    let bed = Cluster::shared().await?;
    let scene = Scene::new(&bed).await?;
    let gate = Gate::new();
    scene.signer.script().push(Answer::default().after(&gate).into());
    let second = Replica::start(&bed, &scene.installation).await?;
    let spec = csr_signer("foo", &scene.name, &scene.ca.root_pem());
    let (here, there) = (scene.replica.open(&spec).await?, second.open(&spec).await?);
    let wish = Wish::new("foo", "app");
    let asking = tokio::spawn({
        let (wish, here) = (wish.clone(), Arc::clone(&here));
        async move { wish.certificate(&here).await }
    });
    scene.signer.saw(1).await?;
    // The client gives up, signs its request again and comes to the other replica.
    asking.abort();
    ensure!(asking.await.is_err_and(|error| error.is_cancelled()));
    let again = wish.signed_again();
    let asking = tokio::spawn(async move { again.certificate(&there).await });
    wait::until("the adoption", PATIENCE, async || {
        ensure!(second.metric("object_events_total{signer=\"foo\",event=\"adopted\"}") == 1);
        Ok(())
    })
    .await?;
    gate.open();
    asking.await??;
    second.settled().await;
    assert_eq!(scene.signer.seen().len(), 1, "one object");
    assert_eq!(scene.signer.answered().len(), 1, "one signature");
    assert_eq!(
        second.metric("object_events_total{signer=\"foo\",event=\"created\"}"),
        0
    );
    scene.nothing_is_left(&bed).await?;
    bed.finish().await
}

#[tokio::test]
async fn an_answer_after_the_deadline_reaches_the_retry() -> Result {
    let bed = Cluster::shared().await?;
    let scene = Scene::new(&bed).await?;
    let gate = Gate::new();
    scene.signer.script().push(Answer::default().after(&gate).into());
    let foo = scene.open_impatient(true).await?;
    let wish = Wish::new("foo", "app");
    let error = wish.certificate(&foo).await.err().context("a certificate")?;
    assert_eq!(error.downcast::<SignerError>()?.reason(), "not_issued");
    gate.open();
    wait::until("the late answer", PATIENCE, async || {
        ensure!(scene.signer.answered().len() == 1);
        Ok(())
    })
    .await?;
    wish.certificate(&foo).await?;
    assert_eq!(scene.signer.seen().len(), 1, "one object");
    scene.nothing_is_left(&bed).await?;
    bed.finish().await
}

#[tokio::test]
async fn two_who_ask_for_the_same_at_once_share_one_object() -> Result {
    let bed = Cluster::shared().await?;
    let scene = Scene::new(&bed).await?;
    let second = Replica::start(&bed, &scene.installation).await?;
    let spec = csr_signer("foo", &scene.name, &scene.ca.root_pem());
    let (here, there) = (scene.replica.open(&spec).await?, second.open(&spec).await?);
    for _ in 0..10 {
        let wish = Wish::new("foo", "app");
        let asked = [&here, &there, &here, &there].map(|running| wish.certificate(running));
        futures::future::try_join_all(asked).await?;
    }
    second.settled().await;
    scene.nothing_is_left(&bed).await?;
    // Whoever comes once the first has been served may have made it anew.
    let seen = scene.signer.seen().len();
    ensure!(
        (10..=20).contains(&seen),
        "{seen} objects for 10 wishes of four callers each"
    );
    bed.finish().await
}

#[tokio::test]
async fn a_strangers_object_under_our_name_is_left_alone() -> Result {
    let bed = Cluster::shared().await?;
    let scene = Scene::new(&bed).await?;
    let foo = scene.open().await?;
    for labelled in [true, false] {
        let wish = Wish::new("foo", "app");
        let name = Installation::object(&wish.issuance(&foo, FOR_EVER));
        let mut stranger = json!({
            "apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest",
            "metadata": { "name": name },
            "spec": {
                "signerName": "example.com/nobody", "usages": ["client auth"],
                "request": base64::Engine::encode(&base64::engine::general_purpose::STANDARD, wish.csr.to_pem()),
            },
        });
        if labelled {
            stranger["metadata"]["labels"] = json!({ "ensign.mesh/installation": scene.installation.name });
        }
        let stranger: CertificateSigningRequest = serde_json::from_value(stranger)?;
        let csrs = Api::<CertificateSigningRequest>::all(bed.admin());
        csrs.create(&PostParams::default(), &stranger).await?;
        let issued = wish.ask(&foo).await?;
        assert_eq!(issued.receipt.object(), Some(&*format!("{name}-2")));
        wish.judge(&foo, &issued)?;
        issued.receipt.settle();
        scene.replica.settled().await;
        let still = csrs.get(&name).await?;
        assert_eq!(still.spec.username.as_deref(), Some("admin"));
        csrs.delete(&name, &kube::api::DeleteParams::default()).await?;
    }
    scene.nothing_is_left(&bed).await?;
    bed.finish().await
}

#[tokio::test]
async fn an_issuer_that_is_missing_or_not_ready_is_named_and_nothing_is_created() -> Result {
    let bed = Cluster::shared().await?;
    let issuer = IssuerRef::Cluster(unique("late"));
    let ca = TestCa::root_only("late");
    let signer_name = issuer.signer_name();
    let installation = Installation::new(&bed, &[&signer_name], &[]).await?;
    let replica = Replica::start(&bed, &installation).await?;
    let foo = replica.open(&csr_signer("foo", &signer_name, &ca.root_pem())).await?;
    let name = signer_name.split_once('/').context("a name")?.1;
    let refused = async |expected: &[&str]| {
        let error = Wish::new("foo", "app").ask(&foo).await.err().context("a certificate")?;
        assert_eq!(error.code(), tonic::Code::Unavailable);
        let text = error.to_string();
        ensure!(expected.iter().all(|word| text.contains(word)), "{text}");
        Ok::<_, anyhow::Error>(())
    };
    refused(&["ClusterIssuer", name, "does not exist"]).await?;
    bed.declare_issuer(&issuer, &json!({ "ca": { "secretName": "nowhere" } }))
        .await?;
    wait::until("cert-manager to look at it", PATIENCE, async || {
        refused(&["ClusterIssuer", name, "is not Ready", "nowhere"]).await
    })
    .await?;
    assert!(installation.csrs(&bed).await?.is_empty());
    assert_eq!(
        replica.metric("object_events_total{signer=\"foo\",event=\"created\"}"),
        0
    );
    bed.issue_with(&issuer, &ca).await?;
    wait::until("the issuer to be known as ready", PATIENCE, async || {
        Wish::new("foo", "app").certificate(&foo).await
    })
    .await?;
    bed.finish().await
}

#[tokio::test]
async fn a_missing_right_is_named_and_leaves_nothing() -> Result {
    let bed = Cluster::shared().await?;
    let mut scene = Scene::new(&bed).await?;
    // May use another signer only.
    scene.installation = Installation::new(&bed, &["example.com/other"], &[]).await?;
    scene.replica = Replica::start(&bed, &scene.installation).await?;
    let foo = scene.open().await?;
    let error = Wish::new("foo", "app").ask(&foo).await.err().context("a certificate")?;
    assert_eq!(error.code(), tonic::Code::Unavailable);
    ensure!(error.to_string().contains("forbids to approve"), "{error}");
    scene.nothing_is_left(&bed).await?;
    bed.finish().await
}

#[tokio::test]
async fn a_certificate_from_a_clock_ahead_of_ours_and_one_of_another_lifetime_are_served() -> Result {
    let bed = Cluster::shared().await?;
    let scene = Scene::new(&bed).await?;
    let foo = scene.open().await?;
    let script = scene.signer.script();
    script.push(Answer::default().lifetime(Duration::from_mins(30)).into());
    let reply = Wish::new("foo", "app").certificate(&foo).await?;
    assert_eq!(reply.lifetime.change(), Some("granted_shorter"));
    script.push(Answer::default().lifetime(Duration::from_hours(48)).into());
    let reply = Wish::new("foo", "app").certificate(&foo).await?;
    assert_eq!(reply.lifetime.change(), Some("granted_longer"));
    script.push(Answer::default().not_before_in(Duration::from_secs(50)).into());
    let issued = Wish::new("foo", "app").ask(&foo).await?;
    let chain = ensign_ra::reply::read(&issued.chain)?;
    let ahead = ensign_ra::reply::begins_in(&chain, std::time::SystemTime::now());
    ensure!(ahead.is_some_and(|ahead| ahead <= Duration::from_secs(50)), "{ahead:?}");
    issued.receipt.settle();
    scene.nothing_is_left(&bed).await?;
    bed.finish().await
}
