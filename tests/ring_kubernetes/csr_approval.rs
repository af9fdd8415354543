//! Approvals of the CSR API: ours, somebody else's, and a denial that comes before or after.
//!
//! Where the order counts, the API server itself keeps it: our approval is held in admission until the other has written.

use std::sync::Arc;

use anyhow::{Context as _, bail, ensure};
use ensign_testbed::cluster::admission_hook::{AdmissionHook, Hooked};
use ensign_testbed::cluster::instant_signer::{Answer, Behaviour};
use ensign_testbed::cluster::{Access, Cluster};
use ensign_testbed::wait::{self, PATIENCE};
use ensign_testkit::Gate;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt as _};
use serde_json::json;

use crate::replica::{Installation, Replica, Wish, csr_signer_with};
use crate::scene::Scene;

type Result = anyhow::Result<()>;

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
        .requests_by(&scene.installation.account.username)
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
async fn a_missing_right_is_named_and_leaves_nothing() -> Result {
    let bed = Cluster::shared().await?;
    let mut scene = Scene::new(&bed).await?;
    // May use another signer only.
    scene.installation = Installation::new(&bed, &["example.com/other"], None).await?;
    scene.replica = Replica::start(&bed, &scene.installation).await?;
    let foo = scene.open().await?;
    let error = Wish::new("foo", "app").ask(&foo).await.err().context("a certificate")?;
    assert_eq!(error.code(), tonic::Code::Unavailable);
    ensure!(error.to_string().contains("forbids to approve"), "{error}");
    scene.nothing_is_left(&bed).await?;
    bed.finish().await
}

/// A hand on the approvals of this installation.
async fn approvals(access: &Access, scene: &Scene) -> anyhow::Result<AdmissionHook> {
    let hooked = Hooked {
        group: "certificates.k8s.io",
        resource: "certificatesigningrequests/approval",
        operations: &["UPDATE"],
        user: &scene.installation.account.username,
    };
    AdmissionHook::start(access, &hooked).await
}

/// The condition Denied for a request, by the administrator.
async fn deny(access: &Access, name: &str) -> kube::Result<CertificateSigningRequest> {
    let denial = json!({ "status": { "conditions": [
        { "type": "Denied", "status": "True", "reason": "Office", "message": "closed" },
    ] } });
    Api::<CertificateSigningRequest>::all(access.admin())
        .patch_subresource("approval", name, &PatchParams::default(), &Patch::Merge(&denial))
        .await
}

#[tokio::test]
async fn who_writes_to_a_request_before_its_approval_disturbs_nothing() -> Result {
    let bed = Cluster::shared().await?;
    let scene = Scene::new(&bed).await?;
    let foo = scene.open().await?;
    let mut hook = approvals(&bed, &scene).await?;
    hook.hold();
    let asking = tokio::spawn(async move { Wish::new("foo", "app").certificate(&foo).await });
    // Our approval is with the API server and not yet in the store.
    let held = hook.next().await?;
    let name = held.request["name"].as_str().context("a name")?;
    let label = json!({ "metadata": { "labels": { "seen": "true" } } });
    Api::<CertificateSigningRequest>::all(bed.admin())
        .patch(name, &PatchParams::default(), &Patch::Merge(&label))
        .await?;
    hook.release();
    held.allow();
    asking.await??;
    let conflicts = "object_events_total{signer=\"foo\",event=\"approval_conflict\"}";
    assert_eq!(scene.replica.metric(conflicts), 1);
    scene.nothing_is_left(&bed).await?;
    hook.finish().await?;
    bed.finish().await
}

#[tokio::test]
async fn a_denial_that_comes_before_our_approval_wins() -> Result {
    let bed = Cluster::shared().await?;
    let scene = Scene::new(&bed).await?;
    let foo = scene.open().await?;
    let mut hook = approvals(&bed, &scene).await?;
    hook.hold();
    let asking = tokio::spawn(async move { Wish::new("foo", "app").ask(&foo).await });
    let held = hook.next().await?;
    deny(&bed, held.request["name"].as_str().context("a name")?).await?;
    hook.release();
    held.allow();
    let error = asking.await?.err().context("a certificate")?;
    assert_eq!(
        (error.reason(), error.code()),
        ("approval_denied", tonic::Code::PermissionDenied)
    );
    ensure!(error.to_string().contains("Office: closed"), "{error}");
    assert_eq!(scene.signer.answered().len(), 0);
    scene.nothing_is_left(&bed).await?;
    hook.finish().await?;
    bed.finish().await
}

#[tokio::test]
async fn a_denial_that_comes_after_our_approval_loses() -> Result {
    let bed = Cluster::shared().await?;
    let scene = Scene::new(&bed).await?;
    let foo = scene.open().await?;
    let gate = Gate::new();
    scene.signer.script().push(Answer::default().after(&gate).into());
    let asking = tokio::spawn(async move { Wish::new("foo", "app").certificate(&foo).await });
    let name = wait::until("the approval", PATIENCE, async || {
        let object = scene.object(&bed).await?;
        let conditions = object.status.as_ref().and_then(|status| status.conditions.as_ref());
        ensure!(conditions.is_some_and(|conditions| conditions.iter().any(|one| one.type_ == "Approved")));
        Ok(object.name_any())
    })
    .await?;
    let code = match deny(&bed, &name).await {
        Err(kube::Error::Api(status)) => status.code,
        other => bail!("{other:?}"),
    };
    assert_eq!(code, 422, "the API server takes no denial of what is approved");
    gate.open();
    asking.await??;
    scene.nothing_is_left(&bed).await?;
    bed.finish().await
}
