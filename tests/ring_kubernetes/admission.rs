//! What `deploy/optional/admission.yaml` stops: each attack succeeds without it and fails with it, and what the RA and others do
//! rightly goes on.

use anyhow::{Context as _, ensure};
use ensign_testbed::{
    cluster::{Cluster, Manifests},
    wait::{self, PATIENCE},
};
use kube::api::{Patch, PatchParams};
use serde_json::json;

use crate::attack::{Attack, Scene, holds_authority};

type Result = anyhow::Result<()>;

#[tokio::test]
async fn each_attack_succeeds_without_the_policies_and_fails_with_them() -> Result {
    let bed = Cluster::shared().await?;
    let scene = Scene::set(&bed).await?;
    for attack in Attack::ALL {
        let trophy = attack.run(&scene).await.with_context(|| format!("{attack:?}"))?;
        if let Some(trophy) = trophy {
            let certificate = scene.issued(&trophy).await.with_context(|| format!("{attack:?}"))?;
            assert_eq!(holds_authority(&certificate)?, attack.wins_an_authority(), "{attack:?}");
        }
    }

    let policies = Manifests::read("optional/admission.yaml")?.moved(scene.places());
    policies.apply(&bed).await?;
    for attack in Attack::ALL {
        let policy = scene.places().cluster_wide(attack.stopped_by());
        // The API server learns of a policy by a watch, a moment later.
        wait::until(&format!("{attack:?} to be stopped"), PATIENCE, async || {
            let Err(error) = attack.run(&scene).await else {
                anyhow::bail!("it succeeds")
            };
            let text = error.to_string();
            ensure!(
                text.contains(&format!("ValidatingAdmissionPolicy '{policy}'")),
                "{text}"
            );
            Ok(())
        })
        .await?;
    }
    what_is_right_goes_on(&scene).await?;

    policies.delete(&bed).await?;
    bed.finish().await
}

async fn what_is_right_goes_on(scene: &Scene<'_>) -> Result {
    let ra = scene.ra();
    // Its own request through the CSR API, from beginning to end.
    let csr = scene.create_csr(ra, json!({})).await.context("create a CSR")?;
    scene.approve(ra, &csr).await.context("approve it")?;
    let certificate = scene.issued(&csr).await?;
    assert!(!holds_authority(&certificate)?);
    scene.delete_csr(ra, &csr).await.context("delete it")?;

    // And by cert-manager.
    let request = scene
        .create_request(ra, scene.istio(), Scene::issuer(), json!({}))
        .await
        .context("create a CertificateRequest")?;
    scene.issued(&request).await?;
    scene.delete_request(ra, &request).await.context("delete it")?;

    // istiod's Certificate: the RA says what for, cert-manager's own account asks.
    let certificate = scene
        .create_certificate(ra, scene.istio(), Scene::issuer(), "istiod-dynamic")
        .await
        .context("create a Certificate")?;
    scene.certificate_ready(&certificate).await?;
    let labels = json!({ "metadata": { "labels": { "team": "mesh" } } });
    let certificates = Scene::certificates(scene.eve(), scene.istio());
    certificates
        .patch("istiod-dynamic", &PatchParams::default(), &Patch::Merge(&labels))
        .await
        .context("label it as anybody who may")?;

    // Other issuers are nobody's business, and the administrator deletes what he likes.
    let other = scene
        .create_request(scene.eve(), scene.foreign(), scene.other_issuer(), json!({}))
        .await
        .context("another issuer")?;
    scene.issued(&other).await?;
    let csr = scene.create_csr(scene.eve(), json!({})).await?;
    let admin = scene.admin();
    scene
        .delete_csr(&admin, &csr)
        .await
        .context("delete as the administrator")?;
    Ok(())
}
