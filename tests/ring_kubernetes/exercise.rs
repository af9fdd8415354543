//! Does with a right what the RA does with it: watches by name, makes objects of a known name by server-side apply, changes
//! them by a merge patch, asks, approves, cleans up.

use anyhow::{Context as _, bail, ensure};
use ensign_testbed::{
    cluster::{Access, Right, unique},
    wait::{self, PATIENCE},
};
use ensign_testkit::TestCa;
use futures::StreamExt as _;
use kube::{
    Api, Client, ResourceExt as _,
    api::{ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams, WatchParams},
    core::GroupVersionKind,
};
use serde_json::{Value, json};

use crate::attack::csr_request;

/// The RA's account, and the administrator, who makes what it needs.
pub(crate) struct Exercise<'a> {
    access: &'a Access,
    ra: Client,
    /// One that it may approve for.
    signer: String,
    root: String,
}

/// What cert-manager says of a CSR whose maker may not refer to its Issuer.
const DENIED_REFERENCE: &str = "DeniedReference";
const BUNDLE: &str = "istio.io:istiod-ca:root-cert";
const BUNDLE_SIGNER: &str = "istio.io/istiod-ca";

// === impl Exercise ===

impl<'a> Exercise<'a> {
    pub(crate) async fn of(access: &'a Access, rights: &[Right]) -> anyhow::Result<Self> {
        let account = &rights.first().context("no rights")?.account;
        let kubeconfig = access
            .kubeconfig_of_service_account(&account.namespace, &account.name)
            .await?;
        let approve = rights.iter().find(|right| right.verb == "approve");
        Ok(Self {
            ra: access.client(&kubeconfig).await?,
            access,
            signer: approve.map(|right| right.names[0].clone()).unwrap_or_default(),
            root: TestCa::root_only("exercise").root_pem(),
        })
    }

    /// Does it once, on the object of this name where the right names objects.
    pub(crate) async fn run(&self, right: &Right, name: Option<&str>) -> anyhow::Result<()> {
        match (right.verb.as_str(), name) {
            ("list", name) => {
                api(&self.ra, right)?.list(&named(name)).await?;
            }
            ("watch", name) => self.watch(right, name).await?,
            ("create", Some(name)) => {
                delete(&api(&self.access.admin(), right)?, name).await?;
                self.apply(&self.ra, right, name).await?;
            }
            ("create", None) => {
                let object = self.object(right, &unique("made"))?;
                api(&self.ra, right)?.create(&PostParams::default(), &object).await?;
            }
            ("patch", Some(name)) => {
                self.apply(&self.access.admin(), right, name).await?;
                let change = json!({ "metadata": { "annotations": { "changed": unique("now") } } });
                let objects = api(&self.ra, right)?;
                objects
                    .patch(name, &PatchParams::default(), &Patch::Merge(&change))
                    .await?;
            }
            ("delete", None) => {
                let object = self.object(right, &unique("made"))?;
                let made = api(&self.access.admin(), right)?;
                let made = made.create(&PostParams::default(), &object).await?;
                api(&self.ra, right)?
                    .delete(&made.name_any(), &DeleteParams::default())
                    .await?;
            }
            ("update", None) => self.approve(&self.ra, &self.signer).await.map(drop)?,
            ("approve", Some(signer)) => self.approve(&self.ra, signer).await.map(drop)?,
            ("reference", Some(issuer)) => self.refer(right, issuer).await?,
            ("attest", Some(BUNDLE_SIGNER)) => {
                let bundles = Right {
                    resource: "clustertrustbundles".to_owned(),
                    ..right.clone()
                };
                delete(&api(&self.access.admin(), &bundles)?, BUNDLE).await?;
                self.apply(&self.ra, &bundles, BUNDLE).await?;
            }
            (verb, name) => bail!("nobody knows what {verb} is for, on {name:?}"),
        }
        Ok(())
    }

    /// Whether an exercise failed because the right was not there, and for nothing else.
    pub(crate) fn is_refusal(right: &Right, error: &anyhow::Error) -> anyhow::Result<()> {
        if right.verb == "reference" {
            ensure!(error.to_string().contains(DENIED_REFERENCE), "{error:#}");
            return Ok(());
        }
        let code = error.chain().find_map(|cause| match cause.downcast_ref() {
            Some(kube::Error::Api(status)) => Some(status.code),
            _ => None,
        });
        ensure!(code == Some(403), "{error:#}");
        Ok(())
    }

    async fn watch(&self, right: &Right, name: Option<&str>) -> anyhow::Result<()> {
        let mut parameters = WatchParams::default().timeout(1);
        parameters.field_selector = named(name).field_selector;
        let objects = api(&self.ra, right)?;
        let mut events = objects.watch(&parameters, "0").await?.boxed();
        while let Some(event) = events.next().await {
            event?;
        }
        Ok(())
    }

    async fn apply(&self, client: &Client, right: &Right, name: &str) -> anyhow::Result<()> {
        let (object, parameters) = (self.object(right, name)?, PatchParams::apply("exercise").force());
        api(client, right)?
            .patch(name, &parameters, &Patch::Apply(&object))
            .await?;
        Ok(())
    }

    /// Makes a CSR as the administrator and approves it.
    async fn approve(&self, client: &Client, signer: &str) -> anyhow::Result<DynamicObject> {
        let csr = self.create_csr(&self.access.admin(), signer).await?;
        let mut approved = csr.clone();
        approved.data["status"] = json!({ "conditions": [{
            "type": "Approved", "status": "True", "reason": "Exercise", "message": "exercised",
        }] });
        let csrs = Api::<DynamicObject>::all_with(client.clone(), &resource("certificatesigningrequests")?);
        csrs.replace_subresource("approval", &csr.name_any(), &PostParams::default(), &approved)
            .await?;
        Ok(csr)
    }

