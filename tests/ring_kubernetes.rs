//! Ring `kubernetes`: a real Kubernetes with a real cert-manager.
//!
//! Most tests share one cluster per run and have a namespace each; those that break a component have their own.

#[path = "ring_kubernetes/bed/mod.rs"]
mod bed;
#[path = "ring_kubernetes/leader.rs"]
mod leader;
