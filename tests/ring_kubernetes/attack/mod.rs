//! What somebody with a stolen token of the RA can try, and what somebody without one can try on the mesh's issuers.
//!
//! The RA's account has all rights of rbac.yaml. Eve is nobody special: she may create requests and Certificates, as those who
//! use cert-manager for their web servers may.

mod scene;

use self::scene::{ISSUER, VICTIM};
pub(crate) use self::scene::{Scene, csr_request, holds_authority};

use ensign_testbed::cluster::unique;
use kube::{
    ResourceExt as _,
    api::{DynamicObject, Patch, PatchParams},
};
use serde_json::json;

/// One attack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Attack {
    /// The RA's token approves Eve's CSR.
    ApproveForeign,
    /// The RA's token denies Eve's CSR.
    DenyForeign,
    /// The RA's token deletes Eve's CSR.
    DeleteForeign,
    /// The RA's token deletes Eve's CertificateRequest.
    DeleteForeignRequest,
    /// The RA's token has a CA certificate issued through the CSR API.
    AuthorityByCsr,
    /// The RA's token has a CA certificate issued by cert-manager.
    AuthorityByRequest,
    /// The RA's token has a certificate issued that signs programs.
    OtherUsage,
    /// The RA's token has Kubernetes write a token of istiod into the Secret that it may watch.
    TokenOfIstiod,
    /// Eve asks a ClusterIssuer of the mesh from her own namespace.
    RequestOfClusterIssuer,
    /// Eve asks an Issuer of the mesh in its namespace.
    RequestOfIssuer,
    /// Eve leaves out what is the default.
    RequestByDefaults,
    /// Eve has cert-manager ask.
    Certificate,
    /// Eve changes the Certificate that the RA made.
    ChangedCertificate,
    /// cert-manager makes a Certificate of Eve's Ingress.
    Ingress,
}

// === impl Attack ===

impl Attack {
    pub(crate) const ALL: [Self; 14] = [
        Self::ApproveForeign,
        Self::DenyForeign,
        Self::DeleteForeign,
        Self::DeleteForeignRequest,
        Self::AuthorityByCsr,
        Self::AuthorityByRequest,
        Self::OtherUsage,
        Self::TokenOfIstiod,
        Self::RequestOfClusterIssuer,
        Self::RequestOfIssuer,
        Self::RequestByDefaults,
        Self::Certificate,
        Self::ChangedCertificate,
        Self::Ingress,
    ];

    /// The policy that is there for it.
    pub(crate) fn stopped_by(self) -> &'static str {
        match self {
            Self::ApproveForeign | Self::DenyForeign | Self::DeleteForeign | Self::DeleteForeignRequest => {
                "ensign-ra-own-requests"
            }
            Self::AuthorityByCsr | Self::AuthorityByRequest | Self::OtherUsage => "ensign-ra-no-authorities",
            Self::TokenOfIstiod => "ensign-ra-no-tokens",
            Self::RequestOfClusterIssuer
            | Self::RequestOfIssuer
            | Self::RequestByDefaults
            | Self::Certificate
            | Self::ChangedCertificate
            | Self::Ingress => "ensign-mesh-issuers",
        }
    }

    /// Whether the certificate that it yields is a CA's.
    pub(crate) fn wins_an_authority(self) -> bool {
        matches!(self, Self::AuthorityByCsr | Self::AuthorityByRequest)
    }

    /// Tries it. What it yields, if anything, is an object that a certificate will be in. Only what is wrong about an
    /// attack can fail: what leads up to it is the administrator's work.
    pub(crate) async fn run(self, scene: &Scene<'_>) -> anyhow::Result<Option<DynamicObject>> {
        match self {
            Self::ApproveForeign => {
                let csr = scene.create_csr(&scene.eve, json!({})).await?;
                scene.approve(&scene.ra, &csr).await?;
                Ok(Some(csr))
            }
            Self::DenyForeign => {
                let csr = scene.create_csr(&scene.eve, json!({})).await?;
                scene.decide(&scene.ra, &csr, "Denied").await?;
                Ok(None)
            }
            Self::DeleteForeign => {
                let csr = scene.create_csr(&scene.eve, json!({})).await?;
                scene.delete_csr(&scene.ra, &csr).await?;
                Ok(None)
            }
            Self::DeleteForeignRequest => {
                let request = scene
                    .create_request(&scene.eve, scene.istio(), scene.other_issuer(), json!({}))
                    .await?;
                scene.delete_request(&scene.ra, &request).await?;
                Ok(None)
            }
            Self::AuthorityByCsr => {
                let annotation = json!({ "experimental.cert-manager.io/request-is-ca": "true" });
                let authority = json!({ "metadata": { "annotations": annotation } });
                let csr = scene.create_csr(&scene.ra, authority).await?;
                scene.approve(&scene.ra, &csr).await?;
                Ok(Some(csr))
            }
            Self::AuthorityByRequest => {
                let authority = json!({ "spec": { "isCA": true } });
                let request = scene
                    .create_request(&scene.ra, scene.istio(), Scene::issuer(), authority)
                    .await?;
                Ok(Some(request))
            }
            Self::OtherUsage => {
                let usages = json!({ "spec": { "usages": ["digital signature", "code signing"] } });
                let csr = scene.create_csr(&scene.ra, usages).await?;
                scene.approve(&scene.ra, &csr).await?;
                Ok(Some(csr))
            }
            Self::TokenOfIstiod => {
                scene.take_token_of_istiod().await?;
                Ok(None)
            }
            Self::RequestOfClusterIssuer => {
                let issuer = scene.cluster_issuer();
                let request = scene
                    .create_request(&scene.eve, &scene.foreign, issuer, json!({}))
                    .await?;
                Ok(Some(request))
            }
            Self::RequestOfIssuer => {
                let request = scene
                    .create_request(&scene.eve, scene.istio(), Scene::issuer(), json!({}))
                    .await?;
                Ok(Some(request))
            }
            Self::RequestByDefaults => {
                let issuer = json!({ "name": ISSUER, "kind": "", "group": "" });
                let request = scene
                    .create_request(&scene.eve, scene.istio(), issuer, json!({}))
                    .await?;
                Ok(Some(request))
            }
            Self::Certificate => {
                let issuer = scene.cluster_issuer();
                let certificate = scene
                    .create_certificate(&scene.eve, &scene.foreign, issuer, &unique("eve"))
                    .await?;
                scene.certificate_ready(&certificate).await?;
                Ok(None)
            }
            Self::ChangedCertificate => {
                let certificate = scene
                    .create_certificate(&scene.ra, scene.istio(), Scene::issuer(), "istiod-dynamic")
                    .await?;
                let name = certificate.name_any();
                let uri = format!("{VICTIM}-{:08x}", fastrand::u32(..));
                let change = json!({ "spec": { "uris": [uri] } });
                let certificates = Scene::certificates(&scene.eve, scene.istio());
                certificates
                    .patch(&name, &PatchParams::default(), &Patch::Merge(&change))
                    .await?;
                Ok(None)
            }
            Self::Ingress => {
                let issuer = scene.cluster_issuer();
                let certificate = scene
                    .create_certificate(&scene.cert_manager, &scene.foreign, issuer, &unique("ingress"))
                    .await?;
                scene.certificate_ready(&certificate).await?;
                Ok(None)
            }
        }
    }
}
