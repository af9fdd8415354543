//! The issuer that a ConfigMap names at run time, as in istio-csr.
//!
//! Keys `issuer-name`, `issuer-kind`, `issuer-group`, none of them empty. The issuer appears, changes and vanishes
//! without a restart; content that is wrong keeps the one before, and says so. A request keeps the issuer that it began
//! with. Until there is one the RA is ready and its requests are told that none is configured yet.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use parking_lot::Mutex;
use thiserror::Error;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::kubernetes::{self, Cluster, One, Watched, follow};
use crate::policy::{ConfigMapRef, IssuerRef};

/// Follows one ConfigMap.
pub(crate) struct RuntimeIssuer {
    config_map: ConfigMapRef,
    named: Arc<Named>,
    watched: Watched,
    _watch: Mutex<JoinSet<()>>,
}

/// What it says now.
#[derive(Debug)]
pub(super) struct Named {
    config_map: ConfigMapRef,
    issuer: Mutex<Option<IssuerRef>>,
}

/// Content that names no issuer.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("key {0:?} is missing or empty; expected issuer-name, issuer-kind and issuer-group, all with a value")]
pub(super) struct NoIssuer(&'static str);

// === impl RuntimeIssuer ===

impl RuntimeIssuer {
    pub(crate) fn follow(config_map: &ConfigMapRef, cluster: &Cluster) -> Self {
        let api = Api::<ConfigMap>::namespaced(cluster.client(), &config_map.namespace);
        let named = Arc::new(Named::new(config_map.clone()));
        let mut tasks = JoinSet::new();
        let (watched, watch) = follow(
            format!("runtime issuer {}/{}", config_map.namespace, config_map.name),
            api,
            kubernetes::named(&config_map.name),
            Arc::new(named.follower()),
            cluster.metrics().clone(),
            CancellationToken::new(),
        );
        tasks.spawn(watch);
        Self {
            config_map: config_map.clone(),
            named,
            watched,
            _watch: Mutex::new(tasks),
        }
    }

    /// The issuer that it names; waits a little at the start of the watch.
    pub(crate) async fn current(&self) -> Option<IssuerRef> {
        if !self.watched.is_complete() {
            _ = timeout(AT_START, self.watched.clone().synced()).await;
        }
        self.named.issuer()
    }
}

impl fmt::Display for RuntimeIssuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ConfigMap {}/{}", self.config_map.namespace, self.config_map.name)?;
        match self.watched.trouble() {
            Some(trouble) => write!(f, " (watch: {})", trouble.as_str()),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for RuntimeIssuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RuntimeIssuer")
            .field("named", &self.named)
            .finish_non_exhaustive()
    }
}

// === impl Named ===

impl Named {
    pub(super) fn new(config_map: ConfigMapRef) -> Self {
        Self {
            config_map,
            issuer: Mutex::default(),
        }
    }

    /// Takes in each state of the ConfigMap.
    pub(super) fn follower(self: &Arc<Self>) -> One<impl Fn(Option<ConfigMap>) + Send + Sync + use<>> {
        let named = Arc::clone(self);
        One::new(move |object: Option<ConfigMap>| match object {
            Some(object) => named.take(&object.data.unwrap_or_default()),
            None => named.forget(),
        })
    }

    pub(super) fn issuer(&self) -> Option<IssuerRef> {
        self.issuer.lock().clone()
    }

    fn take(&self, data: &BTreeMap<String, String>) {
        let ConfigMapRef { namespace, name } = &self.config_map;
        let config_map = format!("{namespace}/{name}");
        let mut current = self.issuer.lock();
        match read(data) {
            Ok(issuer) if current.as_ref() == Some(&issuer) => {}
            Ok(issuer) => {
                let IssuerRef { name, kind, group } = &issuer;
                tracing::info!(
                    config_map,
                    issuer = name,
                    kind,
                    group,
                    "the issuer is another from now on"
                );
                *current = Some(issuer);
            }
            Err(error) => {
                let kept = current.as_ref().map(|issuer| issuer.name.as_str());
                tracing::error!(config_map, %error, kept, "the ConfigMap names no issuer; what was in effect stays");
            }
        }
    }

    fn forget(&self) {
        if self.issuer.lock().take().is_some() {
            let ConfigMapRef { namespace, name } = &self.config_map;
            tracing::warn!(
                config_map = %format_args!("{namespace}/{name}"),
                "the ConfigMap that names the issuer is gone; the policy's issuer counts, if it has one"
            );
        }
    }
}

fn read(data: &BTreeMap<String, String>) -> Result<IssuerRef, NoIssuer> {
    let value = |key: &'static str| {
        let value = data.get(key).map(String::as_str).unwrap_or_default();
        if value.is_empty() {
            Err(NoIssuer(key))
        } else {
            Ok(value.to_owned())
        }
    };
    Ok(IssuerRef {
        name: value("issuer-name")?,
        kind: value("issuer-kind")?,
        group: value("issuer-group")?,
    })
}

/// A list takes milliseconds; a request that comes in the first moment waits for it.
const AT_START: Duration = Duration::from_secs(3);
