//! Ring `agent`: the whole agent in this process, between a fake authority and fake Envoys on real sockets.
//!
//! For what one process can show: workloads that come, change and go while it runs, and what operators read. Tests wait for
//! events, with patience, and assert no times.

#[path = "ring_agent/agent.rs"]
mod agent;
#[path = "ring_agent/status.rs"]
mod status;
#[path = "ring_agent/workloads.rs"]
mod workloads;
