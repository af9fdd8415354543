//! kube-apiserver: RBAC and the Node authorizer as in production, every request in the audit log.

use serde_json::{Value, json};

use super::{Surroundings, flag, http};

/// What the API server calls itself in tokens.
pub(in crate::cluster) const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// One line for each request, without bodies. RequestReceived would only say everything twice.
pub(in crate::cluster) const AUDIT_POLICY: &str = "\
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: Metadata
";

/// What Pod Security enforces where a namespace says nothing. Operators of whole clusters set it so.
pub(in crate::cluster) fn admission(pod_security: &str) -> Value {
    json!({
        "apiVersion": "apiserver.config.k8s.io/v1",
        "kind": "AdmissionConfiguration",
        "plugins": [{
            "name": "PodSecurity",
            "configuration": {
                "apiVersion": "pod-security.admission.config.k8s.io/v1",
                "kind": "PodSecurityConfiguration",
                "defaults": { "enforce": pod_security },
            },
        }],
    })
}

pub(super) fn args(surroundings: &Surroundings<'_>) -> Vec<String> {
    let ports = surroundings.ports;
    let mut args = vec![
        flag("etcd-servers", http(ports.etcd.address())),
        flag("bind-address", ports.api_server.address().ip()),
        flag("secure-port", ports.api_server.number()),
        flag("permit-port-sharing", true),
        flag("advertise-address", ports.api_server.address().ip()),
        // It would not write a loopback address into the endpoints of the Service `kubernetes`.
        flag("endpoint-reconciler-type", "none"),
        flag("service-cluster-ip-range", "10.96.0.0/16"),
        flag("tls-cert-file", surroundings.file("pki/apiserver.crt")),
        flag("tls-private-key-file", surroundings.file("pki/apiserver.key")),
        flag("client-ca-file", surroundings.file("pki/ca.crt")),
        flag("authorization-mode", "Node,RBAC"),
        flag("enable-admission-plugins", "NodeRestriction"),
        flag("admission-control-config-file", surroundings.file("admission.json")),
        flag("service-account-issuer", ISSUER),
        flag(
            "service-account-signing-key-file",
            surroundings.file("pki/service-accounts.key"),
        ),
        flag(
            "service-account-key-file",
            surroundings.file("pki/service-accounts.key"),
        ),
        flag("audit-policy-file", surroundings.file("audit-policy.yaml")),
        flag("audit-log-path", surroundings.file("audit.log")),
        // In MB: a log that is rotated away cannot be counted.
        flag("audit-log-maxsize", 100_000),
        flag(
            "feature-gates",
            "ClusterTrustBundle=true,ClusterTrustBundleProjection=true",
        ),
        flag("runtime-config", "certificates.k8s.io/v1beta1=true"),
        flag("kubelet-preferred-address-types", "InternalIP"),
        // For logs, exec and port-forward. Kubelet's own certificate is not checked, as kubeadm leaves it, too.
        flag(
            "kubelet-client-certificate",
            surroundings.file("pki/kubelet-client.crt"),
        ),
        flag("kubelet-client-key", surroundings.file("pki/kubelet-client.key")),
        flag("watch-cache", surroundings.options.watch_cache),
        flag("profiling", false),
        // Stopped, it ends its watches in order. By default it waits 60 s for them to end by themselves.
        flag("shutdown-watch-termination-grace-period", "10s"),
    ];
    args.extend(surroundings.options.api_server_flags.iter().cloned());
    args
}
