//! Ring `e2e`: a real control plane, a node with a real kubelet and containerd, our manifests as they are checked in.
//!
//! What only kubelet can show: that it takes the driver up, hands it the pod's folder and token, and clears everything away.

#[path = "ring_e2e/agents.rs"]
mod agents;
#[path = "ring_e2e/disasters.rs"]
mod disasters;
#[path = "ring_e2e/mesh.rs"]
mod mesh;
#[path = "ring_e2e/one_pod.rs"]
mod one_pod;
#[path = "ring_e2e/upgrade.rs"]
mod upgrade;
