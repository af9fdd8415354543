//! cert-manager's controllers and its webhook (testbed/kubernetes/certmanager), with their own accounts and rights.

use super::{Component, Surroundings, flag};

/// Where a ClusterIssuer's Secret is, and where cert-manager's accounts live.
pub const NAMESPACE: &str = "cert-manager";

/// As its chart sets it: what it did, not what it thought.
const VERBOSITY: &str = "--v=2";

pub(super) fn controller_args(surroundings: &Surroundings<'_>) -> Vec<String> {
    let options = surroundings.options;
    vec![
        flag("kubeconfig", surroundings.kubeconfig(Component::CertManager)),
        flag("cluster-resource-namespace", NAMESPACE),
        flag(
            "feature-gates",
            format!(
                "ExperimentalCertificateSigningRequestControllers={}",
                options.csr_controllers
            ),
        ),
        flag("controllers", options.cert_manager_controllers.join(",")),
        // In production 20; a test of something else should not wait for it.
        flag("kube-api-qps", options.cert_manager_qps),
        flag("kube-api-burst", options.cert_manager_qps.saturating_mul(2)),
        VERBOSITY.to_owned(),
    ]
}

pub(super) fn webhook_args(surroundings: &Surroundings<'_>) -> Vec<String> {
    vec![
        flag("kubeconfig", surroundings.kubeconfig(Component::CertManagerWebhook)),
        flag("secure-port", surroundings.ports.webhook.number()),
        flag("tls-cert-file", surroundings.file("pki/webhook.crt")),
        flag("tls-private-key-file", surroundings.file("pki/webhook.key")),
        VERBOSITY.to_owned(),
    ]
}
