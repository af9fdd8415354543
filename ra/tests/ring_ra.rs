//! Ring `ra`: the whole authority in-process, over real TLS and gRPC, with signers that follow a script.
//!
//! Every outcome of the signer contract and every step of a request: the code and text that the client sees, and the
//! reason in the log line of that request.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    missing_docs,
    unused_crate_dependencies,
    reason = "tests"
)]

#[path = "ring_ra/arbitrary.rs"]
mod arbitrary;
#[path = "ring_ra/authority.rs"]
mod authority;
#[path = "ring_ra/ca.rs"]
mod ca;
#[path = "ring_ra/capacity.rs"]
mod capacity;
#[path = "ring_ra/certificates.rs"]
mod certificates;
#[path = "ring_ra/clients.rs"]
mod clients;
#[path = "ring_ra/held.rs"]
mod held;
#[path = "ring_ra/outcomes.rs"]
mod outcomes;
#[path = "ring_ra/reload.rs"]
mod reload;
#[path = "ring_ra/steps.rs"]
mod steps;
#[path = "ring_ra/tokens.rs"]
mod tokens;
#[path = "ring_ra/trust.rs"]
mod trust;