    /// Has a CSR of our own for a namespace's Issuer signed.
    async fn refer(&self, right: &Right, issuer: &str) -> anyhow::Result<()> {
        let namespace = right.namespace.as_deref().unwrap_or_default();
        let signer = format!("issuers.cert-manager.io/{namespace}.{issuer}");
        let csr = self.create_csr(&self.ra, &signer).await?;
        let admins = Api::<DynamicObject>::all_with(self.access.admin(), &resource("certificatesigningrequests")?);
        let condition = |kind: &str| json!({ "type": kind, "status": "True", "reason": "Exercise" });
        let mut approved = csr.clone();
        approved.data["status"] = json!({ "conditions": [condition("Approved")] });
        let name = csr.name_any();
        admins
            .replace_subresource("approval", &name, &PostParams::default(), &approved)
            .await?;
        let status = wait::until("cert-manager's answer", PATIENCE, async || {
            let status = admins.get(&name).await?.data["status"].clone();
            let failed = status["conditions"].to_string().contains("Failed");
            ensure!(failed || !status["certificate"].is_null(), "its status is {status}");
            Ok(status)
        })
        .await?;
        ensure!(!status["certificate"].is_null(), "{status}");
        Ok(())
    }

    async fn create_csr(&self, client: &Client, signer: &str) -> anyhow::Result<DynamicObject> {
        let csrs = Api::<DynamicObject>::all_with(client.clone(), &resource("certificatesigningrequests")?);
        let mut csr = self.csr(&unique("exercise"));
        csr["spec"]["signerName"] = json!(signer);
        Ok(csrs
            .create(&PostParams::default(), &serde_json::from_value(csr)?)
            .await?)
    }

    fn csr(&self, name: &str) -> Value {
        json!({
            "apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest",
            "metadata": { "name": name },
            "spec": {
                "request": csr_request(), "signerName": self.signer,
                "usages": ["digital signature", "key encipherment", "server auth", "client auth"],
            },
        })
    }

    /// The least that the API server takes.
    fn object(&self, right: &Right, name: &str) -> anyhow::Result<DynamicObject> {
        let resource = resource(&right.resource)?;
        let mut object = json!({
            "apiVersion": resource.api_version, "kind": resource.kind, "metadata": { "name": name },
        });
        object["spec"] = match right.resource.as_str() {
            "certificatesigningrequests" => self.csr(name)["spec"].clone(),
            "certificaterequests" => json!({
                "request": csr_request(), "issuerRef": { "name": "none" }, "usages": ["client auth", "server auth"],
            }),
            "certificates" => json!({
                "secretName": name, "dnsNames": ["istiod.istio-system.svc"], "issuerRef": { "name": "none" },
            }),
            "clustertrustbundles" => json!({ "signerName": BUNDLE_SIGNER, "trustBundle": self.root }),
            "tokenreviews" => json!({ "token": "none" }),
            "leases" => json!({}),
            _ => Value::Null,
        };
        if object["spec"].is_null() {
            object.as_object_mut().map(|object| object.remove("spec"));
        }
        Ok(serde_json::from_value(object)?)
    }
}

/// Objects of the right's resource, in its namespace; where it counts in all of them, writes go to `default`.
fn api(client: &Client, right: &Right) -> anyhow::Result<Api<DynamicObject>> {
    let resource = resource(&right.resource)?;
    let writes = !matches!(right.verb.as_str(), "list" | "watch");
    Ok(match (&right.namespace, right.resource.as_str()) {
        (Some(namespace), _) => Api::namespaced_with(client.clone(), namespace, &resource),
        (None, "configmaps") if writes => Api::namespaced_with(client.clone(), "default", &resource),
        (None, _) => Api::all_with(client.clone(), &resource),
    })
}

fn resource(name: &str) -> anyhow::Result<ApiResource> {
    let (group, version, kind) = match name {
        "configmaps" => ("", "v1", "ConfigMap"),
        "namespaces" => ("", "v1", "Namespace"),
        "pods" => ("", "v1", "Pod"),
        "secrets" => ("", "v1", "Secret"),
        "serviceaccounts" => ("", "v1", "ServiceAccount"),
        "leases" => ("coordination.k8s.io", "v1", "Lease"),
        "tokenreviews" => ("authentication.k8s.io", "v1", "TokenReview"),
        "certificatesigningrequests" => ("certificates.k8s.io", "v1", "CertificateSigningRequest"),
        "clustertrustbundles" => ("certificates.k8s.io", "v1beta1", "ClusterTrustBundle"),
        "certificaterequests" => ("cert-manager.io", "v1", "CertificateRequest"),
        "certificates" => ("cert-manager.io", "v1", "Certificate"),
        "clusterissuers" => ("cert-manager.io", "v1", "ClusterIssuer"),
        "issuers" => ("cert-manager.io", "v1", "Issuer"),
        "proxyconfigs" => ("networking.istio.io", "v1beta1", "ProxyConfig"),
        other => bail!("what kind are {other}?"),
    };
    Ok(ApiResource::from_gvk_with_plural(
        &GroupVersionKind::gvk(group, version, kind),
        name,
    ))
}

fn named(name: Option<&str>) -> ListParams {
    match name {
        Some(name) => ListParams::default().fields(&format!("metadata.name={name}")),
        None => ListParams::default(),
    }
}

async fn delete(objects: &Api<DynamicObject>, name: &str) -> anyhow::Result<()> {
    match objects.delete(name, &DeleteParams::default()).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(error) => Err(error.into()),
    }
}
