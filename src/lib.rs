//! The node agent of Ensign: makes every private key on its node, has it certified, serves it to Envoy, renews it in time.
//!
//! One certificate request flows down this list; every call points down, the only way back is one watch channel:
//!
//! ```text
//!  operator's file ─► source ──events──► app ──┬─ add / change / remove ──┐
//!                                              └─ serve / close ─► sds ◄── Envoy (Unix socket, one per workload)
//!                                                                   │ subscribe
//!                            admin (status, metrics, health) ──► rotation: keys, certificates, schedule
//!                                                                   │ CSR out, chain in; keys stay
//!                                                                csr_client ─► CreateCertificate at the RA
//! ```

pub mod config;

pub mod cli;

pub mod preflight;

pub mod app;

pub mod source;

pub mod sds;

pub mod rotation;

pub mod csr_client;

mod unix_socket;

pub mod admin;
