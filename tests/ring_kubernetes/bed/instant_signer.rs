//! The signer for faults: right by default, wrong in the way that its script says.

use std::time::Duration;

use anyhow::{Context, ensure};
use ensign_testbed::{
    cluster::{
        Access, Cluster,
        instant_signer::{Answer, Behaviour, CaField, InstantSigner, Order, Serves},
        issued, unique,
    },
    wait::{self, PATIENCE},
};
use ensign_testkit::{Fault, Gate, TestCa};
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition};
use kube::{Api, ResourceExt as _, api::DynamicObject};

use super::Workload;

#[tokio::test]
async fn csrs_are_signed_once_approved_rightly_or_as_the_script_says() -> anyhow::Result<()> {
    let bed = Cluster::shared().await?;
    let signer_name = format!("instant.ensign.mesh/{}", unique("csr"));
    let ca = TestCa::new("instant");
    let other = TestCa::new("other");
    let signer = InstantSigner::start(&bed, Serves::SignerName(signer_name.clone()), &ca).await?;
    let gate = Gate::new();
    let hour = Duration::from_hours(1);
    let cases: [(Behaviour, &str); 8] = [
        (Behaviour::sign(), "accepted"),
        (Answer::default().wrong(Fault::OtherKey).into(), "wrong_key"),
        (Answer::default().wrong(Fault::ExtraSan).into(), "wrong_san"),
        (Answer::default().wrong(Fault::CaLeaf).into(), "ca_leaf"),
        (Answer::default().by(&other).into(), "incomplete_chain"),
        (Answer::default().not_before_in(hour).into(), "not_yet_valid"),
        (Answer::default().order(Order::WithRoot).into(), "accepted"),
        (Answer::default().after(&gate).into(), "accepted"),
    ];
    for (behaviour, expected) in cases {
        signer.script().push(behaviour.clone());
        let workload = Workload::new();
        let csr = bed
            .signing_request(&bed.admin(), &signer_name, &workload.csr_pem)
            .await?;
        bed.approve(&bed.admin(), &csr).await?;
        gate.open();
        let chain = bed.signed(&csr.name_any()).await?;
        assert_eq!(workload.judge(&chain, &ca), expected, "{behaviour:?}");
    }
    let seen = signer.saw(8).await?;
    assert_eq!(seen[0].username, "admin");
    assert_eq!(signer.answered().len(), 8);
    assert_eq!(signer.failures(), Vec::<String>::new());
    bed.finish().await
}

#[tokio::test]
async fn csrs_are_denied_failed_deleted_or_left_alone() -> anyhow::Result<()> {
    let bed = Cluster::shared().await?;
    let signer_name = format!("instant.ensign.mesh/{}", unique("csr"));
    let signer = InstantSigner::start(&bed, Serves::SignerName(signer_name.clone()), &TestCa::new("instant")).await?;
    let make = async |behaviour: Behaviour| {
        signer.script().push(behaviour);
        let made = bed
            .signing_request(&bed.admin(), &signer_name, &Workload::new().csr_pem)
            .await?;
        anyhow::Ok(made)
    };

    let all = Api::<CertificateSigningRequest>::all(bed.admin());
    let denied = make(Behaviour::Deny("not today".to_owned())).await?;
    assert_eq!(
        condition(&bed, &denied.name_any(), "Denied").await?.message.as_deref(),
        Some("not today")
    );
    let error = bed
        .approve(&bed.admin(), &all.get(&denied.name_any()).await?)
        .await
        .err()
        .context("approved and denied")?;
    ensure!(error.to_string().contains("mutually exclusive"), "{error}");

    let failed = make(Behaviour::Fail("out of paper".to_owned())).await?;
    bed.approve(&bed.admin(), &failed).await?;
    assert_eq!(
        condition(&bed, &failed.name_any(), "Failed").await?.message.as_deref(),
        Some("out of paper")
    );

    make(Behaviour::DeleteUnapproved).await.map(drop)?;
    let deleted = make(Behaviour::Delete).await?;
    bed.approve(&bed.admin(), &deleted).await?;
    for seen in signer.saw(4).await?.iter().skip(2) {
        wait::until_true("the CSR to be deleted", PATIENCE, async || {
            Ok(all.get_opt(&seen.name).await?.is_none())
        })
        .await?;
    }

    let ignored = make(Behaviour::Silent).await?;
    bed.approve(&bed.admin(), &ignored).await?;
    // One that came later is signed.
    let signed = make(Behaviour::sign()).await?;
    bed.approve(&bed.admin(), &signed).await?;
    bed.signed(&signed.name_any()).await?;
    let status = all.get(&ignored.name_any()).await?.status.context("no status")?;
    ensure!(status.certificate.is_none(), "{status:?}");
    assert_eq!(signer.failures(), Vec::<String>::new());
    bed.finish().await
}

