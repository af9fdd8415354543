//! Requests for certificates, made and approved by hand, with nobody of ours in between: the direct way that the RA is
//! compared with.

use anyhow::{Context, bail};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use k8s_openapi::{
    ByteString,
    api::certificates::v1::{
        CertificateSigningRequest, CertificateSigningRequestCondition, CertificateSigningRequestSpec,
    },
};
use kube::{
    Api, Client, ResourceExt as _,
    api::{ApiResource, DynamicObject, ObjectMeta, PostParams},
    core::GroupVersionKind,
};
use serde_json::{Value, json};

use super::unique;
use crate::{
    cluster::Access,
    wait::{self, PATIENCE},
};

/// What a workload's certificate is for, as both APIs spell it.
pub const USAGES: [&str; 4] = ["digital signature", "key encipherment", "server auth", "client auth"];

impl Access {
    /// A CertificateSigningRequest, made by whom the client comes as.
    pub async fn signing_request(
        &self,
        client: &Client,
        signer_name: &str,
        csr_pem: &str,
    ) -> anyhow::Result<CertificateSigningRequest> {
        let request = CertificateSigningRequest {
            metadata: ObjectMeta {
                name: Some(unique("by-hand")),
                ..ObjectMeta::default()
            },
            spec: CertificateSigningRequestSpec {
                signer_name: signer_name.to_owned(),
                request: ByteString(csr_pem.as_bytes().to_vec()),
                usages: Some(USAGES.iter().map(|&usage| usage.to_owned()).collect()),
                ..CertificateSigningRequestSpec::default()
            },
            status: None,
        };
        Api::all(client.clone())
            .create(&PostParams::default(), &request)
            .await
            .with_context(|| format!("cannot make a CSR for {signer_name}"))
    }

    /// Approves a CSR as it was read or made, in one request. Says the API server's answer as it is, since some must not.
    pub async fn approve(
        &self,
        client: &Client,
        request: &CertificateSigningRequest,
    ) -> kube::Result<CertificateSigningRequest> {
        let condition = CertificateSigningRequestCondition {
            type_: "Approved".to_owned(),
            status: "True".to_owned(),
            reason: Some("ByHand".to_owned()),
            message: Some("a test wants it".to_owned()),
            ..CertificateSigningRequestCondition::default()
        };
        let mut approved = request.clone();
        let status = approved.status.get_or_insert_default();
        status.conditions.get_or_insert_default().push(condition);
        Api::<CertificateSigningRequest>::all(client.clone())
            .replace_subresource("approval", &request.name_any(), &PostParams::default(), &approved)
            .await
    }

    /// Waits for the certificate in a CSR: the chain in PEM.
    pub async fn signed(&self, name: &str) -> anyhow::Result<String> {
        let requests = Api::<CertificateSigningRequest>::all(self.admin());
        wait::until(&format!("CSR {name} to be signed"), PATIENCE, async || {
            let status = requests
                .get(name)
                .await
                .context("it is gone")?
                .status
                .unwrap_or_default();
            match status.certificate {
                Some(ByteString(pem)) => String::from_utf8(pem).context("its certificate is not PEM"),
                None => bail!("its conditions are {:?}", status.conditions),
            }
        })
        .await
    }

    /// CertificateRequests of a namespace.
    pub fn certificate_requests(&self, client: &Client, namespace: &str) -> Api<DynamicObject> {
        Api::namespaced_with(client.clone(), namespace, &resource())
    }

    /// A CertificateRequest, made by whom the client comes as. An Issuer must be of the same namespace.
    pub async fn certificate_request(
        &self,
        client: &Client,
        namespace: &str,
        issuer_ref: &Value,
        csr_pem: &str,
    ) -> kube::Result<DynamicObject> {
        let request = DynamicObject::new(&unique("by-hand"), &resource()).data(json!({
            "spec": {
                "request": STANDARD.encode(csr_pem),
                "issuerRef": issuer_ref,
                "usages": USAGES,
                "duration": "1h",
            },
        }));
        self.certificate_requests(client, namespace)
            .create(&PostParams::default(), &request)
            .await
    }

    /// Waits for the certificate in a CertificateRequest.
    pub async fn issued(&self, request: &DynamicObject) -> anyhow::Result<DynamicObject> {
        let requests = self.certificate_requests(&self.admin(), &request.namespace().unwrap_or_default());
        let name = request.name_any();
        wait::until(
            &format!("CertificateRequest {name} to be issued"),
            PATIENCE,
            async || {
                let object = requests.get(&name).await.context("it is gone")?;
                if issued(&object).is_none() {
                    bail!("its status is {}", object.data["status"]);
                }
                Ok(object)
            },
        )
        .await
    }
}

/// The chain in a CertificateRequest, in PEM, once it is there.
pub fn issued(request: &DynamicObject) -> Option<String> {
    let encoded = request.data["status"]["certificate"].as_str()?;
    String::from_utf8(STANDARD.decode(encoded).ok()?).ok()
}

fn resource() -> ApiResource {
    ApiResource::from_gvk(&GroupVersionKind::gvk("cert-manager.io", "v1", "CertificateRequest"))
}
