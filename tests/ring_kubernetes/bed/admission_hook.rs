//! Single requests to the API server, held until something else has happened.

use anyhow::{Context, ensure};
use ensign_testbed::cluster::{
    Cluster,
    admission_hook::{AdmissionHook, Hooked},
    unique,
};
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition};
use kube::{Api, Client, ResourceExt as _, api::PostParams};

use super::Workload;

const APPROVALS: &str = "certificatesigningrequests/approval";

#[tokio::test]
async fn an_approval_is_held_until_somebody_else_has_denied() -> anyhow::Result<()> {
    let bed = Cluster::shared().await?;
    let user = unique("approver");
    let approver = bed
        .client(&bed.kubeconfig_of_user(&user, Some("system:masters"))?)
        .await?;
    let hooked = Hooked {
        group: "certificates.k8s.io",
        resource: APPROVALS,
        operations: &["UPDATE"],
        user: &user,
    };
    let mut hook = AdmissionHook::start(&bed, &hooked).await?;
    let signer_name = format!("instant.ensign.mesh/{}", unique("nobody"));
    let csr = bed
        .signing_request(&approver, &signer_name, &Workload::new().csr_pem)
        .await?;

    hook.hold();
    let approve = async {
        let answer = bed.approve(&approver, &csr).await;
        anyhow::Ok(answer.err().context("approved what was denied before")?)
    };
    let meanwhile = async {
        let held = hook.next().await?;
        assert_eq!(held.request["name"], csr.name_any().as_str());
        assert_eq!(held.request["userInfo"]["username"], user.as_str());
        // Somebody else passes.
        deny(&bed.admin(), &csr).await?;
        held.allow();
        anyhow::Ok(())
    };
    let (refused, ()) = tokio::try_join!(approve, meanwhile)?;
    assert_eq!(code(&refused), Some(409), "{refused}");

    hook.release();
    let denied = Api::<CertificateSigningRequest>::all(bed.admin())
        .get(&csr.name_any())
        .await?;
    let refused = bed
        .approve(&approver, &denied)
        .await
        .err()
        .context("approved and denied")?;
    assert_eq!(code(&refused), Some(422), "{refused}");
    hook.finish().await?;
    bed.finish().await
}

#[tokio::test]
async fn a_held_request_may_be_refused_and_others_pass() -> anyhow::Result<()> {
    let bed = Cluster::shared().await?;
    let user = unique("approver");
    let approver = bed
        .client(&bed.kubeconfig_of_user(&user, Some("system:masters"))?)
        .await?;
    let hooked = Hooked {
        group: "certificates.k8s.io",
        resource: APPROVALS,
        operations: &["UPDATE"],
        user: &user,
    };
    let mut hook = AdmissionHook::start(&bed, &hooked).await?;
    let signer_name = format!("instant.ensign.mesh/{}", unique("nobody"));
    let csr = bed
        .signing_request(&approver, &signer_name, &Workload::new().csr_pem)
        .await?;

    hook.hold();
    let approve = async { anyhow::Ok(bed.approve(&approver, &csr).await.err().context("it was let through")?) };
    let refuse = async {
        hook.next().await?.deny(403, "not on my watch");
        anyhow::Ok(())
    };
    let (refused, ()) = tokio::try_join!(approve, refuse)?;
    assert_eq!(code(&refused), Some(403), "{refused}");
    ensure!(refused.to_string().contains("not on my watch"), "{refused}");
    hook.finish().await?;
    bed.approve(&approver, &csr).await.context("nobody holds it any more")?;
    bed.finish().await
}

async fn deny(client: &Client, csr: &CertificateSigningRequest) -> anyhow::Result<()> {
    let mut denied = csr.clone();
    let condition = CertificateSigningRequestCondition {
        type_: "Denied".to_owned(),
        status: "True".to_owned(),
        ..CertificateSigningRequestCondition::default()
    };
    denied
        .status
        .get_or_insert_default()
        .conditions
        .get_or_insert_default()
        .push(condition);
    Api::<CertificateSigningRequest>::all(client.clone())
        .replace_subresource("approval", &csr.name_any(), &PostParams::default(), &denied)
        .await?;
    Ok(())
}

fn code(error: &kube::Error) -> Option<u16> {
    match error {
        kube::Error::Api(status) => Some(status.code),
        _ => None,
    }
}