#[tokio::test]
async fn certificate_requests_of_an_external_issuer_are_answered_as_the_script_says() -> anyhow::Result<()> {
    let bed = Cluster::shared().await?;
    InstantSigner::install_kind(&bed).await?;
    let namespace = bed.namespace("external").await?;
    let serves = Serves::external_issuer(&unique("instant"));
    let issuer = serves.reference();
    let ca = TestCa::new("instant");
    let signer = InstantSigner::start(&bed, serves, &ca).await?;
    let make = async |behaviour: Behaviour, workload: &Workload| {
        signer.script().push(behaviour);
        let made = bed
            .certificate_request(&bed.admin(), &namespace, &issuer, &workload.csr_pem)
            .await;
        made.context("not made")
    };

    let other = TestCa::new("other");
    let cases: [(Behaviour, &str, Option<String>); 4] = [
        (Behaviour::sign(), "accepted", Some(ca.root_pem())),
        (
            Answer::default().wrong(Fault::OtherKey).into(),
            "wrong_key",
            Some(ca.root_pem()),
        ),
        (Answer::default().ca_field(CaField::Absent).into(), "accepted", None),
        (
            Answer::default().by(&other).order(Order::Reversed).into(),
            "misordered_chain",
            Some(other.root_pem()),
        ),
    ];
    for (behaviour, expected, root) in cases {
        let workload = Workload::new();
        let request = make(behaviour.clone(), &workload).await?;
        let request = bed.issued(&request).await?;
        let chain = issued(&request).context("no certificate")?;
        assert_eq!(workload.judge(&chain, &ca), expected, "{behaviour:?}");
        let field = request.data["status"]["ca"].as_str().map(decoded).transpose()?;
        assert_eq!(field, root, "{behaviour:?}");
    }

    let workload = Workload::new();
    for (behaviour, kind, status, message) in [
        (Behaviour::Deny("no".to_owned()), "Denied", "True", "no"),
        (Behaviour::Fail("broken".to_owned()), "Ready", "False", "broken"),
        (
            Behaviour::Invalid("nonsense".to_owned()),
            "InvalidRequest",
            "True",
            "nonsense",
        ),
    ] {
        let request = make(behaviour, &workload).await?;
        let requests = bed.certificate_requests(&bed.admin(), &namespace);
        wait::until_true(&format!("the condition {kind}={status}"), PATIENCE, async || {
            let object: DynamicObject = requests.get(&request.name_any()).await?;
            let conditions = object.data["status"]["conditions"]
                .as_array()
                .cloned()
                .unwrap_or_default();
            Ok(conditions
                .iter()
                .any(|c| c["type"] == kind && c["status"] == status && c["message"] == message))
        })
        .await
        .with_context(|| format!("{:?}", signer.failures()))?;
    }
    assert_eq!(signer.failures(), Vec::<String>::new());
    bed.finish().await
}

async fn condition(bed: &Access, name: &str, kind: &str) -> anyhow::Result<CertificateSigningRequestCondition> {
    let all = Api::<CertificateSigningRequest>::all(bed.admin());
    wait::until(&format!("the condition {kind} of {name}"), PATIENCE, async || {
        let status = all.get(name).await?.status.unwrap_or_default();
        let mut conditions = status.conditions.unwrap_or_default().into_iter();
        conditions
            .find(|condition| condition.type_ == kind)
            .context("not there")
    })
    .await
}

fn decoded(field: &str) -> anyhow::Result<String> {
    use base64::Engine as _;
    Ok(String::from_utf8(
        base64::engine::general_purpose::STANDARD.decode(field)?,
    )?)
}
