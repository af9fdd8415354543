//! How the agent makes itself known to kubelet, without a sidecar container.
//!
//! Kubelet finds the socket in `plugins_registry`, asks who it is and tells what became of it; from then on it calls the
//! endpoint named here. A driver is unregistered when its registration socket's path goes, so the path is only ever
//! renamed over, and stays when we stop.

use std::path::PathBuf;
use std::sync::Arc;

use ensign_daemon::readiness::Gate;
use ensign_daemon::redact;
use ensign_proto::pluginregistration::registration_server::Registration;
use ensign_proto::pluginregistration::{InfoRequest, PluginInfo, RegistrationStatus, RegistrationStatusResponse};
use tonic::{Request, Response, Status};

use super::DRIVER;
use super::metrics::Metrics;

/// The service. Clones share everything.
#[derive(Clone, Debug)]
pub(super) struct Registrar {
    endpoint: PathBuf,
    gate: Arc<Gate>,
    metrics: Metrics,
}

// === impl Registrar ===

impl Registrar {
    /// Tells kubelet to call `endpoint`; opens the gate when kubelet has taken us up.
    pub(super) fn new(endpoint: PathBuf, gate: Gate, metrics: Metrics) -> Self {
        Self {
            endpoint,
            gate: Arc::new(gate),
            metrics,
        }
    }
}

#[tonic::async_trait]
impl Registration for Registrar {
    async fn get_info(&self, _: Request<InfoRequest>) -> Result<Response<PluginInfo>, Status> {
        Ok(Response::new(PluginInfo {
            r#type: "CSIPlugin".to_owned(),
            name: DRIVER.to_owned(),
            endpoint: self.endpoint.to_string_lossy().into_owned(),
            // Of the CSI specification; kubelet compares the major number.
            supported_versions: vec!["1.0.0".to_owned()],
        }))
    }

    async fn notify_registration_status(
        &self,
        request: Request<RegistrationStatus>,
    ) -> Result<Response<RegistrationStatusResponse>, Status> {
        let RegistrationStatus {
            plugin_registered,
            error,
        } = request.into_inner();
        self.metrics.registered.set(i64::from(plugin_registered));
        if plugin_registered {
            tracing::info!(driver = DRIVER, "kubelet registered the driver");
            self.gate.open();
        } else {
            let error: String = redact::secrets(&error).chars().take(500).collect();
            tracing::error!(driver = DRIVER, error, "kubelet refused the driver, it tries again");
            self.gate.shut(format!("kubelet refused the driver: {error}"));
        }
        Ok(Response::new(RegistrationStatusResponse {}))
    }
}
