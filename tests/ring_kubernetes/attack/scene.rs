//! The stage: the RA's account with all of rbac.yaml, Eve, the mesh's issuers and one that is not the mesh's; and what each
//! can do there.

use std::fmt;

use anyhow::{Context as _, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use ensign_testbed::{
    cluster::{Access, IssuerRef, Manifests, Places, unique},
    wait::{self, PATIENCE},
};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use kube::{
    Api, Client, ResourceExt as _,
    api::{ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, PostParams},
    core::GroupVersionKind,
};
use rcgen::{CertificateParams, DistinguishedName, KeyPair, SanType};
use serde_json::{Value, json};

/// Who takes part, and where.
pub(crate) struct Scene<'a> {
    access: &'a Access,
    places: Places,
    cluster_issuer: String,
    other_issuer: String,
    pub(super) ra: Client,
    pub(super) eve: Client,
    pub(super) cert_manager: Client,
    pub(super) foreign: String,
}

/// The issuer of the mesh that is an Issuer.
pub(super) const ISSUER: &str = "istio-ca";
/// Whom the attacker would like to be.
pub(super) const VICTIM: &str = "spiffe://cluster.local/ns/istio-system/sa/istiod";

// === impl Scene ===

impl<'a> Scene<'a> {
    /// Everything but the policies.
    pub(crate) async fn set(access: &'a Access) -> anyhow::Result<Self> {
        let (own, istio) = (access.namespace("own").await?, access.namespace("istio").await?);
        let foreign = access.namespace("eve").await?;
        let (cluster_issuer, other_issuer) = (unique("mesh"), unique("web"));
        access.cluster_issuer(&cluster_issuer).await?;
        access.cluster_issuer(&other_issuer).await?;
        access.issuer(&istio, ISSUER).await?;
        let issuer = IssuerRef::Namespaced(istio.clone(), ISSUER.to_owned());
        let places = Places {
            own: own.clone(),
            istio: istio.clone(),
            signers: vec![
                IssuerRef::Cluster(cluster_issuer.clone()).signer_name(),
                issuer.signer_name(),
            ],
            issuers: vec![
                format!("ClusterIssuer.cert-manager.io/{cluster_issuer}"),
                format!("Issuer.cert-manager.io/{istio}/{ISSUER}"),
            ],
        };
        access.service_account(&istio, "istiod").await?;
        access.service_account(&foreign, "eve").await?;
        access.apply_yaml(&rights_of_eve(&foreign)).await?;
        let modes = Manifests::read("optional/rbac.yaml")?.modes();
        let modes: Vec<_> = modes.iter().map(String::as_str).collect();
        let account = places.grant(access, &modes).await?;
        let as_account = async |namespace: &str, name: &str| {
            let kubeconfig = access.kubeconfig_of_service_account(namespace, name).await?;
            access.client(&kubeconfig).await
        };
        // cert-manager runs as the user of this name.
        let cert_manager = access.kubeconfig_of_user("system:serviceaccount:cert-manager:cert-manager", None)?;
        Ok(Self {
            ra: access.client(&account.kubeconfig).await?,
            eve: as_account(&foreign, "eve").await?,
            cert_manager: access.client(&cert_manager).await?,
            access,
            places,
            cluster_issuer,
            other_issuer,
            foreign,
        })
    }

    pub(crate) fn places(&self) -> &Places {
        &self.places
    }

    pub(crate) fn ra(&self) -> &Client {
        &self.ra
    }

    pub(crate) fn eve(&self) -> &Client {
        &self.eve
    }

    pub(crate) fn admin(&self) -> Client {
        self.access.admin()
    }

    pub(crate) fn istio(&self) -> &str {
        &self.places.istio
    }

    pub(crate) fn foreign(&self) -> &str {
        &self.foreign
    }

    pub(crate) fn cluster_issuer(&self) -> Value {
        json!({ "name": self.cluster_issuer, "kind": "ClusterIssuer", "group": "cert-manager.io" })
    }

    pub(crate) fn other_issuer(&self) -> Value {
        json!({ "name": self.other_issuer, "kind": "ClusterIssuer", "group": "cert-manager.io" })
    }

    pub(crate) fn issuer() -> Value {
        json!({ "name": ISSUER, "kind": "Issuer", "group": "cert-manager.io" })
    }

