//! Signer kubernetes-csr on the real API server: with the real cert-manager, and with a signer that misbehaves. Who approves
//! is `csr_approval`'s.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use ensign_ra::signer::{Running, SignerError};
use ensign_testbed::cluster::instant_signer::{Answer, Behaviour, Order};
use ensign_testbed::cluster::{Cluster, IssuerRef, unique};
use ensign_testbed::wait::{self, PATIENCE};
use ensign_testkit::{Fault, Gate, TestCa};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use kube::api::PostParams;
use kube::{Api, ResourceExt as _};
use serde_json::json;

use crate::replica::{FOR_EVER, Installation, Replica, Wish, csr_signer};
use crate::scene::Scene;

type Result = anyhow::Result<()>;

#[tokio::test]
async fn cert_manager_signs_for_three_requests_and_no_read() -> Result {
    let bed = Cluster::shared().await?;
    let issuer = IssuerRef::Cluster(unique("foo"));
    let ca = TestCa::root_only("foo");
    bed.issue_with(&issuer, &ca).await?;
    let signer_name = issuer.signer_name();
    let installation = Installation::new(&bed, &[&signer_name], None).await?;
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
    let requests = bed
        .audit()
        .requests_by(&installation.account.username)
        .since(mark)
        .await?;
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
    let installation = Installation::new(&bed, &[&signer_name], Some(&namespace)).await?;
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
    assert_eq!(
        object.spec.username.as_deref(),
        Some(&*scene.installation.account.username)
    );
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
    scene.signer.answered_just(1).await?;
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
    let installation = Installation::new(&bed, &[&signer_name], None).await?;
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
