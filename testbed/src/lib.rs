//! Real peers for tests and the demo: Envoy and Ensign's own programs as processes, a world that joins them, load
//! through them, and the scenarios that both `make demo` and the tests of `tests/ring_envoy.rs` run.
//!
//! Nothing here ships. Ports are picked by the kernel, files live in one temporary folder per world, and every process
//! is killed by its id when its owner is dropped. Faults that a real part cannot be made to show are `testkit`'s.
#![allow(
    clippy::disallowed_methods,
    reason = "a test driver starts processes, writes their files and reads the environment; nothing waits on its threads"
)]

pub mod cluster;
pub mod envoy;
pub mod folder;
pub mod helm;
pub mod http;
pub mod image;
pub mod injection;
pub mod load;
pub mod node;
pub mod operator;
pub mod page;
pub mod process;
pub mod scenario;
pub mod serial;
pub mod site;
pub mod story;
pub mod wait;
pub mod world;