    /// A CSR of the mesh's ClusterIssuer for the victim's identity, with `more` merged in.
    pub(crate) async fn create_csr(&self, client: &Client, more: Value) -> kube::Result<DynamicObject> {
        let mut csr = json!({
            "metadata": { "name": unique("csr") },
            "spec": {
                "request": csr_request(),
                "signerName": format!("clusterissuers.cert-manager.io/{}", self.cluster_issuer),
                "usages": ["digital signature", "key encipherment", "server auth", "client auth"],
                "expirationSeconds": 3600,
            },
        });
        merge(&mut csr, &more);
        create(
            &csrs(client),
            &csr,
            "certificates.k8s.io/v1",
            "CertificateSigningRequest",
        )
        .await
    }

    pub(crate) async fn approve(&self, client: &Client, csr: &DynamicObject) -> kube::Result<()> {
        self.decide(client, csr, "Approved").await
    }

    pub(super) async fn decide(&self, client: &Client, csr: &DynamicObject, condition: &str) -> kube::Result<()> {
        let mut decided = csr.clone();
        decided.data["status"] = json!({ "conditions": [{
            "type": condition, "status": "True", "reason": "Attack", "message": "because we can",
        }] });
        csrs(client)
            .replace_subresource("approval", &csr.name_any(), &PostParams::default(), &decided)
            .await
            .map(drop)
    }

    pub(crate) async fn delete_csr(&self, client: &Client, csr: &DynamicObject) -> kube::Result<()> {
        let csrs = csrs(client);
        csrs.delete(&csr.name_any(), &DeleteParams::default()).await.map(drop)
    }

    /// A CertificateRequest for the victim's identity, with `more` merged in.
    pub(crate) async fn create_request(
        &self,
        client: &Client,
        namespace: &str,
        issuer: Value,
        more: Value,
    ) -> kube::Result<DynamicObject> {
        let mut request = json!({
            "metadata": { "name": unique("request"), "namespace": namespace },
            "spec": {
                "request": csr_request(),
                "issuerRef": issuer,
                "usages": ["client auth", "server auth"],
                "duration": "1h",
            },
        });
        merge(&mut request, &more);
        let requests = of_cert_manager(client, namespace, "CertificateRequest");
        create(&requests, &request, "cert-manager.io/v1", "CertificateRequest").await
    }

    pub(crate) async fn delete_request(&self, client: &Client, request: &DynamicObject) -> kube::Result<()> {
        let namespace = request.namespace().unwrap_or_default();
        let requests = of_cert_manager(client, &namespace, "CertificateRequest");
        requests
            .delete(&request.name_any(), &DeleteParams::default())
            .await
            .map(drop)
    }

    /// A Certificate for the victim's identity, by server-side apply.
    pub(crate) async fn create_certificate(
        &self,
        client: &Client,
        namespace: &str,
        issuer: Value,
        name: &str,
    ) -> kube::Result<DynamicObject> {
        let certificate = json!({
            "apiVersion": "cert-manager.io/v1", "kind": "Certificate",
            "metadata": { "name": name },
            "spec": {
                "uris": [VICTIM], "secretName": format!("{name}-tls"), "issuerRef": issuer,
                "duration": "1h", "renewBefore": "30m",
            },
        });
        let certificates = Self::certificates(client, namespace);
        certificates
            .patch(name, &PatchParams::apply("test").force(), &Patch::Apply(&certificate))
            .await
    }

    pub(crate) fn certificates(client: &Client, namespace: &str) -> Api<DynamicObject> {
        of_cert_manager(client, namespace, "Certificate")
    }

    /// Waits until cert-manager has issued it.
    pub(crate) async fn certificate_ready(&self, certificate: &DynamicObject) -> anyhow::Result<()> {
        let namespace = certificate.namespace().unwrap_or_default();
        let certificates = Self::certificates(&self.access.admin(), &namespace);
        wait::until("the Certificate to be ready", PATIENCE, async || {
            let now = certificates.get(&certificate.name_any()).await?;
            let conditions = now.data["status"]["conditions"].as_array().cloned().unwrap_or_default();
            let ready = |condition: &Value| condition["type"] == "Ready" && condition["status"] == "True";
            ensure!(conditions.iter().any(ready), "its conditions are {conditions:?}");
            Ok(())
        })
        .await
    }

    /// The certificate in a CSR or CertificateRequest, once it is there: PEM.
    pub(crate) async fn issued(&self, request: &DynamicObject) -> anyhow::Result<String> {
        let admin = self.access.admin();
        let requests = match request.namespace() {
            Some(namespace) => of_cert_manager(&admin, &namespace, "CertificateRequest"),
            None => csrs(&admin),
        };
        wait::until("a certificate", PATIENCE, async || {
            let now = requests.get(&request.name_any()).await?;
            let certificate = now.data["status"]["certificate"].as_str();
            let certificate = certificate.with_context(|| format!("its status is {}", now.data["status"]))?;
            Ok(String::from_utf8(STANDARD.decode(certificate)?)?)
        })
        .await
    }

