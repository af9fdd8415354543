//! `deploy/optional/rbac.yaml`: each right has a reason, works the way the RA uses it, and is granted once.
//!
//! Whoever adds a right adds the reason here. That it is the RA itself that needs it is shown by `rights_used`.

use std::collections::BTreeSet;

use anyhow::{Context as _, bail, ensure};
use ensign_testbed::cluster::{Cluster, ClusterOptions, Manifests, Places, Right};

use crate::exercise::Exercise;

type Result = anyhow::Result<()>;

/// Mode, resource, verbs, and what in the RA needs them.
const REASONS: [(&str, &str, &str, &str); 23] = [
    (
        "base",
        "tokenreviews",
        "create",
        "authn: is this token good, and whose is it",
    ),
    (
        "base",
        "leases",
        "list watch create patch",
        "leader: one of the replicas leads; how many there are divides a signer's rate",
    ),
    (
        "pods",
        "pods",
        "list watch",
        "authn and authz: is the token's pod alive; which accounts have a pod on the caller's node",
    ),
    (
        "service-accounts",
        "serviceaccounts",
        "list watch",
        "authn without asking: is the token's account alive",
    ),
    (
        "remote-clusters",
        "secrets",
        "list watch",
        "authn: Istio's remote secrets, one kubeconfig for each other cluster",
    ),
    (
        "istio-config",
        "configmaps",
        "list watch",
        "mesh: the mesh configuration, signers and their roots",
    ),
    (
        "istio-config",
        "proxyconfigs",
        "list watch",
        "mesh: the default signer of a namespace",
    ),
    (
        "kubernetes-csr",
        "certificatesigningrequests",
        "list watch create delete",
        "signer: ask, hear of the answer, clean up",
    ),
    (
        "kubernetes-csr",
        "certificatesigningrequests/approval",
        "update",
        "signer: approve what it asked for",
    ),
    (
        "kubernetes-csr",
        "signers",
        "approve",
        "signer: the API server asks whether the approver may approve for this signer",
    ),
    (
        "issuers",
        "issuers",
        "list watch",
        "signer: is the Issuer there and ready, before anything is asked of it",
    ),
    (
        "issuer-reference",
        "signers",
        "reference",
        "signer: cert-manager asks whether the maker of a CSR may refer to the Issuer",
    ),
    (
        "cert-manager",
        "certificaterequests",
        "list watch create delete",
        "signer: ask, hear of the answer, clean up",
    ),
    (
        "runtime-issuer",
        "configmaps",
        "list watch",
        "signer: the issuer that is named while the RA runs",
    ),
    (
        "signer-roots",
        "configmaps",
        "list watch",
        "trust: roots of signers that the policy says are in a ConfigMap",
    ),
    (
        "cluster-issuers",
        "clusterissuers",
        "list watch",
        "signer: is the ClusterIssuer there and ready, before anything is asked of it",
    ),
    (
        "root-cert",
        "namespaces",
        "list watch",
        "distribution: where the roots go",
    ),
    (
        "root-cert",
        "configmaps",
        "list watch create patch",
        "distribution: istio-ca-root-cert, and in its own namespace what was given out before",
    ),
    (
        "cluster-trust-bundle",
        "clustertrustbundles",
        "create patch",
        "distribution: the same roots as a ClusterTrustBundle",
    ),
    (
        "cluster-trust-bundle",
        "signers",
        "attest",
        "distribution: the API server asks whether the writer may attest for the bundle's signer",
    ),
    (
        "istiod-certificate",
        "certificates",
        "list watch create patch",
        "istiod's certificate: a Certificate of cert-manager",
    ),
    (
        "istiod-secret",
        "secrets",
        "list watch create patch",
        "istiod's certificate: a Secret that the RA fills",
    ),
    (
        "serving-secret",
        "secrets",
        "list watch create patch",
        "serving: the CA or the last good pair that the replicas share",
    ),
];
/// It reads every Secret of Istio's namespace, those that other modes name included.
const OVERLAPPING: &str = "remote-clusters";

#[test]
fn each_right_has_a_reason() -> Result {
    let mut unexplained = BTreeSet::new();
    for right in Manifests::read("optional/rbac.yaml")?.rights()? {
        unexplained.insert((right.mode, right.resource, right.verb));
    }
    for (mode, resource, verbs, reason) in REASONS {
        for verb in verbs.split(' ') {
            let right = (mode.to_owned(), resource.to_owned(), verb.to_owned());
            ensure!(
                unexplained.remove(&right),
                "{right:?} has a reason ({reason}) and is not granted"
            );
        }
    }
    ensure!(unexplained.is_empty(), "granted without a reason: {unexplained:?}");
    Ok(())
}

#[test]
fn no_right_is_wider_than_it_says() -> Result {
    for right in Manifests::read("optional/rbac.yaml")?.rights()? {
        let texts = [&right.group, &right.resource, &right.verb];
        ensure!(!texts.iter().any(|text| text.contains('*')), "{right}");
        ensure!(!right.names.iter().any(|name| name.ends_with('*')), "{right}");
        ensure!(right.resource != "signers" || !right.names.is_empty(), "{right}");
        // Secrets are read by name, or in one namespace by whoever asks for it.
        let secrets = right.resource == "secrets";
        ensure!(
            !secrets || right.mode == OVERLAPPING || !right.names.is_empty(),
            "{right}"
        );
        ensure!(!secrets || right.namespace.is_some(), "{right}");
    }
    Ok(())
}

/// Removes one verb of one rule after the other and does what the RA would do with it.
#[tokio::test]
async fn each_right_is_enough_and_needed_for_what_the_ra_does_with_it() -> Result {
    let bed = Cluster::start(ClusterOptions::default()).await?;
    let (own, istio) = (bed.namespace("own").await?, bed.namespace("istio").await?);
    bed.service_account(&own, "ensign-ra").await?;
    bed.install_proxy_config().await?;
    bed.cluster_issuer(&istio).await?;
    bed.issuer(&istio, "istio-ca").await?;
    let places = Places {
        signers: vec![
            format!("clusterissuers.cert-manager.io/{istio}"),
            format!("issuers.cert-manager.io/{istio}.istio-ca"),
        ],
        issuers: vec![format!("Issuer.cert-manager.io/{istio}/istio-ca")],
        own,
        istio,
    };
    let rbac = Manifests::read("optional/rbac.yaml")?;
    let (overlapping, others): (Vec<_>, Vec<_>) = rbac.modes().into_iter().partition(|mode| mode == OVERLAPPING);
    for modes in [others, overlapping] {
        let modes: Vec<_> = modes.iter().map(String::as_str).collect();
        let rbac = rbac.clone().of_modes(&modes)?.moved(&places);
        rbac.apply(&bed).await?;
        let rights = rbac.rights()?;
        for right in &rights {
            right.wait_until(&bed, true).await?;
        }
        let exercise = Exercise::of(&bed, &rights).await?;
        for right in &rights {
            each_way(right, &rbac, &bed, &exercise)
                .await
                .with_context(|| right.to_string())?;
        }
        rbac.delete(&bed).await?;
    }
    bed.finish().await
}

async fn each_way(right: &Right, rbac: &Manifests, bed: &Cluster, exercise: &Exercise<'_>) -> Result {
    for name in right.each_name() {
        exercise
            .run(right, name)
            .await
            .with_context(|| format!("with it, on {name:?}"))?;
        right
            .without(rbac, bed, async || match exercise.run(right, name).await {
                Ok(()) => bail!("{name:?} goes without it"),
                Err(error) => Exercise::is_refusal(right, &error),
            })
            .await?;
    }
    Ok(())
}
