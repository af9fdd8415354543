//! Where the policy comes from, and the desk that follows it.

use std::path::Path;
use std::sync::Arc;

use ensign_daemon::Supervisor;
use ensign_pki::TrustDomain;
use tokio::sync::watch;

use super::Boot;
use crate::config::{Config, IstioConfig};
use crate::desk::{self, Desk, DeskParts, OpenSigners, PolicySources};
use crate::kubernetes::KubernetesMetrics;
use crate::mesh::{self, MeshMetrics, MeshSource};
use crate::signer::Host;

/// Reads the policy and starts its signers: the real ones, or those of a test.
pub(super) async fn start(
    config: &Config,
    host: &Host,
    signers: Option<Arc<dyn OpenSigners>>,
    boot: &mut Boot,
) -> anyhow::Result<watch::Receiver<Arc<Desk>>> {
    let mesh_metrics = MeshMetrics::register(boot.registry.sub_registry_with_prefix("ensign_ra"));
    let sources = policy_sources(
        config,
        host,
        &mesh_metrics,
        &boot.kubernetes_metrics,
        &mut boot.supervisor,
    );
    let parts = DeskParts {
        signers: signers.unwrap_or_else(|| Arc::new(host.clone())),
        metrics: boot.metrics.clone(),
        mesh_metrics,
        files: host.files.clone(),
        clock: Arc::clone(&host.clock),
        serving_ca: config.serving.own_ca_dir().map(Path::to_owned),
    };
    let gate = boot.readiness.gate("policy", "it is being read");
    desk::start(sources, parts, gate, &mut boot.supervisor).await
}

/// Where the policy comes from; Istio's configuration begins to be followed.
fn policy_sources(
    config: &Config,
    host: &Host,
    metrics: &MeshMetrics,
    kubernetes: &KubernetesMetrics,
    supervisor: &mut Supervisor,
) -> PolicySources {
    let mut follow = |istio: &IstioConfig| {
        let source = MeshSource {
            cluster: host.cluster.clone()?,
            namespace: config.kubernetes.as_ref()?.istio_namespace.clone(),
            config_map: istio.config_map.clone(),
            metrics: metrics.clone(),
            kubernetes: kubernetes.clone(),
        };
        let (feed, work) = mesh::follow(source, host.stop.clone());
        supervisor.spawn("mesh configuration", work);
        Some((feed, istio.settings.clone()))
    };
    PolicySources {
        file: config.policy_file.clone(),
        text: config.policy_text.clone(),
        mesh: config.istio.as_ref().and_then(&mut follow),
        trust_domain: config.trust_domain.clone(),
    }
}

/// The name that a serving CA of our own bears in its subject. It is wanted before Istio's configuration may be there.
pub(super) fn trust_domain(
    desk: &watch::Receiver<Arc<Desk>>,
    of_settings: Option<TrustDomain>,
) -> anyhow::Result<TrustDomain> {
    let of_policy = desk.borrow().open().ok().map(|open| open.policy.trust_domain().clone());
    match of_policy.or(of_settings) {
        Some(trust_domain) => Ok(trust_domain),
        None => Ok("cluster.local".parse()?),
    }
}
