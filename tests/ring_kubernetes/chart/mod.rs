//! The chart of `deploy/chart`: what fits and what is refused, what is rendered and what a real API server, the programs
//! and Helm itself make of it.

mod depends;
mod documented;
mod injection;
mod network;
mod objects;
mod plain;
mod programs;
mod refusals;
mod sets;
mod uninstall;

type Result<T = ()> = anyhow::Result<T>;

/// Where the tests put the release.
const OWN: &str = "ensign-system";
/// Where the agent is, unless values say otherwise.
const NODE: &str = "ensign-node";
