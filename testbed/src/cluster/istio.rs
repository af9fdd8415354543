//! What of Istio a cluster needs where no Istio is installed: the kind ProxyConfig, there and gone.

use anyhow::Context;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams},
};

use super::Access;
use crate::wait::{self, PATIENCE};

/// A CRD of our own: the fields that tests write, in Istio's words.
const PROXY_CONFIG: &str = include_str!("proxy_config.yaml");
const NAME: &str = "proxyconfigs.networking.istio.io";

impl Access {
    /// Installs the CRD and waits until the API server serves it.
    pub async fn install_proxy_config(&self) -> anyhow::Result<()> {
        self.apply_yaml(PROXY_CONFIG).await?;
        wait::until_true("ProxyConfig to be served", PATIENCE, async || {
            served(&self.admin()).await
        })
        .await
    }

    /// Removes the CRD with all its objects, and waits until the API server serves it no more.
    pub async fn remove_proxy_config(&self) -> anyhow::Result<()> {
        let definitions = Api::<CustomResourceDefinition>::all(self.admin());
        definitions
            .delete(NAME, &DeleteParams::default())
            .await
            .with_context(|| format!("cannot remove {NAME}"))?;
        wait::until_true("ProxyConfig to be gone", PATIENCE, async || {
            let named = ListParams::default().fields(&format!("metadata.name={NAME}"));
            Ok(definitions.list(&named).await?.items.is_empty() && !served(&self.admin()).await?)
        })
        .await
    }
}

async fn served(client: &Client) -> anyhow::Result<bool> {
    match client.list_api_group_resources("networking.istio.io/v1beta1").await {
        Ok(list) => Ok(list.resources.iter().any(|resource| resource.kind == "ProxyConfig")),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(false),
        Err(error) => Err(error).context("the API server does not say what it serves"),
    }
}
