//! kube-scheduler, for tests that need pods to find a node by themselves.

use super::{Component, Surroundings, flag};

pub(super) fn args(surroundings: &Surroundings<'_>) -> Vec<String> {
    vec![
        flag("kubeconfig", surroundings.kubeconfig(Component::Scheduler)),
        flag("secure-port", 0),
        flag("leader-elect", false),
    ]
}
