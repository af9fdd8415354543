//! Real tokens of service accounts, by TokenRequest: any audience, bound to a pod or not.

use std::time::Duration;

use anyhow::Context;
use k8s_openapi::api::{
    authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec},
    core::v1::{Node, Pod, Secret, ServiceAccount},
};
use kube::{Api, ResourceExt as _, api::PostParams};

use crate::cluster::Access;

/// What a token is asked for. By default: of Istio's audience, for an hour, bound to nothing.
#[derive(Debug, Clone)]
pub struct TokenOf<'a> {
    namespace: &'a str,
    account: &'a str,
    audiences: Vec<String>,
    expiry: Duration,
    bound: Option<BoundObjectReference>,
}

impl<'a> TokenOf<'a> {
    /// Of this account.
    pub fn new(namespace: &'a str, account: &'a str) -> Self {
        Self {
            namespace,
            account,
            audiences: vec!["istio-ca".to_owned()],
            expiry: Duration::from_hours(1),
            bound: None,
        }
    }

    /// For these audiences; none means the API server's own.
    pub fn audiences(mut self, audiences: &[&str]) -> Self {
        self.audiences = audiences.iter().map(|&audience| audience.to_owned()).collect();
        self
    }

    /// For this long: at least ten minutes, or the API server refuses it.
    pub fn expiry(mut self, expiry: Duration) -> Self {
        self.expiry = expiry;
        self
    }

    /// Bound to a pod, as the tokens of running pods are.
    pub fn pod(self, pod: &Pod) -> Self {
        self.bound("v1", "Pod", pod.name_any(), pod.uid())
    }

    /// Bound to a node.
    pub fn node(self, node: &Node) -> Self {
        self.bound("v1", "Node", node.name_any(), node.uid())
    }

    /// Bound to a Secret.
    pub fn secret(self, secret: &Secret) -> Self {
        self.bound("v1", "Secret", secret.name_any(), secret.uid())
    }

    fn bound(mut self, version: &str, kind: &str, name: String, uid: Option<String>) -> Self {
        self.bound = Some(BoundObjectReference {
            api_version: Some(version.to_owned()),
            kind: Some(kind.to_owned()),
            name: Some(name),
            uid,
        });
        self
    }
}

impl Access {
    /// The token.
    pub async fn token(&self, of: &TokenOf<'_>) -> anyhow::Result<String> {
        let accounts = Api::<ServiceAccount>::namespaced(self.admin(), of.namespace);
        let request = TokenRequest {
            spec: TokenRequestSpec {
                audiences: of.audiences.clone(),
                bound_object_ref: of.bound.clone(),
                expiration_seconds: i64::try_from(of.expiry.as_secs()).ok(),
            },
            ..TokenRequest::default()
        };
        let answer = accounts
            .create_token_request(of.account, &PostParams::default(), &request)
            .await
            .with_context(|| format!("no token for {}/{}", of.namespace, of.account))?;
        Ok(answer.status.context("a TokenRequest without a status")?.token)
    }

    /// A kubeconfig that comes as this service account, by a real token of a day.
    pub async fn kubeconfig_of_service_account(&self, namespace: &str, name: &str) -> anyhow::Result<String> {
        let of = TokenOf::new(namespace, name)
            .audiences(&[])
            .expiry(Duration::from_hours(24));
        Ok(self.kubeconfig_with_token(&self.token(&of).await?))
    }
}
