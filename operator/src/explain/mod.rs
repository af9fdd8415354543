//! Why a pod has no certificate, or until when it has one.
//!
//! [`look()`] reads the pod, its events, the CSIDriver, the node's CSINode and agent, and what that agent says; [`judge()`]
//! makes findings of it. Whatever could not be read is a finding itself and stops nothing else.

mod facts;
mod failure;
mod judge;
mod look;

pub use facts::{Agent, Facts, MountFailure, Pod, Proxy, Volume};
pub use judge::judge;
pub use look::{Question, look};

#[cfg(test)]
mod tests;
