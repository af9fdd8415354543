//! cert-manager's CA issuers, ready to sign, with an authority that the test knows.

use anyhow::{Context, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use ensign_testkit::TestCa;
use kube::{
    Api,
    api::{ApiResource, DynamicObject},
    core::GroupVersionKind,
};
use serde_json::{Value, json};

use crate::{
    cluster::{Access, CERT_MANAGER_NAMESPACE},
    wait::{self, PATIENCE},
};

/// Which issuer: a ClusterIssuer, or the Issuer of a namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IssuerRef {
    /// `clusterissuers.cert-manager.io/<name>`.
    Cluster(String),
    /// `issuers.cert-manager.io/<namespace>.<name>`.
    Namespaced(String, String),
}

// === impl IssuerRef ===

impl IssuerRef {
    /// As a signer name of the Kubernetes CSR API.
    pub fn signer_name(&self) -> String {
        match self {
            Self::Cluster(name) => format!("clusterissuers.cert-manager.io/{name}"),
            Self::Namespaced(namespace, name) => format!("issuers.cert-manager.io/{namespace}.{name}"),
        }
    }

    /// As `spec.issuerRef` of a CertificateRequest.
    pub fn reference(&self) -> Value {
        json!({ "group": "cert-manager.io", "kind": self.kind(), "name": self.name() })
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::Cluster(_) => "ClusterIssuer",
            Self::Namespaced(..) => "Issuer",
        }
    }

    fn name(&self) -> &str {
        match self {
            Self::Cluster(name) | Self::Namespaced(_, name) => name,
        }
    }

    /// Where its Secret is.
    fn namespace(&self) -> &str {
        match self {
            Self::Cluster(_) => CERT_MANAGER_NAMESPACE,
            Self::Namespaced(namespace, _) => namespace,
        }
    }
}

impl Access {
    /// A ClusterIssuer with a new self-signed root that issues by itself; ready to sign.
    pub async fn cluster_issuer(&self, name: &str) -> anyhow::Result<TestCa> {
        let ca = TestCa::root_only(name);
        self.issue_with(&IssuerRef::Cluster(name.to_owned()), &ca).await?;
        Ok(ca)
    }

    /// An Issuer of one namespace, the same otherwise.
    pub async fn issuer(&self, namespace: &str, name: &str) -> anyhow::Result<TestCa> {
        let ca = TestCa::root_only(name);
        let issuer = IssuerRef::Namespaced(namespace.to_owned(), name.to_owned());
        self.issue_with(&issuer, &ca).await?;
        Ok(ca)
    }

    /// Makes the issuer, or changes its authority, and waits until it is ready. Intermediates of the authority go into
    /// the Secret as cert-manager wants them: the issuing one first, the root last.
    pub async fn issue_with(&self, issuer: &IssuerRef, ca: &TestCa) -> anyhow::Result<()> {
        let chain = ca.intermediate_pems().concat() + &ca.root_pem();
        let secret = format!("{}-ca", issuer.name());
        let object = json!({
            "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
            "metadata": { "name": secret, "namespace": issuer.namespace() },
            "data": {
                "tls.crt": STANDARD.encode(chain),
                "tls.key": STANDARD.encode(ca.issuing_key_pem()),
                "ca.crt": STANDARD.encode(ca.root_pem()),
            },
        });
        self.apply_yaml(&object.to_string()).await?;
        self.declare_issuer(issuer, &json!({ "ca": { "secretName": secret } }))
            .await?;
        self.issuer_ready(issuer).await
    }

    /// Makes an issuer of any kind; it need not be able to sign.
    pub async fn declare_issuer(&self, issuer: &IssuerRef, spec: &Value) -> anyhow::Result<()> {
        let mut object = json!({
            "apiVersion": "cert-manager.io/v1", "kind": issuer.kind(),
            "metadata": { "name": issuer.name() },
            "spec": spec,
        });
        if let IssuerRef::Namespaced(namespace, _) = issuer {
            object["metadata"]["namespace"] = json!(namespace);
        }
        self.apply_yaml(&object.to_string()).await.map(drop)
    }

    /// Waits until cert-manager says that it can sign, for what is in the issuer now.
    pub async fn issuer_ready(&self, issuer: &IssuerRef) -> anyhow::Result<()> {
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("cert-manager.io", "v1", issuer.kind()));
        let issuers = match issuer {
            IssuerRef::Cluster(_) => Api::<DynamicObject>::all_with(self.admin(), &resource),
            IssuerRef::Namespaced(namespace, _) => Api::namespaced_with(self.admin(), namespace, &resource),
        };
        wait::until(
            &format!("{} {} to be ready", issuer.kind(), issuer.name()),
            PATIENCE,
            async || {
                let object = issuers.get(issuer.name()).await.context("it is not there")?;
                let conditions = object.data["status"]["conditions"]
                    .as_array()
                    .cloned()
                    .unwrap_or_default();
                let ready = conditions.iter().any(|condition| {
                    condition["type"] == "Ready"
                        && condition["status"] == "True"
                        && condition["observedGeneration"].as_i64() == object.metadata.generation
                });
                ensure!(ready, "its conditions are {conditions:?}");
                Ok(())
            },
        )
        .await
    }
}
