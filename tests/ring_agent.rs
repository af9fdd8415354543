//! Ring `agent`: the whole agent in this process, between a fake authority and fake Envoys on real sockets.
//!
//! For what one process can show: workloads that come, change and go while it runs, and what operators read. Tests wait for
//! events, with patience, and assert no times.

#[path = "ring_agent/adoption.rs"]
mod adoption;
#[path = "ring_agent/agent.rs"]
mod agent;
#[path = "ring_agent/authority.rs"]
mod authority;
#[path = "ring_agent/csi.rs"]
mod csi;
#[path = "ring_agent/csi_node.rs"]
mod csi_node;
#[path = "ring_agent/greed.rs"]
mod greed;
#[path = "ring_agent/handover.rs"]
mod handover;
#[path = "ring_agent/idle_streams.rs"]
mod idle_streams;
#[path = "ring_agent/node.rs"]
mod node;
#[path = "ring_agent/outages.rs"]
mod outages;
#[path = "ring_agent/protocol.rs"]
mod protocol;
#[path = "ring_agent/recorded.rs"]
mod recorded;
#[path = "ring_agent/sockets.rs"]
mod sockets;
#[path = "ring_agent/status.rs"]
mod status;
#[path = "ring_agent/workloads.rs"]
mod workloads;
#[path = "ring_agent/wrong_answers.rs"]
mod wrong_answers;
