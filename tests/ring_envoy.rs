//! Ring `envoy`: the RA, the agent and real Envoys as processes, certificates on the wire.
//!
//! Each test makes a world of its own (`ensign_testbed::world`) and runs a scenario that the demo tells too, or a
//! situation of its module. Tests wait for events, never for time. They need `make setup build`; `make test` does both.

#[path = "ring_envoy/demo.rs"]
mod demo;
#[path = "ring_envoy/failures.rs"]
mod failures;
#[path = "ring_envoy/mesh.rs"]
mod mesh;
#[path = "ring_envoy/policy.rs"]
mod policy;
#[path = "ring_envoy/programs.rs"]
mod programs;
#[path = "ring_envoy/provider.rs"]
mod provider;
#[path = "ring_envoy/roots.rs"]
mod roots;
#[path = "ring_envoy/start_order.rs"]
mod start_order;
