//! Ring `e2e`: a whole cluster with two nodes, our images and the chart as they are, RA and agents in pods.
//!
//! What only kubelet can show: that it takes the driver up, hands it the pod's folder and token, and clears everything away;
//! and that pods, wherever they run, talk or do not. One site serves most tests of a run, one test after the other, each with
//! namespaces of its own; who takes the control plane away has one node of his own (`alone`).

#[path = "ring_e2e/absence.rs"]
mod absence;
#[path = "ring_e2e/agents.rs"]
mod agents;
#[path = "ring_e2e/alone.rs"]
mod alone;
#[path = "ring_e2e/apart.rs"]
mod apart;
#[path = "ring_e2e/asked.rs"]
mod asked;
#[path = "ring_e2e/attacks/mod.rs"]
mod attacks;
#[path = "ring_e2e/choice.rs"]
mod choice;
#[path = "ring_e2e/churn.rs"]
mod churn;
#[path = "ring_e2e/disasters.rs"]
mod disasters;
#[path = "ring_e2e/explain.rs"]
mod explain;
#[path = "ring_e2e/fence.rs"]
mod fence;
#[path = "ring_e2e/images.rs"]
mod images;
#[path = "ring_e2e/injected.rs"]
mod injected;
#[path = "ring_e2e/install.rs"]
mod install;
#[path = "ring_e2e/installed.rs"]
mod installed;
#[path = "ring_e2e/left.rs"]
mod left;
#[path = "ring_e2e/lives.rs"]
mod lives;
#[path = "ring_e2e/mesh.rs"]
mod mesh;
#[path = "ring_e2e/one_pod.rs"]
mod one_pod;
#[path = "ring_e2e/plain.rs"]
mod plain;
#[path = "ring_e2e/pod.rs"]
mod pod;
#[path = "ring_e2e/release.rs"]
mod release;
#[path = "ring_e2e/republish.rs"]
mod republish;
#[path = "ring_e2e/restarts.rs"]
mod restarts;
#[path = "ring_e2e/stage.rs"]
mod stage;
#[path = "ring_e2e/surge.rs"]
mod surge;
#[path = "ring_e2e/tokens.rs"]
mod tokens;
#[path = "ring_e2e/traces.rs"]
mod traces;
#[path = "ring_e2e/traffic.rs"]
mod traffic;
#[path = "ring_e2e/unfenced.rs"]
mod unfenced;
#[path = "ring_e2e/uninstall.rs"]
mod uninstall;
#[path = "ring_e2e/upgrade.rs"]
mod upgrade;
#[path = "ring_e2e/workload.rs"]
mod workload;
