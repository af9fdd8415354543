//! Our place in a cluster: the connection, what signers share there, and who of the replicas leads.

use std::sync::Arc;

use super::Boot;
use crate::config::{Config, KubernetesConfig};
use crate::janitor::Janitor;
use crate::kubernetes::{self, Cluster, Home, KubernetesMetrics};
use crate::leader;
use crate::leading::{self, Replicas};
use crate::serving::ServingSource;
use crate::signer::object::{Backends, BackendsParts, ObjectMetrics};
use crate::signer::{Host, TrustHost};
use crate::trust::{Discovery, TrustMetrics};

/// Where we are.
pub(super) struct Place {
    /// What signers need of us.
    pub(super) host: Host,
    /// Our own corner of the cluster, if there is one.
    pub(super) home: Option<Home>,
    /// The others like us.
    pub(super) replicas: Replicas,
}

// === impl Place ===

impl Place {
    /// Connects, if the settings name an API server, and takes part in the election.
    pub(super) async fn take(config: &Config, boot: &mut Boot) -> anyhow::Result<Self> {
        let objects = ObjectMetrics::register(boot.registry.sub_registry_with_prefix("ensign_ra"));
        let cluster = connect(config.kubernetes.as_ref(), &boot.kubernetes_metrics).await?;
        let kubernetes = config.kubernetes.as_ref().zip(cluster.as_ref());
        let home = kubernetes.map(|(config, cluster)| home(config, cluster));
        let backends = kubernetes.map(|(config, cluster)| {
            Backends::new(BackendsParts {
                cluster: cluster.clone(),
                installation: config.installation.clone(),
                metrics: objects,
                clock: Arc::clone(&boot.clock),
                tasks: boot.supervisor.connections(),
            })
        });
        let host = Host {
            clock: Arc::clone(&boot.clock),
            tasks: boot.supervisor.connections(),
            stop: boot.supervisor.stop_token(),
            files: boot.files.clone(),
            replicas: None,
            cluster,
            trust: TrustHost {
                metrics: TrustMetrics::register(boot.registry.sub_registry_with_prefix("ensign_ra")),
                discovery: matches!(config.serving, ServingSource::Issued(_)).then(Discovery::new),
            },
            backends,
        };
        let replicas = match &home {
            Some(home) => leading::elect_leader(&config.leader, home, &host, &mut boot.registry, &mut boot.supervisor),
            None => Replicas::alone(),
        };
        let host = Host {
            replicas: home.is_some().then(|| replicas.count.clone()),
            ..host
        };
        if let Some(backends) = host.backends.clone() {
            let janitor = Janitor::new(backends, Arc::clone(&boot.clock));
            boot.supervisor.spawn("janitor", janitor.run(host.stop.clone()));
        }
        Ok(Self { host, home, replicas })
    }
}

/// The API server, if the settings name one.
async fn connect(config: Option<&KubernetesConfig>, metrics: &KubernetesMetrics) -> anyhow::Result<Option<Cluster>> {
    let Some(config) = config else { return Ok(None) };
    let cluster = kubernetes::connect(&config.source, metrics).await?;
    tracing::info!(
        username = cluster.username(),
        namespace = cluster.own_namespace(),
        "connected to Kubernetes"
    );
    Ok(Some(cluster))
}

fn home(config: &KubernetesConfig, cluster: &Cluster) -> Home {
    Home {
        cluster: cluster.clone(),
        namespace: config
            .own_namespace
            .clone()
            .unwrap_or_else(|| cluster.own_namespace().to_owned()),
        istio_namespace: config.istio_namespace.clone(),
        installation: config.installation.clone(),
        identity: leader::identity(config.pod_name.as_deref()),
    }
}
