//! A leader at work in a cluster of its own: its roots, its leadership and its metrics are the test's to change.

use std::sync::Arc;

use ensign_pki::SystemClock;
use ensign_ra::{
    distribution::{self, DistributionConfig, DistributionMetrics, DistributionParts, Source},
    kubernetes::{ClusterSource, Home, KubernetesMetrics, connect},
    leader::identity,
    trust::Roots,
};
use ensign_testbed::{
    cluster::{Cluster, ClusterOptions, Places, unique},
    wait::{PATIENCE, until},
};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, ResourceExt as _,
    api::{Patch, PatchParams},
};
use parking_lot::Mutex;
use prometheus_client::{encoding::text::encode, registry::Registry};
use serde_json::{Value, json};
use tokio::{sync::watch, task::JoinHandle};
use tokio_util::sync::CancellationToken;

pub(super) type Result<T = ()> = anyhow::Result<T>;

pub(super) const NAME: &str = "istio-ca-root-cert";
pub(super) const KEY: &str = "root-cert.pem";
pub(super) const BUNDLE: &str = "istio.io:istiod-ca:root-cert";

/// One leader at work.
pub(super) struct Leader {
    pub(super) roots: Arc<Mutex<Option<String>>>,
    pub(super) leading: watch::Sender<bool>,
    pub(super) registry: Registry,
    pub(super) stop: CancellationToken,
    pub(super) task: JoinHandle<anyhow::Result<()>>,
}

pub(super) struct Bed {
    pub(super) cluster: Cluster,
    pub(super) own: String,
    /// What the audit log calls the writer.
    pub(super) user: String,
}

impl Bed {
    pub(super) async fn start() -> Result<Self> {
        let cluster = Cluster::start(ClusterOptions {
            cert_manager: false,
            ..ClusterOptions::default()
        })
        .await?;
        let own = cluster.namespace("ensign").await?;
        let modes = ["root-cert", "cluster-trust-bundle"];
        let account = Places::in_one(&own).grant(&cluster, &modes).await?;
        let path = cluster.folder().join("distributor.kubeconfig");
        std::fs::write(&path, account.kubeconfig)?;
        let user = account.username;
        Ok(Self { cluster, own, user })
    }

    pub(super) async fn home(&self) -> Result<Home> {
        let path = self.cluster.folder().join("distributor.kubeconfig");
        let source = ClusterSource::Kubeconfig { path, context: None };
        Ok(Home {
            cluster: connect(&source, &KubernetesMetrics::default()).await?,
            namespace: self.own.clone(),
            istio_namespace: "istio-system".to_owned(),
            installation: "ensign".to_owned(),
            identity: identity(None),
        })
    }

    pub(super) async fn leader(&self, config: DistributionConfig, roots: &str) -> Result<Leader> {
        let roots = Arc::new(Mutex::new(Some(roots.to_owned())));
        let (leading, led) = watch::channel(true);
        let mut registry = Registry::default();
        let source = {
            let roots = Arc::clone(&roots);
            Source {
                name: "test",
                remember: true,
                roots: Arc::new(move || Some(Arc::new(Roots::parse(roots.lock().as_deref()?).unwrap()))),
            }
        };
        let parts = DistributionParts {
            config,
            home: self.home().await?,
            sources: vec![source],
            leading: led,
            clock: SystemClock::shared(),
            metrics: DistributionMetrics::register(&mut registry),
        };
        let stop = CancellationToken::new();
        let task = tokio::spawn(distribution::run(parts, stop.clone()));
        Ok(Leader {
            roots,
            leading,
            registry,
            stop,
            task,
        })
    }

    pub(super) fn config_maps(&self, namespace: &str) -> Api<ConfigMap> {
        Api::namespaced(self.cluster.admin(), namespace)
    }

    /// Waits until a namespace holds exactly these roots, in any order, with Istio's label.
    pub(super) async fn holds(&self, namespace: &str, roots: &[&str]) -> Result<ConfigMap> {
        let wanted = Roots::parse(&roots.concat())?;
        until(&format!("{} roots in {namespace}", roots.len()), PATIENCE, async || {
            let object = self.config_maps(namespace).get(NAME).await?;
            let pem = object
                .data
                .as_ref()
                .and_then(|data| data.get(KEY))
                .cloned()
                .unwrap_or_default();
            anyhow::ensure!(pem == **wanted.pem(), "holds {} roots", pem.matches("BEGIN").count());
            anyhow::ensure!(
                object
                    .labels()
                    .get("istio.io/config")
                    .is_some_and(|value| value == "true"),
                "no label"
            );
            Ok(object)
        })
        .await
    }

    /// Writes like another controller.
    pub(super) async fn write_as(&self, manager: &str, namespace: &str, patch: &Value) -> Result {
        let params = PatchParams {
            field_manager: Some(manager.to_owned()),
            ..PatchParams::default()
        };
        self.config_maps(namespace)
            .patch(NAME, &params, &Patch::Merge(patch))
            .await?;
        Ok(())
    }

    pub(super) async fn namespace_with(&self, word: &str, labels: Value) -> Result<String> {
        let name = unique(word);
        let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}});
        self.cluster.apply_yaml(&object.to_string()).await?;
        Ok(name)
    }
}

impl Leader {
    pub(super) fn rotate(&self, roots: &str) {
        *self.roots.lock() = Some(roots.to_owned());
    }

    pub(super) fn metrics(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.registry).unwrap();
        text
    }

    pub(super) async fn stop(self) -> Result {
        self.stop.cancel();
        self.task.await?
    }
}

pub(super) fn config_maps_only(selector: Option<&str>) -> DistributionConfig {
    DistributionConfig {
        config_maps: true,
        selector: selector.map(str::to_owned),
        agents: None,
        bundle: None,
    }
}

pub(super) fn root(name: &str) -> String {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    params.self_signed(&key).unwrap().pem()
}
