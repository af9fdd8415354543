//! Whether a cluster has what the agents and their authority need, before or after they are installed.
//!
//! [`look()`] reads the DaemonSet and its namespace, the CSIDriver, the roots, the authority's Service and the RA;
//! [`ask()`] has each signer issue one certificate that is thrown away; [`judge()`] makes findings of both.

mod ask;
mod facts;
mod judge;
mod look;
mod signers;

pub use ask::{Account, Ask, AskAuthority, ask, signers};
pub use facts::{Agents, Answer, Asked, Authority, Facts, Issued, Ra, Refused, Roots, Service, Signers};
pub use judge::judge;
pub use look::{Question, look};

#[cfg(test)]
mod tests;