    /// The Secret is not there yet; the RA may create it under this name, and watch it.
    pub(super) async fn take_token_of_istiod(&self) -> anyhow::Result<()> {
        let admin = Api::<DynamicObject>::namespaced_with(self.access.admin(), self.istio(), &secret());
        let secrets = Api::<DynamicObject>::namespaced_with(self.ra.clone(), self.istio(), &secret());
        let object = json!({
            "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/service-account-token",
            "metadata": { "name": "istiod-tls", "annotations": { "kubernetes.io/service-account.name": "istiod" } },
        });
        secrets
            .patch("istiod-tls", &PatchParams::apply("test"), &Patch::Apply(&object))
            .await?;
        let mine = kube::api::ListParams::default().fields("metadata.name=istiod-tls");
        wait::until("the token", PATIENCE, async || {
            let found = secrets.list(&mine).await?;
            let token = found
                .items
                .first()
                .and_then(|secret| secret.data["data"]["token"].as_str());
            token.map(drop).context("it is not there yet")
        })
        .await?;
        admin.delete("istiod-tls", &DeleteParams::default()).await?;
        Ok(())
    }
}

impl fmt::Debug for Scene<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scene")
            .field("places", &self.places)
            .finish_non_exhaustive()
    }
}

/// Whether the first certificate is a CA's: the extension basicConstraints, critical, with `cA` true and perhaps a path length
/// (RFC 5280, 4.2.1.9).
pub(crate) fn holds_authority(pem: &str) -> anyhow::Result<bool> {
    let begin = pem.find("-----BEGIN").context("no PEM")?;
    let (_, rest) = pem[begin..].split_once("-----\n").context("no PEM")?;
    let (body, _) = rest.split_once("\n-----END").context("no PEM")?;
    let der = STANDARD.decode(body.replace('\n', ""))?;
    let oid = [0x06, 0x03, 0x55, 0x1d, 0x13, 0x01, 0x01, 0xff, 0x04];
    let place = der.windows(oid.len()).position(|window| window == oid);
    let place = place.context("no basicConstraints")?;
    // OCTET STRING length, SEQUENCE, its length, BOOLEAN TRUE.
    Ok(der.get(place + oid.len() + 3..place + oid.len() + 6) == Some(&[0x01, 0x01, 0xff]))
}

fn csrs(client: &Client) -> Api<DynamicObject> {
    Api::all_with(client.clone(), &ApiResource::erase::<CertificateSigningRequest>(&()))
}

fn of_cert_manager(client: &Client, namespace: &str, kind: &str) -> Api<DynamicObject> {
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("cert-manager.io", "v1", kind));
    Api::namespaced_with(client.clone(), namespace, &resource)
}

fn secret() -> ApiResource {
    ApiResource::erase::<k8s_openapi::api::core::v1::Secret>(&())
}

async fn create(api: &Api<DynamicObject>, object: &Value, version: &str, kind: &str) -> kube::Result<DynamicObject> {
    let mut object = object.clone();
    object["apiVersion"] = json!(version);
    object["kind"] = json!(kind);
    let object = serde_json::from_value(object).map_err(kube::Error::SerdeError)?;
    api.create(&PostParams::default(), &object).await
}

/// A CSR for the victim's identity, as the field `request` of both APIs has it: PEM in base64.
pub(crate) fn csr_request() -> String {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![SanType::URI(VICTIM.try_into().expect("an URI"))];
    let key = KeyPair::generate().expect("a key");
    let pem = params.serialize_request(&key).and_then(|csr| csr.pem());
    STANDARD.encode(pem.expect("a CSR"))
}

fn merge(into: &mut Value, more: &Value) {
    match (into, more) {
        (Value::Object(into), Value::Object(more)) => {
            for (key, value) in more {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, more) => *into = more.clone(),
    }
}

fn rights_of_eve(namespace: &str) -> String {
    format!(
        r#"
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {{name: "{namespace}-eve"}}
rules:
- apiGroups: [certificates.k8s.io]
  resources: [certificatesigningrequests]
  verbs: [create]
- apiGroups: [cert-manager.io]
  resources: [certificaterequests, certificates]
  verbs: [create, patch]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {{name: "{namespace}-eve"}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: "{namespace}-eve"}}
subjects: [{{kind: ServiceAccount, name: eve, namespace: "{namespace}"}}]
"#
    )
}
