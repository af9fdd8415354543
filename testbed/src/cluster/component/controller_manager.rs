//! kube-controller-manager: everything that it has, except what removes objects of nodes that have no kubelet.

use super::{Component, Surroundings, flag};

/// Nodes and pods of tests have no kubelet behind them, and are to stay as they were made.
const LEFT_OUT: [&str; 4] = [
    "node-lifecycle-controller",
    "taint-eviction-controller",
    "device-taint-eviction-controller",
    "pod-garbage-collector-controller",
];

pub(super) fn args(surroundings: &Surroundings<'_>) -> Vec<String> {
    let mut controllers = "*".to_owned();
    for name in LEFT_OUT {
        controllers.push_str(",-");
        controllers.push_str(name);
    }
    vec![
        flag("kubeconfig", surroundings.kubeconfig(Component::ControllerManager)),
        flag("controllers", controllers),
        // No listener at all.
        flag("secure-port", 0),
        flag("leader-elect", false),
        flag("use-service-account-credentials", true),
        flag("root-ca-file", surroundings.file("pki/ca.crt")),
        flag(
            "service-account-private-key-file",
            surroundings.file("pki/service-accounts.key"),
        ),
        flag("cluster-signing-cert-file", surroundings.file("pki/ca.crt")),
        flag("cluster-signing-key-file", surroundings.file("pki/ca.key")),
        // The default of 20 makes each new namespace wait for its service account.
        flag("kube-api-qps", 500),
        flag("kube-api-burst", 1000),
    ]
}
