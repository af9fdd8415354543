//! Ring `csr`: the agent's CSR client against a fake certificate authority over real TLS.
//!
//! What goes over the wire, what ends a call, what makes it leave a connection, and what never shows.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    unreachable_pub,
    missing_docs,
    reason = "a test says so by failing"
)]

#[path = "ring_csr/client.rs"]
mod client;
#[path = "ring_csr/wire.rs"]
mod wire;
