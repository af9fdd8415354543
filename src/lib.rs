//! The node agent of Ensign.

pub mod csr_client;
pub mod rotation;
